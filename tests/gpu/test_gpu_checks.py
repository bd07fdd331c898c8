"""The checks of gpu_check, which are right on the CPU, are wrong where something is, and run on a GPU if there is one."""

import pytest
import torch

from rank_increase.gpu_check.checks import (
    CHECKS,
    Wrong,
    no_recompilation,
    plain_names,
    resumes,
    same_batches,
    same_losses,
)
from rank_increase.gpu_check.sizes import SIZES
from rank_increase.networks.vit import VisionTransformer
from rank_increase.training import compiling, loop

CPU, TINY = torch.device("cpu"), SIZES["tiny"]


@pytest.fixture
def compiling_on_the_cpu(monkeypatch):
    """Models are compiled on the CPU, too, by a backend that runs the captured graph as it is."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    monkeypatch.setattr(loop, "COMPILED", {"cpu"})
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("check", [check for check in CHECKS if check.__name__ != "without_compiler"])
def test_check_on_the_cpu(check, tmp_path, compiling_on_the_cpu):
    assert check(CPU, tmp_path, TINY)


@pytest.mark.slow
def test_without_a_compiler_training_goes_on_and_one_line_says_so(tmp_path):
    (check,) = (check for check in CHECKS if check.__name__ == "without_compiler")
    assert "training is not compiled and takes longer" in check(CPU, tmp_path, TINY)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CHECKS)
def test_check_on_a_gpu(check, tmp_path):
    assert check(torch.device("cuda", 0), tmp_path, TINY)
