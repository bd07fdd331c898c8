"""Rule `run_algorithm1`: the stages that Algorithm 1 of the paper predicts."""

from typing import TYPE_CHECKING

import pandas as pd

from rank_increase.algorithm1 import stages
from rank_increase.jobs import logger, progress, start_job
from rank_increase.tables import SCHEMAS, coordinate_labels, write_table
from rank_increase.toy import Problem

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, table, *, max_time, label, provenance):
    """Write a row per stage up to rescaled time `max_time` (schema "stages")."""
    head = Problem.load(problem).head()
    found = []
    with progress(label, max_time) as advance:
        for stage in stages(head, 2 * head.dim, max_time=max_time):
            found.append(stage)
            advance(stage.time)
    logger.info("%d stages until rescaled time %g", len(found), max_time)
    rows = [
        {
            "stage": number,
            "sign": stage.sign,
            "predicted_time": stage.time,
            "loss": stage.loss,
            "runner_up": stage.runner_up,
            "left": len(stage.left),
            "curvature": stage.curvature,
            "KQ": stage.product[: head.dim],
            "VO": stage.product[head.dim :],
        }
        for number, stage in enumerate(found, start=1)
    ]
    labels = coordinate_labels([stage.coordinate for stage in found], head.dim)
    write_table(table, pd.DataFrame(rows, columns=SCHEMAS["stages"].names).assign(**labels), "stages", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.problem,
        snakemake.output.stages,
        max_time=snakemake.params.max_time,
        label=f"Algorithm 1, seed {snakemake.wildcards.seed}",
        provenance=provenance,
    )
