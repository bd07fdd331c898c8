"""Rule `status`: the progress of a study, whether it runs or not."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.study.configuration import read_study
from rank_increase.study.status import Place, describe_status

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(place):
    """Print finished, running, stopped and waiting runs, and their progress.

    Parameters
    ----------
    place : Place
    """
    print(describe_status(place))


if __name__ == "__main__":
    start_job(snakemake)
    main(Place(read_study(snakemake.params.study), **snakemake.params.folders))
