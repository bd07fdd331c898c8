"""The checks of gpu_check: right on the CPU, wrong where something is, and run on a GPU if there is one."""

import pytest
import torch

from rank_increase.data import batches
from rank_increase.gpu_check import checks
from rank_increase.gpu_check.checks import CHECKS, Wrong
from rank_increase.gpu_check.sizes import SIZES
from rank_increase.networks.vit import Block
from rank_increase.training import compiling, loop
from rank_increase.training.recipe import Recipe

CPU, TINY = torch.device("cpu"), SIZES["tiny"]


@pytest.fixture
def compiled_on_the_cpu(monkeypatch):
    """Models are compiled on the CPU, too, by a backend that runs the captured graph as it is."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    monkeypatch.setattr(loop, "COMPILED", {"cpu"})
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("check", [check for check in CHECKS if check is not checks.without_compiler])
def test_check_on_the_cpu(check, tmp_path, compiled_on_the_cpu):
    assert check(CPU, tmp_path, TINY)


@pytest.mark.slow
def test_without_a_compiler_training_goes_on_and_one_line_says_so(tmp_path):
    assert "training is not compiled and takes longer" in checks.without_compiler(CPU, tmp_path, TINY)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CHECKS)
def test_check_on_a_gpu(check, tmp_path):
    assert check(torch.device("cuda", 0), tmp_path, TINY)


def test_a_break_of_the_graph_is_found(tmp_path, compiled_on_the_cpu, monkeypatch):
    forward = Block.forward

    def broken(self, x, first_only=False):
        torch._dynamo.graph_break()
        return forward(self, x, first_only)

    monkeypatch.setattr(Block, "forward", broken)
    with pytest.raises(Wrong, match="^tiny: "):
        checks.one_graph(CPU, tmp_path, TINY)


def test_recompilation_is_found(tmp_path, compiled_on_the_cpu, monkeypatch):
    forward = Block.forward

    def of_this_epoch(self, x, first_only=False):
        return forward(self, x, first_only) * (1 if self.calls < 10 else 2)

    def counted(self, *args):
        for block in self.model.blocks:
            block.calls += 1
        return update(self, *args)

    update = loop.Run.update
    monkeypatch.setattr(Block, "calls", 8, raising=False)
    monkeypatch.setattr(Block, "forward", of_this_epoch)
    monkeypatch.setattr(loop.Run, "update", counted)
    with pytest.raises(Wrong, match="^compiled again"):
        checks.no_recompilation(CPU, tmp_path, TINY)


def test_names_with_a_prefix_are_found(tmp_path, monkeypatch):
    def wrapped(self, *args):
        self.model = self.forward = torch.compile(self.model, backend="eager")
        return update(self, *args)

    update = loop.Run.update
    monkeypatch.setattr(loop.Run, "update", wrapped)
    with pytest.raises(Wrong, match="^names differ: .*_orig_mod"):
        checks.plain_names(CPU, tmp_path, TINY)


def test_samples_in_another_order_are_found(tmp_path, monkeypatch):
    room = iter([True, True, False, False])  # on the device in the first run, not in the second
    monkeypatch.setattr(batches, "_has_room", lambda *_: next(room))
    assert checks.same_batches(CPU, tmp_path, TINY)
    room = iter([True, True, False, False])
    tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda array, **kwargs: tensor(array, **kwargs).flip(0))
    with pytest.raises(Wrong, match="batch 0 differs"):
        checks.same_batches(CPU, tmp_path, TINY)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_another_loss_is_found(tmp_path, monkeypatch, precision):
    losses = checks._losses

    def off(run, learning_rate):
        first, factor = run.recipe.precision != precision, 1 + 2 * checks.ALLOWED[precision]
        return losses(run, learning_rate) * (1 if first or not seen.append(run) and len(seen) == skipped else factor)

    seen, skipped = [], 1 if precision == "float32" else 0  # the first in float32 is what others are compared with
    monkeypatch.setattr(checks, "_losses", off)
    with pytest.raises(Wrong, match=f"^{precision} is off by"):
        checks.same_losses(CPU, tmp_path, TINY)


def test_bfloat16_that_is_not_in_use_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Recipe, "is_mixed", lambda *_: False)
    with pytest.raises(Wrong, match="^bfloat16 changes nothing"):
        checks.same_losses(CPU, tmp_path, TINY)


def test_a_checkpoint_without_the_state_of_the_optimizer_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", lambda *_: None)
    with pytest.raises(Wrong, match="^metrics differ"):
        checks.resumes(CPU, tmp_path, TINY)
