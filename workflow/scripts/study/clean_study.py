"""Rules `clean_scratch` and `clean_snapshots`: free disk space without touching unfinished runs."""

from typing import TYPE_CHECKING

from rank_increase.jobs import logger, start_job
from rank_increase.study.configuration import read_study
from rank_increase.study.status import Place, delete_scratch, delete_snapshots, describe_deleted

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(place, snapshots):
    """Delete files, and print and log which and how much.

    Parameters
    ----------
    place : Place
    snapshots : bool
        Whether to delete also snapshots whose spectra exist.
    """
    deleted = list(delete_scratch(place))
    if snapshots:
        deleted += delete_snapshots(place)
    text = describe_deleted(deleted)
    print(text)
    logger.info("%s", text)


if __name__ == "__main__":
    start_job(snakemake)
    main(Place(read_study(snakemake.params.study), **snakemake.params.folders), snakemake.params.snapshots)
