"""Rule `perturb_toy`: perturbation runs for Assumption 4.3 (plateaus) or 4.4 (activations)."""

from typing import TYPE_CHECKING

import numpy as np

from rank_increase.jobs import progress, start_job
from rank_increase.notation import log_alpha
from rank_increase.tables import write_table
from rank_increase.toy.assumptions import activation_moments, perturbed_runs, random_moments
from rank_increase.toy.diagonal_flow import initial_state
from rank_increase.toy.frames import perturbation_frame, read_stages
from rank_increase.toy.problem import Problem

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, stages, table, *, assumption, seed, alpha, noise, weights, max_time, points, tolerances, provenance):
    """Write the runs to `table` (schema "perturbations"); times are in units of ln(1/alpha)."""
    problem, unit = Problem.load(problem), -log_alpha(alpha)
    stages = read_stages(stages, problem.shape)
    head = problem.head()
    coordinates, s = initial_state(problem.theta_0, -unit)
    rng = np.random.default_rng([seed, assumption == "activations"])
    with progress(f"{assumption}, seed {seed}", (max_time + 2 * noise.get("follow", 0)) * unit) as advance:
        options = {"runs": noise["runs"], "max_time": max_time * unit, "rng": rng, "on_step": advance, **tolerances}
        if assumption == "plateaus":
            follow = noise["follow"] * unit
            moments = random_moments(head, coordinates, s, follow=follow, active=weights["active"], **options)
        else:
            moments = activation_moments(head, coordinates, s, **weights, **options)
        options = {"std": noise["std"], "points": points, "rng": rng, **weights, **tolerances}
        runs = [perturbed_runs(head, coordinates, moment, **options) for moment in moments]
    write_table(table, perturbation_frame(runs, -unit, head.dim, stages), "perturbations", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params, settings = snakemake.params, snakemake.params.settings
    main(
        snakemake.input.problem,
        snakemake.input.stages,
        snakemake.output.perturbations,
        assumption=snakemake.wildcards.assumption,
        seed=int(snakemake.wildcards.seed),
        alpha=settings["alpha"],
        points=settings["points"],
        noise=params.noise,
        max_time=params.max_time,
        weights={"threshold": settings["threshold"], "active": params.activation_weight},
        tolerances={"rtol": params.flow_rtol, "atol": params.flow_atol},
        provenance=provenance,
    )
