"""Rule `explorer`: the page in which a study's tables are turned over with sliders."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rank_increase.pages.explorer import ArrayStore, claims_part, read_study, render_page, toy_part, vit_part
from rank_increase.jobs import start_job
from rank_increase.tables import atomic, read_provenance

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(tables, page, *, structures, names, shown, provenance):
    """Write the page of the study from its `tables`, a dict name -> path, which may lack those of a half."""
    rows, store = read_study(tables), ArrayStore()
    commits = sorted({read_provenance(path).get("commit") or "unknown" for path in tables.values()})
    content = {
        "about": {"study": provenance["study"], "commits": commits, "date": datetime.now(UTC).date().isoformat()},
        "provenance": provenance,
        "shown": shown,
        "toy": toy_part(store, rows.get("trajectory"), rows.get("stages"), structures),
        "claims": claims_part(rows.get("claims")),
        "vit": vit_part(store, rows.get("spectra"), rows.get("baselines"), rows.get("metrics"), names),
    }
    with atomic(page) as temporary:
        temporary.write_text(render_page(content, store), encoding="utf-8")


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        dict(snakemake.input.items()),
        snakemake.output.page,
        structures=snakemake.params.structures,
        names=snakemake.params.names,
        shown=snakemake.params.shown,
        provenance=provenance,
    )
