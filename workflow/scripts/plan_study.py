"""Rule `plan`: what the study will cost, printed before anything is submitted, and what it did cost afterwards."""

import logging
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.plan import describe

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(study, datasets, benchmarks):
    """Print the plan, and write it to the log.

    Parameters
    ----------
    study : dict
        The configuration.
    datasets, benchmarks : str
        Folders of packed datasets and of benchmark files.
    """
    text = describe(study, datasets, benchmarks)
    print(text)
    logging.getLogger("rank_increase").info("\n%s", text)


if __name__ == "__main__":
    start_job(snakemake)
    main(snakemake.params.study, snakemake.params.datasets, snakemake.params.benchmarks)
