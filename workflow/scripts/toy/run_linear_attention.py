"""Rule `run_linear_attention`: linear attention on one problem, every parametrisation from every init scale."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rank_increase.jobs import progress, start_job
from rank_increase.tables import write_table
from rank_increase.toy.frames import linear_attention_frame, linear_attention_losses
from rank_increase.toy.linear_attention import Merged, Separate, Task, drawn_eigenvalues, flow

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(outputs, *, seed, dim, eigenvalues, context, ranks, alphas, points, provenance):
    """Write the tables of a problem, a dict of schema to file; `eigenvalues` are drawn from `seed` if None."""
    spectrum_rng, *weight_rngs = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2 + len(ranks)))
    drawn = drawn_eigenvalues(spectrum_rng, dim) if eigenvalues is None else np.sort(eigenvalues)[::-1]
    task, frames = Task(drawn, context), {schema: [] for schema in outputs}
    parametrisations = [Merged(dim), *(Separate(dim, rank) for rank in ranks)]
    with progress(f"linear attention, seed {seed}", len(parametrisations) * len(alphas)) as advance:
        for heads, rng in zip(parametrisations, weight_rngs, strict=True):
            theta_0 = [rng.standard_normal(shape) for shape in heads.shapes]
            for alpha in alphas:
                run = flow(task, heads, theta_0, float(alpha))
                which = {"key_query": heads.key_query, "rank": heads.rank, "alpha": alpha}
                frames["linear_attention"].append(linear_attention_frame(task, run).assign(**which))
                frames["linear_attention_losses"].append(linear_attention_losses(run, points).assign(**which))
                advance(len(frames["linear_attention"]))
    for schema, path in outputs.items():
        write_table(path, pd.concat(frames[schema], ignore_index=True), schema, provenance)


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        dict(snakemake.output.items()),
        seed=int(snakemake.wildcards.seed),
        **{key: value for key, value in snakemake.params.items() if key != "code"},
        provenance=provenance,
    )
