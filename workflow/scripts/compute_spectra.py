"""Rule `compute_spectra`: singular values and rank measures of every head's products, at every snapshot of a run."""

from typing import TYPE_CHECKING

from rank_increase.jobs import progress, start_job
from rank_increase.spectra import NUMERICAL_RANK_RTOL, Snapshots, spectra_frame
from rank_increase.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(snapshots, metrics, spectra, *, provenance):
    """Write a row per epoch, layer, head, product and matrix (schema "spectra")."""
    snapshots = Snapshots(snapshots)
    steps = read_table(metrics, columns=["epoch", "step"]).set_index("epoch")["step"]
    with progress("Spectra", snapshots.layers) as advance:
        frame = spectra_frame(snapshots, {0: 0, **steps}, advance)
    write_table(spectra, frame, "spectra", {**provenance, "numerical_rank_rtol": NUMERICAL_RANK_RTOL})


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(snakemake.input.snapshots, snakemake.input.metrics, snakemake.output.spectra, provenance=provenance)
