"""What Snakemake adds: the demo's wall time against that of its jobs, and how long a dry run of many jobs takes."""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import yaml

from measuring import ROOT, Timing, interleaved, row

DRY_RUN, DEMO = "dry run", "demo"
JOBS = {100: 5, 1000: 3, 5000: 1, 20000: 1}  # number of jobs -> repeats
JOBS_OF_A_SEED = 5  # problem, two alphas, Algorithm 1, theorem
PAUSE = 30  # seconds; a longer one between two jobs means that they belong to two calls of Snakemake


def snakemake(folder, *arguments):
    """What a call of Snakemake in a folder of its own prints."""
    line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, *arguments]
    done = subprocess.run([str(word) for word in line], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout + done.stderr


def dry_run(folder, jobs):
    """Number of jobs that a dry run plans, of a study with about so many of them."""
    seeds = range(100, 100 + jobs // JOBS_OF_A_SEED)
    runs = [
        {"variant": "diagonal", "alphas": ["0.01", "1e-3000"], "seeds": [99, *seeds]},
        {"variant": "full", "alphas": ["0.01"], "seeds": [99]},
    ]
    study = Path(folder) / "many.yaml"
    study.write_text(yaml.safe_dump({"toy": {"runs": runs}}))
    configfiles = ["--configfile", ROOT / "tests" / "data" / "tiny.yaml", study]
    printed = snakemake(folder, "--dry-run", "--quiet", "rules", "--cores", 1, *configfiles, "--", "toy")
    return int(re.search(r"(?m)^total +(\d+)$", printed)[1])


def job_times(folder):
    """Start, end and CPU seconds of the jobs of the longest call of Snakemake, from its benchmark files."""
    jobs = []
    for path in Path(folder).rglob("*.tsv"):
        measured, end = pd.read_csv(path, sep="\t").iloc[0], path.stat().st_mtime
        jobs.append({"start": end - measured["s"], "end": end, "cpu": float(measured["cpu_time"])})
    jobs = pd.DataFrame(jobs).sort_values("start", ignore_index=True)
    call = (jobs["start"] > jobs["end"].cummax().shift() + PAUSE).cumsum()
    return jobs[call == call.value_counts().idxmax()]


def demo_rows(folder):
    """The time that the demo took and the sum of what its jobs took, on as many cores as were ever busy."""
    jobs = job_times(folder)
    cores = max(((jobs["start"] <= moment) & (jobs["end"] > moment)).sum() for moment in jobs["start"])
    amounts = {
        "wall time x cores": cores * (jobs["end"].max() - jobs["start"].min()),
        "sum over jobs, wall": (jobs["end"] - jobs["start"]).sum(),
        "sum over jobs, CPU": jobs["cpu"].sum(),
    }
    return [
        row(f"{DEMO}, {len(jobs)} jobs on {cores} cores", len(jobs), name, Timing([seconds], [seconds], None))
        for name, seconds in amounts.items()
    ]


def measure(quick):
    """Rows; x is the number of jobs. The demo is run if there are no results of it."""
    rows = []
    with TemporaryDirectory() as folder:
        for jobs, repeats in list(JOBS.items())[: 2 if quick else None]:
            planned = interleaved(
                {"ours": lambda jobs=jobs: dry_run(folder, jobs)}, 1 if quick else repeats, warm_up=False
            )["ours"]
            rows.append(row(DRY_RUN, planned.result, "ours", planned))
        demo = ROOT / "results" / "demo" / "benchmarks"
        if not demo.exists() and not quick:
            snakemake(folder, "--cores", "all")
            demo = Path(folder) / "results" / "demo" / "benchmarks"
        rows += demo_rows(demo) if demo.exists() else []
    return [{**line, "dtype": None} for line in rows]
