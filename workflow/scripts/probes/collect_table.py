"""Rules `collect_toy_table` and `collect_network_table`: the tables of all runs of one kind as one table."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.tables import collect

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(parts, table, *, provenance):
    """Write the rows of all `parts` to `table`, with a column for each wildcard that is not among theirs."""
    collect(parts, table, provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(snakemake.input, snakemake.output.table, provenance=provenance)
