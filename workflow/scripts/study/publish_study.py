"""Rule `publish`: copy results of a study to results/published/."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.pages.publishing import origin, publish
from rank_increase.tables import atomic

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(files, claims, manifest):
    """Copy `files` and the table `claims`, in whose folder they lie, and write a manifest of their origin."""
    publish([*files, claims], Path(claims).parent, Path(manifest).parent)
    with atomic(manifest) as temporary:
        temporary.write_text(json.dumps(origin(claims), indent=1) + "\n")


if __name__ == "__main__":
    start_job(snakemake)
    main(
        [*snakemake.input.tables, *snakemake.input.figures, *snakemake.input.pages],
        snakemake.input.claims,
        snakemake.output.manifest,
    )
