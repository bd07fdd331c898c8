"""Rule `compute_spectra`: singular values of every product of a network, at every snapshot of a run."""

from typing import TYPE_CHECKING

from rank_increase.jobs import progress, start_job
from rank_increase.probes.spectra import spectra_frame
from rank_increase.tables import write_table
from rank_increase.training.snapshots import Snapshots

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(snapshots, spectra, *, seed, provenance):
    """Write a row per step, layer, head, product and matrix (schema "spectra")."""
    snapshots = Snapshots(snapshots)
    with progress("Spectra", len(snapshots.products)) as advance:
        frame = spectra_frame(snapshots, seed, advance)
    write_table(spectra, frame, "spectra", provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.snapshots,
        snakemake.output.spectra,
        seed=int(snakemake.wildcards.seed),
        provenance=provenance,
    )
