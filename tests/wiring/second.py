"""Plain second implementations of what the library computes, for tests to compare with; nothing of the library is used.

Gradients are torch's, in float64; flows are those of the weights themselves, by SciPy.
"""

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import root
from torch import nn

torch.set_num_threads(1)  # the tensors are small: threads would only wait for each other


def matrix(weight):
    """A weight as a matrix, be it one or the diagonal of one."""
    return torch.diag(weight) if weight.ndim == 1 else weight


def products(theta):
    """W_K W_Q^T and W_V W_O^T."""
    W_K, W_Q, W_V, W_O = map(matrix, theta)
    return W_K @ W_Q.T, W_V @ W_O.T


def output(X, KQ, VO):
    return torch.softmax(X @ KQ @ X.mT, dim=-1) @ X @ VO


class Toy:
    """Half the mean squared error of an attention head on the data of a problem file."""

    def __init__(self, path):
        with np.load(path) as arrays:
            self.X, self.Y = (torch.tensor(arrays[name]) for name in "XY")
            self.start = np.stack([arrays[f"W_{letter}"] for letter in "KQVO"])
            self.teacher = np.stack([arrays[f"teacher_W_{letter}"] for letter in "KQVO"])

    def loss(self, KQ, VO, samples=slice(None)):
        return (output(self.X[samples], KQ, VO) - self.Y[samples]).square().mean() / 2

    def loss_and_velocity(self, theta, samples=slice(None)):
        theta = torch.tensor(theta, requires_grad=True)
        loss = self.loss(*products(theta), samples)
        [gradient] = torch.autograd.grad(loss, theta)
        return loss.item(), -gradient.numpy()

    def loss_of(self, p):
        """The loss at diagonals of both products, one after the other, a tensor."""
        KQ, VO = p.chunk(2)
        return self.loss(torch.diag(KQ), torch.diag(VO))

    def g(self, p):
        p = torch.tensor(p, requires_grad=True)
        [gradient] = torch.autograd.grad(self.loss_of(p), p)
        return -gradient.numpy()

    def flow(self, theta, times, thresholds=(), rtol=1e-9):
        """Weights along gradient flow at `times`, and where the larger weight of a coordinate crosses a threshold.

        A threshold may be an array with one for each coordinate.

        A crossing is a tuple of time, threshold, coordinate, direction and all weights. The absolute tolerance is far
        below every weight: the smallest decide what grows next.
        """
        shape, dim = theta.shape, theta.shape[1]

        def larger(y, i):
            first = i // dim * 2 * dim + i % dim
            return max(y[[first, first + dim]], key=abs)

        watched = [(h, i) for each in thresholds for i, h in enumerate(np.broadcast_to(each, 2 * dim))]
        solution = solve_ivp(
            lambda t, y: self.loss_and_velocity(y.reshape(shape))[1].ravel(),
            (times[0], times[-1]),
            theta.ravel(),
            method="LSODA",
            t_eval=times,
            events=[lambda t, y, h=h, i=i: math.log(abs(larger(y, i)) / h) for h, i in watched],
            rtol=rtol,
            atol=rtol * abs(theta).min(),
        )
        assert solution.success
        crossings = []
        for (threshold, i), moments, states in zip(watched, solution.t_events, solution.y_events, strict=True):
            if len(moments):
                # Whether the first is upwards says where it starts; after it, directions alternate.
                first = 1 if abs(larger(theta.ravel(), i)) < threshold else -1
                crossings += [
                    (time, threshold, i, first * (-1) ** number, y.reshape(shape))
                    for number, (time, y) in enumerate(zip(moments, states, strict=True))
                ]
        return solution.y.T.reshape(-1, *shape), sorted(crossings, key=lambda crossing: crossing[0])

    def stages(self, max_time):
        """Algorithm 1, part (B) by descent in log|p| on the support and then a root of g there; a list of dicts."""
        count = 2 * self.start.shape[1]
        b, p, time, found = np.ones(count), np.zeros(count), 0.0, []
        while True:
            g, waits = self.g(p), np.full(count, np.inf)
            for i in np.flatnonzero((p == 0) & (g != 0)):
                waits[i] = b[i] / g[i] if g[i] > 0 else (b[i] - 2) / g[i]
            i, wait = waits.argmin(), waits.min()
            time += wait
            if time > max_time:
                return found
            b, sign = np.where(p == 0, b - g * wait, b), np.sign(g[i])
            p[i] = sign * 1e-6
            on, signs = np.flatnonzero(p), np.sign(p)
            p = self._rest(p, on, signs)
            found.append(
                {
                    "time": time,
                    "coordinate": i,
                    "sign": sign,
                    "product": p.copy(),
                    "loss": self.loss_of(torch.tensor(p)).item(),
                    "gap_to_next": np.sort(waits)[1] - wait,
                    "curvature": self._curvature(p, on, signs),
                }
            )

    def full_stages(self, max_time):
        """Algorithm 1 for full weights (docs/full-weights.md); a list of dicts.

        Rest points are the ends of a long flow. No overlap of singular vectors may be zero, and none reverse the last
        of them.
        """
        dim = self.start.shape[1]
        factors, exponents, time, found = [np.zeros((dim, 0))] * 4, [np.zeros(dim)] * 2, 0.0, []
        while True:
            KQ, VO = (torch.tensor(factors[n] @ factors[n + 1].T, requires_grad=True) for n in (0, 2))
            gradients = torch.autograd.grad(self.loss(KQ, VO), (KQ, VO))
            spectra = []
            for number, gradient in enumerate(gradients):
                U, V = (np.linalg.svd(weight)[0][:, weight.shape[1] :] for weight in factors[2 * number :][:2])
                u, g, v = np.linalg.svd(U.T @ -gradient.numpy() @ V)
                spectra.append((U @ u, g, V @ v.T))
            with np.errstate(divide="ignore"):
                waits = [list((1 - e) / g) for e, (_, g, _) in zip(exponents, spectra, strict=True)]
            wait, next_wait, *_ = sorted(waits[0] + waits[1])
            winner, time = int(wait not in waits[0]), time + wait
            if time > max_time:
                return found
            exponents = [e + wait * g for e, (_, g, _) in zip(exponents, spectra, strict=True)]
            exponents[winner] = exponents[winner][1:]
            for place, vectors in zip((2 * winner, 2 * winner + 1), spectra[winner][::2], strict=True):
                factors[place] = np.hstack([factors[place], 1e-3 * vectors[:, :1]])
            factors = self._full_rest(factors)
            found.append(
                {
                    "time": time,
                    "product": "KQ" if winner == 0 else "VO",
                    "index": factors[2 * winner].shape[1] - 1,
                    "values": [np.linalg.svd(factors[n] @ factors[n + 1].T, compute_uv=False) for n in (0, 2)],
                    "loss": self._full_loss(factors).item(),
                    "gap_to_next": next_wait - wait,
                }
            )

    def _full_loss(self, factors):
        return self.loss(*(torch.as_tensor(factors[n]) @ torch.as_tensor(factors[n + 1]).T for n in (0, 2)))

    def _full_rest(self, factors):
        shapes = [weight.shape for weight in factors]
        ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1].tolist()

        def split(y):
            parts = torch.tensor_split(y, ends) if torch.is_tensor(y) else np.split(y, ends)
            return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

        def velocity(_, y):
            y = torch.tensor(y, requires_grad=True)
            [gradient] = torch.autograd.grad(self._full_loss(split(y)), y)
            return -gradient.numpy()

        start = np.concatenate([weight.ravel() for weight in factors])
        flow = solve_ivp(velocity, (0, 1e5), start, method="LSODA", rtol=1e-9, atol=1e-9)
        return split(flow.y[:, -1])

    def _rest(self, p, on, signs):
        def at(z):
            full = np.zeros(len(p))
            full[on] = signs[on] * np.exp(z)
            return full

        descent = solve_ivp(
            lambda t, z: 2 * signs[on] * self.g(at(z))[on],
            (0, 1e4),
            np.log(abs(p[on])),
            method="LSODA",
            rtol=1e-6,
            atol=1e-6,
        )
        return at(root(lambda z: self.g(at(z))[on], descent.y[:, -1], tol=1e-13).x)

    def _curvature(self, p, on, signs):
        signs, place = torch.tensor(signs[on]), torch.tensor(on)

        def loss(u):
            return self.loss_of(torch.zeros(len(p), dtype=u.dtype).index_put((place,), signs * u**2))

        hessian = torch.autograd.functional.hessian(loss, torch.tensor(np.sqrt(abs(p[on]))))
        return torch.linalg.eigvalsh(hessian)[0].item()


