"""Rule `train_toy`: one toy run, by gradient flow, gradient descent or SGD."""

from typing import TYPE_CHECKING

import numpy as np

from rank_increase.flow import diagonal_run, full_run
from rank_increase.jobs import progress, start_job
from rank_increase.notation import log_alpha
from rank_increase.tables import conservation_frame, event_frame, read_table, trajectory_frame, write_table
from rank_increase.theorem import mid_stage_times
from rank_increase.toy import Problem, descent_run

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, stages, trajectory, events, conservation, *, alpha, seed, method, params, label, provenance):
    """Write a run's trajectory, its activations, and how well it conserves (schemas of these names)."""
    problem, log_scale = Problem.load(problem), log_alpha(alpha)
    grid = np.linspace(0, params["max_time"], params["points"])
    if stages:
        grid = np.union1d(grid, mid_stage_times(read_table(stages[0], columns=["predicted_time"]), params["max_time"]))
    times = grid * -log_scale
    with progress(label, times[-1]) as advance:
        options = {"weight": params["activation_weight"], "on_step": advance}
        if method != "flow":
            minibatches = {"batch_size": params["batch_size"], "seed": seed} if method == "sgd" else {}
            run = descent_run(problem, log_scale, times, step=params["step"], **minibatches, **options)
        elif problem.theta_0.ndim == 2:
            run = diagonal_run(problem, log_scale, times, params["flow_rtol"], params["flow_atol"], **options)
        else:
            run = full_run(problem, log_scale, times, params["full_flow_rtol"], params["full_flow_atol"], **options)
    write_table(trajectory, trajectory_frame(run, log_scale), "trajectory", provenance)
    write_table(events, event_frame(run, log_scale), "events", provenance)
    write_table(conservation, conservation_frame(run, log_scale, method), "conservation", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    wildcards = snakemake.wildcards
    main(
        snakemake.input.problem,
        snakemake.input.stages,
        snakemake.output.trajectory,
        snakemake.output.events,
        snakemake.output.conservation,
        alpha=wildcards.alpha,
        seed=int(wildcards.seed),
        method=snakemake.params.method,
        params=snakemake.params,
        label=f"{wildcards.structure}, alpha = {wildcards.alpha}, seed {wildcards.seed}",
        provenance=provenance,
    )
