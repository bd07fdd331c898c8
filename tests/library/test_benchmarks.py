import json
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from bench_workflow import demo_rows
from measuring import ROOT, Timing, add_ratios, cpu_seconds, fastest_limits, interleaved, machine_limits, row, slope
from page import read_full, read_toy, section, write_page

LIMITS = {"float32": 1e9, "float64": 1e9, "bandwidth": 1e8}


def timed(seconds):
    return Timing([seconds], [seconds], None)


def test_slope_of_a_power():
    x = np.array([1.0, 3.0, 10.0])
    assert slope(x, 7 * x**2.5) == pytest.approx(2.5)


def test_calls_take_turns_and_the_first_is_not_counted():
    calls = []
    methods = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    timings = interleaved(methods, 2)
    assert calls == list("ababab")
    assert [len(timing.cpu) for timing in timings.values()] == [2, 2]
    assert timings["b"].result == 6


def test_time_of_child_processes_counts_and_sleep_does_not():
    work = "import time\nwhile time.process_time() < 0.3: pass"
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", work], check=True)
    assert cpu_seconds() - before >= 0.3
    before = cpu_seconds()
    subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.5)"], check=True)
    assert cpu_seconds() - before < 0.4


def test_ratios_by_hand():
    rows = pd.DataFrame(
        [
            row("a", 1, "ours", timed(2.0), flops=1e9, traffic=1e7, scale=2),
            row("a", 1, "x", timed(12.0)),
            row("a", 1, "y", timed(8.0)),
            row("a", 2, "x", timed(1.0)),
            row("b", 1, "ours", timed(1.0), flops=1e8, traffic=5e7),
            row("without ours", 1, "x", timed(1.0)),
        ]
    ).assign(dtype="float32")
    ratios = add_ratios(rows, LIMITS)
    np.testing.assert_allclose(ratios["to_best_peer"], [2, 2 / 3, 1, 1, np.nan, np.nan])
    np.testing.assert_allclose(ratios["to_limit"], [0.25, *[np.nan] * 3, 0.5, np.nan])


def test_limits_of_the_machine_are_those_of_one():
    limits = machine_limits(repeats=1, size=200, megabytes=8)
    assert 1e8 < limits["float64"] < 1e13
    assert 1e8 < limits["bandwidth"] < 1e13


def test_limits_do_not_depend_on_the_kernels_of_this_process(monkeypatch):
    seen = []
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    answer = subprocess.CompletedProcess([], 0, json.dumps(LIMITS).encode())
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: seen.append(env) or answer)
    assert fastest_limits() == LIMITS
    assert "OPENBLAS_CORETYPE" not in seen[0]
    assert seen[0]["PATH"] == os.environ["PATH"]


def test_time_of_a_study_is_that_of_its_longest_call(tmp_path):
    jobs = [(0, 10), (0, 4), (5, 5), (12, 8), (100, 3)]  # start, seconds; the last by another call of Snakemake
    for number, (start, seconds) in enumerate(jobs):
        path = tmp_path / f"{number}.tsv"
        path.write_text(f"s\tcpu_time\n{seconds}\t{seconds / 2}\n")
        os.utime(path, (1e9, 1e9 + start + seconds))
    rows = {line["method"]: line for line in demo_rows(tmp_path)}
    assert {line["case"] for line in rows.values()} == {"demo, 4 jobs on 2 cores"}
    seconds = {name: line["seconds"] for name, line in rows.items()}
    assert seconds == {"wall time x cores": 40, "sum over jobs, wall": 27, "sum over jobs, CPU": 13.5}


