"""Batches: their order follows from seed and epoch alone, whatever the start and the number of processes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from made_up import made_up
from rank_increase.data import batches
from rank_increase.data.batches import Batches, _crop_and_flip, _Split, meta_batch
from rank_increase.data.packed import open_dataset, pack

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Folder of a dataset of 70 training and 21 test images."""
    folder = tmp_path_factory.mktemp("data") / "set"
    pack(folder, made_up(np.random.default_rng(0), train=70, test=21, shape=(8, 8, 2))[0], {})
    return str(folder)


def test_epoch_is_a_permutation_that_follows_from_seed_and_epoch(dataset):
    opened = open_dataset(dataset)

    def seen(seed, epoch, **options):
        batches = Batches(opened, CPU, batch_size=16, seed=seed, **options)
        return [images.flatten(1) for images, _ in batches.train(epoch)]

    first = seen(0, 1)
    assert [len(batch) for batch in first] == [16] * 4
    rows = {row.numpy().tobytes() for batch in first for row in batch}
    assert len(rows) == 64 and rows <= {image.tobytes() for image in opened.train_samples}
    torch.testing.assert_close(first, seen(0, 1))
    assert not torch.equal(first[0], seen(0, 2)[0]) and not torch.equal(first[0], seen(1, 1)[0])


@pytest.mark.parametrize("augment", [True, False])
def test_steps_are_the_same_for_any_start_and_number_of_processes(dataset, augment):
    opened, options = open_dataset(dataset), {"batch_size": 16, "seed": 5, "augment": augment}
    whole = list(Batches(opened, CPU, **options).train(2))
    torch.testing.assert_close(list(Batches(opened, CPU, **options).train(2, first_step=3)), whole[3:])
    parts = [list(Batches(opened, CPU, rank=rank, processes=3, **options).train(2)) for rank in range(3)]
    for step, (images, labels) in enumerate(whole):
        for rank in range(3):
            torch.testing.assert_close(parts[rank][step], (images[rank::3], labels[rank::3]))


def test_test_split_is_seen_once(dataset):
    opened = open_dataset(dataset)
    labels = [Batches(opened, CPU, batch_size=16, seed=0, rank=rank, processes=2).test(4) for rank in range(2)]
    counts = [[len(part) for _, part in passes] for passes in labels]
    assert counts == [[4, 4, 3], [4, 4, 2]]


def rows_of(passes):
    """Each sample, as bytes, with its label."""
    return {
        (row.numpy().tobytes(), int(label))
        for samples, labels in passes
        for row, label in zip(samples, labels, strict=True)
    }


def test_a_part_of_the_samples_is_drawn_once_for_all_runs(dataset):
    opened = open_dataset(dataset)

    def used(seed):
        batches = Batches(opened, CPU, batch_size=8, seed=seed, train_samples=24, test_samples=5)
        assert (batches.steps, batches.test_count) == (3, 5)
        return rows_of(batches.train(1)), rows_of(batches.test(2))

    train, test = used(0)
    assert (len(train), len(test)) == (24, 5)
    assert used(1) == (train, test)
    everything = Batches(opened, CPU, batch_size=10, seed=0)
    assert train < rows_of(everything.train(1)) and test < rows_of(everything.test(21))
    first = {image.tobytes() for image in opened.train_samples[:24]}
    assert {image for image, _ in train} != first  # drawn at random: files may be sorted by class


def test_shuffled_labels_are_the_same_ones_dealt_out_anew(dataset):
    opened = open_dataset(dataset)

    def labels(seed, **options):
        batches = Batches(opened, CPU, batch_size=70, seed=seed, **options)
        return dict(rows_of(batches.train(1))), dict(rows_of(batches.test(21)))

    (plain, plain_test), (shuffled, shuffled_test) = labels(0), labels(0, shuffled_labels=True)
    assert labels(1, shuffled_labels=True) == (shuffled, shuffled_test)
    assert shuffled_test == plain_test
    assert shuffled != plain and sorted(shuffled.values()) == sorted(plain.values())
    some, _ = labels(0, shuffled_labels=True, train_samples=70)
    assert some == shuffled


@pytest.mark.parametrize(("key", "count"), [("train_samples", 70), ("test_samples", 21)])
def test_more_samples_than_there_are_are_refused(dataset, key, count):
    with pytest.raises(ValueError, match=f"`{key}` is {count + 1}, but the dataset has {count}: lower it, or leave"):
        Batches(open_dataset(dataset), CPU, batch_size=8, seed=0, **{key: count + 1})


