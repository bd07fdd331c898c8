"""Training: the schedule, the order of the data, and runs that are killed, stopped, damaged or diverge."""

import errno
import json
import logging
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import compute_spectra
import train_vit
from rank_increase import jobs, training
from rank_increase.batches import Batches, _crop_and_flip, _Split
from rank_increase.checkpoints import Checkpoints, Stopped, StopRequest
from rank_increase.data import DatasetError, Source, Split, open_dataset, pack
from rank_increase.ownership import NotOwner, owned
from rank_increase.snapshots import SnapshotError
from rank_increase.tables import read_table
from rank_increase.training import Job, Recipe, finished_metrics, publish_snapshots
from rank_increase.vit import VisionTransformer, scale_initial_weights

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, warmup_epochs=1, batch_size=16, learning_rate=3e-3, augment=True, snapshots=3)
MODEL = {"patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "dim_head": 4, "mlp_dim": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Folder of a dataset of 8 x 8 images in two classes, bright in one of two channels."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 70), ("test", 21)):
        labels = rng.integers(0, 2, count)
        images = rng.integers(0, 128, (count, 8, 8, 2), dtype=np.uint8)
        images[labels == 0, ..., 0] += 64
        images[labels == 1, ..., 1] += 64
        splits[name] = Split(name, count, [(images, labels)])
    folder = tmp_path_factory.mktemp("data") / "channels"
    pack(folder, Source(["one", "other"], (8, 8, 2), splits, {}), {})
    return str(folder)


@pytest.fixture
def job(dataset, tmp_path):
    return Job(
        dataset=dataset,
        scratch=str(tmp_path / "scratch"),
        model=MODEL,
        recipe=RECIPE,
        alpha=0.5,
        seed=3,
        code="code",
        checkpoint_minutes=60,
        pass_size=0,
        threads=1,
        label="run",
        device="cpu",
    )


def train(job, processes=1):
    with owned(job.scratch, job.label) as ownership:
        training.train(job, ownership, processes)


class Sole:
    """An ownership that nobody disputes."""

    def check(self):
        pass


def run_of(job):
    return training._Run(job, Sole(), CPU, 0, 1, StopRequest())


def results(job):
    """What a run left: metrics but for the speed, and the bytes of every snapshot."""
    snapshots = {path.name: path.read_bytes() for path in sorted((job_path(job) / "snapshots").iterdir())}
    return finished_metrics(job).drop(columns="images_per_second"), snapshots


def job_path(job):
    return Path(job.scratch)


def assert_same_run(first, second):
    pd.testing.assert_frame_equal(first[0], second[0], check_exact=True)
    assert first[1] == second[1]


# The recipe


def test_learning_rate_rises_linearly_and_falls_as_a_cosine():
    recipe = replace(RECIPE, epochs=500, warmup_epochs=15, learning_rate=1e-4)
    rates = np.array([recipe.learning_rate_at(step, 97) for step in range(500 * 97)])
    warmup = 15 * 97
    np.testing.assert_allclose(rates[:warmup], 1e-4 * np.arange(1, warmup + 1) / warmup)
    assert rates[warmup] == rates.max() == 1e-4
    middle = warmup + (len(rates) - warmup) / 2
    assert recipe.learning_rate_at(middle, 97) == pytest.approx(0.5e-4)
    assert (np.diff(rates[warmup:]) < 0).all() and 0 < rates[-1] < 1e-11
    assert replace(recipe, warmup_epochs=0).learning_rate_at(0, 97) == 1e-4


@pytest.mark.parametrize(("epochs", "snapshots"), [(500, 25), (30, 12), (3, 20), (1, 2), (5, 2), (15, 16)])
def test_snapshots_are_log_spaced_with_first_and_last(epochs, snapshots):
    chosen = replace(RECIPE, epochs=epochs, snapshots=snapshots).snapshot_epochs()
    assert chosen == sorted(set(chosen)) and chosen[0] == 0 and chosen[-1] == epochs
    assert len(chosen) == min(snapshots, epochs + 1)
    gaps = np.diff(chosen[1:])
    assert (np.diff(gaps) >= -1).all()  # they widen, but for rounding


# The data


