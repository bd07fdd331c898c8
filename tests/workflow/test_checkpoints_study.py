"""A study of networks that were trained elsewhere, here a torchvision ViT: spectra, measures, a figure, claims."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from safetensors.torch import save_file

from rank_increase.tables import read_provenance, read_table

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS, SEEDS = (0, 1, 4, 8), (3, 5, 8)
HEADS, DIM = 2, 12
STUDY = {
    "study": "adopted",
    "checkpoints": {
        "vit": {
            "label": "A ViT of torchvision",
            "model": {"family": "torchvision_vit", "heads": HEADS},
            "files": "from/seed{seed}/checkpoint-{step}/model.safetensors",
            "steps_per_epoch": 4,
            "seeds": list(SEEDS),
        }
    },
    "figures": {"dpi": 30},
}
TARGETS = ["networks", "fig12", "claims", "explorer"]


def train(folder, seed):
    """Checkpoints of a few steps on random images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchvision.models import VisionTransformer
    torch.manual_seed(seed)
    model = VisionTransformer(4, 2, 2, HEADS, DIM, 8, num_classes=3)
    torch.nn.init.normal_(model.heads.head.weight)  # torchvision's zeros would send back no gradient
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    images, labels = torch.randn(20, 3, 4, 4), torch.randint(3, (20,))
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            path = folder / f"seed{seed}" / f"checkpoint-{step}" / "model.safetensors"
            path.parent.mkdir(parents=True)
            save_file(model.state_dict(), path)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def snakemake(folder, *arguments, study="adopted"):
    line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    line += [*arguments, "--configfile", folder / f"{study}.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(list(map(str, line)), cwd=ROOT, env=environment, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adopted")
    for seed in SEEDS:
        train(folder / "from", seed)
    (folder / "adopted.yaml").write_text(yaml.safe_dump(STUDY))
    code, output = snakemake(folder, *TARGETS)
    assert code == 0, output
    return folder


@pytest.fixture
def results(folder):
    return folder / "results/adopted"


def products(folder, seed, step):
    """W_K W_Q^T and W_V W_O^T of every layer and head, from rows of torch's own projections; dense matrices."""
    tensors = load_file(folder / "from" / f"seed{seed}" / f"checkpoint-{step}" / "model.safetensors")
    found = {}
    for layer in range(2):
        name = f"encoder.layers.encoder_layer_{layer}.self_attention."
        fused, output = tensors[name + "in_proj_weight"].astype(float), tensors[name + "out_proj.weight"].astype(float)
        for head in range(HEADS):
            rows = np.arange(6 * head, 6 * head + 6)
            query, key, value = (fused[begin * DIM + rows] for begin in range(3))
            found["KQ", layer, head] = key.T @ query
            found["VO", layer, head] = value.T @ output[:, rows].T
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_spectra_are_those_of_the_checkpoints(folder, results, seed):
    spectra = read_table(results / "tables/spectra/vit.parquet").astype({"product": str, "matrix": str, "alpha": str})
    assert set(spectra["step"]) == set(STEPS) and set(spectra["seed"]) == set(SEEDS) and set(spectra["alpha"]) == {"1"}
    start = products(folder, seed, 0)
    for step in STEPS:
        rows = spectra[(spectra["seed"] == seed) & (spectra["step"] == step)]
        assert set(rows["epoch"]) == {step / 4}
        for (product, layer, head), trained in products(folder, seed, step).items():
            of = rows[(rows["product"] == product) & (rows["layer"] == layer) & (rows["head"] == head)]
            of = of.set_index("matrix")["singular_values"]
            for matrix, dense in {"trained": trained, "delta": trained - start[product, layer, head]}.items():
                expected = np.linalg.svd(dense, compute_uv=False)[: len(of[matrix])]
                np.testing.assert_allclose(of[matrix], expected, atol=1e-8 * max(expected[0], 1))


def test_measures_figure_claims_and_explorer_are_made_as_of_trained_networks(results):
    measures = read_table(results / "tables/measures/vit.parquet")
    assert measures["stable_rank"].between(1, 12 + 1e-9).sum() > 100
    assert (results / "figures/fig12.png").stat().st_size > 5000
    assert "has no rows" not in (results / "logs/figures/fig12.log").read_text()
    claims = read_table(results / "claims.parquet").set_index("id")
    assert claims.loc["vit.rank_grows.vit.KQ", "verdict"] != "not tested"
    assert claims.loc["vit.rank_grows.vit.KQ", "n"] == "3 seeds, 4 heads each"
    assert "A ViT of torchvision" in claims.loc["vit.rank_grows.vit.KQ", "statement"]
    assert "A ViT of torchvision" in (results / "explorer.html").read_text()


def test_where_the_weights_come_from_is_kept(results):
    path = results / "networks/vit/alpha_1/seed_3/checkpoints.parquet"
    rows = read_table(path)
    assert rows["step"].tolist() == list(STEPS)
    assert rows["files"].tolist() == [f"from/seed3/checkpoint-{step}/model.safetensors" for step in STEPS]
    assert rows["cosine"].is_monotonic_decreasing and rows["cosine"].iloc[0] == pytest.approx(1)
    assert read_provenance(path)["params"]["model"] == {"family": "torchvision_vit", "heads": 2}


def planned(folder):
    code, output = snakemake(folder, "-n", *TARGETS)
    assert code == 0, output
    return {line.split()[0] for line in re.findall(r"(?m)^\w+ +\d+$", output)} - {*TARGETS, "total"}


def test_results_outlive_their_checkpoints_and_follow_their_changes(folder, results):
    assert planned(folder) == set()
    (folder / "from").rename(folder / "gone")
    assert planned(folder) == set()
    (folder / "gone").rename(folder / "from")
    path = folder / "from/seed3/checkpoint-8/model.safetensors"
    os.utime(path, (1, 1))
    assert {"import_checkpoints", "compute_spectra", "measure_spectra"} <= planned(folder)


def test_plan_and_status_count_what_is_only_imported(folder):
    _, plan = snakemake(folder, "plan")
    assert re.search(r"(?m)^ *import_checkpoints +3$", plan) and "train_network" not in plan
    _, status = snakemake(folder, "status")
    assert re.search(r"their spectra +3 +0 +3", status)


def test_a_mistake_in_the_files_is_one_sentence(folder):
    config = {**STUDY, "study": "wrong", "checkpoints": {"vit": {**STUDY["checkpoints"]["vit"], "seeds": [7]}}}
    (folder / "wrong.yaml").write_text(yaml.safe_dump(config))
    code, output = snakemake(folder, "networks", study="wrong")
    assert code != 0
    assert "there is no checkpoint of step 0, since which changes are measured: no file has such a name." in output
