"""What `make` says of a mistake: the reason, and nothing that hides it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make on this machine")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository with studies of its own."""
    copy = tmp_path_factory.mktemp("repository")
    for name in ("config", "envs", "workflow"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "Snakefile", "profiles"):
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    shutil.copy2(ROOT / "tests/data/tiny.yaml", copy / "config")
    (copy / "config/wrong.yaml").write_text("study: wrong\ntoy: {samplez: 30}\n")
    (copy / "config/nameless.yaml").write_text("toy: {samples: 30}\n")
    (copy / "config/notepad.yaml").write_bytes("study: notepad\n".encode("utf-16"))
    (copy / "config/tabs.yaml").write_text("study: tabs\ntoy:\n\tsamples: 30\n")
    return copy


def make(tree, *arguments):
    """Run make in `tree`, with the environment of the tests instead of one to be installed there.

    The tests may be run by `make test`: a make within a make would print the folders it enters, unless it is not told.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", "--assume-old=.venv/.installed", *arguments],
        cwd=tree,
        env={**inherited, "PATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("target", ["plan", "report"])
def test_a_quiet_target_says_what_is_wrong_with_a_study(tree, target):
    run = make(tree, target, "STUDY=wrong")
    assert run.returncode
    assert "config: unknown key `toy.samplez`; did you mean `samples`?" in run.stderr.splitlines()


@pytest.mark.parametrize("target", ["all", "publish", "plan", "status", "report", "clean-scratch", "clean-snapshots"])
def test_every_target_reads_the_study_before_snakemake_does(tree, target):
    run = make(tree, target, "STUDY=notepad")
    assert run.returncode
    assert "config/notepad.yaml is not text in UTF-8: save it as UTF-8." in run.stderr.splitlines()
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        (
            "nosuch",
            "there is no config/nosuch.yaml; studies in config: cifar10, condensation, defaults, demo, language,"
            " language_larger, laptop, nameless, neighbours, notepad, paper, tabs, template, theory, tiny, wrong.",
        ),
        ("tabs", "config/tabs.yaml is not YAML: line 3: indent with spaces instead of tabs."),
        (
            "nameless",
            "config: the key `study` is missing.",
        ),
    ],
)
def test_a_study_that_cannot_be_read_is_one_sentence(tree, study, sentence):
    run = make(tree, "plan", f"STUDY={study}")
    assert run.returncode
    assert sentence in run.stderr.splitlines()
    assert not run.stdout


@pytest.mark.parametrize(("target", "title"), [("plan", 'Plan of the study "tiny"'), ("status", 'Study "tiny", ')])
def test_without_a_mistake_there_is_nothing_but_what_was_asked_for(tree, target, title):
    run = make(tree, target, "STUDY=tiny")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(title)
    assert not run.stderr


def test_a_report_of_an_unfinished_study_says_what_is_missing(tree):
    run = make(tree, "report", "STUDY=tiny")
    assert run.returncode
    assert "marked for report but does not exist" in run.stderr
    assert "A report is made of a finished study: `make STUDY=tiny` first." in run.stderr.splitlines()
    assert "Missing metadata" not in run.stderr
    assert not run.stdout
