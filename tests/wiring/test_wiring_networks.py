"""What the rules of networks show, against a second model trained by torch's own optimizers, and NumPy's SVD."""

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from second import Transformer, cross_entropy, measures, squared_error

RANDOM = ("random_product", "noisy_factors", "turned_factors")

RUNS = [("wide", "0.3", 2), ("wide", "0.6", 2), ("wide", "1", 2), ("wide", "1", 0), ("wide", "1", 5)]
RUNS += [("narrow", "0.6", 2), ("narrow", "1", 2)]
PRODUCTS = ["KQ", "VO"]


@dataclass(frozen=True)
class Network:
    """A network as tests/data/wired.yaml has it, and what follows from it."""

    sizes: dict
    training: dict
    in_epoch: int  # steps
    steps: list  # after which weights are kept

    @property
    def heads(self):
        return [(layer, head) for layer in range(self.sizes["depth"]) for head in range(self.sizes["heads"])]

    @property
    def ranks(self):
        """Of a product, and the greatest of its change."""
        return self.sizes["dim_head"], min(self.sizes["dim"], 2 * self.sizes["dim_head"])


NETWORKS = {
    "wide": Network(
        {"patch_size": 4, "dim": 12, "depth": 3, "heads": 2, "dim_head": 5, "mlp_dim": 7},
        {
            "epochs": 3,
            "warmup_epochs": 1,
            "batch_size": 128,
            "learning_rate": 4e-3,
            "loss": cross_entropy,
            "optimizer": torch.optim.Adam,
        },
        11,
        [0, 1, 2, 3, 4, 6, 8, 11, 16, 22, 23, 32, 33],  # epochs 0 to 3, and powers of the root of 2
    ),
    "narrow": Network(
        {"patch_size": 2, "dim": 10, "depth": 2, "heads": 3, "dim_head": 6, "mlp_dim": 9},
        {
            "epochs": 4,
            "warmup_epochs": 2,
            "batch_size": 200,
            "learning_rate": 5e-2,
            "loss": squared_error,
            "optimizer": partial(torch.optim.SGD, lr=1, momentum=0.8),
        },
        7,
        [0, 7, 14, 28],  # epochs 0, 1, 2 and 4
    ),
}


def split(name):
    """Images and labels of the digits: every fifth is for the test."""
    bunch = load_digits()
    chosen = (np.arange(len(bunch.target)) % 5 == 4) == (name == "test")
    return bunch.images[chosen], bunch.target[chosen]


def test_packed_dataset_is_scikit_learns_digits(wired):
    folder = wired.results / "datasets/numerals"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("train", "test"):
        images, labels = split(name)
        np.testing.assert_array_equal(np.load(folder / f"{name}_samples.npy"), images[..., None])
        np.testing.assert_array_equal(np.load(folder / f"{name}_labels.npy"), labels)
        assert manifest["counts"][name] == len(labels)
    pixels = split("train")[0]
    np.testing.assert_allclose([manifest["mean"], manifest["std"]], [[pixels.mean()], [pixels.std()]])
    assert manifest["shape"] == [8, 8, 1]
    assert manifest["classes"] == [str(digit) for digit in range(10)]
    assert manifest["source"]["source"] == "digits"


def folder(wired, network, alpha, seed):
    return wired.results / f"networks/{network}/alpha_{alpha}/seed_{seed}"


def snapshot(wired, network, alpha, seed, step):
    return load_file(folder(wired, network, alpha, seed) / f"snapshots/step_{step}.safetensors")


