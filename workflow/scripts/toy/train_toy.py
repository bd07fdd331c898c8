"""Rule `train_toy`: one toy run, by gradient flow or in steps."""

from typing import TYPE_CHECKING

import numpy as np

from rank_increase.jobs import progress, start_job
from rank_increase.notation import log_alpha
from rank_increase.tables import write_table
from rank_increase.toy.descent import descent_run
from rank_increase.toy.diagonal_flow import diagonal_run
from rank_increase.toy.frames import read_stages, run_frames
from rank_increase.toy.full_flow import full_run
from rank_increase.toy.optimizers import OPTIONS
from rank_increase.toy.problem import Problem
from rank_increase.toy.theorem import activation_levels, middles

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, stages, outputs, *, alpha, seed, method, params, label, provenance):
    """Write the tables of a run: losses, trajectory, events and conservation.

    Parameters
    ----------
    outputs : dict of str to str
        Schema -> file.
    """
    problem, log_scale = Problem.load(problem), log_alpha(alpha)
    grid = np.linspace(0, params["max_time"], params["points"])
    weight, predicted = params["activation_weight"], read_stages(stages[0], problem.shape) if stages else []
    if predicted:
        grid = np.union1d(grid, middles([stage.time for stage in predicted], params["max_time"]))
        weight = np.sqrt(activation_levels(predicted))
    times = grid * -log_scale
    with progress(label, times[-1]) as advance:
        options = {"weight": weight, "on_step": advance}
        if method != "flow":
            minibatches = {"batch_size": params["batch_size"], "seed": seed} if method == "sgd" else {}
            options |= {key: params[key] for key in ("step", *OPTIONS.get(method, ()))}
            run = descent_run(problem, log_scale, times, method=method, **minibatches, **options)
        elif problem.is_diagonal:
            tolerances = params["flow_rtol"], params["flow_atol"]
            run = diagonal_run(problem, log_scale, times, *tolerances, decay=params["decay"], **options)
        else:
            run = full_run(problem, log_scale, times, params["full_flow_tolerance"], **options)
    for schema, frame in run_frames(run, log_scale, method).items():
        write_table(outputs[schema], frame, schema, provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    wildcards = snakemake.wildcards
    main(
        snakemake.input.problem,
        snakemake.input.stages,
        dict(snakemake.output.items()),
        alpha=wildcards.alpha,
        seed=int(wildcards.seed),
        method=snakemake.params.method,
        params=snakemake.params,
        label=f"{wildcards.variant}, alpha = {wildcards.alpha}, seed {wildcards.seed}",
        provenance=provenance,
    )