def test_epoch_is_a_permutation_that_follows_from_seed_and_epoch(dataset):
    opened = open_dataset(dataset)

    def seen(seed, epoch, **options):
        batches = Batches(opened, CPU, batch_size=16, seed=seed, **options)
        return [images.flatten(1) for images, _ in batches.train(epoch)]

    first = seen(0, 1)
    assert [len(batch) for batch in first] == [16] * 4
    rows = {row.numpy().tobytes() for batch in first for row in batch}
    assert len(rows) == 64 and rows <= {image.tobytes() for image in opened.train_images}
    torch.testing.assert_close(first, seen(0, 1))
    assert not torch.equal(first[0], seen(0, 2)[0]) and not torch.equal(first[0], seen(1, 1)[0])


@pytest.mark.parametrize("augment", [True, False])
def test_steps_are_the_same_for_any_start_and_number_of_processes(dataset, augment):
    opened, options = open_dataset(dataset), {"batch_size": 16, "seed": 5, "augment": augment}
    whole = list(Batches(opened, CPU, **options).train(2))
    torch.testing.assert_close(list(Batches(opened, CPU, **options).train(2, first_step=3)), whole[3:])
    parts = [list(Batches(opened, CPU, rank=rank, processes=3, **options).train(2)) for rank in range(3)]
    for step, (images, labels) in enumerate(whole):
        for rank in range(3):
            torch.testing.assert_close(parts[rank][step], (images[rank::3], labels[rank::3]))


def test_test_split_is_seen_once(dataset):
    opened = open_dataset(dataset)
    labels = [Batches(opened, CPU, batch_size=16, seed=0, rank=rank, processes=2).test(4) for rank in range(2)]
    counts = [[len(part) for _, part in passes] for passes in labels]
    assert counts == [[4, 4, 3], [4, 4, 2]]


def test_normalised_images_have_zero_mean_and_unit_variance(dataset):
    opened = open_dataset(dataset)
    batches = Batches(opened, CPU, batch_size=70, seed=0)
    images = batches.normalised(next(batches.train(1))[0])
    assert images.shape == (70, 2, 8, 8) and images.dtype == torch.float32
    images = images.double()  # of values up to about 4, each rounded three times
    close = {"atol": 3 * 4 * torch.finfo(torch.float32).eps, "rtol": 0}
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(2).double(), **close)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(2).double(), **close)


def test_resident_images_are_read_like_mapped_ones(dataset):
    opened, places = open_dataset(dataset), [np.array([3, 1, 60]), np.array([0])]
    mapped = _Split(opened.train_images, opened.train_labels, CPU)
    resident = _Split(opened.train_images, opened.train_labels, CPU)
    resident._resident = [torch.tensor(opened.train_images), torch.tensor(opened.train_labels)]
    for one, other in zip(mapped.read(places), resident.read(places), strict=True):
        torch.testing.assert_close(list(one), list(other))


def test_crop_and_flip_is_what_it_says():
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8))
    shifts, flips = rng.integers(0, 3, (9, 2)), rng.integers(0, 2, 9)
    out = _crop_and_flip(images, shifts, flips, 1)
    for image, result, (down, right), flip in zip(images, out, shifts, flips, strict=True):
        framed = np.pad(image.numpy(), ((1, 1), (1, 1), (0, 0)))
        expected = framed[down : down + 8, right : right + 8]
        np.testing.assert_array_equal(result.numpy(), expected[:, ::-1] if flip else expected)


def test_batch_larger_than_the_dataset_is_refused(dataset):
    with pytest.raises(ValueError, match="`batch_size` is 71, more than the 70 training images"):
        Batches(open_dataset(dataset), CPU, batch_size=71, seed=0)


# Runs


def test_progress_in_the_log_counts_from_where_a_run_goes_on(caplog, monkeypatch):
    clock = iter([0.0, 10.0, 20.0])  # 30 of 60 remaining steps in 10 s
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "rank_increase"), jobs.progress("run", 100, 40, interval=5) as advance:
        advance(70, lambda: "loss 0.5")
    assert "run: 70 % done, about 10 s left, loss 0.5" in caplog.text


def test_run_learns_and_keeps_what_it_should(job):
    job = replace(job, recipe=replace(RECIPE, epochs=10, learning_rate=1e-2, snapshots=4))
    train(job)
    metrics, snapshots = results(job)
    assert metrics["epoch"].tolist() == list(range(1, 11)) and metrics["step"].tolist() == list(range(4, 41, 4))
    assert metrics["train_loss"].iloc[-1] < 0.3 < metrics["train_loss"].iloc[0]
    assert metrics["test_accuracy"].iloc[-1] > 0.9 and metrics["test_accuracy"].between(0, 1).all()
    assert metrics["learning_rate"].iloc[0] == 1e-2
    assert {f"epoch_{epoch}.safetensors" for epoch in (0, 1, 10)} <= set(snapshots) and len(snapshots) == 4


def test_snapshot_of_epoch_0_is_the_scaled_initialization(job, tmp_path):
    with owned(job.scratch, job.label) as ownership:
        training.train(job, ownership)
        publish_snapshots(job, ownership, tmp_path / "published")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "scratch"]
    torch.manual_seed(job.seed)
    model = VisionTransformer(image_size=8, channels=2, classes=2, **MODEL)
    scale_initial_weights(model, job.alpha)
    initial, last = (load_file(tmp_path / "published" / f"epoch_{epoch}.safetensors") for epoch in (0, 3))
    expected = {
        f"layer_{n}.{name}": w for n, layer in enumerate(model.attention_weights()) for name, w in layer.items()
    }
    assert set(initial) == set(last) == set(expected)
    for name, weight in expected.items():
        assert weight.shape == (2, 8, 4)
        torch.testing.assert_close(initial[name], weight, rtol=0, atol=0)
        assert not torch.equal(last[name], weight)


@pytest.fixture
def double(monkeypatch):
    """Training in float64: what differs only in the order of sums then agrees far closer than any mistake does."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_first_step_is_adam_on_the_mean_loss_without_decay(job, double):
    job = replace(job, recipe=replace(RECIPE, epochs=1, warmup_epochs=0, batch_size=70, augment=False))
    run = run_of(job)
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    images, labels = next(run.batches.train(1))
    loss = torch.nn.functional.cross_entropy(run.model(run.batches.normalised(images)), labels)
    gradients = torch.autograd.grad(loss, list(run.model.parameters()))
    run._update(images, labels, 1e-3)
    for (name, value), gradient in zip(run.model.named_parameters(), gradients, strict=True):
        assert value.dtype == torch.float64
        torch.testing.assert_close(value.grad, gradient, atol=1e-12, rtol=1e-9)
        # Adam's first, of the gradient that it was given: where that is all but zero, the step is sensitive to it.
        step = 1e-3 * value.grad / (value.grad.abs() + 1e-8)
        torch.testing.assert_close(value.detach(), before[name] - step, atol=1e-12, rtol=1e-9, msg=name)


def test_passes_add_up_to_the_batch(job, double):
    whole = replace(job, scratch=f"{job.scratch}_whole")
    train(whole)
    train(replace(job, pass_size=5))
    pd.testing.assert_frame_equal(results(job)[0], results(whole)[0], rtol=1e-7)


def test_gradients_of_processes_average_to_that_of_the_batch(job, double):
    gradients = []
    for rank, processes in ((0, 1), (0, 3), (1, 3), (2, 3)):
        run = run_of(job)
        run.processes = processes  # what DDP does between them is not part of this
        images, labels = next(run.batches.train(1))
        run._update(images[rank::processes], labels[rank::processes], 0.0)
        gradients.append([parameter.grad for parameter in run.model.parameters()])
    whole, *parts = gradients
    torch.testing.assert_close([sum(part) / 3 for part in zip(*parts, strict=True)], whole, atol=1e-12, rtol=1e-9)


def test_processes_but_the_first_write_nothing(job):
    training._Run(job, Sole(), CPU, 1, 1, StopRequest()).to_the_end()
    assert not job_path(job).exists()


def test_a_process_for_each_gpu_that_is_there_and_on_the_cpu_as_many_as_asked_for(monkeypatch):
    for seen, gpus, processes, expected in ((0, 0, 2, 2), (2, 0, 3, 3), (2, 4, 1, 2), (4, 2, 1, 2)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: seen)
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen > 0)
        assert training.process_count(gpus, processes) == expected


@pytest.fixture
def loopback(monkeypatch):
    """Gloo finds its way on machines that cannot look up their own name."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def double_worker(job, ownership):
    """What `double` does, in one of several processes."""
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    training._worker(job, ownership)


