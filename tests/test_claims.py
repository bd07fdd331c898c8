import math
import subprocess
import sys

import pytest

import check_claims
import show_configuration
from rank_increase.claims import Claim, claims_frame, claims_html, claims_markdown, number
from rank_increase.tables import read_table, write_table
from rank_increase.toy_claims import TABLES
from test_configuration import SCRIPTS
from test_toy_claims import CASES, NOTHING, SETTINGS, THRESHOLDS
from test_vit_claims import growing, tables


def claim(name="a", value=1.0, relation="<", threshold=2.0, **fields):
    texts = {"source": "Figure 1", "statement": "x | y", "measure": "m", "data": "d", "n": "3 runs", "details": "<1>"}
    return Claim(id=name, value=value, relation=relation, threshold=threshold, **texts | fields)


@pytest.mark.parametrize(
    ("value", "relation", "threshold", "verdict"),
    [
        (1, "<", 2, "supported"),
        (2, "<", 2, "not supported"),
        (2, "<=", 2, "supported"),
        (2, ">", 2, "not supported"),
        (2, ">=", 2, "supported"),
        (0, "==", 0, "supported"),
        (1, "==", 0, "not supported"),
        (math.inf, "<", 2, "not supported"),
        (math.nan, "<", 2, "not tested"),
    ],
)
def test_a_verdict_follows_from_value_and_threshold(value, relation, threshold, verdict):
    assert claim(value=value, relation=relation, threshold=threshold).verdict == verdict


def test_testing_a_claim_keeps_what_it_says():
    untested = claim().untested("runs")
    assert (untested.verdict, untested.n, untested.details, untested.id) == ("not tested", "none", "runs", "a")
    assert untested.tested(1, "2 runs", "more") == claim(n="2 runs", details="more")


def test_two_claims_may_not_have_the_same_id():
    with pytest.raises(ValueError, match="same id: b$"):
        claims_frame([claim("a"), claim("b"), claim("b")])


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (0.012345, "0.0123"), (math.nan, "-"), (math.inf, "inf"), (1e-9, "1e-09"), (0, "0")]
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text


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


def test_the_html_page_is_complete_escaped_and_needs_nothing_else():
    page = claims_html(claims_frame(CLAIMS), "demo")
    assert "a run &amp; more" in page and "&lt;1&gt;" in page
    assert "http" not in page and "src=" not in page
    assert [page.count(mark) for mark in ("✓ supported", "✗ not supported", "– not tested")] == [1, 1, 1]


@pytest.fixture
def checked(tmp_path):
    """Runs the script of rule `claims` on toy tables, given by name, and on vision transformers."""

    def check(toy_tables):
        paths = {name: tmp_path / f"{name}.parquet" for name in TABLES}
        for name, frame in (NOTHING | toy_tables).items():
            frame.to_parquet(paths[name])
        spectra, baselines = tables(growing)
        spectra.to_parquet(tmp_path / "spectra.parquet")
        baselines.to_parquet(tmp_path / "baselines.parquet")
        outputs = [tmp_path / f"claims.{format}" for format in ("parquet", "md", "html")]
        check_claims.main(
            paths,
            tmp_path / "spectra.parquet",
            tmp_path / "baselines.parquet",
            *outputs,
            study="demo",
            thresholds=THRESHOLDS,
            toy=SETTINGS,
            vit={"alpha": "1", "names": {"x": "Dataset"}},
            provenance={"study": "demo"},
        )
        return outputs

    return check


def test_the_rule_writes_all_claims_to_table_and_pages(checked):
    table, markdown, html = checked(CASES["theorem.distance"][0])
    frame = read_table(table).set_index("id")
    assert len(frame) == len(CASES) + 8
    assert frame.loc["theorem.distance", "verdict"] == "supported"
    assert frame.loc["vit.rank_grows.x.VO", "verdict"] == "supported"
    assert frame.loc["lemma_4_1.flow", "verdict"] == "not tested"
    for name in frame.index:
        assert f"### {name}: {frame.loc[name, 'verdict']}" in markdown.read_text()
        assert f"<td>{name}</td>" in html.read_text()


def test_a_study_without_toy_runs_has_its_claims_not_tested(checked):
    frame = read_table(checked({})[0])
    assert set(frame.loc[~frame["id"].str.startswith("vit"), "verdict"]) == {"not tested"}


def test_untested_values_are_null_in_the_table(tmp_path):
    write_table(tmp_path / "claims.parquet", claims_frame(CLAIMS), "claims", {})
    assert read_table(tmp_path / "claims.parquet")["value"].isna().tolist() == [False, False, True]


def test_the_job_starts_quickly():
    code = "import sys, check_claims; print({'torch', 'scipy', 'numba', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


def test_the_configuration_is_shown_as_it_is(tmp_path):
    show_configuration.main({"study": "<demo>", "alphas": ["1e-3"], "α": {"b": None}}, tmp_path / "page.html")
    assert "study: &lt;demo&gt;\nalphas: [1e-3]\nα: {b: null}\n" in (tmp_path / "page.html").read_text()
