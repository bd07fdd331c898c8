"""Checks that training on a device is right, by comparison with the CPU in float32 and with itself.

Each check is a function of a device, an empty folder and a `sizes.Size`. It returns what it found, in a few words, or
raises `Wrong`. The tests run the same checks on the CPU, and on a GPU if there is one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from rank_increase.gpu_check.trials import pack_noise, trial
from rank_increase.registry import find
from rank_increase.training import compiling
from rank_increase.training.checkpoints import Stopped, StopRequest
from rank_increase.training.results import finished_metrics

CPU = torch.device("cpu")
STEPS = 12  # that curves of the loss are compared over
# Of a loss, relative. Against float64 on a CPU (width 128, 4 layers, CIFAR-10, init scales 0.1 and 1, two seeds),
# float32 was off by 5e-7 at most in 30 steps: sums in another order add to that. bfloat16 was off by 7e-4 at most in
# 10 steps and by 1e-3 in 30, and one unit in its last place is 4e-3.
ALLOWED = {"float32": 1e-4, "bfloat16": 2.0**-8}


class Wrong(AssertionError):
    """A check has failed; the message says what is not as it should be."""


def _expect(condition, message):
    if not condition:
        raise Wrong(message)


def _noise(folder, size, steps=STEPS, rest=0):
    """A dataset with this many batches for the checks, and test images that leave an odd last pass."""
    case = size.cases[0]
    return pack_noise(folder / "data", case.shape, case.classes, steps * size.check_batch + rest, 512 + 17)


def one_graph(device, folder, size):
    """torch.compile takes every model as one graph, with gradients and without, in the precision of the device."""
    for case in size.cases:
        model = find("model", case.model["family"]).load()
        options = {key: value for key, value in case.model.items() if key != "family"}
        model = model(case.shape, case.classes, **options).to(device)
        model.compile(backend=compiling.BACKEND, dynamic=False, fullgraph=True)
        height, width, channels = case.shape
        images = torch.randn(4, channels, height, width, device=device)
        try:
            with torch.autocast(device.type, torch.bfloat16):
                model(images).sum().backward()
                with torch.no_grad():
                    model(images)
        except torch._dynamo.exc.Unsupported as error:
            raise Wrong(f"{case.label}: {str(error).splitlines()[0]}") from error
    return f"{len(size.cases)} models"


def no_recompilation(device, folder, size):
    """After an epoch and its test, with an odd last pass, nothing is compiled again."""
    batch = size.check_batch
    run = trial(
        _noise(folder, size, 3, rest=5), folder / "run", size.cases[0].model, device, epochs=2, batch_size=batch
    )
    _expect(run.is_compiled, "the model was not compiled, see the log")

    def epoch(number):
        run.model.train()
        for images, labels in run.batches.train(number):
            run.update(images, labels, 1e-3)
        run.test()

    epoch(1)
    try:
        with torch.compiler.set_stance("fail_on_recompile"):
            epoch(2)
    except RuntimeError as error:
        raise Wrong(f"compiled again: {str(error).splitlines()[0]}") from error
    return "two epochs of 3 steps, and tests of 512 + 17 images"


def plain_names(device, folder, size):
    """A compiled model keeps the names of its parameters and weights, and their initial values are the CPU's."""
    dataset, model = _noise(folder, size, 1), size.cases[0].model
    here, there = (trial(dataset, folder / "run", model, one, batch_size=size.check_batch) for one in (device, CPU))
    here.update(*next(here.batches.train(1)), 0.0)  # is compiled now, and learns nothing
    for ours, theirs in (
        (here.model.state_dict(), there.model.state_dict()),
        (here.model.weights(), there.model.weights()),
    ):
        _expect(list(ours) == list(theirs), f"names differ: {sorted(set(ours) ^ set(theirs))}")
        different = [name for name in ours if not torch.equal(ours[name].cpu(), theirs[name])]
        _expect(not different, f"initial values differ: {different}")
    return f"{len(here.model.state_dict())} parameters"


