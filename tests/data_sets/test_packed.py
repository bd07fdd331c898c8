"""Packed datasets: what is packed is what was given, all of it or none, also with several processes at work."""

import errno
import json
import os
import shutil
from collections import namedtuple
from hashlib import sha256

import numpy as np
import pytest

from made_up import CONTEXT, chunks_of, made_up, start_together
from rank_increase import ownership
from rank_increase.data.packed import (
    FILES,
    DatasetError,
    Source,
    Split,
    check_arrays,
    map_in_order,
    open_dataset,
    pack,
)
from rank_increase.data.sources.digits import digits


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_packed_is_what_was_given(tmp_path, rng):
    source, arrays = made_up(rng)
    seen = []
    pack(tmp_path / "set", source, {"source": "made up"}, seen.append)
    dataset = open_dataset(tmp_path / "set")
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(dataset, name), array)
    assert dataset.train_samples.dtype == np.uint8 and dataset.train_labels.dtype == np.int64
    assert isinstance(dataset.train_samples, np.memmap) and not dataset.train_samples.flags.writeable
    np.testing.assert_allclose(dataset.manifest["mean"], arrays["train_samples"].mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(dataset.manifest["std"], arrays["train_samples"].std(axis=(0, 1, 2)))
    assert dataset.manifest["counts"] == {"train": 5, "test": 3}
    assert dataset.manifest["source"] == {"source": "made up", "sha256": {"file": "digest"}}
    packed = (tmp_path / "set" / "train_samples.npy").read_bytes()
    assert dataset.manifest["sha256"]["train_samples.npy"] == sha256(packed).hexdigest()
    assert seen[-1] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize(("classes", "dtype"), [(256, np.uint8), (257, np.uint16), (70000, np.uint32)])
def test_tokens_and_a_label_for_each_are_packed_in_the_smallest_type_of_their_vocabulary(tmp_path, rng, classes, dtype):
    numbers = {}
    for split, count in (("train", 5), ("test", 3)):
        numbers[f"{split}_samples"], numbers[f"{split}_labels"] = rng.integers(0, classes, (2, count, 7))
        numbers[f"{split}_samples"][0, 0] = classes - 1
    pack(tmp_path / "set", made_up(rng, shape=(7,), classes=classes, kind="tokens", **numbers)[0], {})
    dataset = open_dataset(tmp_path / "set")
    for name, array in numbers.items():
        np.testing.assert_array_equal(getattr(dataset, name), array)
    assert dataset.train_samples.dtype == dtype and dataset.test_labels.dtype == np.int64
    assert dataset.manifest["label_shape"] == [7] and "mean" not in dataset.manifest


def test_features_are_packed_as_float32(tmp_path, rng):
    arrays = {"train_samples": rng.normal(size=(5, 2, 3)), "test_samples": rng.normal(size=(3, 2, 3))}
    pack(tmp_path / "set", made_up(rng, shape=(2, 3), kind="features", **arrays)[0], {})
    packed = open_dataset(tmp_path / "set").test_samples
    np.testing.assert_array_equal(packed, arrays["test_samples"].astype(np.float32))
    assert packed.dtype == np.float32


def test_token_out_of_range_and_feature_that_is_not_finite_are_sentences(tmp_path, rng):
    tokens = {"train_samples": rng.integers(0, 3, (5, 4)), "test_samples": np.array([[0, 1], [2, 3], [0, 0]])}
    with pytest.raises(DatasetError, match="test pixels: sample 1 has token 3, but the 3 classes have numbers 0 to 2"):
        pack(tmp_path / "set", made_up(rng, shape=(4,), kind="tokens", **tokens)[0], {})
    features = {"train_samples": np.full((5, 2), np.nan)}
    with pytest.raises(DatasetError, match="train pixels: a feature is not finite"):
        pack(tmp_path / "set", made_up(rng, shape=(2,), kind="features", **features)[0], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [-1, 3])
def test_label_out_of_range_is_a_sentence_and_leaves_nothing(tmp_path, rng, wrong):
    source, _ = made_up(rng, test_labels=np.array([0, 1, wrong]))
    with pytest.raises(DatasetError, match=rf"test pixels: sample 2 has label {wrong}, but .* 0 to 2"):
        pack(tmp_path / "set", source, {})
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_dataset_that_was_there(tmp_path, rng):
    source, arrays = made_up(rng)
    pack(tmp_path / "set", source, {})
    broken, _ = made_up(rng, test_labels=np.array([0, 1, 9]))
    with pytest.raises(DatasetError):
        pack(tmp_path / "set", broken, {})
    np.testing.assert_array_equal(open_dataset(tmp_path / "set").test_labels, arrays["test_labels"])


def test_too_little_disk_is_known_before_anything_is_written(tmp_path, rng, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 0, 100))
    with pytest.raises(DatasetError, match="too little disk"):
        pack(tmp_path / "set", made_up(rng)[0], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "sentence"), [(errno.ENOSPC, "is full"), (errno.EROFS, "no permission"), (errno.EACCES, "no permission")]
)
def test_disk_errors_are_sentences(tmp_path, rng, code, sentence):
    def chunks(arrays):
        yield from chunks_of(arrays, "train")[:1]
        raise OSError(code, "as the system says it")

    source, arrays = made_up(rng)
    source.splits["train"] = Split("pixels", 5, chunks(arrays))
    with pytest.raises(DatasetError, match=sentence):
        pack(tmp_path / "set", source, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "the disk of .*set is full: make room, or set `data_dir`"),
        (errno.EACCES, "no permission to write to .*set: set `data_dir`"),
    ],
)
def test_disk_errors_before_anything_is_packed_are_the_same_sentences(tmp_path, rng, monkeypatch, code, sentence):
    def refused(*_, **__):
        raise OSError(code, "as the system says it")

    monkeypatch.setattr(ownership.json, "dump", refused)
    with pytest.raises(DatasetError, match=sentence):
        pack(tmp_path / "set", made_up(rng)[0], {})
    assert list(tmp_path.iterdir()) == []


