"""Rule `measure_matrices`: sizes and ranks of the single matrices of a network, at every snapshot of all its runs."""

from typing import TYPE_CHECKING

import pandas as pd

from rank_increase.jobs import progress, start_job
from rank_increase.probes.matrices import matrices_frame
from rank_increase.tables import SCHEMAS, write_table
from rank_increase.training.snapshots import Snapshots

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(folders, table, *, runs, provenance):
    """Write a row per run, step, layer, head, weight and matrix (schema "matrices"); none if a model declares none."""
    frames = []
    with progress("Matrices", len(runs)) as advance:
        for done, (folder, run) in enumerate(zip(folders, runs, strict=True), 1):
            frame = matrices_frame(Snapshots(folder))
            if frame is not None:
                frames.append(frame.assign(**run))
            advance(done)
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=SCHEMAS["matrices"].names)
    write_table(table, frame, "matrices", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(snakemake.input.snapshots, snakemake.output.table, runs=snakemake.params.runs, provenance=provenance)
