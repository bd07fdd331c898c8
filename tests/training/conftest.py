from dataclasses import replace

import numpy as np
import pytest
import torch

from rank_increase.data.packed import Source, Split, pack
from rank_increase.training.checkpoints import Stopped, StopRequest
from runs import LONG, job_of, newest_step, recipe, results, train


@pytest.fixture(scope="session")
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
    return job_of(dataset, tmp_path / "scratch", recipe())


@pytest.fixture
def double(monkeypatch):
    """Training in float64: what differs only in the order of sums then agrees far closer than any mistake does."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def undisturbed(dataset, tmp_path_factory):
    """Results of the long run without a break."""
    job = job_of(dataset, tmp_path_factory.mktemp("run"), LONG)
    train(job)
    return results(job)


@pytest.fixture
def stopped_after(dataset, tmp_path, monkeypatch):
    """A function of a step: the long run, stopped after it, with checkpoints of this step and the one before."""

    def stop(step):
        job = replace(job_of(dataset, tmp_path / "scratch", LONG), checkpoint_minutes=0)
        enough = property(lambda _: "enough" if newest_step(job) >= step - 1 else None)
        with monkeypatch.context() as patch:
            patch.setattr(StopRequest, "reason", enough)
            with pytest.raises(Stopped, match=f"^run: enough; the state after step {step} of 160 is saved"):
                train(job)
        return replace(job, checkpoint_minutes=60)

    return stop


@pytest.fixture
def interrupted(stopped_after):
    """The long run, stopped in its third epoch."""
    return stopped_after(11)


@pytest.fixture
def loopback(monkeypatch):
    """Gloo finds its way on machines that cannot look up their own name."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
