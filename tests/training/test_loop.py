"""The loop of a run in one process: its steps and what it measures, and what it keeps."""

import logging
import math
from dataclasses import replace
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from rank_increase import jobs
from rank_increase.data.packed import Source, Split, pack
from rank_increase.networks.vit import VisionTransformer
from rank_increase.ownership import owned
from rank_increase.training import processes
from rank_increase.training.recipe import Recipe
from rank_increase.training.results import publish_snapshots
from rank_increase.training.snapshots import Snapshots, snapshot_path
from runs import MODEL, PRODUCTS, STEPS, job_path, recipe, results, run_of, train


def test_progress_in_the_log_counts_from_where_a_run_resumes(caplog, monkeypatch):
    clock = iter([0.0, 10.0, 20.0])  # 30 of 60 remaining steps in 10 s
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "rank_increase"), jobs.progress("run", 100, 40, interval=5) as advance:
        advance(70, lambda: "loss 0.5")
    assert "run: 70 % done, about 10 s left, loss 0.5" in caplog.text


def test_run_learns_and_keeps_what_it_should(job):
    job = replace(job, recipe=recipe(epochs=10, learning_rate=1e-2, snapshots=4))
    train(job)
    metrics, snapshots = results(job)
    assert metrics["epoch"].tolist() == list(range(1, 11)) and metrics["step"].tolist() == list(range(4, 41, 4))
    assert metrics["train_loss"].iloc[-1] < 0.3 < metrics["train_loss"].iloc[0]
    assert metrics["test_accuracy"].iloc[-1] > 0.9 and metrics["test_accuracy"].between(0, 1).all()
    assert metrics["learning_rate"].iloc[0] == 1e-2
    assert {f"step_{step}.safetensors" for step in (0, 4, 40)} <= set(snapshots) and len(snapshots) == 4


def test_snapshot_of_step_0_is_the_scaled_initialization(job, tmp_path):
    with owned(job.scratch, job.label) as ownership:
        processes.train(job, ownership)
        publish_snapshots(job, ownership, tmp_path / "published")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "scratch"]
    torch.manual_seed(job.seed)
    model = VisionTransformer((8, 8, 2), 2, **{key: value for key, value in MODEL.items() if key != "family"})
    model.scale_initial_weights(job.alpha)
    initial, last = (load_file(tmp_path / "published" / f"step_{step}.safetensors") for step in (0, 12))
    expected = model.weights()
    assert Snapshots(tmp_path / "published").products == PRODUCTS
    assert set(initial) == set(last) == set(expected)
    for name, weight in expected.items():
        assert weight.shape == (2, 8, 4)
        torch.testing.assert_close(initial[name], weight, rtol=0, atol=0)
        assert not torch.equal(last[name], weight)


LANGUAGE = """
    from torch import nn

    from rank_increase.networks.attention import Product
    from rank_increase.registry import register


    @register.model("bigrams")
    class Bigrams(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.logits = nn.Embedding(classes, classes)

        def forward(self, tokens):
            return self.logits(tokens)

        def scale_initial_weights(self, scale):
            self.logits.weight.data *= scale

        def products(self):
            return [Product("whole", 0, "logits", "logits")]

        def weights(self):
            return {"logits": self.logits.weight.detach()[None]}
"""


def test_a_label_for_each_token_is_learned_and_counted(job, tmp_path):
    (tmp_path / "bigrams.py").write_text(dedent(LANGUAGE))
    rng, splits = np.random.default_rng(0), {}
    for name, count in (("train", 64), ("test", 16)):
        tokens = rng.integers(0, 5, (count, 6))
        splits[name] = Split(name, count, [(tokens, (tokens + 1) % 5)])
        splits[name].chunks[0][1][:, :3] = 0  # of the labels, half say nothing of the token
    pack(tmp_path / "set", Source(list("abcde"), (6,), splits, {}, "tokens"), {})
    settings = recipe(epochs=8, learning_rate=0.3, augment=False)
    model = {"family": "bigrams"}
    extensions = (str(tmp_path / "bigrams.py"),)
    job = replace(job, dataset=str(tmp_path / "set"), model=model, recipe=settings, alpha=1.0, extensions=extensions)
    train(job)
    metrics, _ = results(job)
    # Half of the labels of a token a are 0, the others a + 1, which is 0 for one of five tokens.
    assert metrics["test_accuracy"].iloc[-1] == pytest.approx(0.8 / 2 + 0.2, abs=0.1)
    assert metrics["test_loss"].iloc[-1] == pytest.approx(0.8 * math.log(2), rel=0.15)
    for name, split in splits.items():
        [(tokens, labels)] = split.chunks
        splits[name] = Split(name, split.count, [(tokens, labels[:, 0])])
    pack(tmp_path / "set", Source(list("abcde"), (6,), splits, {}, "tokens"), {})
    with pytest.raises(ValueError, match=r"outputs of shape \(6, 5\) for a sample, .* labels of shape \(\)"):
        train(job)


