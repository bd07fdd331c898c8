"""A learning rate that stays, and a gradient that is cut to a length."""

from dataclasses import replace

import pytest
import torch

from runs import recipe, run_of


def test_learning_rate_rises_and_then_stays():
    plan = recipe(epochs=5, warmup_epochs=2, learning_rate=0.8, decay="none")
    rates = [plan.learning_rate_at(step, 4) for step in range(20)]
    assert rates[:8] == pytest.approx([0.1 * k for k in range(1, 9)]) and rates[8:] == [0.8] * 12


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_step_of_sgd_is_no_longer_than_the_clip(job, clip):
    settings = recipe(optimizer={"name": "sgd"}, augment=False, clip=clip)
    run = run_of(replace(job, recipe=settings))
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    samples, labels = next(run.batches.train(1))
    run.update(samples, labels, 0.5)
    moved = torch.cat([(b - a).flatten() for a, b in zip(run.model.parameters(), before, strict=True)])
    free = run_of(replace(job, scratch=f"{job.scratch}_free", recipe=recipe(optimizer={"name": "sgd"}, augment=False)))
    free.update(samples, labels, 0.5)
    whole = torch.cat([(b - a).flatten() for a, b in zip(free.model.parameters(), before, strict=True)])
    expected = whole * min(1, 0.5 * clip / whole.norm().item())
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=2e-7)  # gains near 1 are rounded to 6e-8
