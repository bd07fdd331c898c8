"""Rule `compute_baselines`: rank measures of random changes as large as those of training."""

from typing import TYPE_CHECKING

from rank_increase.jobs import progress, start_job
from rank_increase.spectra import NUMERICAL_RANK_RTOL, Snapshots, baselines_frame
from rank_increase.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(snapshots, spectra, baselines, *, seed, provenance):
    """Write a row per epoch, layer, head, product and baseline (schema "baselines")."""
    snapshots = Snapshots(snapshots)
    columns = ["epoch", "step", "layer", "head", "product", "frobenius_norm"]
    deltas = read_table(spectra, columns=columns, filters=[("matrix", "==", "delta")])
    with progress("Baselines", snapshots.layers) as advance:
        frame = baselines_frame(snapshots, deltas, seed, advance)
    write_table(baselines, frame, "baselines", {**provenance, "numerical_rank_rtol": NUMERICAL_RANK_RTOL})


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.snapshots,
        snakemake.input.spectra,
        snakemake.output.baselines,
        seed=int(snakemake.wildcards.seed),
        provenance=provenance,
    )
