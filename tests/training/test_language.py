"""A language model is trained on text by the same loop: it comes to predict what can be predicted."""

from dataclasses import replace

import numpy as np

from rank_increase.data.packed import pack
from rank_increase.data.sources.text import text
from rank_increase.training.results import finished_metrics
from rank_increase.training.snapshots import Snapshots
from runs import job_of, job_path, recipe, train

MODEL = {"family": "gpt", "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 16}


def test_a_text_of_known_entropy_is_learned_to_its_entropy(tmp_path):
    """Every other byte is one of four at random, and the one behind it a function of it: ln(4) / 2 nats a byte."""
    rng = np.random.default_rng(0)
    for name, pairs in (("train", 6000), ("test", 800)):
        first = rng.integers(4, size=pairs)
        (tmp_path / f"{name}.txt").write_bytes(np.stack([97 + first, 65 + (first + 1) % 4], axis=1).astype(np.uint8))
    source = text(None, 1, train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), length=8)
    pack(tmp_path / "text", source, {})
    settings = recipe(
        epochs=2,
        batch_size=20,
        learning_rate=1e-2,
        warmup_epochs=0,
        augment=False,
        snapshots=3,
        snapshots_per_doubling=1,
    )
    job = replace(job_of(str(tmp_path / "text"), tmp_path / "run", settings), model=MODEL, alpha=1.0)
    train(job)
    last = finished_metrics(job).iloc[-1]
    assert abs(last["test_loss"] - np.log(4) / 2) < 0.05
    assert 0.55 < last["test_accuracy"] < 0.7  # all of one half, a quarter of the other: 0.625
    assert Snapshots(job_path(job) / "snapshots").steps == [0, 1, 2, 4, 8, 16, 32, 64, 75, 128, 150]
