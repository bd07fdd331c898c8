"""The gradient flow of the toy problem: ours, gradient descent and SGD with torch autograd, and other solvers.

The paper's problem at full size, to rescaled time 1000. Descent has a fixed step, so single steps are timed and
multiplied. A solver is stopped after `PATIENCE` CPU seconds and its time scaled from where it got: too little, as the
steps on the first plateaus are long. Errors are the largest of any product at any time, against much tighter bounds.

At 1e-300 products pass through subnormal numbers for most of the run. A run at 1e-3000 hardly meets any and takes more
steps: what takes longer at 1e-300, so that `to_best_peer` is below 1, is a loop that such numbers slow down.
"""

from functools import partial

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

from measuring import ROOT, cpu_seconds, interleaved, row
from rank_increase.notation import log_alpha
from rank_increase.study.configuration import read_config, read_study
from rank_increase.toy import algorithm1
from rank_increase.toy.diagonal_flow import diagonal_run, initial_state
from rank_increase.toy.problem import make_problem

RUN, GRADIENT, SMALLEST = "run to rescaled time 1000", "one gradient", "1e-300 against 1e-3000"
LIMIT = "Algorithm 1, to rescaled time 1000"
ALPHAS = ["0.1", "0.01", "1e-4", "1e-8", "1e-16", "1e-32", "1e-300", "1e-3000", "1e-30000"]
PAPER_ALPHAS = ALPHAS[:6]
SOLVED = ["0.01", "1e-8", "1e-32"]  # with every solver
PATIENCE = 20
RTOL = 1e-6  # of other solvers; the absolute bound is that of ours, or as much in units of alpha
EXACT = 1e-12, 1e-9


class Impatient(Exception):
    """A solver has used its time."""


def gradient_flops(samples, tokens, dim):
    """FLOPs of the four products of X with something that the loss and its gradient need, 2 tokens^2 dim a sample each.

    X diag(q) X^T, P X, and for the backward pass the gradient of P and that of q.
    """
    return 4 * 2 * samples * tokens**2 * dim


def autograd(problem):
    """The gradient of the loss at `theta`, as anyone would write eq. (1) in torch, of full weights or of diagonals."""
    X, Y = torch.tensor(problem.X), torch.tensor(problem.Y)

    def gradient(theta, rows=slice(None)):
        theta = theta.detach().requires_grad_(True)
        W_K, W_Q, W_V, W_O = theta if theta.ndim == 3 else map(torch.diag, theta)
        x, y = X[rows], Y[rows]
        S = x @ (W_K @ W_Q.T) @ x.transpose(1, 2)
        loss = 0.5 * torch.mean((torch.softmax(S, dim=-1) @ x @ (W_V @ W_O.T) - y) ** 2)
        return torch.autograd.grad(loss, theta)[0]

    return gradient


def patient(velocity):
    """A right-hand side that ends the solver with `Impatient` once it has used its time; and where it is."""
    reached, end = [0.0], cpu_seconds() + PATIENCE

    def limited(time, state):
        reached[0] = max(reached[0], float(time))
        if cpu_seconds() > end:
            raise Impatient
        return velocity(time, state)

    return limited, reached


def solvers(problem, scale, atol):
    """Functions of the moments to record, by name, each of which returns the products at these and the time reached."""
    head, gradient = problem.head(), autograd(problem)
    coordinates, s_0 = initial_state(problem.theta_0, scale)
    theta_0 = np.exp(scale) * problem.theta_0

    def in_s(method, times):
        velocity, reached = patient(lambda _, s: head.loss_and_g(coordinates.product(s))[1])
        return reached, lambda: coordinates.product(
            solve_ivp(velocity, times[[0, -1]], s_0, method=method, t_eval=times, rtol=RTOL, atol=atol).y.T
        )

    def in_weights(times):
        velocity, reached = patient(lambda _, theta: head.velocity(theta.reshape(4, -1))[1].ravel())
        bounds = {"rtol": RTOL, "atol": atol * np.exp(scale)}
        return reached, lambda: products(
            solve_ivp(velocity, times[[0, -1]], theta_0.ravel(), method="LSODA", t_eval=times, **bounds).y.T
        )

    def by_torchdiffeq(times):
        velocity, reached = patient(lambda _, theta: -gradient(theta))
        bounds = {"rtol": RTOL, "atol": atol * np.exp(scale)}
        return reached, lambda: products(
            odeint(velocity, torch.tensor(theta_0), torch.tensor(times), method="dopri5", **bounds).numpy()
        )

    return {
        "scipy RK45, our coordinates": partial(in_s, "RK45"),
        "scipy DOP853, our coordinates": partial(in_s, "DOP853"),
        "scipy LSODA, weights": in_weights,
        "torchdiffeq dopri5, weights, autograd": by_torchdiffeq,
    }


