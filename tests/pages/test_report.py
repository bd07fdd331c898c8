import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published" / "demo"
NOWHERE = "http://127.0.0.1:9"  # whoever asks for something on the network asks here, and nobody answers


def snakemake(folder, *arguments):
    line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "http_proxy": NOWHERE, "https_proxy": NOWHERE}
    run = subprocess.run([str(part) for part in [*line, *arguments]], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The text of the report of the demo, from its published tables and figures."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(PUBLISHED, folder / "results" / "demo")
    snakemake(folder, "claims", "configuration")
    snakemake(folder, "--report", "report.html")
    return (folder / "report.html").read_text()


def variable(report, name):
    value, _ = json.JSONDecoder().raw_decode(report, re.search(rf"var {name} = (?=[{{\[\"])", report).end())
    return value


def test_the_claims_are_the_first_category(report):
    categories = variable(report, "categories")
    assert sorted(categories) == ["Claims", "Configuration", "Networks", "Toy model"]  # the viewer sorts


def test_every_figure_is_inside_with_a_caption_and_a_label(report):
    results = variable(report, "results")
    figures = {Path(path).stem: entry for path, entry in results.items() if path.endswith(".png")}
    assert set(figures) == {path.stem for path in (PUBLISHED / "figures").iterdir()}
    for name, entry in figures.items():
        assert entry["data_uri"].startswith("data:image/png;"), name
        assert len(re.sub("<[^>]+>", "", entry["caption"])) > 100, name
        assert re.match(r"Figure \d\d$|Ours: ", entry["labels"]["figure"]), name


def test_claims_and_configuration_are_pages_inside(report):
    pages = [entry for path, entry in variable(report, "results").items() if path.endswith(".html")]
    assert [page["data_uri"][:15] for page in pages] == ["data:text/html;", "data:text/html;"]
    assert all(page["caption"] for page in pages)


def test_the_report_describes_the_study_and_its_rules(report):
    assert "Study &quot;demo&quot;" in variable(report, "workflow_desc")
    # Those that have made something: here, from published tables, no training.
    assert {"claims", "configuration"} <= set(variable(report, "rules"))


def test_the_report_loads_nothing_from_elsewhere(report):
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(https?:)?//", report)
