"""The studies in config/: each is valid, and plans the jobs that it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rank_increase.data.packed import DatasetError
from rank_increase.data.sources.folder import image_folder
from rank_increase.study.configuration import read_config, read_study
from rank_increase.study.plan import describe, job_counts

ROOT = Path(__file__).parents[2]
RUNS = {"config": 9, "laptop": 18, "cifar10": 22, "paper": 5 * 3 + 3 + 1 + 3, "template": 0, "theory": 0}  # of networks
RUNS |= {"neighbours": 74, "condensation": 10, "language": 14, "language_larger": 1}


def study(name):
    return read_study(read_config(ROOT / f"config/{name}.yaml"))


def snakemake(folder, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    run = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_every_study_is_here():
    assert {path.stem for path in (ROOT / "config").glob("*.yaml")} == {*RUNS, "defaults"}


@pytest.mark.parametrize("name", RUNS)
def test_sizes_of_a_study_are_known(name, tmp_path):
    for network in study(name).networks.values():
        samples = study(name).plan.datasets[network.dataset]
        if network.model.family == "vit":
            assert samples.shape[0] % network.model.patch_size == 0
    assert "left out" not in describe(study(name), tmp_path, tmp_path)


@pytest.mark.parametrize("name", RUNS)
def test_dry_run_has_the_jobs_of_the_plan(name, tmp_path):
    options = [] if name == "config" else ["--configfile", ROOT / f"config/{name}.yaml"]
    said = snakemake(tmp_path, "--dry-run", "--quiet", "rules", *options)
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}
    assert jobs.get("train_network", 0) == RUNS[name]
    planned = job_counts(study(name))
    assert {rule: jobs.get(rule) for rule in planned} == planned


def test_plan_is_printed(tmp_path):
    arguments = ["plan", "--cores", "1", "--quiet", "all", "--configfile", ROOT / "config/paper.yaml"]
    said = snakemake(tmp_path, *arguments)
    assert 'Plan of the study "paper"' in said
    assert re.search(r"imagenet +1 +86\.\d+ M", said)
    assert 'Plan of the study "paper"' in (tmp_path / "results/paper/logs/plan.log").read_text()


def test_the_placeholder_of_imagenet_is_named_when_it_is_missing(tmp_path):
    with pytest.raises(DatasetError, match="/path/to/imagenet/train is no folder: an image folder has train/ and val/"):
        image_folder(tmp_path, 1, path=study("paper").datasets["imagenet"].path, size=224)