def test_normalised_images_have_zero_mean_and_unit_variance(dataset):
    opened = open_dataset(dataset)
    batches = Batches(opened, CPU, batch_size=70, seed=0)
    images = batches.inputs(next(batches.train(1))[0])
    assert images.shape == (70, 2, 8, 8) and images.dtype == torch.float32
    images = images.double()  # of values up to about 4, each rounded three times
    close = {"atol": 3 * 4 * torch.finfo(torch.float32).eps, "rtol": 0}
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(2).double(), **close)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(2).double(), **close)


def all_batches(opened, rank, processes):
    """What a process sees in an epoch and in a test."""
    found = Batches(opened, CPU, batch_size=16, seed=0, rank=rank, processes=processes)
    return [list(batch) for batch in (*found.train(1, first_step=1), *found.test(5))]


@pytest.mark.parametrize("processes", [1, 3])
def test_samples_on_a_device_are_read_like_mapped_ones_and_the_test_split_is_shared_out(
    dataset, monkeypatch, processes
):
    opened, sizes = open_dataset(dataset), []
    mapped = [all_batches(opened, rank, processes) for rank in range(processes)]
    monkeypatch.setattr(batches, "_has_room", lambda device, size: sizes.append(size) or True)
    torch.testing.assert_close([all_batches(opened, rank, processes) for rank in range(processes)], mapped)
    of_sample = 8 * 8 * 2 + 8
    assert sizes == [70 * of_sample, 21 // processes * of_sample] * processes


def test_samples_that_do_not_fit_are_read_in_parts_of_a_batch(dataset, monkeypatch):
    opened, places = open_dataset(dataset), [np.array([3, 1, 60]), np.arange(40), np.array([0])]
    split = _Split(opened.train_samples, opened.train_labels, np.arange(70), CPU)
    expected = list(split.read(places))
    split._readers = ThreadPoolExecutor(batches.READERS)
    for one, other in zip(split.read(places), expected, strict=True):
        torch.testing.assert_close(list(one), list(other))


def test_crop_and_flip_is_what_it_says():
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8))
    shifts, flips = rng.integers(0, 3, (9, 2)), rng.integers(0, 2, 9)
    out = _crop_and_flip(images, shifts, flips, 1)
    for image, result, (down, right), flip in zip(images, out, shifts, flips, strict=True):
        framed = np.pad(image.numpy(), ((1, 1), (1, 1), (0, 0)))
        expected = framed[down : down + 8, right : right + 8]
        np.testing.assert_array_equal(result.numpy(), expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("kind", ["tokens", "features"])
@pytest.mark.parametrize("classes", [200, 300])
def test_tokens_become_int64_and_features_stay_as_they_are(tmp_path, kind, classes):
    rng = np.random.default_rng(0)
    draw = {"tokens": lambda n: rng.integers(0, classes, (n, 6)), "features": lambda n: rng.normal(size=(n, 6))}[kind]
    change = {f"{split}_samples": draw(count) for split, count in (("train", 9), ("test", 4))}
    source, arrays = made_up(rng, train=9, test=4, shape=(6,), classes=classes, kind=kind, **change)
    pack(tmp_path / "set", source, {})
    opened = open_dataset(tmp_path / "set")
    batches = Batches(opened, CPU, batch_size=9, seed=0)
    samples, labels = next(batches.train(1))
    inputs, order = batches.inputs(samples), np.random.default_rng([0, 1]).permutation(9)
    expected = arrays["train_samples"].astype(np.int64 if kind == "tokens" else np.float32)[order]
    torch.testing.assert_close(inputs, torch.tensor(expected), rtol=0, atol=0)
    torch.testing.assert_close(labels, torch.tensor(arrays["train_labels"][order]))
    assert meta_batch(kind, (6,)).dtype == inputs.dtype and meta_batch(kind, (6,)).shape == inputs[:1].shape
    with pytest.raises(ValueError, match=f"`augment` crops and flips images, but the samples are {kind}"):
        Batches(opened, CPU, batch_size=9, seed=0, augment=True)


def test_batch_larger_than_the_dataset_is_refused(dataset):
    with pytest.raises(ValueError, match="`batch_size` is 71, more than the 70 training samples"):
        Batches(open_dataset(dataset), CPU, batch_size=71, seed=0)
