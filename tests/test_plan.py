"""The plan of a study: its formulas against what torch counts, and its text."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from rank_increase import plan
from rank_increase.training import Recipe
from rank_increase.vit import VisionTransformer

ROOT = Path(__file__).parents[1]
# No two sizes are equal, so that no mix-up goes unnoticed.
SIZES = {
    "image_size": 12,
    "channels": 3,
    "classes": 4,
    "patch_size": 2,
    "dim": 24,
    "depth": 3,
    "heads": 5,
    "dim_head": 8,
    "mlp_dim": 20,
}


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())


def counted(step):
    """FLOPs of a call, by torch; with the attention that is made of plain products, all of which it counts."""
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize("change", [{}, {"depth": 1}, {"patch_size": 4, "heads": 2}])
def test_flops_are_those_that_torch_counts(change):
    sizes = {**SIZES, **change}
    model, images = VisionTransformer(**sizes), torch.randn(7, 3, 12, 12)
    forward = 7 * plan.forward_flops(**sizes)
    assert counted(lambda: model(images)) == forward
    # The only product without two of the backward pass is the first: pixels need no gradient.
    embedding = 7 * 2 * (12 // sizes["patch_size"]) ** 2 * 3 * sizes["patch_size"] ** 2 * 24
    assert counted(lambda: model(images).sum().backward()) == 3 * forward - embedding


def test_parameters_are_those_of_the_model():
    model = VisionTransformer(**SIZES)
    assert plan.parameter_count(**SIZES) == sum(parameter.numel() for parameter in model.parameters())


def test_known_costs_of_the_paper_models():
    cifar = {"patch_size": 4, "dim": 512, "depth": 6, "heads": 8, "dim_head": 128, "mlp_dim": 512}
    base = {"patch_size": 16, "dim": 768, "depth": 12, "heads": 12, "dim_head": 64, "mlp_dim": 3072}
    images = {"channels": 3, "classes": 1000, "image_size": 224}
    assert plan.parameter_count(**images, **base) == pytest.approx(86.5e6, rel=0.002)  # 86.57 M with biases of Q, K, V
    # 17.6 G multiply-adds is the figure of ViT-B/16; here the last layer is one for a single token.
    assert 2 * 16e9 < plan.forward_flops(**images, **base) < 2 * 17.6e9
    assert plan.forward_flops(image_size=32, channels=3, classes=10, **cifar) == pytest.approx(2e9, rel=0.1)


def test_cost_of_a_run(config):
    config["vit"]["hardware"]["digits"].update(gpu=2)
    config["plan"]["gpu"] = {"peak_tflops": 1, "utilisation": 0.5}
    cost = plan.run_cost(config, "digits", config["plan"]["images"]["digits"])
    recipe, model = Recipe(**config["vit"]["training"]["digits"]), config["vit"]["models"]["digits"]
    forward = plan.forward_flops(**model, image_size=8, channels=1, classes=10)
    assert cost["flops"] == recipe.epochs * (3 * (1438 // 64 * 64) + 359) * forward
    assert cost["hours"] == pytest.approx(cost["flops"] / 2 / 0.5e12 / 3600)
    assert (cost["device"], cost["devices"]) == ("GPU", 2)
    assert cost["packed"] == 1797 * (64 + 8)
    weights = VisionTransformer(**model, image_size=8, channels=1, classes=10).attention_weights()
    of_snapshot = sum(weight.numel() * 4 for layer in weights for weight in layer.values())
    assert cost["snapshots"] == len(recipe.snapshot_epochs()) * of_snapshot


def test_a_packed_dataset_is_asked_before_the_configuration(config, tmp_path):
    assert plan.known_images(config, "digits", tmp_path)["train"] == 1438
    assert plan.known_images(config, "other", tmp_path) is None
    manifest = {"counts": {"train": 5, "test": 2}, "shape": [4, 4, 1], "classes": ["a", "b"]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    known = plan.known_images(config, "digits", tmp_path)
    assert known == {"train": 5, "test": 2, "shape": [4, 4, 1], "classes": 2}


def test_text_with_and_without_measurements(config, tmp_path):
    text = plan.describe(config, tmp_path, tmp_path)
    assert "train_vit           3" in text
    assert "40% of 0.06 TFLOP/s a core" in text
    assert "measured" not in text
    (tmp_path / "train_vit").mkdir()
    (tmp_path / "train_vit/digits_alpha_0.3_seed_0.tsv").write_text("s\th:m:s\n36.0\t0:00:36\n")
    text = plan.describe(config, tmp_path, tmp_path)
    last = text.splitlines()[-1].split()
    assert last[:3] == ["digits", "0.3", "0"]
    assert float(last[4]) == 0.01
    assert float(last[5]) == pytest.approx(float(last[4]) / float(last[3]), rel=0.01)
    assert max(map(len, text.splitlines())) <= 120


def test_a_dataset_of_unknown_size_is_left_out_and_named(config, tmp_path):
    config["plan"]["images"] = {}
    text = plan.describe(config, tmp_path, tmp_path)
    assert "digits is left out" in text
    assert "train_vit           3" in text


def test_torch_is_not_imported():
    code = "import sys, rank_increase.plan, rank_increase.jobs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow/scripts", check=True)