def products(theta):
    """Of weights at all moments, shape (records, p)."""
    W_K, W_Q, W_V, W_O = np.moveaxis(theta.reshape(len(theta), 4, -1), 1, 0)
    return np.concatenate([W_K * W_Q, W_V * W_O], axis=1)


def recorded(run, times):
    """The products of a run at these of its times, shape (records, p)."""
    return run.values[np.isin(run.time, times)].reshape(len(times), -1)


def time_solver(x, name, solver, times, exact):
    """A row of a solver, extrapolated if it does not come to the end in time."""
    reached, solve = solver(times)

    def attempt():
        try:
            return solve()
        except Impatient:
            return None

    timing = interleaved({name: attempt}, 1, warm_up=False)[name]
    if timing.result is None or len(timing.result) < len(times):  # a solver that gives up has recorded less
        return row(RUN, x, name, timing, scale=times[-1] / reached[0], extrapolated=True)
    return row(RUN, x, name, timing, error=abs(timing.result - exact).max())


def algorithm1_stages(problem, max_time):
    """All stages to a rescaled time."""
    return list(algorithm1.stages(problem.head(), problem.theta_0.shape[1] * 2, max_time=max_time))


def measure(quick):
    """Rows; x is ln(1/alpha), or the number of samples for one gradient and for the two smallest init scales."""
    toy = read_study(read_config(ROOT / "config" / "config.yaml")).toy.model_dump()
    sizes = {key: toy[key] for key in ("samples", "tokens", "dim")}
    teacher = {key: toy[key] for key in ("teacher_std_KQ", "teacher_std_VO")}
    make = partial(make_problem, toy["headline_seed"], weights="diagonal", teacher="diagonal", **teacher)
    problem = make(**sizes)
    head, gradient, theta = problem.head(), autograd(problem), torch.tensor(0.1 * problem.theta_0)
    calls = {
        "ours": lambda: head.loss_and_g(np.full(2 * toy["dim"], 0.1)),
        "torch autograd": lambda: gradient(theta),
        "torch autograd, minibatch": lambda: gradient(theta, torch.randperm(toy["samples"])[: toy["batch_size"]]),
    }
    once = interleaved(calls, 5 if quick else 30)
    least = {"flops": gradient_flops(**sizes), "traffic": problem.X.nbytes + problem.Y.nbytes}
    rows = [row(GRADIENT, toy["samples"], name, once[name], **least) for name in ("ours", "torch autograd")]
    bounds, repeats = (toy["flow_rtol"], toy["flow_atol"]), 1 if quick else 2

    def moments(alpha):
        return np.linspace(0, toy["max_time"], 101) * -log_alpha(alpha)

    def flow(problem, alpha, bounds=bounds):
        times = moments(alpha)
        return diagonal_run(problem, log_alpha(alpha), times, *bounds, weight=toy["activation_weight"])

    smaller = make(**sizes | {"samples": 100}) if quick else problem
    smallest = interleaved({alpha: partial(flow, smaller, alpha) for alpha in ALPHAS[6:8]}, repeats, warm_up=False)
    for name, timing in zip(("ours at 1e-300", "at 1e-3000"), smallest.values(), strict=True):
        rows.append(row(SMALLEST, len(smaller.X), name, timing))
    limit = interleaved({"": partial(algorithm1_stages, smaller, toy["max_time"])}, repeats, warm_up=False)[""]
    rows.append(row(LIMIT, np.inf, "ours", limit))
    for alpha in ALPHAS[1:3] if quick else ALPHAS:
        timing = smallest.get(alpha) or interleaved({"": partial(flow, problem, alpha)}, repeats, warm_up=False)[""]
        scale, times, error = log_alpha(alpha), moments(alpha), np.nan
        x = -scale
        if alpha in SOLVED:
            exact = recorded(flow(problem, alpha, EXACT), times)
            error = abs(recorded(timing.result, times) - exact).max()
            for name, solver in solvers(problem, scale, toy["flow_atol"]).items():
                rows.append(time_solver(x, name, solver, times, exact))
        rows.append(row(RUN, x, "ours", timing, error=error))
        if alpha in PAPER_ALPHAS:
            steps = {"scale": times[-1] / toy["step"], "extrapolated": True}
            rows.append(row(RUN, x, "gradient descent, autograd", once["torch autograd"], **steps))
            rows.append(row(RUN, x, "SGD, autograd", once["torch autograd, minibatch"], **steps))
    return [{**line, "dtype": "float64"} for line in rows]
