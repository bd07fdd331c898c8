"""The gradient flow of full weights: ours, gradient descent, and other solvers of the same flow in the weights.

A gradient, what ours does beside it, and runs over alpha: at the paper's size, where gradient descent has a fixed
step, so that single steps are timed and multiplied; and at a smaller one, which implicit solvers can go to. There,
all methods take turns, down to alpha = 1e-8: in float64, a weight of order one hides what is below 1e-16 beside it.
They use our gradient, but torchdiffeq, which has autograd's; each is stopped after `PATIENCE` CPU seconds and its
time scaled from where it got. Errors are the largest of any singular value at any recorded time, against an explicit
method of high order in the weights with much tighter bounds.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

from bench_toy import Impatient, autograd, patient
from measuring import ROOT, interleaved, row
from rank_increase.notation import log_alpha
from rank_increase.study.configuration import read_config, read_study
from rank_increase.toy import greedy
from rank_increase.toy.full_flow import FullFlow, full_run
from rank_increase.toy.problem import make_problem

RUN, GRADIENT, BESIDE = "run to rescaled time 1000", "one gradient", "beside a gradient"
LIMIT = "the limit, to rescaled time 1000"
ALPHAS = ["0.01", "1e-4", "1e-8", "1e-16", "1e-32", "1e-100", "1e-300"]
SMALL = {"samples": 200, "tokens": 10, "dim": 20}
SOLVED = ["0.01", "1e-4", "1e-8"]  # with every solver
RTOL = 1e-3  # of other solvers, whose errors are then about ours; the absolute bound is as much in units of alpha
EXACT = 1e-9  # of the reference


def gradient_flops(samples, tokens, dim):
    """FLOPs of the products that the loss and its gradient need, for each sample.

    Four of 2 tokens dim^2, which are X Q and X B and, backward, the gradients of Q and of B; and five of
    2 tokens^2 dim, which are those of scores, of outputs, and of the gradients of P, X Q and X B.
    """
    return samples * (4 * 2 * tokens * dim**2 + 5 * 2 * tokens**2 * dim)


def solvers(problem, scale, times, step):
    """Functions by name, each of which returns the singular values at `times`, or none, and the share of the way."""
    head, gradient, shape = problem.head(), autograd(problem), problem.theta_0.shape
    start, bounds = np.exp(scale) * problem.theta_0, {"rtol": RTOL, "atol": RTOL * np.exp(scale)}

    def analytic(_, theta):
        return head.velocity(theta.reshape(shape))[1].ravel()

    def by_scipy(method, velocity):
        return solve_ivp(velocity, times[[0, -1]], start.ravel(), method, times, **bounds).y.T

    def by_torchdiffeq(velocity):
        return odeint(velocity, torch.tensor(start), torch.tensor(times), method="dopri5", **bounds).numpy()

    def by_descent(velocity):
        records, theta, number = [start.ravel()], start.ravel(), 0
        for time in times[1:]:
            while number * step < time:
                theta = theta + step * velocity(number * step, theta)
                number += 1
            records.append(theta)
        return records

    def attempt(solve, velocity):
        velocity, reached = patient(velocity)
        try:
            theta = solve(velocity)
        except Impatient:
            theta = []
        if len(theta) < len(times):  # a solver that gives up has recorded less
            return None, reached[0] / times[-1]
        return np.array([head.values(weights.reshape(shape)) for weights in theta]), 1.0

    methods = {
        f"scipy {name}": partial(attempt, partial(by_scipy, name), analytic)
        for name in ("RK45", "DOP853", "LSODA", "BDF", "Radau")
    }
    return methods | {
        "torchdiffeq dopri5, autograd": partial(attempt, by_torchdiffeq, lambda _, theta: -gradient(theta)),
        "gradient descent, our gradient": partial(attempt, by_descent, analytic),
    }


def run(problem, alpha, tolerance, records=21):
    """Our run to rescaled time 1000."""
    times = np.linspace(0, 1000, records) * -log_alpha(alpha)
    return full_run(problem, log_alpha(alpha), times, tolerance, weight=0.1)


def against_solvers(problem, alpha, tolerance, step):
    """Rows of a run by all methods, called in turn."""
    scale, shape = log_alpha(alpha), problem.theta_0.shape
    times = np.linspace(0, 1000, 21) * -scale
    head, start = problem.head(), np.exp(scale) * problem.theta_0.ravel()
    exact = solve_ivp(
        lambda _, theta: head.velocity(theta.reshape(shape))[1].ravel(),
        times[[0, -1]],
        start,
        "DOP853",
        times,
        rtol=EXACT,
        atol=EXACT * np.exp(scale),
    ).y.T
    exact = np.array([head.values(theta.reshape(shape)) for theta in exact])
    ours = {
        "ours": lambda: (run(problem, alpha, tolerance).values, 1.0),
        "ours, a hundredth of the tolerance": lambda: (run(problem, alpha, tolerance / 100).values, 1.0),
    }
    run(problem, "0.1", tolerance)  # what is compiled or cached at its first call
    timings = interleaved(ours | solvers(problem, scale, times, step), 1, warm_up=False)
    samples, _, dim = problem.X.shape
    case, rows = f"with {samples} samples, dim {dim}: {RUN}", []
    for name, timing in timings.items():
        values, share = timing.result
        error = np.nan if values is None else abs(values - exact).max()
        rows.append(row(case, -scale, name, timing, scale=1 / share, extrapolated=values is None, error=error))
    return rows


def beside_a_gradient(problem, alpha, tolerance, repeats):
    """Rows of what a step does beside gradients, at a state in the middle of the stages."""
    scale = log_alpha(alpha)
    flow = FullFlow(problem.head(), problem.theta_0, scale, tolerance)
    while flow.time < -100 * scale:
        coordinates, segment = flow.step(-100 * scale)
    state, products = segment.after, coordinates.products(segment.after)
    G = flow.head.loss_and_gradients(products)[1]
    calls = {
        "a gradient": lambda: flow.head.loss_and_gradients(products),
        "ours, velocity of the coordinates": lambda: coordinates.velocity(state, G),
        "ours, products from the coordinates": lambda: coordinates.products(state),
        "ours, change of coordinates": lambda: replace(coordinates, kappa=coordinates.kappa.copy()).canonical(state),
        "ours, logarithms of singular values": lambda: coordinates.log_values(state),
    }
    return [row(BESIDE, len(products[0]), name, timing) for name, timing in interleaved(calls, repeats).items()]


def limit(problem):
    """The greedy limit to rescaled time 1000."""
    return list(greedy.stages(problem.head(), problem.theta_0.shape[2], max_time=1000))


def measure(quick):
    """Rows; x is ln(1/alpha), or the number of samples for one gradient, or dim for what is beside it."""
    toy = read_study(read_config(ROOT / "config" / "config.yaml")).toy.model_dump()
    sizes, tolerance, step = {key: toy[key] for key in SMALL}, toy["full_flow_tolerance"], toy["step"]
    teacher = {key: toy[key] for key in ("teacher_std_KQ", "teacher_std_VO")}
    make = partial(make_problem, toy["headline_seed"], weights="full", teacher="dense", **teacher)
    smaller = make(**SMALL | ({"samples": 100, "dim": 8} if quick else {}))
    sizes |= {"samples": 200} if quick else {}
    problem = make(**sizes)
    head, gradient, theta = problem.head(), autograd(problem), torch.tensor(0.1 * problem.theta_0)
    repeats = 5 if quick else 30
    once = interleaved(
        {"ours": lambda: head.velocity(theta.numpy()), "torch autograd": lambda: gradient(theta)}, repeats
    )
    least = {"flops": gradient_flops(**sizes), "traffic": problem.X.nbytes + problem.Y.nbytes}
    rows = [row(GRADIENT, sizes["samples"], name, timing, **least) for name, timing in once.items()]
    rows += beside_a_gradient(problem, "1e-16", tolerance, repeats)
    for alpha in SOLVED[:1] if quick else SOLVED:
        rows += against_solvers(smaller, alpha, tolerance, step)
    for alpha in ALPHAS[:2] if quick else ALPHAS:
        timing = interleaved({"": partial(run, problem, alpha, tolerance)}, 1, warm_up=False)[""]
        x = -log_alpha(alpha)
        steps = {"scale": 1000 * x / step, "extrapolated": True}
        rows.append(row(RUN, x, "ours", timing))
        rows.append(row(RUN, x, "gradient descent, autograd", once["torch autograd"], **steps))
    timing = interleaved({"": partial(limit, smaller if quick else problem)}, 1, warm_up=False)[""]
    rows.append(row(LIMIT, np.inf, "ours", timing))
    return [{**line, "dtype": "float64"} for line in rows]
