"""Rule `perturb_limit`: Assumptions 4.3 and 4.4 in the limit alpha -> 0."""

from typing import TYPE_CHECKING

import numpy as np

from rank_increase.jobs import progress, start_job
from rank_increase.tables import write_table
from rank_increase.toy.frames import read_stages, return_frame
from rank_increase.toy.problem import Problem
from rank_increase.toy.returns import perturbed_ends

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, stages, table, *, seed, noise, label, provenance):
    """Write a row per assumption, stage, size of the noise and draw (schema "returns")."""
    problem = Problem.load(problem)
    head, stages = problem.head(), read_stages(stages, problem.shape)
    every = np.arange(1, len(stages) + 1)
    count = min(noise["stages"] or len(stages), len(stages))
    chosen = every[np.linspace(0, len(stages) - 1, count).round().astype(int)] if count else every
    options = {"stds": noise["stds"], "draws": noise["draws"], "rng": np.random.default_rng([seed, 2])}
    found = []
    with progress(label, max(count, 1)) as advance:
        for each in perturbed_ends(head, stages, chosen, **options):
            found.append(each)
            advance(np.searchsorted(chosen, each.stage) + 1)
    write_table(table, return_frame(found), "returns", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.problem,
        snakemake.input.stages,
        snakemake.output.returns,
        seed=int(snakemake.wildcards.seed),
        noise=snakemake.params.noise,
        label=f"assumptions in the limit, {snakemake.wildcards.variant}, seed {snakemake.wildcards.seed}",
        provenance=provenance,
    )
