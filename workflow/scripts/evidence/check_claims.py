"""Rule `claims`: each claim of the paper as a number with a verdict, as a table and as pages."""

from pathlib import Path
from typing import TYPE_CHECKING

from rank_increase.evidence.claim import claims_frame, claims_html, claims_markdown
from rank_increase.jobs import start_job
from rank_increase.tables import atomic, read_table, write_table
from rank_increase.evidence.toy import TABLES, toy_claims
from rank_increase.evidence.networks import COLUMNS, vit_claims

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(tables, spectra, baselines, table, markdown, html, *, study, thresholds, toy, vit, provenance):
    """Write a row per claim (schema "claims"), and the same as two pages."""
    toy_tables = {name: read_table(path) for name, path in tables.items()}
    spectra = read_table(spectra, columns=[*COLUMNS, "matrix"])
    baselines = read_table(baselines, columns=[*COLUMNS, "baseline"])
    claims = toy_claims(toy_tables, thresholds, **toy) + vit_claims(spectra, baselines, thresholds, **vit)
    frame = claims_frame(claims)
    write_table(table, frame, "claims", provenance)
    for path, page in ((markdown, claims_markdown(frame, study)), (html, claims_html(frame, study))):
        with atomic(path) as temporary:
            Path(temporary).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    provenance = start_job(snakemake)
    main(
        {name: snakemake.input[name] for name in TABLES},
        snakemake.input.spectra,
        snakemake.input.baselines,
        snakemake.output.table,
        snakemake.output.markdown,
        snakemake.output.html,
        study=snakemake.params.study,
        thresholds=snakemake.params.thresholds,
        toy=snakemake.params.toy,
        vit=snakemake.params.vit,
        provenance=provenance,
    )