@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_where_one_was_and_back(job, double, monkeypatch, loopback):
    monkeypatch.setattr(training, "_worker", double_worker)
    alone = replace(job, scratch=f"{job.scratch}_alone")
    train(alone)
    job = replace(job, pass_size=3)
    for processes, step in ((2, 4), (1, 5), (2, 8)):  # two agree at the end of an epoch
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time())))
        with pytest.raises(Stopped, match=f"^run: the SLURM job is about to end; the state after step {step} of 12 is"):
            train(job, processes)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    train(job)
    pd.testing.assert_frame_equal(results(job)[0], results(alone)[0], rtol=1e-7)
    ours, theirs = (load_file(training.snapshot_path(one.scratch, 3)) for one in (job, alone))
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-7)
    left = [path.relative_to(job.scratch).parts[0] for path in job_path(job).rglob("*") if path.is_file()]
    assert set(left) == {"metrics.csv", "snapshots", "checkpoints"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_both_processes_and_the_state_is_saved(job, loopback, number):
    job = replace(job, recipe=replace(RECIPE, epochs=100_000), log=f"{job.scratch}.log")
    process = CONTEXT.Process(target=train, args=(job, 2))
    process.start()
    wait_for((job_path(job) / "metrics.csv").exists, process)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1
    name = "SIGTERM" if number == signal.SIGINT else number.name  # as on a terminal, where children get SIGINT anyway
    assert f"run: received {name}; the state after step {newest_step(job)} of" in Path(job.log).read_text()
    assert newest_step(job) > 0


@pytest.mark.slow
def test_death_of_one_of_two_processes_is_one_sentence(job, loopback):
    job = replace(job, recipe=replace(RECIPE, epochs=100_000))

    def kill_one():
        while not (job_path(job) / "metrics.csv").exists():
            time.sleep(0.05)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(RuntimeError) as caught:
        train(job, 2)
    assert str(caught.value) == (
        "run: one of its processes was ended by SIGKILL, as happens when memory runs out (`mem_mb`); the same command"
        " goes on from the last saved state."
    )
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_failure_of_two_processes_is_one_sentence(job, loopback):
    with pytest.raises(ValueError, match="^`batch_size` is 71, more than the 70 training images.$"):
        train(replace(job, recipe=replace(RECIPE, batch_size=71)), 2)


def test_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_measured(job, monkeypatch):
    rate = Recipe.learning_rate_at
    monkeypatch.setattr(Recipe, "learning_rate_at", lambda *args: rate(*args) if args[1] < 5 else float("inf"))
    with pytest.raises(FloatingPointError, match=r"run: the loss is not finite by step 8.*learning_rate"):
        train(job)
    metrics, snapshots = results(job)
    assert metrics["epoch"].tolist() == [1] and np.isfinite(metrics).all(axis=None)
    assert "epoch_0.safetensors" in snapshots


def test_state_that_is_not_finite_replaces_no_good_one(job, monkeypatch):
    rate = Recipe.learning_rate_at
    monkeypatch.setattr(Recipe, "learning_rate_at", lambda *args: rate(*args) if args[1] < 5 else float("inf"))
    with pytest.raises(FloatingPointError):
        train(replace(job, checkpoint_minutes=0))
    for path in (job_path(job) / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        assert math.isfinite(state["totals"][0])
        assert state["step"] <= 6


# Interruptions. Processes come from a server that has torch imported already.

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.nn.parallel", "pandas", "pyarrow.parquet", "safetensors.torch", "tqdm"])
LONG = replace(RECIPE, epochs=40, snapshots=6)


def start(job):
    process = CONTEXT.Process(target=train, args=(job,))
    process.start()
    return process


def wait_for(condition, process):
    end = time.monotonic() + 300
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


def newest_step(job):
    steps = [int(path.name.split("_")[1]) for path in (job_path(job) / "checkpoints").glob("step_*_*.pt")]
    return max(steps, default=0)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """Results of the long run without a break."""
    job = Job(dataset, str(tmp_path_factory.mktemp("run")), MODEL, LONG, 0.5, 3, "code", 60, 0, 1, "run", device="cpu")
    train(job)
    return results(job)


def test_run_killed_at_random_moments_ends_the_same(job, undisturbed):
    job, rng = replace(job, recipe=LONG, checkpoint_minutes=0.0002), np.random.default_rng(0)
    for _ in range(3):
        target = min(newest_step(job) + rng.integers(5, 40), 140)  # of 160
        process = start(job)
        wait_for(lambda least=target: newest_step(job) >= least, process)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it was killed"
    assert len(list((job_path(job) / "checkpoints").glob("step_*_*.pt"))) in (2, 3)  # two, or killed before deleting
    train(job)
    assert_same_run(results(job), undisturbed)


@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGTERM, signal.SIGINT])
def test_signal_saves_the_state_and_fails_the_job(job, undisturbed, number):
    job = replace(job, recipe=LONG)
    process = start(job)
    wait_for((job_path(job) / "metrics.csv").exists, process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 1
    assert 0 < newest_step(job) < 160
    train(job)
    assert_same_run(results(job), undisturbed)


def test_end_of_the_slurm_job_is_a_warning(job, monkeypatch, undisturbed):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))
    job = replace(job, recipe=LONG)
    with pytest.raises(Stopped, match="run: the SLURM job is about to end; the state after step 1 of 160 is saved"):
        train(job)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    train(job)
    assert_same_run(results(job), undisturbed)


@pytest.fixture
def interrupted(job, monkeypatch):
    """A run that was stopped in its third epoch, two checkpoints on disk."""
    job = replace(job, recipe=LONG, checkpoint_minutes=0)
    monkeypatch.setattr(StopRequest, "reason", property(lambda _: "enough" if newest_step(job) >= 10 else None))
    with pytest.raises(Stopped, match="enough"):
        train(job)
    monkeypatch.undo()
    return replace(job, checkpoint_minutes=60)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-50] + b"x" * 50])
def test_damaged_checkpoint_falls_back_to_the_one_before(interrupted, undisturbed, caplog, damage):
    newest = max((job_path(interrupted) / "checkpoints").iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(interrupted)
    assert f"checkpoint {newest} is damaged: going back to the one before" in caplog.text
    assert "goes on after step 10 of 160" in caplog.text
    assert_same_run(results(interrupted), undisturbed)


def test_without_a_whole_checkpoint_the_run_begins_anew(interrupted, undisturbed):
    for path in (job_path(interrupted) / "checkpoints").iterdir():
        path.write_bytes(b"")
    train(interrupted)
    assert_same_run(results(interrupted), undisturbed)


def test_a_state_whose_snapshots_are_gone_is_not_gone_on_with(interrupted, undisturbed, caplog):
    training.snapshot_path(interrupted.scratch, 0).unlink()
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(interrupted)
    assert "snapshots are missing" in caplog.text and "goes on after" not in caplog.text
    assert_same_run(results(interrupted), undisturbed)


def truncate(path):
    """Cut the end off a file where it is: another name of the same file is cut off too."""
    os.truncate(path, path.stat().st_size - 5)


def flip_a_bit(path):
    with open(path, "r+b") as file:
        file.seek(-7, os.SEEK_END)
        value = file.read(1)[0]
        file.seek(-7, os.SEEK_END)
        file.write(bytes([value ^ 1]))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_run_with_a_damaged_snapshot_trains_it_again(interrupted, undisturbed, caplog, damage):
    damage(training.snapshot_path(interrupted.scratch, 1))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(interrupted)
    assert "epoch_1.safetensors is damaged" in caplog.text and "goes on after" not in caplog.text
    assert_same_run(results(interrupted), undisturbed)


def test_run_resumes_from_the_last_checkpoint_before_a_damaged_snapshot(job, undisturbed, monkeypatch, caplog):
    job = replace(job, recipe=LONG, checkpoint_minutes=0)
    # Checkpoints after steps 11 and 12; step 12 ends epoch 3, after which `LONG` keeps a snapshot.
    assert 3 in LONG.snapshot_epochs() and len(undisturbed[0]) == 40
    monkeypatch.setattr(StopRequest, "reason", property(lambda _: "enough" if newest_step(job) >= 11 else None))
    with pytest.raises(Stopped, match="after step 12 of"):
        train(job)
    monkeypatch.undo()
    truncate(training.snapshot_path(job.scratch, 3))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(replace(job, checkpoint_minutes=60))
    assert "epoch_3.safetensors is damaged" in caplog.text and "goes on after step 11 of 160" in caplog.text
    assert_same_run(results(job), undisturbed)


def test_metrics_that_are_gone_come_back_from_the_state(interrupted, undisturbed):
    (job_path(interrupted) / "metrics.csv").unlink()
    assert len(run_of(interrupted).rows) == len(pd.read_csv(job_path(interrupted) / "metrics.csv")) > 0


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"alpha": 0.6}, {"code": "other"}, {"recipe": replace(LONG, learning_rate=1e-3)}]
)
def test_other_settings_do_not_go_on_with_a_state(interrupted, caplog, change):
    with caplog.at_level(logging.INFO, "rank_increase"):
        run = run_of(replace(interrupted, **change))
    assert run.step == 0 and "settings, data or code have changed" in caplog.text