class Transformer:
    """A vision transformer on a dict of tensors, named and shaped as in the state of networks.vit.VisionTransformer.

    The weights are drawn in the order of its layers, from torch's generator, as `nn.Linear` does.
    """

    def __init__(self, *, image_size, channels, patch_size, dim, depth, heads, dim_head, mlp_dim, classes):
        self.patch_size, self.depth, self.heads = patch_size, depth, heads
        self.weights = weights = {}

        def linear(name, inputs, outputs, bias=True):
            layer = nn.Linear(inputs, outputs, bias=bias)
            weights.update({f"{name}.{key}": value.detach() for key, value in layer.named_parameters()})

        def norm(name):
            weights.update({f"{name}.weight": torch.ones(dim), f"{name}.bias": torch.zeros(dim)})

        linear("patch_embedding", channels * patch_size**2, dim)
        weights["class_token"] = 0.02 * torch.randn(dim)
        weights["position"] = 0.02 * torch.randn((image_size // patch_size) ** 2 + 1, dim)
        for block in range(depth):
            norm(f"blocks.{block}.attention_norm")
            for letter in "KQV":
                linear(f"blocks.{block}.attention.W_{letter}", dim, heads * dim_head, bias=False)
            linear(f"blocks.{block}.attention.W_O", heads * dim_head, dim, bias=False)
            norm(f"blocks.{block}.mlp_norm")
            linear(f"blocks.{block}.mlp.0", dim, mlp_dim)
            linear(f"blocks.{block}.mlp.2", mlp_dim, dim)
        norm("norm")
        linear("head", dim, classes)

    def scale(self, factor):
        """Scale all layers but the token embedding; LayerNorm stays too."""
        for name in self.weights:
            if name.startswith("head") or ("blocks" in name and "norm" not in name):
                self.weights[name] = factor * self.weights[name]

    def attention_matrix(self, block, letter, head):
        """A matrix of the paper, (dim, dim_head), of a head."""
        weight = self.weights[f"blocks.{block}.attention.W_{letter}.weight"]
        weight = weight if letter == "O" else weight.T  # (dim, heads * dim_head)
        size = weight.shape[1] // self.heads
        return weight[:, head * size : (head + 1) * size]

    def logits(self, images):
        """Of images (count, channels, height, width)."""
        w, size = self.weights, self.patch_size
        tokens = []
        for row in range(0, images.shape[2], size):
            for column in range(0, images.shape[3], size):
                patch = images[:, :, row : row + size, column : column + size]
                pixels = patch.permute(0, 2, 3, 1).reshape(len(images), -1)  # channels fastest
                tokens.append(pixels @ w["patch_embedding.weight"].T + w["patch_embedding.bias"])
        x = torch.stack([w["class_token"].expand(len(images), -1), *tokens], dim=1) + w["position"]
        for block in range(self.depth):
            y, added = self._norm(x, f"blocks.{block}.attention_norm"), 0
            for head in range(self.heads):
                W_K, W_Q, W_V, W_O = (self.attention_matrix(block, letter, head) for letter in "KQVO")
                P = torch.softmax(y @ W_Q @ W_K.T @ y.mT / math.sqrt(W_K.shape[1]), dim=-1)
                added = added + P @ y @ W_V @ W_O.T
            x = x + added
            y = self._norm(x, f"blocks.{block}.mlp_norm") @ w[f"blocks.{block}.mlp.0.weight"].T
            y = y + w[f"blocks.{block}.mlp.0.bias"]
            y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
            x = x + y @ w[f"blocks.{block}.mlp.2.weight"].T + w[f"blocks.{block}.mlp.2.bias"]
        return self._norm(x[:, 0], "norm") @ w["head.weight"].T + w["head.bias"]

    def _norm(self, x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def train(self, images, labels, *, epochs, warmup_epochs, batch_size, learning_rate, loss, optimizer, seed):
        """Train; yields after each step its number, mean loss, share of right answers and learning rate.

        `loss` is the mean over a batch of logits and labels; `optimizer` makes one of torch's from the weights.
        """
        moved = optimizer([value.requires_grad_() for value in self.weights.values()])
        steps = len(labels) // batch_size
        warmup, total, step = warmup_epochs * steps, epochs * steps, 0
        for epoch in range(1, epochs + 1):
            order = np.random.default_rng([seed, epoch]).permutation(len(labels))
            for start in range(0, steps * batch_size, batch_size):
                chosen = order[start : start + batch_size]
                if step < warmup:
                    rate = learning_rate * (step + 1) / warmup
                else:
                    rate = learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
                moved.param_groups[0]["lr"] = rate
                logits = self.logits(images[chosen])
                value = loss(logits, labels[chosen])
                moved.zero_grad()
                value.backward()
                moved.step()
                step += 1
                yield step, value.item(), (logits.argmax(1) == labels[chosen]).double().mean().item(), rate


def cross_entropy(logits, labels):
    """Mean over the samples, in nats."""
    return (torch.logsumexp(logits, dim=1) - logits[range(len(labels)), labels]).mean()


def squared_error(outputs, labels):
    """Half the squared distance from the unit vectors of the labels, mean over the samples."""
    return (outputs - torch.eye(outputs.shape[1])[labels]).square().sum(dim=1).mean() / 2


def measures(values):
    """Rank measures and norms of singular values, descending; of zeros, ratios are nan."""
    with np.errstate(invalid="ignore"):
        share = values[values > 0] / values.sum()
        nothing = np.nan if values[0] == 0 else 0
        return {
            "stable_rank": (values**2).sum() / values[0] ** 2,
            "effective_rank": np.exp(-(share * np.log(share)).sum()) + nothing,
            "participation_ratio": (values**2).sum() ** 2 / (values**4).sum(),
            "numerical_rank": (values > 0.01 * values[0]).sum(),
            "frobenius_norm": np.sqrt((values**2).sum()),
            "spectral_norm": values[0],
            "nuclear_norm": values.sum(),
        }
