import subprocess
import sys
from pathlib import Path

import pytest

import rank_increase
from rank_increase.evidence.claim import claims_frame, declared_claims
from rank_increase.study.configuration import all_variant_settings, read_config, read_study
from rank_increase.tables import read_table, write_table
from scripts.evidence import check_claims
from test_claim import CLAIMS, STUDY
from test_condensation_claims import CASES as CONDENSATION_CASES
from test_full_weights_claims import CASES as FULL_CASES
from test_linear_attention_claims import CASES as LINEAR_CASES
from test_network_claims import CASES as NETWORK_CASES
from test_network_claims import GOOD, one_by_one, spectra
from test_patterns_claims import CASES as PATTERN_CASES
from test_toy_claims import CASES as TOY_CASES
from test_toy_claims import NOTHING
from test_toy_structures_claims import CASES as STRUCTURE_CASES
from test_trainings_claims import CASES as TRAININGS_CASES

NETWORKS = {"measures": GOOD, "spectra": spectra(one_by_one)}
DEMO = Path(__file__).parents[2] / "config/config.yaml"


@pytest.fixture
def checked(tmp_path):
    """Runs the script of rule `claims` on tables given by name; returns the paths of the table and of the two pages."""

    def check(tables):
        files = {name: [tmp_path / f"{name}.parquet"] for name in tables}
        for name, frame in tables.items():
            frame.to_parquet(files[name][0])
        outputs = [tmp_path / f"claims.{format}" for format in ("parquet", "md", "html")]
        study = STUDY | {"variants": all_variant_settings(read_study(read_config(DEMO)))}
        labels, provenance = {"x": "Dataset"}, {"study": "demo"}
        check_claims.main(files, *outputs, study=study, labels=labels, extensions=[], provenance=provenance)
        return outputs

    return check


def test_every_declared_claim_has_data_that_support_it_and_data_that_refute_it():
    toy = [*FULL_CASES, *TOY_CASES, *STRUCTURE_CASES, *LINEAR_CASES, *TRAININGS_CASES]
    cases = [*toy, *NETWORK_CASES, *CONDENSATION_CASES, *PATTERN_CASES]
    assert sorted(cases) == sorted(entry.name for entry in declared_claims())


def test_the_rule_writes_all_claims_to_table_and_pages(checked):
    table, markdown, html = checked(NOTHING | TOY_CASES["theorem.distance"][0] | NETWORKS)
    frame = read_table(table).set_index("id")
    assert len(frame) == len(declared_claims()) + len(NETWORK_CASES)  # those are tested for both products
    assert frame.loc["theorem.distance", "verdict"] == "supported"
    assert frame.loc["vit.rank_grows.x.VO", "verdict"] == "supported"
    assert frame.loc["lemma_4_1.flow", "verdict"] == "not tested"
    for name in frame.index:
        assert f"### {name}: {frame.loc[name, 'verdict']}" in markdown.read_text()
        assert f"<td>{name}</td>" in html.read_text()
        assert frame.loc[name, "reason"] in markdown.read_text()


@pytest.mark.parametrize("tables", [NETWORKS, NOTHING, {}], ids=["networks", "toy", "nothing"])
def test_claims_about_what_a_study_does_not_run_are_not_tested(checked, tables):
    frame = read_table(checked(tables)[0]).set_index("id")
    about_networks = frame.index.str.startswith("vit.")
    assert about_networks.any() and not about_networks.all()
    assert set(frame.loc[~about_networks, "verdict"]) == {"not tested"}
    assert set(frame.loc[about_networks, "verdict"]) == {"supported" if "measures" in tables else "not tested"}
    assert (frame.loc[frame["verdict"] == "not tested", "details"] != "").all()


def test_a_table_that_no_claim_asks_for_is_not_read(checked, tmp_path):
    unreadable = tmp_path / "metrics.parquet"
    unreadable.write_text("")
    outputs = [tmp_path / f"claims.{format}" for format in ("parquet", "md", "html")]
    check_claims.main({"metrics": [unreadable]}, *outputs, study=STUDY, labels={}, extensions=[], provenance={})
    assert outputs[0].exists()


def test_untested_values_are_null_in_the_table(tmp_path):
    write_table(tmp_path / "claims.parquet", claims_frame(CLAIMS), "claims", {})
    assert read_table(tmp_path / "claims.parquet")["value"].isna().tolist() == [False, False, True]


def test_the_job_starts_quickly():
    code = (
        "import sys; from scripts.evidence import check_claims; from rank_increase.evidence import claim;"
        " [entry.load() for entry in claim.declared_claims()];"
        " print({'torch', 'scipy', 'numba', 'matplotlib'} & set(sys.modules))"
    )
    workflow = Path(rank_increase.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=workflow, capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr
