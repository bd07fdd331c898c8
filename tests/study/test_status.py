"""Status and clean-up of a study, on made-up folders, and once on a real one whose data nobody may write to."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rank_increase.ownership import Owner
from rank_increase.study.configuration import ConfigError, read_config, read_study
from rank_increase.study.status import (
    Place,
    delete_scratch,
    delete_snapshots,
    describe_deleted,
    describe_status,
    run_progress,
    scratch_folder,
)

ROOT = Path(__file__).parents[2]
NOW = 1.8e9
RUNS = [{"network": "digits", "alpha": alpha, "seed": 0} for alpha in ("0.1", "0.3", "1")]
COLUMNS = "epoch,step,learning_rate,train_loss,train_accuracy,test_loss,test_accuracy,images_per_second\n"


@pytest.fixture
def study(tmp_path):
    config = read_study(read_config(ROOT / "config/config.yaml"))
    return Place(config, str(tmp_path / "results"), str(tmp_path / "scratch"), str(tmp_path / "datasets"))


def put(path, content="", at=NOW):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (at, at))


def train(study, run, *, at=NOW, epochs=10, owner=None):
    """As if the run had come to some epoch: 22 steps of 64 images each, at 1000 images a second."""
    folder = scratch_folder(study.scratch, **run)
    rows = "".join(f"{n},{22 * n},1e-3,{2 / n},0.5,0.7,0.25,1000.0\n" for n in range(1, epochs + 1))
    put(folder / "metrics.csv", COLUMNS + rows, at - 60)
    put(folder / "checkpoints/step_5_x.pt", "state", at - 60)
    if owner:
        put(folder / "owner.3", json.dumps(asdict(owner)), at)
    return folder


def publish(study, run, tables=("metrics",)):
    folder = Path(study.results, "networks", run["network"], f"alpha_{run['alpha']}", f"seed_{run['seed']}")
    for table in tables:
        put(folder / f"{table}.parquet")
    put(folder / "snapshots/step_0.safetensors", "x" * 1000)
    return folder / "snapshots"


def log_path(study, run):
    return Path(study.results, f"logs/train_network/digits_alpha_{run['alpha']}_seed_0.log")


ELSEWHERE = Owner(host="node7", pid=1, job="4711", machine="another", token="theirs")


def test_run_that_has_not_begun_is_waiting(study):
    progress = run_progress(study, RUNS[0], NOW)
    assert (progress.state, progress.metrics, progress.epochs) == ("waiting", None, 30)


def test_run_whose_owner_is_heard_of_is_running(study):
    train(study, RUNS[0], at=NOW - 20, owner=ELSEWHERE)
    progress = run_progress(study, RUNS[0], NOW)
    assert progress.state == "running" and progress.heard == 20 and progress.owner == ELSEWHERE
    assert progress.metrics["epoch"] == 10 and progress.metrics["train_loss"] == 0.2
    # 20 epochs of 22 x 64 images and 359 test images that count as a third, less what has passed since the tenth.
    assert progress.seconds_left == pytest.approx(max(20 * (22 * 64 + 359 / 3) / 1000 - 80, 0))
    train(study, RUNS[1], at=NOW + 45, epochs=1, owner=ELSEWHERE)  # by a clock that is ahead
    ahead = run_progress(study, RUNS[1], NOW)
    assert ahead.state == "running" and ahead.heard == 0
    assert ahead.seconds_left == pytest.approx(29 * (22 * 64 + 359 / 3) / 1000 - 15)


def test_run_whose_owner_is_silent_or_dead_is_stopped(study):
    train(study, RUNS[0], at=NOW - 1000, owner=ELSEWHERE)
    assert run_progress(study, RUNS[0], NOW).state == "stopped"
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    owner = Owner(**(asdict(Owner.this_process()) | {"pid": int(ended.stdout)}))
    train(study, RUNS[1], owner=owner)
    assert run_progress(study, RUNS[1], NOW).state == "stopped"
    train(study, RUNS[2], owner=Owner.this_process())
    assert run_progress(study, RUNS[2], NOW).state == "running"


def test_run_with_published_results_is_finished_whatever_is_in_scratch(study):
    train(study, RUNS[0], epochs=30)
    publish(study, RUNS[0])
    assert run_progress(study, RUNS[0], NOW).state == "finished"


def test_run_that_left_nothing_but_a_log_is_stopped(study):
    put(log_path(study, RUNS[0]), "08:00:00 begun\nDatasetError: no images\n\n")
    assert run_progress(study, RUNS[0], NOW).state == "stopped"


def test_status_is_a_table_that_a_person_can_read(study):
    train(study, RUNS[0], at=NOW - 20, epochs=2, owner=ELSEWHERE)
    train(study, RUNS[1])
    put(log_path(study, RUNS[1]), "08:00:00 begun\n08:00:09 run: received SIGTERM; the state is saved\n")
    publish(study, RUNS[2], ("metrics", "spectra"))
    put(Path(study.results, "toy/diagonal/alpha_0.1/seed_99/trajectory.parquet"))
    lines = describe_status(study, NOW).splitlines()
    assert lines[0].startswith('Study "demo", 2027-01-1')
    tables = [line.split() for line in lines if line.startswith("  ")]
    assert tables[:4] == [
        ["finished", "running", "stopped", "waiting", "of"],
        ["toy", "runs", "1", "19", "20"],
        ["networks", "1", "1", "1", "6", "9"],
        ["their", "spectra", "1", "8", "9"],
    ]
    digits = ["digits,", "alpha", "0.1,", "seed", "0", "2", "of", "30", "1.000", "25.0%", "1000"]
    assert tables[5] == [*digits, "<", "1", "min", "20", "s", "ago", "node7", "4711"]
    assert lines[-2].strip().startswith("digits, alpha 0.3, seed 0: 10 of 30 epochs; ")
    assert lines[-1].strip() == "08:00:09 run: received SIGTERM; the state is saved"
    assert max(map(len, lines[:-2])) <= 120


def test_run_in_its_first_epoch_has_no_numbers_yet(study):
    put(scratch_folder(study.scratch, **RUNS[0]) / "owner.1", json.dumps(asdict(ELSEWHERE)))
    assert "digits, alpha 0.1, seed 0  0 of 30" in describe_status(study, NOW)


def test_scratch_of_finished_runs_alone_is_deleted(study):
    finished, unfinished, owned = (train(study, run) for run in RUNS)
    publish(study, RUNS[0])
    publish(study, RUNS[2])
    put(owned / "owner.1", json.dumps(asdict(ELSEWHERE)))
    freed = (finished / "metrics.csv").stat().st_size + len("state")
    kept = {path: path.read_bytes() for folder in (unfinished, owned) for path in folder.rglob("*") if path.is_file()}
    snapshot = Path(study.results, "networks/digits/alpha_0.1/seed_0/snapshots/step_0.safetensors")
    (finished / "snapshots").mkdir()
    os.link(snapshot, finished / "snapshots/step_0.safetensors")  # gives nothing back
    deleted = list(delete_scratch(study))
    assert deleted == [(finished, freed)]
    assert list(finished.parent.iterdir()) == [] and snapshot.exists()
    assert {path: path.read_bytes() for path in kept} == kept
    assert list(delete_scratch(study)) == []


def test_checkpoints_of_others_count_by_their_spectra(tmp_path):
    series = {"model": {"family": "gpt2", "heads": 3}, "files": "w{seed}/{step}.safetensors", "seeds": [1, 2]}
    config = read_study({"study": "mine", "checkpoints": {"pythia": series}})
    place = Place(config, str(tmp_path / "results"), str(tmp_path / "scratch"), str(tmp_path / "datasets"))
    first, second = ({"network": "pythia", "alpha": "1", "seed": seed} for seed in (1, 2))
    publish(place, first, ("checkpoints",))
    snapshots = publish(place, second, ("checkpoints", "spectra"))
    rows = {
        line.strip().rsplit("  ", 1)[0].split("  ")[0]: line.split()
        for line in describe_status(place, NOW).splitlines()
    }
    assert rows["networks"][1:] == ["0"] * 5  # none is trained here
    assert rows["their spectra"][2:] == ["1", "1", "2"]
    assert list(delete_snapshots(place)) == [(snapshots, 1000)]
    assert list(delete_scratch(place)) == []


def test_compiled_code_is_deleted_with_the_last_scratch_folder(study):
    first, second = (train(study, run) for run in RUNS[:2])
    code = Path(study.scratch, "compiled")
    put(code / "kernel.cubin", "x" * 300)
    publish(study, RUNS[0])
    assert [folder for folder, _ in delete_scratch(study)] == [first] and code.exists()
    publish(study, RUNS[1])
    assert [folder for folder, _ in delete_scratch(study)] == [second, code] and not code.exists()


def test_snapshots_are_deleted_where_spectra_are(study):
    first = publish(study, RUNS[0])
    second = publish(study, RUNS[1], ("metrics", "spectra"))
    assert list(delete_snapshots(study)) == [(second, 1000)]
    assert first.exists() and not second.exists()
    assert (second.parent / "spectra.parquet").exists()
    text = describe_deleted([(second, 1_500_000), (first, 2_000_000_000)])
    assert text.splitlines()[-1].split() == ["total", "2.0", "GB"]
    assert describe_deleted([]) == "Nothing to delete."


def test_scratch_folder_is_where_this_machine_says(monkeypatch):
    monkeypatch.setenv("FAST", "/fast")
    monkeypatch.setenv("HOME", "/home/me")
    assert scratch_folder("$FAST/x", **RUNS[0]) == Path("/fast/x/networks/digits/alpha_0.1/seed_0")
    assert scratch_folder("~/${FAST}", **RUNS[0]) == Path("/home/me/fast/networks/digits/alpha_0.1/seed_0")
    monkeypatch.delenv("FAST")
    with pytest.raises(ConfigError, match=r"^config: `scratch_dir` is '\$FAST/x', and not every variable"):
        scratch_folder("$FAST/x", **RUNS[0])


@pytest.mark.parametrize("script", ["report_status", "clean_study"])
def test_no_slow_module_is_imported(script):
    slow = "{'torch', 'numba', 'scipy', 'pandas', 'matplotlib'}"
    code = f"import sys, scripts.study.{script}; sys.exit(bool({slow} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow", check=True)


def test_status_of_a_large_study_is_quick(study):
    config = read_config(ROOT / "config/config.yaml")
    config["networks"]["digits"]["runs"] = [{"alphas": ["1"], "seeds": list(range(300))}]
    study = replace(study, study=read_study(config))
    for seed in range(300):
        train(study, {"network": "digits", "alpha": "1", "seed": seed}, epochs=30, owner=ELSEWHERE)
    begun = time.process_time()
    text = describe_status(study, NOW)
    assert time.process_time() - begun < 2
    assert text.count("node7") == 300


SMALL = """
study: small
data_dir: {data}
scratch_dir: $SMALL_SCRATCH
datasets: {{digits: {{source: digits}}}}
networks:
  digits:
    dataset: digits
    model: {{family: vit, patch_size: 4, dim: 8, depth: 1, heads: 2, dim_head: 4, mlp_dim: 8}}
    recipe: {{epochs: 2, warmup_epochs: 1, batch_size: 512, learning_rate: 1.0e-3, snapshots: 2}}
    runs: [{{alphas: ["0.1", "0.3", "1"]}}]
