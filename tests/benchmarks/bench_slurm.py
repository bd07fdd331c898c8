"""Wall time of a small study here and on the Slurm of tests/slurm/start_slurm.sh, and what large studies take to plan.

Prints a table in Markdown. Without a Slurm, only what needs none:
`tests/slurm/start_slurm.sh; python tests/benchmarks/bench_slurm.py; tests/slurm/stop_slurm.sh`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONFIGS = [ROOT / "tests/data/tiny.yaml", ROOT / "tests/slurm/study.yaml"]
RUNS = [f"results/slurm/networks/digits/alpha_1/seed_{seed}/spectra.parquet" for seed in (0, 1)]
TARGETS = ["toy", "assumptions", "fig02", "fig06", "fig07", "fig08", "fig_limit", "fig_stage_times", *RUNS]
# As a user would begin without a profile; sacct, the default, waits for ever where Slurm keeps no accounts.
PLAIN = ["--executor", "slurm", "--jobs", "100", "--slurm-status-command", "squeue"]
MANY = 2000  # jobs of a study that is only planned


def snakemake(*arguments, configs=()):
    """Seconds, a text of CPU seconds and largest memory, and output of a call, whose folder of results is deleted."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "snakemake", *arguments, "--directory", folder]
        line += ["--configfile", *configs] if configs else []
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(list(map(str, line)), cwd=ROOT, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            output.seek(0)
            text = output.read()
        if status:
            sys.exit(text)
        cost = f"{usage.ru_utime + usage.ru_stime:.1f} s of CPU, {usage.ru_maxrss / 1024:.0f} MB"
        return seconds, cost, text


def job_count(text):
    """Jobs in Snakemake's summary."""
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("total ")))


def large_study(path):
    """Write a study of `MANY` toy runs."""
    study = yaml.safe_load(CONFIGS[0].read_text())
    seeds = [seed for seed in range(MANY // 2) if seed != 99]
    study["toy"]["runs"].append({"variant": "diagonal_sgd", "alphas": ["0.01", "0.001"], "seeds": seeds})
    path.write_text(yaml.safe_dump(study))


def main():
    rows = []
    seconds, cost, text = snakemake("all", "-n", "--quiet", "rules", configs=[ROOT / "config/paper.yaml"])
    rows.append(("dry run of `config/paper.yaml`", f"{job_count(text)} jobs", f"{seconds:.1f} s, {cost}"))
    with tempfile.TemporaryDirectory() as folder:
        large_study(Path(folder) / "large.yaml")
        target = "results/tiny/tables/trajectory.parquet"
        seconds, cost, text = snakemake(target, "-n", "--quiet", "rules", configs=[Path(folder) / "large.yaml"])
    rows.append(("dry run of a large study", f"{job_count(text)} jobs", f"{seconds:.1f} s, {cost}"))
    seconds, _, text = snakemake(*TARGETS, "--cores", "2", configs=CONFIGS)
    rows.append(("small study, local, 2 cores", f"{job_count(text)} jobs", f"{seconds:.0f} s"))
    if shutil.which("sinfo") and not subprocess.run(["sinfo"], capture_output=True).returncode:
        for name, options in (("the profile", ["--profile", "slurm"]), ("the plugin's defaults", PLAIN)):
            seconds, _, text = snakemake(*TARGETS, *options, configs=CONFIGS)
            submitted = text.count("has been submitted with SLURM jobid")
            rows.append((f"small study, Slurm, {name}", f"{submitted} SLURM jobs", f"{seconds:.0f} s"))
        one = "results/slurm/toy/full/seed_99/problem.npz"
        alone = snakemake(one, "--cores", "1", configs=CONFIGS)[0]
        seconds = snakemake(one, "--profile", "slurm", configs=CONFIGS)[0]
        rows.append(("one job of a second, Slurm against local", "1 job", f"{seconds:.0f} s against {alone:.0f} s"))
    for row in [("what", "of", "measured"), ("---", "---", "---"), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
