"""The studies in config/: each is valid over config.yaml, and plans the jobs that it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from rank_increase.configuration import check_config
from rank_increase.data import DatasetError
from rank_increase.plan import describe, job_counts, known_images
from rank_increase.sources import open_source

ROOT = Path(__file__).parents[1]
RUNS = {"config": 3, "laptop": 4, "paper": 5 * 3 + 3 + 1}  # of vision transformers


def study(name):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    update_config(config, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    return config


def snakemake(folder, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    run = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_every_study_is_here():
    assert {path.stem for path in (ROOT / "config").glob("*.yaml")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_study_is_valid_and_its_sizes_are_known(name, tmp_path):
    config = study(name)
    check_config(config)
    for line in config["vit"]["runs"]:
        images = known_images(config, line["dataset"], tmp_path)
        assert images["shape"][0] % config["vit"]["models"][line["dataset"]]["patch_size"] == 0
    assert "left out" not in describe(config, tmp_path, tmp_path)


@pytest.mark.parametrize("name", RUNS)
def test_dry_run_has_the_jobs_of_the_plan(name, tmp_path):
    options = [] if name == "config" else ["--configfile", ROOT / f"config/{name}.yaml"]
    said = snakemake(tmp_path, "--dry-run", "--quiet", "rules", *options)
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}
    assert jobs["train_vit"] == RUNS[name]
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
        open_source(study("paper")["datasets"]["imagenet"], tmp_path)
