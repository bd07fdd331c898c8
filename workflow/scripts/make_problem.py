"""Rule `make_problem`: data, teacher and initial weights of a toy problem."""

from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.tables import atomic
from rank_increase.toy import make_problem

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(problem, seed, options):
    """Write the problem of `seed` to the npz file `problem`; `options` go to toy.make_problem."""
    with atomic(problem) as temporary, open(temporary, "wb") as file:
        make_problem(seed, **options).save(file)


if __name__ == "__main__":
    start_job(snakemake)
    params = snakemake.params
    main(
        snakemake.output.problem,
        int(snakemake.wildcards.seed),
        {
            **params.structure,
            **{key: params[key] for key in ("samples", "tokens", "dim", "teacher_std_KQ", "teacher_std_VO")},
        },
    )