@pytest.mark.parametrize(("network", "alpha", "seed"), [("wide", "0.3", 2), ("wide", "1", 0), ("narrow", "0.6", 2)])
def test_metrics_and_snapshots_are_those_of_a_plain_training_loop(wired, network, alpha, seed):
    it = NETWORKS[network]
    (pixels, targets), (test_pixels, test_targets) = split("train"), split("test")
    mean, std = pixels.mean(), pixels.std()
    images, test_images = (torch.tensor((part - mean) / std)[:, None].float() for part in (pixels, test_pixels))
    labels, test_labels = torch.tensor(targets), torch.tensor(test_targets)
    metrics = wired.table(f"networks/{network}/alpha_{alpha}/seed_{seed}/metrics").set_index("epoch")
    assert metrics.index.tolist() == list(range(1, it.training["epochs"] + 1))
    assert len(labels) // it.training["batch_size"] == it.in_epoch
    torch.manual_seed(seed)
    model = Transformer(**it.sizes, image_size=8, channels=1, classes=10)
    model.scale(float(alpha))

    def check_snapshot(step, **tolerance):
        kept = snapshot(wired, network, alpha, seed, step)
        assert len(kept) == 4 * it.sizes["depth"]
        for layer in range(it.sizes["depth"]):
            for letter in "KQVO":
                expected = [
                    model.attention_matrix(layer, letter, head).detach().numpy() for head in range(it.sizes["heads"])
                ]
                np.testing.assert_allclose(kept[f"layer_{layer}.W_{letter}"], expected, **tolerance)

    check_snapshot(0, rtol=1e-5, atol=1e-6)
    losses, right = [], []
    for step, loss, share, rate in model.train(images, labels, **it.training, seed=seed):
        losses.append(loss)
        right.append(share)
        if step in it.steps:
            check_snapshot(step, atol=1e-4)
        if step % it.in_epoch == 0:
            row = metrics.loc[step // it.in_epoch]
            with torch.no_grad():
                logits = model.logits(test_images)
            test_loss = it.training["loss"](logits, test_labels).item()
            test_right = (logits.argmax(1) == test_labels).double().mean().item()
            assert row["step"] == step
            np.testing.assert_allclose(row["learning_rate"], rate, rtol=1e-12)
            found = row[["train_loss", "test_loss"]].tolist()
            np.testing.assert_allclose(found, [np.mean(losses), test_loss], rtol=1e-4)
            # Rounding may tip an image or two over.
            found = row[["train_accuracy", "test_accuracy"]].tolist()
            np.testing.assert_allclose(found, [np.mean(right), test_right], atol=0.006)
            losses, right = [], []


@pytest.mark.parametrize(("network", "alpha", "seed"), RUNS)
def test_snapshots_are_of_the_steps_asked_for_and_say_what_they_hold(wired, network, alpha, seed):
    it, files = NETWORKS[network], {}
    for path in (folder(wired, network, alpha, seed) / "snapshots").glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            files[path.name] = json.loads(file.metadata()["snapshot"])
    assert set(files) == {f"step_{step}.safetensors" for step in it.steps}
    metrics = wired.table(f"networks/{network}/alpha_{alpha}/seed_{seed}/metrics").set_index("step")["epoch"]
    assert {0, metrics.index[-1]} < set(it.steps)
    for step in it.steps:
        metadata = files[f"step_{step}.safetensors"]
        assert metadata["step"] == step
        np.testing.assert_allclose(metadata["epoch"], step / it.in_epoch, rtol=1e-12)
        if step in metrics:
            assert metadata["epoch"] == metrics[step]
        assert metadata["products"] == [
            [product, layer, *(f"layer_{layer}.W_{letter}" for letter in product)]
            for layer in range(it.sizes["depth"])
            for product in PRODUCTS
        ]


def check_spectrum(values, matrix, length):
    """Singular values of a row are those of this matrix."""
    expected = np.linalg.svd(matrix, compute_uv=False)[:length]
    assert len(values) == length
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9 * expected[0])


def factors(snapshots, step, layer, head, product):
    """Both factors of a product of a head, (dim, dim_head) each."""
    left, right = (snapshots[step][f"layer_{layer}.W_{letter}"][head].astype(float) for letter in product)
    return left, right


def spectra_of(wired, network, alpha, seed, *kinds):
    """Snapshots of a run, and singular values of its table of spectra by step, layer, head, product and matrix."""
    it = NETWORKS[network]
    snapshots = {step: snapshot(wired, network, alpha, seed, step) for step in it.steps}
    spectra = wired.table(f"networks/{network}/alpha_{alpha}/seed_{seed}/spectra")
    np.testing.assert_allclose(spectra["epoch"], spectra["step"] / it.in_epoch, rtol=1e-12)
    chosen = spectra[spectra["matrix"].isin(kinds)]
    rows = chosen.set_index(["step", "layer", "head", "product", "matrix"])["singular_values"].to_dict()
    assert len(rows) == len(chosen)
    kept = [step for kind in kinds for step in (it.steps if kind != "initial" else [0])]
    assert len(rows) == len(kept) * len(it.heads) * len(PRODUCTS)
    return snapshots, rows


