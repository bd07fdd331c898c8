"""Rules `clean_scratch` and `clean_snapshots`: room on the disk, at the expense of nothing that is not finished."""

import logging
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.study import Study, delete_scratch, delete_snapshots, describe_deleted

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(study, snapshots):
    """Delete, and print and log what and how much.

    Parameters
    ----------
    study : Study
    snapshots : bool
        Whether to delete snapshots whose spectra are there, too.
    """
    deleted = list(delete_scratch(study))
    if snapshots:
        deleted += delete_snapshots(study)
    text = describe_deleted(deleted)
    print(text)
    logging.getLogger("rank_increase").info("%s", text)


if __name__ == "__main__":
    start_job(snakemake)
    main(Study(**snakemake.params.study), snakemake.params.snapshots)