def test_constant_channel_is_refused(tmp_path, rng):
    source, _ = made_up(rng, train_samples=np.full((5, 4, 4, 2), 7, dtype=np.uint8))
    with pytest.raises(DatasetError, match="same in all pixels"):
        pack(tmp_path / "set", source, {})


@pytest.mark.parametrize("name", FILES)
def test_missing_and_cut_files_are_sentences(tmp_path, rng, name):
    pack(tmp_path / "set", made_up(rng)[0], {})
    path = tmp_path / "set" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=name):
        open_dataset(tmp_path / "set")
    path.unlink()
    with pytest.raises(DatasetError, match=name):
        open_dataset(tmp_path / "set")


def test_arrays_of_another_type_or_shape_are_refused(tmp_path, rng):
    source, arrays = made_up(rng)
    pack(tmp_path / "set", source, {})
    np.save(tmp_path / "set" / "test_labels.npy", arrays["test_labels"].astype(float))
    with pytest.raises(DatasetError, match=r"test_labels.npy holds float64 of shape \(3,\), not int64"):
        open_dataset(tmp_path / "set")
    np.save(tmp_path / "set" / "test_labels.npy", np.array([0, 1, 99]))
    with pytest.raises(DatasetError, match="label 99"):
        open_dataset(tmp_path / "set")


def test_manifest_is_readable_text(tmp_path, rng):
    pack(tmp_path / "set", made_up(rng)[0], {"source": "made up"})
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["classes"] == ["class 0", "class 1", "class 2"]


# Several processes


def pack_digits(barrier, folders, again):
    ownership.POLL = 0.01  # this process waits, and the test with it
    description = {"source": "digits"}
    source = digits("", 1)
    for folder in folders:
        counted = []
        barrier.wait()
        pack(folder, source, description, counted.append, again=again)
        if counted:
            (folder.parent / f"packed by {os.getpid()}").touch()


@pytest.mark.parametrize("again", [True, False])
def test_two_processes_that_pack_one_dataset_both_finish_and_it_is_whole(tmp_path, again):
    folders = [tmp_path / str(attempt) / "digits" for attempt in range(20)]
    assert start_together(pack_digits, folders, again) == [0, 0]
    for folder in folders:
        check_arrays(folder)
        assert open_dataset(folder).train_samples.shape == (1438, 8, 8, 1)
        assert sorted(os.listdir(folder)) == sorted(FILES)
        beside = sorted(os.listdir(folder.parent))
        assert beside[0] == "digits" and len(beside) == (3 if again else 2)  # else the second has nothing to do


def pack_for_ever(folder, begun):
    def chunks():
        while True:
            begun.set()
            yield np.zeros((1, 2, 2, 1), dtype=np.uint8), np.array([0])

    splits = {split: Split(split, 10**6, chunks()) for split in ("train", "test")}
    pack(folder, Source(["one"], (2, 2, 1), splits, {}), {})


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path, rng):
    begun = CONTEXT.Event()
    process = CONTEXT.Process(target=pack_for_ever, args=(tmp_path / "set", begun))
    process.start()
    assert begun.wait(60)
    process.kill()
    process.join()
    assert os.listdir(tmp_path) == [".set.packing"]
    pack(tmp_path / "set", made_up(rng)[0], {})
    assert os.listdir(tmp_path) == ["set"]
    check_arrays(tmp_path / "set")


def test_dataset_of_another_description_is_replaced_and_readers_of_the_old_one_keep_it(tmp_path, rng):
    source, arrays = made_up(rng)
    pack(tmp_path / "set", source, {"size": 4})
    before = open_dataset(tmp_path / "set")
    source, others = made_up(rng)
    pack(tmp_path / "set", source, {"size": 4}, again=False)
    np.testing.assert_array_equal(open_dataset(tmp_path / "set").train_samples, arrays["train_samples"])
    pack(tmp_path / "set", source, {"size": 5}, again=False)
    np.testing.assert_array_equal(open_dataset(tmp_path / "set").train_samples, others["train_samples"])
    np.testing.assert_array_equal(before.train_samples, arrays["train_samples"])


def test_folder_with_other_files_is_not_replaced(tmp_path, rng):
    (tmp_path / "set" / "train").mkdir(parents=True)  # `data_dir` is where the source lies
    with pytest.raises(DatasetError, match="set, where the dataset is to go, holds other files, such as train: move"):
        pack(tmp_path / "set", made_up(rng)[0], {})
    assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == ["train"]


def test_dataset_behind_a_link_is_replaced_where_it_lies(tmp_path, rng):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "large disk" / "set")
    for _ in range(2):
        pack(tmp_path / "set", made_up(rng)[0], {})
    assert (tmp_path / "set").is_symlink()
    assert os.listdir(tmp_path / "large disk") == ["set"]


def test_map_in_order_keeps_order_and_looks_only_a_little_ahead():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    mapped = map_in_order(lambda number: -number, items(), 3)
    assert [next(mapped) for _ in range(10)] == [-n for n in range(10)]
    assert len(taken) <= 16
    assert list(mapped) == [-n for n in range(10, 50)]
