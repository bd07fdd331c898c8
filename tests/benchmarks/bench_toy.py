"""Cost and accuracy of the gradient flow of the toy problem against plain gradient descent with torch autograd.

Run by `make bench`, on one core: the paper's problem at full size, its six alphas, and 1e-300 and 1e-3000. Everything
is timed in one process, in CPU seconds; gradient descent is extrapolated from measured steps. Writes
results/benchmarks/toy.parquet and toy.md.
"""

import platform
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import pandas as pd
import torch
import yaml

from rank_increase.flow import diagonal_run
from rank_increase.notation import log_alpha
from rank_increase.tables import atomic
from rank_increase.toy import make_problem

ROOT = Path(__file__).parents[2]
PAPER_ALPHAS = ["0.1", "0.01", "1e-4", "1e-8", "1e-16", "1e-32"]
AUTOGRAD_STEPS, REPEATS = 20, 5


def timed(function):
    """CPU seconds that a call takes, and what it returns."""
    start = process_time()
    result = function()
    return process_time() - start, result


def autograd_step(problem):
    """A step of gradient descent as anyone would write it: eq. (1) with diagonal matrices, torch autograd, float64."""
    X, Y = torch.tensor(problem.X), torch.tensor(problem.Y)
    theta = [torch.tensor(weight, requires_grad=True) for weight in 0.1 * problem.theta_0]

    def step(learning_rate):
        W_K, W_Q, W_V, W_O = (torch.diag(weight) for weight in theta)
        S = X @ (W_K @ W_Q.T) @ X.transpose(1, 2)
        loss = 0.5 * torch.mean((torch.softmax(S, dim=-1) @ X @ (W_V @ W_O.T) - Y) ** 2)
        gradients = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            for weight, gradient in zip(theta, gradients, strict=True):
                weight -= learning_rate * gradient

    return step


def main():
    """Measure, print and write."""
    torch.set_num_threads(1)
    toy = yaml.safe_load((ROOT / "config/config.yaml").read_text())["toy"]
    sizes = {key: toy[key] for key in ("samples", "tokens", "dim", "teacher_std_KQ", "teacher_std_VO")}
    problem = make_problem(toy["headline_seed"], weights="diagonal", teacher="diagonal", **sizes)
    head, grid = problem.head(), np.linspace(0, toy["max_time"], 101)
    gradient = partial(head.loss_and_g, np.full(2 * toy["dim"], 0.1))
    gradient()  # compiles
    gradient_seconds = median(timed(gradient)[0] for _ in range(50))
    step = autograd_step(problem)
    step(toy["step"])
    step_seconds = median(timed(partial(step, toy["step"]))[0] for _ in range(AUTOGRAD_STEPS))
    rows = []
    for alpha in [*PAPER_ALPHAS, "1e-300", "1e-3000"]:
        log_scale = log_alpha(alpha)
        flow = partial(diagonal_run, problem, log_scale, grid * -log_scale, weight=toy["activation_weight"])
        seconds, run = timed(partial(flow, toy["flow_rtol"], toy["flow_atol"]))
        steps = toy["max_time"] * -log_scale / toy["step"]
        row = {"alpha": alpha, "flow_seconds": seconds, "descent_steps": steps, "descent_seconds": steps * step_seconds}
        if alpha in PAPER_ALPHAS:
            row["largest_error"] = abs(run.values - flow(1e-12, 1e-9).values).max()
        rows.append(row)
        print(f"alpha = {alpha}: {seconds:.1f} s", flush=True)
    table = pd.DataFrame(rows)
    paper = table[table["alpha"].isin(PAPER_ALPHAS)]
    at = table.set_index("alpha")["flow_seconds"]
    summary = {
        "one gradient, compiled (ms)": 1e3 * gradient_seconds,
        "one step of gradient descent, torch autograd (ms)": 1e3 * step_seconds,
        "six alphas by flow (CPU s)": paper["flow_seconds"].sum(),
        "six alphas by gradient descent, extrapolated (CPU s)": paper["descent_seconds"].sum(),
        "gradient descent / flow": paper["descent_seconds"].sum() / paper["flow_seconds"].sum(),
        "alpha = 1e-3000 / alpha = 1e-32": at["1e-3000"] / at["1e-32"],
        "largest error of a trajectory against tolerances 1e-12, 1e-9": paper["largest_error"].max(),
    }
    folder = ROOT / "results/benchmarks"
    with atomic(folder / "toy.parquet") as temporary:
        table.to_parquet(temporary)
    lines = [f"Toy problem on one core of {platform.machine()}, torch {torch.__version__}, numpy {np.__version__}.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value:.3g} |" for name, value in summary.items()), ""]
    columns = {"alpha": "alpha", "flow_seconds": "flow (CPU s)", "descent_steps": "steps of descent"}
    columns |= {"descent_seconds": "descent, extrapolated (CPU s)", "largest_error": "largest error of flow"}
    lines += ["| " + " | ".join(columns.values()) + " |", "|---" * len(columns) + "|"]
    for row in table[list(columns)].itertuples(index=False):
        lines.append(
            "| " + " | ".join([row[0], *("-" if np.isnan(value) else f"{value:.3g}" for value in row[1:])]) + " |"
        )
    with atomic(folder / "toy.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
