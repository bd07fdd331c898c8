"""Rule `plan`: print the expected cost of a study, and after a run its actual cost."""

from typing import TYPE_CHECKING

from rank_increase.jobs import logger, start_job
from rank_increase.study.configuration import read_study
from rank_increase.study.plan import describe

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(study, datasets, benchmarks):
    """Print the plan, and write it to the log.

    Parameters
    ----------
    study : study.configuration.Study
    datasets, benchmarks : str
        Folders of packed datasets and of benchmark files.
    """
    text = describe(study, datasets, benchmarks)
    print(text)
    logger.info("\n%s", text)


if __name__ == "__main__":
    start_job(snakemake)
    folders = snakemake.params.folders
    main(read_study(snakemake.params.study), folders["datasets"], f"{folders['results']}/benchmarks")