def test_page_says_what_the_tables_hold(tmp_path):
    case = "an image, forward, backward and Adam"
    rows = [row(case, x, "ours", timed(1e-3 * x), flops=3e5 * x) for x in (64, 128)]
    rows += [row(case, x, "timm", timed(1.25e-3 * x)) for x in (64, 128)]
    rows += [row(case, x, "vit-pytorch", timed(0.5e-3 * x), extrapolated=True) for x in (64, 128)]
    add_ratios(pd.DataFrame(rows).assign(dtype="float32"), LIMITS).to_csv(tmp_path / "vit.csv", index=False)
    words = {
        "hardware": "a machine",
        "load": 0.1,
        "versions": "Python",
        "commit": "c0ffee",
        "date": "2026-01-01",
        "quick": True,
    }
    (tmp_path / "machine.json").write_text(json.dumps({**words, "limits": LIMITS}))
    write_page(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "width 128: 7.81 images/s, 1.25 times timm's, 0.50 times vit-pytorch's, 30%" in page
    assert "Slopes: ours 1.00, timm 1.00, vit-pytorch 1.00." in page
    assert f"| {case} | 64 | vit-pytorch | 0.032* | 0.032 to 0.032 | 1 | 0.032 | 1 |" in page
    assert "quick mode" in page
    assert "nan" not in page
    assert (tmp_path / "benchmarks.png").stat().st_size > 1000


def test_page_compares_smaller_init_scales_with_the_least_of_the_paper():
    case, rows = "run to rescaled time 1000", []
    for x, seconds in ((5.0, 2.0), (74.0, 8.0), (6900.0, 20.0)):
        rows.append(row(case, x, "ours", timed(seconds)))
        if x < 100:
            rows += [row(case, x, name, timed(50 * x)) for name in ("gradient descent, autograd", "SGD, autograd")]
            rows.append(row(case, x, "a solver", timed(3 * seconds)))
    text = read_toy(pd.DataFrame(rows))
    assert "3.0 at ln(1/alpha) = 74 (a solver). At ln(1/alpha) = 6900 ours takes 2.5 times as long as at 74." in text


def test_page_compares_full_weights_with_the_fastest_other_solver(tmp_path):
    run, small = "run to rescaled time 1000", "with 9 samples, dim 8: run to rescaled time 1000"
    rows = [row("one gradient", 500, "ours", timed(0.01), flops=5e6)]
    rows += [row("beside a gradient", 50, "a gradient", timed(0.01))]
    rows += [row("beside a gradient", 50, "ours, change of coordinates", timed(0.003))]
    for x, seconds in ((4.6, 2.0), (690.0, 50.0)):
        rows += [row(run, x, "ours", timed(seconds))]
        rows += [row(run, x, "gradient descent, autograd", timed(20 * x), extrapolated=True)]
    rows += [row(small, 4.6, "ours", timed(0.1), error=5e-3), row(small, 4.6, "ours, finer", timed(0.2), error=5e-4)]
    rows += [row(small, 4.6, "slow", timed(0.9), error=1e-9), row(small, 4.6, "quick", timed(0.3), error=2e-3)]
    rows += [row("the limit, to rescaled time 1000", math.inf, "ours", timed(7.0))]
    table = add_ratios(pd.DataFrame(rows).assign(dtype="float64"), LIMITS)
    text = read_full(table)
    assert "With 500 samples a run takes 2 s at ln(1/alpha) = 5 and 50 s at 690" in text
    assert "46 to 276 times as long" in text
    assert "50% of the matrix-product rate" in text
    assert "change of coordinates 30%." in text
    assert "with 9 samples, dim 8, the fastest other solver, quick, takes 3.0 times as long as ours" in text
    assert "an error of 2e-03 beside 5e-03" in text
    line = section("full", table).splitlines()[-1]
    assert line.startswith("| the limit, to rescaled time 1000 | inf | ours | 7 |")


@pytest.mark.slow
def test_stable_rank_is_that_of_weightwatcher_itself():
    peers = ROOT / ".venv-benchmark"
    if not (peers / "weightwatcher").exists():
        pytest.skip("WeightWatcher is not installed: `make bench` does it")
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "workflow")!r}]
sys.path.append({str(peers)!r})
import numpy as np, torch, weightwatcher
from rank_increase.probes.measures import stable_rank
from rank_increase.probes.spectra import singular_values
torch.manual_seed(0)
layer = torch.nn.Linear(60, 100)
theirs = weightwatcher.WeightWatcher(torch.nn.Sequential(layer)).analyze()["stable_rank"][0]
ours = stable_rank(singular_values(layer.weight.detach().double().numpy(), np.eye(60)))
print(theirs, ours)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs, ours = map(float, done.stdout.split()[-2:])
    assert math.isclose(theirs, ours, rel_tol=1e-6)
