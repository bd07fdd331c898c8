"""What the rules of vision transformers show, against a second model trained by torch's Adam, and NumPy's SVD."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from second import Transformer

SIZES = {"patch_size": 4, "dim": 12, "depth": 3, "heads": 2, "dim_head": 5, "mlp_dim": 7}
TRAINING = {"epochs": 3, "warmup_epochs": 1, "batch_size": 128, "learning_rate": 4e-3}
EPOCHS = [0, 1, 2, 3]  # of which snapshots are kept
RUNS = [("0.3", 2), ("0.6", 2), ("1", 2), ("0.6", 0)]
RANDOM_PRODUCT, NOISY_FACTORS = "factors", "noise"  # names of the baselines


def split(name):
    """Images and labels of the digits: every fifth is for the test."""
    bunch = load_digits()
    chosen = (np.arange(len(bunch.target)) % 5 == 4) == (name == "test")
    return bunch.images[chosen], bunch.target[chosen]


def test_packed_dataset_is_scikit_learns_digits(wired):
    folder = wired.results / "datasets/digits"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("train", "test"):
        images, labels = split(name)
        np.testing.assert_array_equal(np.load(folder / f"{name}_images.npy"), images[..., None])
        np.testing.assert_array_equal(np.load(folder / f"{name}_labels.npy"), labels)
        assert manifest["counts"][name] == len(labels)
    pixels = split("train")[0]
    np.testing.assert_allclose([manifest["mean"], manifest["std"]], [[pixels.mean()], [pixels.std()]])
    assert manifest["shape"] == [8, 8, 1]
    assert manifest["classes"] == [str(digit) for digit in range(10)]
    assert manifest["source"]["source"] == "digits"


def snapshot(wired, alpha, seed, epoch):
    return load_file(wired.results / f"vit/digits/alpha_{alpha}/seed_{seed}/snapshots/epoch_{epoch}.safetensors")


@pytest.mark.parametrize(("alpha", "seed"), [("0.3", 2), ("0.6", 0)])
def test_metrics_and_snapshots_are_those_of_a_plain_training_loop(wired, alpha, seed):
    (pixels, targets), (test_pixels, test_targets) = split("train"), split("test")
    mean, std = pixels.mean(), pixels.std()
    images, test_images = (torch.tensor((part - mean) / std)[:, None].float() for part in (pixels, test_pixels))
    labels, test_labels = torch.tensor(targets), torch.tensor(test_targets)
    metrics = wired.table(f"vit/digits/alpha_{alpha}/seed_{seed}/metrics").set_index("epoch")
    assert metrics.index.tolist() == EPOCHS[1:]
    torch.manual_seed(seed)
    model = Transformer(**SIZES, image_size=8, channels=1, classes=10)
    model.scale(float(alpha))

    def check_snapshot(epoch, **tolerance):
        kept = snapshot(wired, alpha, seed, epoch)
        assert len(kept) == 4 * SIZES["depth"]
        for layer in range(SIZES["depth"]):
            for letter in "KQVO":
                expected = [model.attention_matrix(layer, letter, head).detach().numpy() for head in range(2)]
                np.testing.assert_allclose(kept[f"layer_{layer}.W_{letter}"], expected, **tolerance)

    check_snapshot(0, rtol=1e-5, atol=1e-6)
    for epoch, loss, right, rate in model.train(images, labels, **TRAINING, seed=seed):
        row = metrics.loc[epoch]
        with torch.no_grad():
            logits = model.logits(test_images)
        test_loss = F.cross_entropy(logits, test_labels).item()
        test_right = (logits.argmax(1) == test_labels).double().mean().item()
        assert row["step"] == epoch * (len(labels) // TRAINING["batch_size"])
        np.testing.assert_allclose(row["learning_rate"], rate, rtol=1e-12)
        np.testing.assert_allclose(row[["train_loss", "test_loss"]].tolist(), [loss, test_loss], rtol=1e-4)
        # Rounding may tip an image or two over.
        np.testing.assert_allclose(row[["train_accuracy", "test_accuracy"]].tolist(), [right, test_right], atol=0.006)
        check_snapshot(epoch, atol=1e-4)
    assert not (wired.results / f"vit/digits/alpha_{alpha}/seed_{seed}/snapshots/epoch_4.safetensors").exists()


def measures(values):
    """Of singular values, descending and not all zero."""
    share = values[values > 0] / values.sum()
    return {
        "stable_rank": (values**2).sum() / values[0] ** 2,
        "effective_rank": np.exp(-(share * np.log(share)).sum()),
        "participation_ratio": (values**2).sum() ** 2 / (values**4).sum(),
        "numerical_rank": (values > 0.01 * values[0]).sum(),
        "frobenius_norm": np.sqrt((values**2).sum()),
        "spectral_norm": values[0],
        "nuclear_norm": values.sum(),
    }


def check_spectrum(row, matrix, length):
    """A row of a table of spectra is of this matrix."""
    values = np.linalg.svd(matrix, compute_uv=False)[:length]
    assert len(row["singular_values"]) == length
    np.testing.assert_allclose(row["singular_values"], values, rtol=1e-6, atol=1e-9 * values[0])
    if values[0] > 0:
        for name, value in measures(values).items():
            np.testing.assert_allclose(row[name], value, rtol=1e-5, err_msg=name)
    else:
        assert np.isnan(row["stable_rank"])
        assert row["frobenius_norm"] == 0


def factors(snapshots, epoch, layer, head, product):
    """Both factors of a product of a head, (dim, dim_head) each."""
    left, right = (snapshots[epoch][f"layer_{layer}.W_{letter}"][head].astype(float) for letter in product)
    return left, right


@pytest.mark.parametrize(("alpha", "seed"), RUNS)
def test_spectra_are_those_of_the_products_of_the_snapshots(wired, alpha, seed):
    snapshots = {epoch: snapshot(wired, alpha, seed, epoch) for epoch in EPOCHS}
    spectra = wired.table(f"vit/digits/alpha_{alpha}/seed_{seed}/spectra")
    assert (spectra["step"] == 11 * spectra["epoch"]).all()
    keys = ["epoch", "layer", "head", "product", "matrix"]
    kinds = [
        (epoch, kind) for epoch in EPOCHS for kind in ("initial", "trained", "delta") if kind != "initial" or not epoch
    ]
    assert len(spectra) == len(kinds) * 3 * 2 * 2
    rows = spectra.set_index(keys).to_dict("index")
    for layer, head, product in np.ndindex(3, 2, 2):
        product = ("KQ", "VO")[product]
        for epoch, kind in kinds:
            A, B = factors(snapshots, epoch, layer, head, product)
            A_0, B_0 = factors(snapshots, 0, layer, head, product)
            matrix = {"initial": A_0 @ B_0.T, "trained": A @ B.T, "delta": A @ B.T - A_0 @ B_0.T}[kind]
            check_spectrum(rows[epoch, layer, head, product, kind], matrix, 10 if kind == "delta" else 5)


@pytest.mark.parametrize(("alpha", "seed"), RUNS)
def test_baselines_are_random_changes_as_large_as_those_of_training(wired, alpha, seed):
    snapshots = {epoch: snapshot(wired, alpha, seed, epoch) for epoch in EPOCHS}
    baselines = wired.table(f"vit/digits/alpha_{alpha}/seed_{seed}/baselines")
    assert len(baselines) == len(EPOCHS) * 3 * 2 * 2 * 2
    assert (baselines["step"] == 11 * baselines["epoch"]).all()
    rows = baselines.set_index(["epoch", "layer", "head", "product", "baseline"]).to_dict("index")
    for layer, number in np.ndindex(3, 2):
        product, rng = ("KQ", "VO")[number], np.random.default_rng([seed, layer, number])
        gaussian, noise = rng.standard_normal((2, 2, 12, 10)), rng.standard_normal((2, 2, 12, 5))  # side, head
        for head, epoch in np.ndindex(2, 4):
            A, B = factors(snapshots, epoch, layer, head, product)
            A_0, B_0 = factors(snapshots, 0, layer, head, product)
            random = gaussian[0, head] @ gaussian[1, head].T
            random *= np.linalg.norm(A @ B.T - A_0 @ B_0.T) / np.linalg.norm(random)
            check_spectrum(rows[epoch, layer, head, product, RANDOM_PRODUCT], random, 10)
            moved = [
                factor_0 + side[head] / np.linalg.norm(side[head]) * np.linalg.norm(factor - factor_0)
                for factor_0, factor, side in ((A_0, A, noise[0]), (B_0, B, noise[1]))
            ]
            changed = moved[0] @ moved[1].T - A_0 @ B_0.T if epoch else np.zeros((12, 12))
            check_spectrum(rows[epoch, layer, head, product, NOISY_FACTORS], changed, 10)
