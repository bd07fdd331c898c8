"""Update rules of training in steps: how weights change, given minus the gradient of the loss."""

from functools import partial

import numpy as np

NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # of Muon: p(x) = a x + b x^3 + c x^5, five times over
NEWTON_SCHULZ_STEPS = 5
OPTIONS = {"adam": ("beta1", "beta2", "eps"), "muon": ("momentum", "eps")}  # of a training method, besides its step


class Adam:
    """Adam (Kingma and Ba 2015), without weight decay, as in torch.optim.Adam.

    Parameters
    ----------
    step : float
        Learning rate.
    beta1, beta2 : float
        Decay of the running means of the gradient and of its square, below 1.
    eps : float
        Added to the root of the second mean. Where gradients are much smaller, Adam is gradient descent with momentum;
        where they are much larger, its first steps are signs.
    """

    def __init__(self, step, *, beta1, beta2, eps):
        self.step, self.beta1, self.beta2, self.eps = step, beta1, beta2, eps
        self.mean, self.square, self.count = 0.0, 0.0, 0

    def __call__(self, velocity):
        """Change of the weights, an array of the shape of `velocity`."""
        self.count += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * velocity
        self.square = self.beta2 * self.square + (1 - self.beta2) * velocity**2
        mean = self.mean / (1 - self.beta1**self.count)
        square = self.square / (1 - self.beta2**self.count)
        return self.step * mean / (np.sqrt(square) + self.eps)


class Muon:
    """Muon (Jordan et al. 2024) with Nesterov momentum and without weight decay, as in torch.optim.Muon.

    Parameters
    ----------
    step : float
        Learning rate: about the size of all singular values of a change.
    momentum : float
        Decay of the running mean of the gradient, below 1.
    eps : float
        Gradients with a smaller Frobenius norm are not brought to norm one.
    """

    def __init__(self, step, *, momentum, eps):
        self.step, self.momentum, self.eps = step, momentum, eps
        self.mean = 0.0

    def __call__(self, velocity):
        """Change of the weights, an array of the shape of `velocity`: (4, dim) or (4, dim, dim)."""
        self.mean = self.momentum * self.mean + (1 - self.momentum) * velocity
        update = self.momentum * self.mean + (1 - self.momentum) * velocity
        return self.step * orthogonalise(update, self.eps)


def orthogonalise(M, eps):
    """Matrices with the singular vectors of M and singular values of about one, by Muon's Newton-Schulz iteration.

    Parameters
    ----------
    M : array, shape (n, dim, dim), or (n, dim) for diagonal matrices
    eps : float
        Least Frobenius norm by which a matrix is divided at the start.

    Returns
    -------
    array, shape of M
        Singular values are between 0.68 and 1.21 where those of M / |M| are above 0.01; smaller ones grow by up to
        3.4445^5 = 485.
    """
    a, b, c = NEWTON_SCHULZ
    product = np.multiply if M.ndim == 2 else np.matmul
    axes = tuple(range(1, M.ndim))
    X = M / np.maximum(np.sqrt(np.sum(M**2, axis=axes, keepdims=True)), eps)
    for _ in range(NEWTON_SCHULZ_STEPS):
        A = product(X, X if M.ndim == 2 else X.swapaxes(1, 2))
        X = a * X + product(b * A + c * product(A, A), X)
    return X


def update_rule(method, step, **options):
    """The rule of a training method: a callable that takes minus the gradient and returns the change of the weights.

    Parameters
    ----------
    method : {"gd", "sgd", "adam", "sign", "muon"}
    step : float
        Learning rate.
    options : float
        Those of `Adam` or `Muon`.
    """
    match method:
        case "adam":
            return Adam(step, **options)
        case "muon":
            return Muon(step, **options)
        case "sign":
            return lambda velocity: step * np.sign(velocity)
        case _:
            return partial(np.multiply, step)
