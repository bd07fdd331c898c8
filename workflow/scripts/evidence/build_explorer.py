"""Rule `explorer`: the page to browse a study's tables with sliders."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rank_increase.jobs import start_job
from rank_increase.pages.explorer import ArrayStore, claims_part, networks_part, read_study, render_page, toy_part
from rank_increase.tables import atomic, read_provenance

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(tables, page, *, variants, names, shown, provenance):
    """Write the page of the study from its `tables`, a dict name -> paths; toy or network tables may be missing."""
    rows, store = read_study(tables), ArrayStore()
    commits = {read_provenance(path).get("commit") or "unknown" for paths in tables.values() for path in paths}
    content = {
        "about": {
            "study": provenance["study"],
            "commits": sorted(commits),
            "date": datetime.now(UTC).date().isoformat(),
        },
        "provenance": provenance,
        "shown": shown,
        "toy": toy_part(store, rows, variants),
        "claims": claims_part(rows.get("claims")),
        "networks": networks_part(store, rows, names),
    }
    with atomic(page) as temporary:
        temporary.write_text(render_page(content, store), encoding="utf-8")


if __name__ == "__main__":
    provenance = start_job(snakemake)
    params = snakemake.params
    main(
        {name: [paths] if isinstance(paths, str) else list(paths) for name, paths in snakemake.input.items()},
        snakemake.output.page,
        variants=params.variants,
        names=params.names,
        shown=params.shown,
        provenance=provenance,
    )