def test_first_step_is_adam_on_the_mean_loss_without_decay(job, double):
    job = replace(job, recipe=recipe(epochs=1, warmup_epochs=0, batch_size=70, augment=False))
    run = run_of(job)
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    images, labels = next(run.batches.train(1))
    loss = F.cross_entropy(run.model(run.batches.inputs(images)), labels)
    gradients = torch.autograd.grad(loss, list(run.model.parameters()))
    run.update(images, labels, 1e-3)
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
    for rank, count in ((0, 1), (0, 3), (1, 3), (2, 3)):
        run = run_of(job)
        run.processes = count  # what DDP does between them is not part of this
        images, labels = next(run.batches.train(1))
        run.update(images[rank::count], labels[rank::count], 0.0)
        gradients.append([parameter.grad for parameter in run.model.parameters()])
    whole, *parts = gradients
    torch.testing.assert_close([sum(part) / 3 for part in zip(*parts, strict=True)], whole, atol=1e-12, rtol=1e-9)


def test_processes_but_the_first_write_nothing(job):
    run_of(job, rank=1).fit()
    assert not job_path(job).exists()


def test_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_measured(job, monkeypatch):
    rate = Recipe.learning_rate_at
    monkeypatch.setattr(Recipe, "learning_rate_at", lambda *args: rate(*args) if args[1] < 5 else float("inf"))
    with pytest.raises(FloatingPointError, match=r"run: the loss is not finite by step 8.*learning_rate"):
        train(job)
    metrics, snapshots = results(job)
    assert metrics["epoch"].tolist() == [1] and np.isfinite(metrics).all(axis=None)
    assert "step_0.safetensors" in snapshots


def test_state_that_is_not_finite_replaces_no_good_one(job, monkeypatch):
    rate = Recipe.learning_rate_at
    monkeypatch.setattr(Recipe, "learning_rate_at", lambda *args: rate(*args) if args[1] < 5 else float("inf"))
    with pytest.raises(FloatingPointError):
        train(replace(job, checkpoint_minutes=0))
    for path in (job_path(job) / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        assert math.isfinite(state["totals"][0])
        assert state["step"] <= 6


def test_snapshots_in_the_middle_of_an_epoch_are_of_their_steps(job):
    job = replace(job, recipe=recipe(snapshots_per_doubling=3))
    train(job)
    steps = job.recipe.snapshot_steps(STEPS)
    assert steps == [0, 1, 2, 3, 4, 5, 6, 8, 10, 12]
    snapshots = Snapshots(job_path(job) / "snapshots")
    assert snapshots.steps == steps and snapshots.epochs == {step: step / STEPS for step in steps}
    run = run_of(replace(job, scratch=f"{job.scratch}_plain"))
    for epoch in (1, 2, 3):
        for images, labels in run.batches.train(epoch):
            run.update(images, labels, job.recipe.learning_rate_at(run.step, STEPS))
            run.step += 1
            if run.step in steps:
                found = load_file(snapshot_path(job_path(job) / "snapshots", run.step))
                torch.testing.assert_close(found, run.model.weights(), rtol=0, atol=0)


def test_a_run_uses_the_samples_and_labels_that_its_recipe_says(job):
    def of_training(**part):
        batches = run_of(replace(job, recipe=recipe(augment=False, batch_size=8, **part))).batches
        pairs = [
            (row.numpy().tobytes(), int(label)) for step in batches.train(1) for row, label in zip(*step, strict=True)
        ]
        return batches, dict(pairs)

    whole, plain = of_training()
    assert (whole.steps, whole.test_count) == (8, 21)
    part, some = of_training(train_samples=32, test_samples=5)
    assert (part.steps, part.test_count, len(some)) == (4, 5, 32)
    _, shuffled = of_training(shuffled_labels=True)
    assert shuffled.keys() == plain.keys() and shuffled != plain


def test_squared_error_learns(job):
    settings = {"loss": {"name": "squared_error"}, "optimizer": {"name": "sgd", "momentum": 0.9}}
    job = replace(job, alpha=1.0, recipe=recipe(epochs=10, learning_rate=0.05, **settings))
    train(job)
    metrics, _ = results(job)
    assert metrics["train_loss"].iloc[-1] < 0.1 < metrics["train_loss"].iloc[0]
    assert metrics["test_loss"].iloc[-1] < 0.1 and metrics["test_accuracy"].iloc[-1] > 0.9
