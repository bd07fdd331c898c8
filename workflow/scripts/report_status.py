"""Rule `status`: how far a study has come, while it runs or not."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.study import Study, describe_status

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(study):
    """Print runs finished, running, stopped and waiting, and how far each has come.

    Parameters
    ----------
    study : Study
    """
    print(describe_status(study))


if __name__ == "__main__":
    start_job(snakemake)
    main(Study(**snakemake.params.study))