"""
SPECTRA = [f"results/small/networks/digits/alpha_{run['alpha']}/seed_0/spectra.parquet" for run in RUNS]


@contextmanager
def read_only(folder):
    """Nobody, not even root, can write to the folder; skips where this cannot be had."""
    if os.geteuid():
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
        for path in modes:
            path.chmod(0o555)
        yield
        for path, mode in modes.items():
            path.chmod(mode)
        return
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    try:
        if subprocess.run(["mount", "-o", "remount,bind,ro", folder], capture_output=True).returncode:
            pytest.skip("no permission to mount read-only")
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_study_with_read_only_data_and_scratch_elsewhere(tmp_path):
    data, scratch, folder = tmp_path / "data", tmp_path / "scratch", tmp_path / "run"
    scratch.mkdir()
    (tmp_path / "small.yaml").write_text(SMALL.format(data=data))

    def snakemake(*arguments, **variables):
        line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
        line += ["--cores", "2", *arguments, "--configfile", tmp_path / "small.yaml"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SMALL_SCRATCH": str(scratch), **variables}
        run = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
        return run.returncode, run.stdout + run.stderr

    failed, said = snakemake(f"{data}/digits/manifest.json")
    assert not failed, said
    with read_only(data):
        with pytest.raises(OSError):
            (data / "new").touch()
        failed, said = snakemake(*SPECTRA)
        assert not failed, said
    assert "prepare_dataset" not in said
    finished = scratch / "small/networks/digits/alpha_1/seed_0"
    assert sorted(path.name for path in finished.iterdir()) == ["checkpoints", "metrics.csv", "snapshots"]

    failed, said = snakemake("status", "--quiet", "all", "--nolock")
    assert not failed and "networks              3        0        0        0   3" in said

    failed, said = snakemake("clean_snapshots", "--quiet", "all")
    assert not failed and str(finished) in said and "alpha_1/seed_0/snapshots" in said
    assert not [path for path in scratch.rglob("*") if path.is_file()]
    assert not (folder / SPECTRA[0]).with_name("snapshots").exists()
    failed, said = snakemake("-n", *SPECTRA)  # what the snapshots were for is done
    assert not failed and "Nothing to be done" in said, said