def same_batches(device, folder, size):
    """Images that lie on the device come in the order, with the crops and flips, of the CPU."""
    dataset = _noise(folder, size, 3, rest=5)
    options = {"epochs": 1, "batch_size": size.check_batch, "augment": True}
    here, there = (trial(dataset, folder / "run", size.cases[0].model, one, **options).batches for one in (device, CPU))
    count = 0
    for epoch in (1, 2):
        for ours, theirs in zip(here.train(epoch), there.train(epoch), strict=True):
            _expect(ours[0].device.type == device.type, f"a batch is on {ours[0].device}")
            _expect(all(torch.equal(a.cpu(), b) for a, b in zip(ours, theirs, strict=True)), f"batch {count} differs")
            count += 1
    for ours, theirs in zip(here.test(100), there.test(100), strict=True):
        _expect(all(torch.equal(a.cpu(), b) for a, b in zip(ours, theirs, strict=True)), "a test batch differs")
    return f"{count} batches, bit for bit"


def _losses(run, learning_rate):
    """Mean loss of each of the first `STEPS` steps, with a linear warm-up."""
    losses = []
    run.model.train()
    for step, (images, labels) in enumerate(run.batches.train(1)):
        run.totals.zero_()
        run.update(images, labels, learning_rate * (step + 1) / STEPS)
        losses.append(float(run.totals[0]) / len(labels))
    return np.array(losses)


def same_losses(device, folder, size):
    """The loss falls as on the CPU in float32, within the error of the precision."""
    dataset, model = _noise(folder, size), size.cases[0].model

    def curve(one, precision):
        options = {"precision": precision, "batch_size": size.check_batch}
        return _losses(trial(dataset, folder / "run", model, one, **options), size.recipe["learning_rate"])

    exact, found = curve(CPU, "float32"), []
    for precision, allowed in ALLOWED.items():
        error = np.abs(curve(device, precision) / exact - 1).max()
        _expect(error < allowed, f"{precision} is off by {error:.1e} of the loss, more than {allowed:.1e}")
        _expect(error > 0 or precision == "float32", "bfloat16 changes nothing: it is not in use")
        found.append(f"{precision} off by {error:.1e} of {allowed:.1e}")
    return f"{STEPS} steps, loss {exact[0]:.3f} to {exact[-1]:.3f}: {', '.join(found)}"


class _After(StopRequest):
    """A reason to stop once it has been asked for this many times."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    @property
    def reason(self):
        """Why to stop, or None."""
        self._left -= 1
        return "enough" if self._left <= 0 else None


def resumes(device, folder, size):
    """A run that is stopped in its second epoch resumes from its checkpoint and ends as one that is not."""
    dataset, model = _noise(folder, size, 3), size.cases[0].model
    options = {"epochs": 3, "batch_size": size.check_batch}
    whole = trial(dataset, folder / "whole", model, device, **options)
    whole.fit()
    try:
        trial(dataset, folder / "broken", model, device, stop=_After(5), **options).fit()
        raise Wrong("the run was not stopped")
    except Stopped:
        pass
    broken = trial(dataset, folder / "broken", model, device, fresh=False, **options)
    _expect(broken.step == 5, f"resumed at step {broken.step}, not 5")
    broken.fit()
    columns = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    ours, theirs = (finished_metrics(run.job)[columns].to_numpy() for run in (broken, whole))
    exact = device.type == "cpu"  # on a GPU, sums in another order; rounding in bfloat16 grows with every step
    off = np.abs(ours / theirs - 1).max()
    _expect(off == 0 if exact else off < 0.05, f"metrics differ by {off:.1e}")
    return f"metrics of 3 epochs differ by {off:.1e}"


def without_compiler(device, folder, size):
    """On a machine without a C compiler, training is not compiled, and the log says so in one line."""
    empty = folder / "empty"
    empty.mkdir()
    environment = {
        **os.environ,
        **dict.fromkeys(("CC", "CXX"), str(empty / "none")),
        **{name: str(folder / name.lower()) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")},
        "PATH": str(empty),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    arguments = [str(device), _noise(folder, size, 2), str(folder / "run"), json.dumps(size.cases[0].model)]
    command = [sys.executable, "-m", "rank_increase.gpu_check.uncompiled", *arguments, str(size.check_batch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1:]
    _expect(done.returncode == 0, f"training fails: {' '.join(last)}")
    found = json.loads(done.stdout.splitlines()[-1])
    said = [line for line in found["log"] if "not compiled" in line]
    if found["compiled"]:
        _expect(not said, f"compiled, and the log says: {said}")
        return "this device needs no C compiler"
    _expect(len(said) == 1, f"{len(said)} lines in the log say that training is not compiled")
    return said[0]


CHECKS = (one_graph, no_recompilation, plain_names, same_batches, same_losses, resumes, without_compiler)
