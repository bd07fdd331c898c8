"""Rule `perturb_toy`: perturbation runs for Assumption 4.3 (plateaus) or 4.4 (activations)."""

from typing import TYPE_CHECKING

import numpy as np

from rank_increase.assumptions import activation_windows, perturbed_run, plateau_windows
from rank_increase.flow import initial_state
from rank_increase.jobs import progress, start_job
from rank_increase.notation import log_alpha
from rank_increase.tables import perturbation_frame, write_table
from rank_increase.toy import Problem

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    problem, table, *, assumption, alpha, seed, runs, std, follow, max_time, threshold, points, tolerances, provenance
):
    """Write the runs to `table` (schema "perturbations"); times in units of ln(1/alpha), `follow` for plateaus only."""
    problem = Problem.load(problem)
    head, log_scale = problem.head(), log_alpha(alpha)
    unit = -log_scale
    coordinates, s = initial_state(problem.theta_0, log_scale)
    rng = np.random.default_rng([seed, assumption == "activations"])
    options = {"runs": runs, "max_time": max_time * unit, "rng": rng, **tolerances}
    with progress(f"{assumption}, seed {seed}", max_time * unit) as advance:
        if assumption == "plateaus":
            windows = plateau_windows(head, coordinates, s, follow=follow * unit, on_step=advance, **options)
        else:
            windows = activation_windows(head, coordinates, s, threshold=threshold, on_step=advance, **options)
        found = [
            perturbed_run(
                head,
                coordinates,
                state,
                np.linspace(start, end, points),
                std=std,
                threshold=threshold,
                rng=rng,
                **tolerances,
            )
            for state, start, end in windows
        ]
    write_table(table, perturbation_frame(found, log_scale, head.dim), "perturbations", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params = snakemake.params
    main(
        snakemake.input.problem,
        snakemake.output.perturbations,
        assumption=snakemake.wildcards.assumption,
        seed=int(snakemake.wildcards.seed),
        follow=params.noise.get("follow"),
        **{key: params.noise[key] for key in ("runs", "std")},
        **{key: params[key] for key in ("alpha", "max_time", "threshold", "points")},
        tolerances={"rtol": params.flow_rtol, "atol": params.flow_atol},
        provenance=provenance,
    )
