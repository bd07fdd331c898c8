"""Rule `make_problem`: data, teacher and initial weights of a toy problem."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.tables import atomic
from rank_increase.toy.problem import make_problem

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, seed, options):
    """Write the problem of `seed` to the npz file `problem`; `options` go to toy.problem.make_problem."""
    with atomic(problem) as temporary, open(temporary, "wb") as file:
        make_problem(seed, **options).save(file)


if __name__ == "__main__":
    start_job(snakemake)
    options = {key: value for key, value in snakemake.params.items() if key != "code"}
    main(snakemake.output.problem, int(snakemake.wildcards.seed), options)
