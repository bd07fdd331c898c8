"""Rule `run_algorithm1`: the stages that Algorithm 1 of the paper predicts."""

from math import prod
from typing import TYPE_CHECKING

from rank_increase.jobs import logger, progress, start_job
from rank_increase.tables import write_table
from rank_increase.toy import algorithm1, greedy
from rank_increase.toy.frames import stage_frame
from rank_increase.toy.problem import Problem

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, table, *, max_time, decay=0.0, label, provenance):
    """Write a row per stage up to rescaled time `max_time` (schema "stages")."""
    problem, found = Problem.load(problem), []
    head, shape = problem.head(), problem.shape
    if problem.is_diagonal:
        stages = algorithm1.stages(head, prod(shape), max_time=max_time, decay=decay)
    else:
        stages = greedy.stages(head, problem.theta_0.shape[-1], max_time=max_time)
    with progress(label, max_time) as advance:
        for stage in stages:
            found.append(stage)
            advance(stage.time)
    logger.info("%d stages until rescaled time %g", len(found), max_time)
    write_table(table, stage_frame(found, shape), "stages", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.problem,
        snakemake.output.stages,
        max_time=snakemake.params.max_time,
        decay=snakemake.params.decay,
        label=f"Algorithm 1, {snakemake.wildcards.variant}, seed {snakemake.wildcards.seed}",
        provenance=provenance,
    )
