import pytest

from rank_increase.evidence.claim import Claim, claims_frame
from rank_increase.pages.claims import claims_html, claims_markdown


def claim(name="a", value=1.0, relation="<", threshold=2.0, **fields):
    texts = {"source": "Figure 1", "statement": "x | y", "measure": "m", "data": "d", "n": "3 runs", "details": "<1>",
             "reason": "because"}  # fmt: skip
    return Claim(id=name, value=value, relation=relation, threshold=threshold, **texts | fields)


CLAIMS = [claim("good"), claim("bad", value=5.0), claim("open").untested("a run & more")]


@pytest.mark.parametrize("page", [claims_markdown, claims_html])
def test_a_page_has_every_claim_with_its_verdict_and_how_it_is_measured(page):
    text = page(claims_frame(CLAIMS), "demo")
    assert "3 claims: 1 supported, 1 not supported, 1 not tested." in text
    for name in ("good", "bad", "open"):
        assert text.count(name) == 2


def test_the_table_of_claims_md_has_a_line_for_every_claim():
    lines = claims_markdown(claims_frame(CLAIMS), "demo").splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 1 + len(CLAIMS)
    assert {line.replace("\\|", "").count("|") for line in table} == {8}
    assert "| supported | x \\| y | Figure 1 | 1 | < 2 | 3 runs | good |" in table
    assert "- missing: a run & more" in lines and "- behind it: <1>" in lines
    assert lines.count("- why this threshold: because") == len(CLAIMS)


def test_the_html_page_is_complete_escaped_and_needs_nothing_else():
    page = claims_html(claims_frame(CLAIMS), "demo")
    assert "a run &amp; more" in page and "&lt;1&gt;" in page
    assert "http" not in page and "src=" not in page
    assert [page.count(mark) for mark in ("✓ supported", "✗ not supported", "– not tested")] == [1, 1, 1]
    assert page.count("<td>because</td>") == len(CLAIMS)
    assert "NaN" not in page
