import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rank_increase import jobs
from rank_increase.jobs import progress, start_job

WORKFLOW = Path(__file__).parents[2] / "workflow"


@pytest.fixture
def log(tmp_path):
    """The log file of a job; what `start_job` does to the process is undone."""
    hook, handlers, propagate = sys.excepthook, list(jobs.logger.handlers), jobs.logger.propagate
    yield tmp_path / "job.log"
    for handler in set(jobs.logger.handlers) - set(handlers):
        handler.close()
        jobs.logger.removeHandler(handler)
    sys.excepthook, jobs.logger.propagate = hook, propagate


@pytest.fixture
def job(log):
    """What Snakemake gives to a script, as far as jobs need it."""
    return SimpleNamespace(
        rule="train_toy",
        log=[str(log)],
        wildcards={"variant": "diagonal", "alpha": "1e-3000", "seed": "99"},
        params={"points": 5, "max_time": 10.0, "code": "0123456789ab"},
        output=["results/demo/toy/diagonal/alpha_1e-3000/seed_99/trajectory.parquet"],
        config={"study": "demo"},
        input=[],
        threads=1,
        resources={},
    )


def lines(log):
    return log.read_text().splitlines()


def test_the_log_begins_with_rule_and_wildcards(job, log):
    log.write_text("from an earlier attempt\n")
    start_job(job)
    (line,) = lines(log)
    assert re.fullmatch(r"\d\d:\d\d:\d\d train_toy .*1e-3000.*", line)


def test_provenance_says_where_a_result_comes_from(job):
    provenance = start_job(job)
    assert provenance["rule"] == "train_toy"
    assert provenance["wildcards"] == {"variant": "diagonal", "alpha": "1e-3000", "seed": "99"}
    assert provenance["params"] == {"points": 5, "max_time": 10.0}
    assert provenance["code"] == "0123456789ab"
    assert provenance["device"] == "cpu"
    assert str(provenance["seed"]) == "99"
    assert set(provenance["versions"]) >= {"numpy", "scipy", "pandas", "pyarrow", "snakemake"}
    assert all(re.match(r"\d+\.\d+", version) for version in provenance["versions"].values())
    assert f"Python {sys.version.split()[0]}" in provenance["platform"]
    assert json.loads(json.dumps(provenance)) == provenance


def test_provenance_names_the_commit_and_whether_files_have_changed(job, tmp_path, monkeypatch):
    code = tmp_path / "repository" / "scripts" / "jobs.py"
    code.parent.mkdir(parents=True)
    code.write_text("before\n")
    monkeypatch.setattr(jobs, "__file__", str(code))
    assert start_job(job)["commit"] is None

    def git(*arguments):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, "-C", code.parent, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert start_job(job)["commit"] == commit
    git("tag", "v1")
    assert start_job(job)["commit"] == commit
    code.write_text("after\n")
    assert start_job(job)["commit"] == f"{commit}+"


def test_a_job_without_git_still_starts(job, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert start_job(job)["commit"] is None


FAILING_SCRIPT = """
from types import SimpleNamespace
from rank_increase.jobs import logger, start_job

start_job(SimpleNamespace(rule="r", log=["job.log"], wildcards={}, params={}, output=["x"], config={}))
logger.info("working")

def inner():
    raise ValueError("the reason")

inner()
"""


def test_a_traceback_reaches_the_log_and_one_line_the_terminal(tmp_path):
    (tmp_path / "script.py").write_text(FAILING_SCRIPT)
    run = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(WORKFLOW), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert run.stderr.strip() == "ValueError: the reason"
    text = (tmp_path / "job.log").read_text()
    assert "working" in text
    assert "Traceback (most recent call last)" in text
    assert "in inner" in text
    assert text.rstrip().endswith("ValueError: the reason")


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now.seconds)
    return now


def test_progress_is_logged_at_intervals_and_not_drawn_where_there_is_no_terminal(job, log, clock, capsys):
    start_job(job)
    with progress("training", 200.0, interval=10.0) as advance:
        for value in range(1, 41):
            clock.seconds += 1.0
            advance(value)
    said = [line.split(" ", 1)[1] for line in lines(log)[1:]]
    # 11 s for 11 of 200: the rest takes 189 s more.
    assert said == [
        "training: 6 % done, about 189 s left",
        "training: 11 % done, about 178 s left",
        "training: 16 % done, about 167 s left",
        "training: done in 40.0 s",
    ]
    assert capsys.readouterr() == ("", "")


def test_progress_that_has_not_begun_says_nothing(job, log, clock):
    start_job(job)
    with progress("training", 200.0, interval=10.0) as advance:
        clock.seconds += 50.0
        advance(0.0)
    assert [line.split(" ", 1)[1] for line in lines(log)[1:]] == ["training: done in 50.0 s"]


def test_a_failure_is_not_called_done(job, log, clock):
    start_job(job)
    with pytest.raises(ArithmeticError), progress("training", 200.0):
        raise ArithmeticError
    assert not any("done" in line for line in lines(log))


def test_progress_is_drawn_on_a_terminal(job, monkeypatch, capsys):
    start_job(job)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("training", 200.0) as advance:
        advance(100.0)
        advance(200.0)
    drawn = capsys.readouterr().err
    assert "training:   0%" in drawn
