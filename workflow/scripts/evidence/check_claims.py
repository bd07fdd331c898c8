"""Rule `claims`: each claim of the paper as a number with a verdict, as a table and as pages."""

from pathlib import Path
from typing import TYPE_CHECKING

from rank_increase.evidence.claim import claims_frame, declared_claims, evaluate, study_settings
from rank_increase.jobs import start_job
from rank_increase.pages.claims import claims_html, claims_markdown
from rank_increase.tables import atomic, read_tables, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(tables, table, markdown, html, *, study, labels, extensions, provenance):
    """Write a row per claim (schema "claims"), and the same as two pages, from the files of each table."""
    entries = declared_claims(extensions)
    wanted = {name for entry in entries for name in entry.details["tables"]}
    frames = {name: read_tables(files) for name, files in tables.items() if name in wanted}
    frame = claims_frame(evaluate(entries, frames, study_settings(study), labels))
    write_table(table, frame, "claims", provenance)
    for path, page in ((markdown, claims_markdown), (html, claims_html)):
        with atomic(path) as temporary:
            Path(temporary).write_text(page(frame, study["study"]), encoding="utf-8")


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        {name: [files] if isinstance(files, str) else list(files) for name, files in snakemake.input.items()},
        snakemake.output.table,
        snakemake.output.markdown,
        snakemake.output.html,
        study=snakemake.params.study,
        labels=snakemake.params.labels,
        extensions=tuple(snakemake.config.get("extensions", ())),
        provenance=provenance,
    )
