"""Each claim of the paper as a number: what a claim is, and the table and the pages of all of them.

What is measured is in toy_claims and vit_claims; thresholds are under `claims` in the configuration.
"""

import math
import operator
from dataclasses import dataclass, replace
from html import escape

import pandas as pd

from rank_increase.tables import SCHEMAS

_RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
MARKS = {"supported": "✓", "not supported": "✗", "not tested": "–"}  # of verdicts, for whom colour says nothing


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what came of its test.

    Attributes
    ----------
    id : str
        Such as "theorem.distance".
    source : str
        Where the paper says it (numbering of version 1).
    statement : str
        What is claimed, in our words.
    measure : str
        What `value` is, and over what it is taken.
    relation, threshold : str, float
        The claim is supported if `value` stands in this relation to the threshold.
    data : str
        The tables and runs that are asked.
    value : float
        NaN if the claim could not be tested.
    n : str
        How many runs, problems or heads the value rests on.
    details : str
        The numbers behind the value; or, of a claim that was not tested, what is missing.
    """

    id: str
    source: str
    statement: str
    measure: str
    relation: str
    threshold: float
    data: str
    value: float = math.nan
    n: str = ""
    details: str = ""

    def tested(self, value, n, details=""):
        """The claim with what came out."""
        return replace(self, value=float(value), n=n, details=details)

    def untested(self, missing):
        """The claim with what its test would need."""
        return replace(self, value=math.nan, n="none", details=missing)

    @property
    def verdict(self):
        """supported, not supported or not tested."""
        if math.isnan(self.value):
            return "not tested"
        return "supported" if _RELATIONS[self.relation](self.value, self.threshold) else "not supported"


def claims_frame(claims):
    """Rows of schema "claims", in the order given.

    Raises
    ------
    ValueError
        If two claims have the same id.
    """
    names = SCHEMAS["claims"].names
    frame = pd.DataFrame([{name: getattr(claim, name) for name in names} for claim in claims], columns=names)
    if frame["id"].duplicated().any():
        raise ValueError(f"claims with the same id: {', '.join(frame['id'][frame['id'].duplicated()])}")
    return frame


def number(value):
    """A number as a page shows it: three digits that count, more for a whole number."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) < 1e6 and value == round(value) else f"{value:.3g}"


def summary_frame(claims):
    """What a reader wants first of the table "claims": a row each, all of it text, with headings for people."""
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
    """The same page as one HTML file that needs no other, for the report.

    Parameters
    ----------
    claims : pandas.DataFrame
        Of schema "claims".
    study : str
    """
    summary = summary_frame(claims).assign(verdict=claims["verdict"].map(MARKS) + " " + claims["verdict"])
    background = pd.DataFrame([{"id": row.id, **_background(row)} for row in claims.itertuples(index=False)])
    tables = [table.to_html(index=False, border=0) for table in (summary, background)]
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
        "rests on": row.n,
        "data": row.data,
        "missing" if row.verdict == "not tested" else "behind it": row.details or "-",
    }


_NOTES = """\
A claim is supported if the value measured stands in the stated relation to its threshold, which the configuration
gives with its reason (`claims`). Toy claims take the worst over problems (seeds), claims about
vision transformers the worst over runs (seeds) of a median over heads. A claim whose runs this study does not have is
not tested. A verdict holds for these runs, at their sizes, and says nothing of significance where n is small."""
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
