"""Rule `compare_theorem`: Theorem 4.5, predicted stages against measured trajectories."""

from typing import TYPE_CHECKING

import pandas as pd

from rank_increase.jobs import start_job
from rank_increase.tables import read_table, write_table
from rank_increase.toy.frames import read_stages
from rank_increase.toy.problem import Problem
from rank_increase.toy.theorem import compare_stages

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, stages, trajectories, events, alphas, table, *, max_time, provenance):
    """Write a row per alpha and stage (schema "theorem")."""
    shape = Problem.load(problem).shape
    stages = read_stages(stages, shape)
    frames = [
        compare_stages(stages, read_table(trajectory), read_table(event), alpha, max_time, shape)
        for trajectory, event, alpha in zip(trajectories, events, alphas, strict=True)
    ]
    write_table(table, pd.concat(frames, ignore_index=True), "theorem", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.problem,
        snakemake.input.stages,
        snakemake.input.trajectories,
        snakemake.input.events,
        snakemake.params.alphas,
        snakemake.output.theorem,
        max_time=snakemake.params.max_time,
        provenance=provenance,
    )
