"""The workflow as a module of another one, and from both of its Snakefiles."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rank_increase.tables import read_provenance, read_table

ROOT = Path(__file__).parents[2]
STUDY = {
    "study": "guest",
    "toy": {
        "samples": 20,
        "tokens": 3,
        "dim": 4,
        "points": 21,
        "max_time": 50,
        "batch_size": 10,
        "runs": [{"alphas": ["0.1", "1e-4"]}],
    },
    "figures": {"dpi": 30},
}
MODULE = """\
module rank_increase:
    snakefile:
        "{snakefile}"
    config:
        {config}
{more}

use rule * from rank_increase{name}


rule mine:
    input:
        "results/guest/tables/theorem.parquet",
    output:
        "mine.txt",
    shell:
        "touch {{output}}"
"""


def snakemake(folder, *arguments):
    """Run in a folder where no file of this repository is."""
    line = [sys.executable, "-m", "snakemake", "--cores", "2", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def planned(output):
    """Jobs of each rule that a dry run announces; a dict."""
    table = re.search(r"(?m)^-+ +-+\n((?:\w+ +\d+\n)+)", output)[1]
    return {rule: int(count) for rule, count in (line.split() for line in table.splitlines())}


@pytest.fixture
def foreign(tmp_path):
    """Writes a Snakefile that imports the workflow, and returns its folder."""

    def write(name="", more="", config=STUDY):
        snakefile = ROOT / "workflow" / "Snakefile"
        (tmp_path / "Snakefile").write_text(MODULE.format(snakefile=snakefile, config=config, name=name, more=more))
        return tmp_path

    return write


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Jobs of the same study without another workflow around it."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "guest.yaml").write_text(yaml.safe_dump(STUDY))
    arguments = ["--dry-run", "--snakefile", ROOT / "workflow" / "Snakefile", "--configfile", "guest.yaml"]
    return planned(snakemake(folder, *arguments))


@pytest.mark.parametrize("prefix", ["", "rank_"])
def test_another_workflow_plans_the_same_jobs_under_its_names(foreign, alone, prefix):
    output = snakemake(foreign(f" as {prefix}*" if prefix else ""), "--dry-run", f"{prefix}all")
    assert planned(output) == {rule if rule == "total" else prefix + rule: count for rule, count in alone.items()}
    assert "localrules" not in output  # of rules that have other names here


def test_results_go_where_another_workflow_wants_them(foreign):
    output = snakemake(
        foreign(" as rank_*", more='    prefix:\n        "guests"\n'), "--dry-run", "--verbose", "rank_toy"
    )
    places = set(re.findall(r"\S*results/guest\S*parquet", output))
    assert places and all(place.lstrip("'[(").startswith("guests/results/guest/") for place in places)


@pytest.mark.slow
def test_another_workflow_runs_it(foreign):
    folder = foreign(" as rank_*")
    output = snakemake(folder, "mine", "rank_fig07", "rank_plan", "rank_status")
    results = folder / "results" / "guest"
    assert (folder / "mine.txt").exists() and (results / "figures" / "fig07.png").stat().st_size > 5000
    theorem = results / "tables" / "theorem.parquet"
    assert set(read_table(theorem)["alpha"]) == {"0.1", "1e-4"}
    provenance = read_provenance(theorem)
    assert provenance["study"] == "guest" and provenance["rule"] == "rank_collect_toy_table" and provenance["code"]
    assert 'Plan of the study "guest"' in output and (results / "logs" / "status.log").exists()
    assert "Nothing to be done" in snakemake(folder, "--dry-run", "mine", "rank_fig07")


def test_without_a_config_it_is_the_demo(foreign):
    text = (folder := foreign()) / "Snakefile"
    text.write_text(re.sub(r"    config:\n.*\n", "", text.read_text()))
    assert planned(snakemake(folder, "--dry-run", "toy"))["train_toy"] > 10


def test_both_snakefiles_plan_the_same_jobs(tmp_path, alone):
    (tmp_path / "guest.yaml").write_text(yaml.safe_dump(STUDY))
    line = ["--dry-run", "--configfile", tmp_path / "guest.yaml", "--directory", tmp_path / "run"]
    assert planned(snakemake(ROOT, *line)) == alone
    assert alone["all"] == 1 and alone["train_toy"] == 2


def test_the_catalogue_is_told_how_to_use_it():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"] == {"conda": True, "report": True}
    assert usage["mandatory-flags"]["desc"] and usage["mandatory-flags"]["flags"] == "--sdm conda"
    assert (ROOT / "workflow" / "Snakefile").exists() and (ROOT / "config" / "README.md").exists()


def test_the_server_runs_what_anyone_can_run():
    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    steps = [step.get("run") or step["uses"].partition("@")[0] for step in job["steps"]]
    assert steps == ["actions/checkout", "actions/setup-python", "bash .ci/run"]
    assert (ROOT / ".ci" / "run").exists()
