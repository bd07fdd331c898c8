"""The claims of a study as pages: claims.md, and claims.html for the report."""

from html import escape

import pandas as pd

from rank_increase.evidence.claim import number

MARKS = {"supported": "✓", "not supported": "✗", "not tested": "–"}  # for readers who cannot rely on colour


def summary_frame(claims):
    """A summary of the table "claims": one row per claim, as text, with readable headings."""
    return pd.DataFrame(
        {
            "verdict": claims["verdict"],
            "claim": claims["statement"],
            "paper": claims["source"],
            "measured": claims["value"].map(number),
            "supported if": claims["relation"] + " " + claims["threshold"].map(number),
            "rests on": claims["n"],
            "id": claims["id"],
        }
    )


def claims_markdown(claims, study):
    """The page claims.md.

    Parameters
    ----------
    claims : pandas.DataFrame
        Of schema "claims".
    study : str
    """
    summary = summary_frame(claims).map(lambda text: text.replace("|", "\\|"))
    table = [
        f"| {' | '.join(summary.columns)} |",
        f"|{'---|' * len(summary.columns)}",
        *(f"| {' | '.join(row)} |" for row in summary.itertuples(index=False, name=None)),
    ]
    sections = [
        f"### {row.id}: {row.verdict}\n\n{row.statement} ({row.source})\n\n"
        + "\n".join(f"- {heading}: {text}" for heading, text in _background(row).items())
        for row in claims.itertuples(index=False)
    ]
    heading, notes = f"# {_title(study)}", f"{_counts(claims)}\n\n{_NOTES}"
    return "\n\n".join([heading, notes, "\n".join(table), "## How each is measured", *sections]) + "\n"


def claims_html(claims, study):
    """The same page as one self-contained HTML file, for the report.

    Parameters
    ----------
    claims : pandas.DataFrame
        Of schema "claims".
    study : str
    """
    summary = summary_frame(claims).assign(verdict=claims["verdict"].map(MARKS) + " " + claims["verdict"])
    background = pd.DataFrame([{"id": row.id, **_background(row)} for row in claims.itertuples(index=False)])
    tables = [table.to_html(index=False, border=0, na_rep="") for table in (summary, background)]
    return _PAGE.format(title=escape(_title(study)), counts=_counts(claims), notes=_NOTES, tables=tables)


def _title(study):
    return f'Claims of the paper, as measured in the study "{study}"'


def _counts(claims):
    counts = claims["verdict"].value_counts()
    return f"{len(claims)} claims: {', '.join(f'{counts.get(verdict, 0)} {verdict}' for verdict in MARKS)}."


def _background(row):
    return {
        "measure": row.measure,
        "measured": f"{number(row.value)}; supported if {row.relation} {number(row.threshold)}",
        "why this threshold": row.reason,
        "rests on": row.n,
        "data": row.data,
        "missing" if row.verdict == "not tested" else "behind it": row.details or "-",
    }


_NOTES = """\
A claim is supported if the measured value stands in the stated relation to its threshold; the reason for the threshold
is given below. Claims about the toy model say over what they are taken. Claims about networks take a median over heads,
then the worst over runs (seeds). A claim is not tested if this study lacks its runs. A verdict holds for these runs, at
their sizes. Where n is small, it says nothing about significance."""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em; color: #222; background: #fff; }}
table {{ border-collapse: collapse; margin: 1em 0 2em; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.4em 0.8em; border-bottom: 1px solid #ccc; }}
td:nth-child(2) {{ min-width: 18em; }}
td:first-child {{ white-space: nowrap; font-weight: bold; }}
p {{ max-width: 50em; }}
</style>
<h1>{title}</h1>
<p>{counts}</p>
<p>{notes}</p>
{tables[0]}
<h2>How each is measured</h2>
{tables[1]}
</html>
"""
