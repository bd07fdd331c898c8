"""Independent computations, in the plainest way, that tests of the toy half compare with."""

import numpy as np
import torch
from scipy.integrate import solve_ivp


def torch_loss_and_velocity(problem, theta, rows=slice(None)):
    """Loss on some of the samples, and minus its gradient, by autograd."""
    theta = torch.tensor(theta, requires_grad=True)
    X, Y = torch.tensor(problem.X[rows]), torch.tensor(problem.Y[rows])
    W_K, W_Q, W_V, W_O = theta if theta.ndim == 3 else [torch.diag(weight) for weight in theta]
    P = torch.softmax(X @ W_K @ W_Q.T @ X.transpose(1, 2), dim=-1)
    loss = ((P @ X @ W_V @ W_O.T - Y) ** 2).mean() / 2
    loss.backward()
    return loss.item(), -theta.grad.numpy()


def flow_in_weights(head, u, v, times):
    """The flow of eq. (4) by an explicit method of high order in the weights themselves, (len(times), 2, p)."""

    def velocity(t, theta):
        u, v = theta.reshape(2, -1)
        g = head.loss_and_g(u * v)[1]
        return np.concatenate([v * g, u * g])

    solution = solve_ivp(
        velocity, (times[0], times[-1]), np.concatenate([u, v]), "DOP853", times, rtol=1e-12, atol=1e-14
    )
    return solution.y.T.reshape(len(times), 2, -1)


def passages(times, sizes, threshold):
    """(time, coordinate, direction) of each passage of `sizes`, shape (times, p), through a threshold, by time."""
    found = []
    for record, i in zip(*np.nonzero(np.diff(sizes > threshold, axis=0)), strict=True):
        share = np.log(threshold / sizes[record, i]) / np.log(sizes[record + 1, i] / sizes[record, i])
        time = times[record] + share * (times[record + 1] - times[record])
        found.append((time, int(i), 1 if sizes[record + 1, i] > threshold else -1))
    return sorted(found)
