"""Snapshots: what is read is what was written, in the same bytes each time, and any damage is noticed."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rank_increase.networks.attention import Product
from rank_increase.training.snapshots import (
    SnapshotError,
    Snapshots,
    check_snapshot,
    open_snapshot,
    snapshot_path,
    write_snapshot,
)
from runs import flip_a_bit, truncate

# Products of two layers, of different sizes, and one whose name the library does not know.
PRODUCTS = [
    Product("KQ", 0, "layer_0.W_K", "layer_0.W_Q"),
    Product("MLP", 0, "layer_0.first", "layer_0.second"),
    Product("KQ", 1, "layer_1.W_K", "layer_1.W_Q"),
]
SHAPES = {"KQ": (3, 5, 2), "MLP": (1, 5, 4)}


def weights_at(step):
    rng = np.random.default_rng(step)
    return {
        name: rng.standard_normal(SHAPES[product.name]).astype("f4")
        for product in PRODUCTS
        for name in (product.A, product.B)
    }


@pytest.fixture
def folder(tmp_path):
    """Snapshots after steps 0, 3, 8 and 20, with 8 steps in an epoch."""
    for step in (8, 0, 20, 3):
        write_snapshot(snapshot_path(tmp_path, step), weights_at(step), PRODUCTS, step=step, epoch=step / 8)
    return tmp_path


def test_snapshots_are_what_was_written(folder):
    assert {path.name for path in folder.iterdir()} == {f"step_{step}.safetensors" for step in (0, 3, 8, 20)}
    snapshots = Snapshots(folder)
    assert snapshots.steps == [0, 3, 8, 20]
    assert snapshots.epochs == {0: 0.0, 3: 0.375, 8: 1.0, 20: 2.5}
    assert snapshots.products == [tuple(product) for product in PRODUCTS]
    for step in snapshots.steps:
        for product in snapshots.products:
            for factor, name in zip(snapshots.factors(step, product), product[2:], strict=True):
                assert factor.dtype == np.float64 and factor.shape == SHAPES[product[0]]
                np.testing.assert_array_equal(factor, weights_at(step)[name])


def test_file_alone_says_what_it_holds(folder):
    with safe_open(snapshot_path(folder, 3), framework="numpy") as file:
        [(key, text)] = file.metadata().items()
        description = json.loads(text)
    assert key == "snapshot" and len(description.pop("sha256")) == 64
    products = [list(product) for product in PRODUCTS]
    assert description == {"products": products, "matrices": [], "step": 3, "epoch": 0.375}
    assert check_snapshot(snapshot_path(folder, 3)) == description


def test_same_weights_make_the_same_file(tmp_path):
    written = set()
    for _ in range(10):
        write_snapshot(tmp_path / "file", weights_at(1), PRODUCTS, step=1, epoch=0.1)
        written.add((tmp_path / "file").read_bytes())
    write_snapshot(tmp_path / "file", dict(reversed(weights_at(1).items())), PRODUCTS, step=1, epoch=0.1)
    assert written == {(tmp_path / "file").read_bytes()}


def test_weights_that_are_not_contiguous_are_written_as_they_are(tmp_path):
    weights = {name: weight.swapaxes(1, 2).copy().swapaxes(1, 2) for name, weight in weights_at(0).items()}
    assert not any(weight.flags.c_contiguous for weight in weights.values())
    write_snapshot(snapshot_path(tmp_path, 0), weights, PRODUCTS, step=0, epoch=0)
    A, B = Snapshots(tmp_path).factors(0, PRODUCTS[1])
    np.testing.assert_array_equal(A, weights["layer_0.first"])
    np.testing.assert_array_equal(B, weights["layer_0.second"])


def test_every_bit_of_the_file_is_watched(tmp_path):
    path = tmp_path / "file"
    write_snapshot(path, {"a": np.ones((1, 2, 1), "f4"), "b": np.ones((1, 2, 1), "f4")}, [("x", 0, "a", "b")],
                   step=5, epoch=0.5)  # fmt: skip
    check_snapshot(path)
    whole, length = path.read_bytes(), 8 + int.from_bytes(path.read_bytes()[:8], "little")
    unnoticed = []
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                check_snapshot(path)
            except SnapshotError as error:
                assert str(error).startswith(f"{path} is damaged: ")
            else:
                unnoticed.append(place)
    padding = len(whole[:length]) - len(whole[:length].rstrip(b" "))
    assert all(length - padding <= place < length for place in unnoticed)  # spaces behind the header may be others


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_damaged_snapshot_is_named_and_what_to_do(folder, damage):
    damage(snapshot_path(folder, 8))
    with pytest.raises(SnapshotError, match=f"^{folder}/step_8.safetensors is damaged: "):
        check_snapshot(snapshot_path(folder, 8))
    with pytest.raises(ValueError, match=f"step_8.safetensors is damaged: .*: delete {folder} and run the same"):
        Snapshots(folder)


def test_snapshots_that_cannot_be_used_are_named(folder, tmp_path_factory):
    with pytest.raises(SnapshotError, match=r"step_7.safetensors does not exist"):
        open_snapshot(snapshot_path(folder, 7))
    with pytest.raises(ValueError, match="step_20.safetensors: layer_7.W_K"):
        Snapshots(folder).factors(20, ("KQ", 7, "layer_7.W_K", "layer_7.W_Q"))
    (folder / "step_3.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="step_3.safetensors is damaged"):
        Snapshots(folder)
    save_file({"layer_0.W_K": np.ones((1, 2, 2), "f4")}, folder / "step_3.safetensors")  # not ours
    with pytest.raises(ValueError, match="step_3.safetensors is damaged"):
        Snapshots(folder)
    (folder / "step_0.safetensors").unlink()
    with pytest.raises(ValueError, match="no step_0.safetensors, the weights at initialization"):
        Snapshots(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    weights = weights_at(0)
    weights["layer_0.second"][0, 4, 3] = value
    write_snapshot(snapshot_path(tmp_path, 0), weights, PRODUCTS, step=0, epoch=0)
    snapshots = Snapshots(tmp_path)
    snapshots.factors(0, PRODUCTS[0])
    with pytest.raises(ValueError, match="step_0.safetensors: layer_0.second is not finite; the run has diverged"):
        snapshots.factors(0, PRODUCTS[1])