def test_checkpoint_that_cannot_be_saved_does_not_end_the_run(job, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    train(replace(job, checkpoint_minutes=0))
    assert len(finished_metrics(job)) == 3
    assert "could not be saved, training goes on: the disk is full: " in caplog.text


# Several processes that have not been told of each other


def test_second_process_waits_and_then_has_nothing_to_train(job, undisturbed, caplog):
    job = replace(job, recipe=LONG)
    process = start(job)
    wait_for((job_path(job) / "metrics.csv").exists, process)
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(job)
    process.join()
    assert process.exitcode == 0
    assert f"process {process.pid} on" in caplog.text and "may still be at work" in caplog.text
    assert "was trained to the end before" in caplog.text
    assert_same_run(results(job), undisturbed)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_frozen_process_whose_run_was_taken_over_writes_nothing(job, undisturbed):
    job = replace(job, recipe=LONG, checkpoint_minutes=0)
    target = np.random.default_rng(0).integers(3, 20)
    process = start(job)
    wait_for(lambda: newest_step(job) >= target, process)
    os.kill(process.pid, signal.SIGSTOP)
    with owned(job.scratch, "run", silence=0.3) as ownership:
        training.train(replace(job, checkpoint_minutes=60), ownership)
        before = contents(job_path(job))
        os.kill(process.pid, signal.SIGCONT)
        process.join()
        assert process.exitcode == 1
        assert contents(job_path(job)) == before
    assert_same_run(results(job), undisturbed)


def test_state_that_cannot_be_saved_because_the_run_was_taken_over_ends_it(job, monkeypatch):
    run = run_of(job)

    def vanished(*_):  # the new owner has deleted what it found half written
        raise FileNotFoundError

    def taken_over():
        raise NotOwner

    monkeypatch.setattr(torch, "save", vanished)
    run._save(torch.zeros(2), must=False)
    monkeypatch.setattr(run.ownership, "check", taken_over)
    with pytest.raises(NotOwner):
        run._save(torch.zeros(2), must=False)


# What a run leaves


def test_published_run_is_published_again_without_training(job, tmp_path, caplog):
    outputs = {"metrics": tmp_path / "out/metrics.parquet", "snapshots": tmp_path / "out/snapshots"}
    job = replace(job, checkpoint_minutes=0)
    train_vit.main(**outputs, job=job, processes=1, provenance={})
    first = read_table(outputs["metrics"]), contents(outputs["snapshots"])
    assert len(list((job_path(job) / "checkpoints").iterdir())) == 1
    assert sum(path.stat().st_size for path in (job_path(job) / "checkpoints").iterdir()) < 5000  # without weights
    outputs["metrics"].unlink()  # as Snakemake does to a job that it does not know to be done
    with caplog.at_level(logging.INFO, "rank_increase"):
        train_vit.main(**outputs, job=job, processes=1, provenance={})
    assert "was trained to the end before" in caplog.text
    pd.testing.assert_frame_equal(read_table(outputs["metrics"]), first[0], check_exact=True)  # even the speed
    assert contents(outputs["snapshots"]) == first[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.parquet", "snapshots"]


@pytest.mark.parametrize("linked", [True, False])
def test_snapshots_are_linked_or_copied_and_replace_what_is_there(job, tmp_path, monkeypatch, linked):
    def other_file_system(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", other_file_system)
    (tmp_path / "published").mkdir()
    (tmp_path / "published/epoch_7.safetensors").write_text("of an earlier configuration")
    with owned(job.scratch, job.label) as ownership:
        training.train(job, ownership)
        publish_snapshots(job, ownership, tmp_path / "published")
    published = {path.name: path for path in (tmp_path / "published").iterdir()}
    assert {name: path.read_bytes() for name, path in published.items()} == results(job)[1]
    assert {path.stat().st_nlink for path in published.values()} == {2 if linked else 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "scratch"]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
@pytest.mark.parametrize("linked", [True, False])
def test_damaged_published_snapshot_is_named_and_the_same_command_mends_it(
    job, tmp_path, monkeypatch, caplog, damage, linked
):
    if not linked:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another file system")))
    outputs = {"metrics": tmp_path / "out/metrics.parquet", "snapshots": tmp_path / "out/snapshots"}
    train_vit.main(**outputs, job=job, processes=1, provenance={})
    metrics, snapshots = results(job)
    damage(outputs["snapshots"] / "epoch_1.safetensors")
    spectra = {"metrics": outputs["metrics"], "spectra": tmp_path / "out/spectra.parquet", "provenance": {}}
    with pytest.raises(ValueError, match=r"epoch_1.safetensors is damaged.*: delete .*out/snapshots and run the same"):
        compute_spectra.main(outputs["snapshots"], **spectra)
    shutil.rmtree(outputs["snapshots"])  # as the message says
    with caplog.at_level(logging.INFO, "rank_increase"):
        train_vit.main(**outputs, job=job, processes=1, provenance={})
    assert ("cannot resume" in caplog.text) == linked  # a copy in the scratch folder is still whole
    published = {path.name: path.read_bytes() for path in outputs["snapshots"].iterdir()}
    assert published == results(job)[1] == snapshots
    pd.testing.assert_frame_equal(results(job)[0], metrics, check_exact=True)
    compute_spectra.main(outputs["snapshots"], **spectra)
    assert spectra["spectra"].exists()


def test_snapshot_damaged_while_its_run_trains_is_not_published(job, tmp_path):
    with owned(job.scratch, job.label) as ownership:
        training.train(job, ownership)
        truncate(training.snapshot_path(job.scratch, 1))
        with pytest.raises(SnapshotError, match="epoch_1.safetensors is damaged.*: run the same command again"):
            publish_snapshots(job, ownership, tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


# The dataset is what was packed


def overwrite(path):
    """Other pixels or labels in the same place, of the same size and time."""
    times = path.stat().st_mtime_ns, path.stat().st_mtime_ns
    array = np.load(path, mmap_mode="r+")
    array[0] = 1 - array[0]
    array.flush()
    os.utime(path, ns=times)


@pytest.mark.parametrize("name", ["train_images", "test_images", "train_labels", "test_labels"])
def test_dataset_that_was_changed_in_place_is_refused_also_by_a_finished_run(job, dataset, tmp_path, name):
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    job = replace(job, dataset=str(copy))
    train(job)
    overwrite(copy / f"{name}.npy")
    with pytest.raises(DatasetError, match=rf"{name}.npy is not what was packed .*: delete {copy}, and the same"):
        train(job)
    shutil.rmtree(copy)
    shutil.copytree(dataset, copy)  # packed again
    train(job)


def test_dataset_from_another_place_with_the_same_contents_is_the_same_dataset(job, dataset, tmp_path, caplog):
    train(job)
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["source"] = {"path": "/elsewhere", "sha256": {}}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with caplog.at_level(logging.INFO, "rank_increase"):
        train(replace(job, dataset=str(copy)))
    assert "was trained to the end before" in caplog.text


def test_signal_ends_the_check_of_a_large_dataset(job, monkeypatch):
    def slow_check(_, advance):
        os.kill(os.getpid(), signal.SIGTERM)
        advance(1)

    monkeypatch.setattr(training, "check_arrays", slow_check)
    with pytest.raises(Stopped, match="received SIGTERM; the same command goes on"):
        train(job)


def test_snapshots_of_a_run_that_was_taken_over_are_not_published(job, tmp_path):
    with owned(job.scratch, job.label) as ownership:
        training.train(job, ownership)
        next(job_path(job).glob("owner.*")).unlink()
        with pytest.raises(NotOwner):
            publish_snapshots(job, ownership, tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


def test_checkpoints_hold_nothing_that_runs(tmp_path):
    Checkpoints(tmp_path, "key", Sole().check).save(1, {"model": print})
    with pytest.raises(pickle.UnpicklingError, match="print"):
        Checkpoints(tmp_path, "key", Sole().check).load()
