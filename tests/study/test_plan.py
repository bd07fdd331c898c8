"""The plan of a study: torch's count of operations against a formula, and its text."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rank_increase.networks.vit import VisionTransformer
from rank_increase.study import plan
from rank_increase.study.configuration import read_config, read_study

ROOT = Path(__file__).parents[2]
# No two sizes are equal, so that no mix-up goes unnoticed.
MODEL = {"patch_size": 2, "dim": 24, "depth": 3, "heads": 5, "dim_head": 8, "mlp_dim": 20}
IMAGES = {"train": 100, "test": 30, "kind": "pixels", "shape": [12, 12, 3], "label_shape": [], "classes": 4}


def changed(config, **sections):
    for path, value in sections.items():
        *above, key = path.split("__")
        part = config
        for name in above:
            part = part.setdefault(name, {})
        part[key] = value
    return config


@pytest.fixture
def config():
    return read_config(ROOT / "config/config.yaml")


def network(config, model=None, **hardware):
    part = config["networks"]["digits"]
    part["model"] = {"family": "vit", **MODEL, **(model or {})}
    part["hardware"] = {**part["hardware"], **hardware}
    study = read_study({**config, "study": "mine"})
    return study, study.networks["digits"]


def forward_flops(images, *, patch_size, dim, depth, heads, dim_head, mlp_dim):
    """FLOPs of the matrix products of a vision transformer, whose last layer computes the class token alone."""
    (side, _, channels), features = images["shape"], heads * dim_head
    patches = (side // patch_size) ** 2
    tokens = patches + 1
    layer = 8 * tokens * dim * features + 4 * tokens**2 * features + 4 * tokens * dim * mlp_dim
    last_layer = 4 * dim * features + 4 * tokens * dim * features + 4 * tokens * features + 4 * dim * mlp_dim
    embedding = 2 * patches * channels * patch_size**2 * dim
    return embedding + (depth - 1) * layer + last_layer + 2 * dim * images["classes"], embedding


@pytest.mark.parametrize("change", [{}, {"depth": 1}, {"patch_size": 4, "heads": 2}])
def test_flops_are_those_of_the_formula(config, change):
    _, one = network(config, change)
    cost = plan.model_cost(one, IMAGES)
    forward, embedding = forward_flops(IMAGES, **(MODEL | change))
    assert cost["forward"] == forward
    # The only product without two of the backward pass is the first: pixels need no gradient.
    assert cost["training"] == 3 * forward - embedding


def test_parameters_weights_and_products_are_those_of_the_model(config):
    _, one = network(config)
    model, cost = VisionTransformer(IMAGES["shape"], IMAGES["classes"], **MODEL), plan.model_cost(one, IMAGES)
    assert cost["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert cost["weights"] == sum(weight.numel() for weight in model.weights().values())
    assert cost["products"] == [(5, 8, 16)] * 6  # heads, rank of a product and of its change; 2 products a layer


def test_known_costs_of_the_paper_models():
    study = read_study(read_config(ROOT / "config/paper.yaml"))
    costs = {
        name: plan.model_cost(one, study.plan.datasets[one.dataset].model_dump())
        for name, one in study.networks.items()
    }
    assert costs["imagenet"]["parameters"] == pytest.approx(86.5e6, rel=0.002)  # 86.57 M with biases of Q, K, V
    # 17.6 G multiply-adds is the figure of ViT-B/16; here the last layer is one for a single token.
    assert 2 * 16e9 < costs["imagenet"]["forward"] < 2 * 17.6e9
    assert costs["cifar10"]["forward"] == pytest.approx(2e9, rel=0.1)


def test_cost_of_a_run(config):
    config = changed(config, plan__gpu={"peak_tflops": 1.0, "utilisation": 0.5})
    study, one = network(config, gpu=2)
    images = study.plan.datasets["digits"].model_dump()
    cost = plan.run_cost(study, one, images)
    forward, embedding = forward_flops(images, **MODEL)
    trained = 1438 // 64 * 64
    assert cost["flops"] == 30 * ((3 * forward - embedding) * trained + 359 * forward)
    assert cost["hours"] == pytest.approx(cost["flops"] / 2 / 0.5e12 / 3600)
    assert (cost["device"], cost["devices"]) == ("GPU", 2)
    assert cost["packed"] == 1797 * (64 + 8)
    of_snapshot = 4 * 3 * 4 * 24 * 5 * 8  # float32, layers, weights, dim, heads, dim_head
    assert cost["snapshots"] == len(one.recipe.snapshot_steps(22)) * of_snapshot


def test_memory_is_that_of_weights_and_moments_and_of_a_pass(config):
    costs = {}
    for depth in (2, 3, 4):
        study, one = network(config, {"depth": depth}, gpu=2, pass_size=10)
        samples = study.plan.datasets["digits"].model_dump()
        of_model, of_run = plan.model_cost(one, samples), plan.run_cost(study, one, samples)
        costs[depth] = of_model["activations"]
        assert of_run["memory"] == 16 * of_model["parameters"] + 10 * of_model["activations"]
    assert costs[4] - costs[3] == costs[3] - costs[2] > 0  # layers are alike
    tokens, features = (8 // 2) ** 2 + 1, 5 * 8
    # At the least, in bfloat16: inputs of two norms, of the joint and the last product, q, k, v, inputs of both layers
    # of the MLP and of its GELU. At most three times that.
    least = 2 * tokens * (2 * 24 + 24 + features + 3 * features + 24 + 20 + 20)
    assert least <= costs[4] - costs[3] <= 3 * least
    study, one = network(config, gpu=2, pass_size=0)  # half of a batch on each
    cost = plan.run_cost(study, one, samples)
    assert cost["memory"] == 16 * cost["parameters"] + 32 * plan.model_cost(one, samples)["activations"]


def test_the_study_paper_fits_nodes_that_there_are():
    study = read_study(read_config(ROOT / "config/paper.yaml"))
    for one in study.networks.values():
        cost = plan.run_cost(study, one, study.plan.datasets[one.dataset].model_dump())
        assert cost["memory"] < 0.9 * 40e9  # an A100 of 40 GB
        assert cost["packed"] < cost["asked"] <= 256e9  # stays in the memory of the node
        assert cost["packed"] + cost["snapshots"] + cost["checkpoints"] < 0.25e12


def test_data_larger_than_the_memory_asked_for_are_named(config):
    text = plan.describe(network(config, mem_mb=1)[0], "nowhere", "nowhere")
    assert "digits: the packed data are larger than `hardware.mem_mb`" not in text  # 130 kB
    config["plan"]["datasets"]["digits"]["train"] = 10**6
    text = plan.describe(read_study({**config, "study": "mine"}), "nowhere", "nowhere")
    assert "digits: the packed data are larger than `hardware.mem_mb`" in text


def test_cost_of_a_run_on_some_of_the_samples(config):
    study, one = network(config)
    images = study.plan.datasets["digits"].model_dump()
    part = one.recipe.model_copy(update={"train_samples": 130, "test_samples": 50})
    cost = plan.run_cost(study, one.model_copy(update={"recipe": part}), images)
    forward, embedding = forward_flops(images, **MODEL)
    assert cost["flops"] == 30 * ((3 * forward - embedding) * 128 + 50 * forward)


def test_a_packed_dataset_is_asked_before_the_configuration(config, tmp_path):
    study = read_study(config)
    assert plan.known_samples(study, "digits", tmp_path)["train"] == 1438
    assert plan.known_samples(study, "other", tmp_path) is None
    of_sample = {"kind": "tokens", "shape": [4], "label_shape": [4]}
    manifest = {"counts": {"train": 5, "test": 2}, **of_sample, "classes": ["a", "b"]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert plan.known_samples(study, "digits", tmp_path) == {"train": 5, "test": 2, **of_sample, "classes": 2}


def test_text_with_and_without_measurements(config, tmp_path):
    study = read_study(config)
    text = plan.describe(study, tmp_path, tmp_path)
    assert "train_network     9" in text
    assert "40% of 0.06 TFLOP/s a core" in text
    assert "measured" not in text
    (tmp_path / "train_network").mkdir()
    (tmp_path / "train_network/digits_alpha_0.3_seed_0.tsv").write_text("s\th:m:s\n36.0\t0:00:36\n")
    text = plan.describe(study, tmp_path, tmp_path)
    last = text.splitlines()[-1].split()
    assert last[:3] == ["digits", "0.3", "0"]
    assert float(last[4]) == 0.01
    assert float(last[5]) == pytest.approx(float(last[4]) / float(last[3]), rel=0.01)
    assert max(map(len, text.splitlines())) <= 120


def test_a_dataset_of_unknown_size_is_left_out_and_named(config, tmp_path):
    text = plan.describe(read_study(changed(config, plan={})), tmp_path, tmp_path)
    assert "digits is left out: the size of digits is not known before it is packed" in text
    assert "train_network     9" in text


def test_a_study_without_networks_or_without_a_toy_half_has_a_plan(config, tmp_path):
    networks, figures = config.pop("networks"), config.pop("figures")
    text = plan.describe(read_study(config), tmp_path, tmp_path)
    assert "Toy runs: about" in text and "Training of networks" not in text
    del config["toy"], config["assumptions"]
    text = plan.describe(read_study(config | {"networks": networks}), tmp_path, tmp_path)
    assert "Toy runs" not in text and "Training of networks" in text
    assert figures


def test_the_time_of_the_toy_half_grows_as_its_parts_do(config):
    def hours(**changes):
        return plan.toy_hours(read_study({**config, "figures": {}, "toy": {**config["toy"], **changes}}))

    sgd = [{"variant": "diagonal_sgd", "alphas": ["0.01"], "seeds": [99]}]
    gd = [{"variant": "diagonal_gd", "alphas": ["0.01"], "seeds": [99]}]
    assert hours(runs=gd, step=0.225) == pytest.approx(2 * hours(runs=gd))
    assert hours(runs=gd, samples=2000) == pytest.approx(2 * hours(runs=gd))
    assert hours(runs=sgd) == pytest.approx(hours(runs=gd) / 10)
    assert 0.02 < hours() < 0.5  # the demo's toy runs took about 0.07 core-hours


def test_torch_is_not_imported_for_a_study_without_networks():
    code = (
        "import sys; from rank_increase.study import plan, configuration as c;"
        "plan.describe(c.read_study({'study': 'a', 'toy': {'runs': [{'alphas': ['0.1']}]}}), '.', '.');"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow", check=True)
