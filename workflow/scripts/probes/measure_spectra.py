"""Rule `measure_spectra`: rank measures and norms of all runs of a network, from their singular values."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.probes.measuring import measures_frame
from rank_increase.registry import registered
from rank_increase.tables import measures_schema, read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(spectra, table, *, extensions, provenance):
    """Write the rows of `spectra` with a column for each measure in place of the singular values."""
    measures = {name: entry.load() for name, entry in registered("measure", extensions).items()}
    write_table(table, measures_frame(read_table(spectra), measures), measures_schema(spectra, measures), provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        snakemake.input.spectra,
        snakemake.output.measures,
        extensions=tuple(snakemake.config.get("extensions", ())),
        provenance=provenance,
    )