@pytest.mark.parametrize(("network", "alpha", "seed"), RUNS)
def test_spectra_are_those_of_the_products_of_the_snapshots(wired, network, alpha, seed):
    snapshots, rows = spectra_of(wired, network, alpha, seed, "initial", "trained", "delta")
    rank, rank_of_change = NETWORKS[network].ranks
    for (step, layer, head, product, kind), values in rows.items():
        A, B = factors(snapshots, step, layer, head, product)
        A_0, B_0 = factors(snapshots, 0, layer, head, product)
        matrix = {"initial": A_0 @ B_0.T, "trained": A @ B.T, "delta": A @ B.T - A_0 @ B_0.T}[kind]
        check_spectrum(values, matrix, rank_of_change if kind == "delta" else rank)


@pytest.mark.parametrize(("network", "alpha", "seed"), RUNS)
def test_random_changes_are_as_large_as_those_of_training(wired, network, alpha, seed):
    it = NETWORKS[network]
    snapshots, rows = spectra_of(wired, network, alpha, seed, *RANDOM)
    dim, heads, (rank, rank_of_change) = it.sizes["dim"], it.sizes["heads"], it.ranks
    for layer, number in np.ndindex(it.sizes["depth"], 2):
        product, rng = PRODUCTS[number], np.random.default_rng([seed, layer, number])
        gaussian = rng.standard_normal((2, heads, dim, rank_of_change))  # side, head
        noise = rng.standard_normal((2, heads, dim, rank))
        turns = [np.linalg.svd(rng.standard_normal((heads, dim, rank)), full_matrices=False) for _ in range(2)]
        for head in range(heads):
            A_0, B_0 = factors(snapshots, 0, layer, head, product)
            direction = gaussian[0, head] @ gaussian[1, head].T
            direction /= np.linalg.norm(direction)
            for step in it.steps:
                A, B = factors(snapshots, step, layer, head, product)
                random = direction * np.linalg.norm(A @ B.T - A_0 @ B_0.T)
                check_spectrum(rows[step, layer, head, product, "random_product"], random, rank_of_change)
                moved = [
                    factor_0 + side[head] / np.linalg.norm(side[head]) * np.linalg.norm(factor - factor_0)
                    for factor_0, factor, side in ((A_0, A, noise[0]), (B_0, B, noise[1]))
                ]
                changed = moved[0] @ moved[1].T - A_0 @ B_0.T if step else np.zeros((dim, dim))
                check_spectrum(rows[step, layer, head, product, "noisy_factors"], changed, rank_of_change)
                turned = [
                    factor_0 + u[head] * np.linalg.svd(factor - factor_0, compute_uv=False) @ v[head]
                    for factor_0, factor, (u, _, v) in ((A_0, A, turns[0]), (B_0, B, turns[1]))
                ]
                changed = turned[0] @ turned[1].T - A_0 @ B_0.T if step else np.zeros((dim, dim))
                check_spectrum(rows[step, layer, head, product, "turned_factors"], changed, rank_of_change)


@pytest.mark.parametrize("network", ["wide", "narrow"])
def test_measures_are_those_of_the_singular_values_of_the_same_row(wired, network):
    spectra, found = (wired.table(f"tables/{name}/{network}") for name in ("spectra", "measures"))
    keys = ["network", "alpha", "seed", "step", "epoch", "layer", "head", "product", "matrix"]
    expected = [measures(values) for values in spectra["singular_values"]]
    assert set(found) == {*keys, *expected[0]}
    assert set(spectra) == {*keys, "singular_values"}
    values = dict(zip(spectra[keys].itertuples(index=False, name=None), expected, strict=True))
    assert len(values) == len(found)
    for *key, row in zip(*(found[name] for name in keys), found[list(expected[0])].to_dict("records"), strict=True):
        for name, value in values[tuple(key)].items():
            np.testing.assert_allclose(row[name], value, rtol=1e-9, err_msg=f"{key}: {name}")
    assert set(found["matrix"]) == {"initial", "trained", "delta", *RANDOM}
