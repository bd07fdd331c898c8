"""Packed datasets: per split an array of samples that can be memory-mapped, and its labels.

A dataset is a folder with train_samples.npy and test_samples.npy of shape (count, *shape), train_labels.npy and
test_labels.npy, int64, of shape (count,) or (count, length), and manifest.json. The manifest is written last: without
it the dataset is incomplete.
"""

import errno
import json
import math
import shutil
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np

from rank_increase.disk import DiskError
from rank_increase.ownership import owned

SPLITS = ("train", "test")
ARRAYS = tuple(f"{split}_{part}.npy" for split in SPLITS for part in ("samples", "labels"))
FILES = (*ARRAYS, "manifest.json")


class DatasetError(ValueError):
    """A data error that the user must fix; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Split:
    """A split of a source: the number of samples, and chunks (samples, labels) of them, in order.

    `origin` names the file or folder, for messages.
    """

    origin: str
    count: int
    chunks: Iterable


@dataclass(frozen=True)
class Source:
    """The origin of a dataset.

    Parameters
    ----------
    classes : list of str
        Names of what a label stands for. For tokens, the vocabulary: one for samples and labels.
    shape : tuple of int
        Of a sample: (height, width, channels) of pixels, (length,) of tokens, any of features.
    splits : dict
        A `Split` for "train" and for "test".
    sha256 : dict
        Digests of what was read; complete once all chunks have been read.
    kind : str
        "pixels": numbers from 0 to 255, which models get normalised by mean and deviation of the train split, channels
        first. "tokens": numbers of classes. "features": finite float32, which models get as they are.
    """

    classes: list
    shape: tuple
    splits: dict
    sha256: dict
    kind: str = "pixels"


def sample_dtype(kind, classes):
    """The numpy.dtype of samples of a kind, with this many classes: tokens take as few bytes as these need."""
    if kind == "tokens":
        return np.min_scalar_type(classes - 1)
    return np.dtype({"pixels": np.uint8, "features": np.float32}[kind])


@dataclass(frozen=True)
class Dataset:
    """A packed dataset: its arrays, memory-mapped read-only, and its manifest.

    `digest` is the SHA-256 of what the manifest says about the contents, wherever they come from.
    """

    train_samples: np.ndarray
    train_labels: np.ndarray
    test_samples: np.ndarray
    test_labels: np.ndarray
    manifest: dict
    digest: str


def pack(folder, source, description, on_samples=None, *, again=True):
    """Write a dataset, completely or not at all.

    If several processes, on one machine or several, pack into the same folder at the same time, each waits for the one
    before.

    Parameters
    ----------
    folder : str
        The target folder. A dataset already there is replaced.
    source : Source
    description : dict
        What the dataset is made from: the source as configured, and more; stored in the manifest.
    on_samples : callable, optional
        Called with the number of samples packed so far.
    again : bool
        Whether to pack even if a dataset with the same description exists; another process may have packed it while
        this one waited.

    Raises
    ------
    DatasetError
        If a label or a token is none of the classes, a feature is not finite, a split has no samples or its images are
        of one colour, the disk is too small, or the folder holds other files or cannot be written to; and what the
        source raises.
    """
    folder = Path(folder).resolve()  # replace what a link points to, not the link
    workplace = folder.with_name(f".{folder.name}.packing")
    try:
        with owned(workplace, f"dataset {folder}", patience=math.inf) as ownership:
            if again or not _is_made_from(folder, description):
                _pack_as_owner(folder, workplace, ownership, source, description, on_samples)
    except OSError as error:
        number = getattr(error.__cause__, "errno", None) if isinstance(error, DiskError) else error.errno
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise DatasetError(
                f"the disk of {folder} is full: make room, or set `data_dir` to another place."
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DatasetError(f"no permission to write to {folder}: set `data_dir` to another place.") from error
        raise
    finally:
        with suppress(OSError):  # it does not exist, or has another owner
            workplace.rmdir()


def _is_made_from(folder, description):
    """Whether the folder holds a dataset that was packed with this description."""
    try:
        made_from = dict(open_dataset(folder).manifest["source"])
    except DatasetError:
        return False
    del made_from["sha256"]
    return made_from == json.loads(json.dumps(description))


def _pack_as_owner(folder, workplace, ownership, source, description, on_samples):
    """Write a dataset beside its folder, then move it there in one step."""
    for leftover in filter(Path.is_dir, workplace.iterdir()):  # from a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    _check_folder(folder)
    _check_disk(folder, source)
    with ownership.replacing(folder, workplace) as new:
        new.mkdir()
        manifest = _write(new, source, on_samples)
        manifest = {"source": {**description, "sha256": source.sha256}, **manifest}
        (new / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        _check_folder(folder)


def _check_folder(folder):
    """Refuse to replace a folder that holds more than a dataset."""
    others = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [name for name in others if name not in FILES and not name.startswith(".")]
    if others:
        raise DatasetError(
            f"{folder}, where the dataset is to go, holds other files, such as {others[0]}: move them away, or set"
            " `data_dir` to another place."
        )


def _check_disk(folder, source):
    of_sample = math.prod(source.shape) * sample_dtype(source.kind, len(source.classes)).itemsize + 8
    needed = sum(split.count for split in source.splits.values()) * of_sample
    free = shutil.disk_usage(next(path for path in folder.absolute().parents if path.exists())).free
    if free < needed:
        raise DatasetError(
            f"too little disk: {folder} would take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free: make room,"
            " or set `data_dir` to another place."
        )


def _write(folder, source, on_samples):
    """Write the arrays; return the manifest without the source."""
    dtype = sample_dtype(source.kind, len(source.classes))
    histogram = np.zeros((source.shape[-1], 256), dtype=np.int64)  # of the pixels of the train split, by channel
    digests, counts, packed = {}, {}, 0
    for name, split in source.splits.items():
        labels = []
        # Not through a memory map: on a full disk, that kills the process without a message.
        with open(folder / f"{name}_samples.npy", "wb") as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": (split.count, *source.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for samples, of_samples in split.chunks:
                done = sum(map(len, labels))
                _check_numbers("label", of_samples, len(source.classes), split.origin, done)
                if source.kind == "tokens":
                    _check_numbers("token", samples, len(source.classes), split.origin, done)
                if source.kind == "features" and not np.isfinite(samples).all():
                    raise DatasetError(f"{split.origin}: a feature is not finite.")
                file.write(np.ascontiguousarray(samples, dtype=dtype))
                labels.append(of_samples)
                if source.kind == "pixels" and name == "train":
                    for channel, counted in enumerate(histogram):
                        counted += np.bincount(samples[..., channel].ravel(), minlength=256)
                packed += len(samples)
                if on_samples:
                    on_samples(packed)
        counts[name] = sum(map(len, labels))
        if counts[name] != split.count or not split.count:
            raise DatasetError(f"{split.origin} has {counts[name]} samples where {max(split.count, 1)} were expected.")
        label_shape = labels[0].shape[1:]
        with open(folder / f"{name}_labels.npy", "wb") as file:  # part by part: of text, they take 8 bytes a token
            header = {"descr": "<i8", "fortran_order": False, "shape": (split.count, *label_shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for part in labels:
                file.write(np.ascontiguousarray(part, dtype="<i8"))
    for path in sorted(folder.iterdir()):
        digests[path.name] = file_sha256(path)
    return {
        "kind": source.kind,
        "dtype": dtype.name,
        "classes": source.classes,
        "shape": list(source.shape),
        "label_shape": list(label_shape),
        "counts": counts,
        **(_pixel_statistics(histogram, source.splits["train"].origin) if source.kind == "pixels" else {}),
        "sha256": digests,
    }


def _pixel_statistics(histogram, origin):
    """Mean and standard deviation by channel, in units of a pixel's 0 to 255, from counts of shape (channels, 256)."""
    if (histogram.max(axis=1) == histogram.sum(axis=1)).any():
        raise DatasetError(f"{origin}: a channel is the same in all pixels of all images.")
    shares, pixel = histogram / histogram.sum(axis=1, keepdims=True), np.arange(256)
    mean = shares @ pixel
    return {"mean": mean.tolist(), "std": np.sqrt((shares * (pixel - mean[:, None]) ** 2).sum(axis=1)).tolist()}


def _check_numbers(what, numbers, classes, origin, before):
    """Raise a `DatasetError` if labels, or tokens, of the samples after the first `before` are none of the classes."""
    wrong = np.argwhere((numbers < 0) | (numbers >= classes))
    if len(wrong):
        sample, number = before + wrong[0][0], numbers[tuple(wrong[0])]
        raise DatasetError(
            f"{origin}: sample {sample} has {what} {number}, but the {classes} classes have numbers 0 to {classes - 1}."
        )


def open_dataset(folder):
    """The `Dataset` that `pack` wrote to `folder`. No sample is read yet, and nothing is unpickled.

    Raises
    ------
    DatasetError
        If a file is missing, truncated, or differs from the manifest.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    counts, classes = manifest["counts"], len(manifest["classes"])
    parts = {"samples": (manifest["dtype"], manifest["shape"]), "labels": ("int64", manifest["label_shape"])}
    arrays = {}
    for split in SPLITS:
        for part, (dtype, shape) in parts.items():
            name = f"{split}_{part}"
            path = folder / f"{name}.npy"
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DatasetError(
                    f"{path} is missing or damaged: delete {folder}, and it is made anew ({error})."
                ) from error
            if array.dtype.name != dtype or list(array.shape) != [counts[split], *shape]:
                raise DatasetError(
                    f"{path} holds {array.dtype} of shape {array.shape}, not {dtype} of shape"
                    f" {(counts[split], *shape)} as manifest.json says: delete {folder}, and it is made anew."
                )
            arrays[name] = array
        _check_numbers("label", arrays[f"{split}_labels"], classes, folder / f"{split}_labels.npy", 0)
    contents = {key: value for key, value in manifest.items() if key != "source"}
    digest = sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return Dataset(**arrays, manifest=manifest, digest=digest)


def _read_manifest(folder):
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        of_kind = ("mean", "std") if manifest["kind"] == "pixels" else ()
        for key in ("source", "classes", "dtype", "shape", "label_shape", "counts", *of_kind, "sha256"):
            manifest[key]
        for name in ARRAYS:
            manifest["sha256"][name]
    except FileNotFoundError as error:
        raise DatasetError(f"{error.filename} does not exist: {folder} is no packed dataset.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder}/manifest.json is damaged: delete the folder, and it is made anew.") from error
    return manifest


def array_bytes(folder):
    """Number of bytes that `check_arrays` reads."""
    return sum((Path(folder) / name).stat().st_size for name in ARRAYS)


def check_arrays(folder, on_bytes=None):
    """Compare all bytes of the arrays of a packed dataset with the manifest.

    Parameters
    ----------
    folder : str
    on_bytes : callable, optional
        Called with the number of bytes read so far.

    Raises
    ------
    DatasetError
        If a file is missing or differs from what was packed.
    """
    folder, read = Path(folder), 0

    def advance(size):
        nonlocal read
        read += size
        if on_bytes:
            on_bytes(read)

    for name, recorded in _read_manifest(folder)["sha256"].items():
        try:
            found = file_sha256(folder / name, advance)
        except FileNotFoundError as error:
            raise DatasetError(f"{folder / name} is missing: delete {folder}, and it is made anew.") from error
        if found != recorded:
            raise DatasetError(
                f"{folder / name} is not what was packed (its SHA-256 is not that in manifest.json): delete {folder},"
                " and the same command packs the dataset again."
            )


def map_in_order(function, items, threads):
    """Yield the results of `function` for the items, in order, computed by threads that read only a few items ahead.

    Memory stays bounded, whereas ThreadPoolExecutor.map would take all items at once.
    """
    items, pending = iter(items), deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for item in islice(items, 2 * threads - len(pending)):
                    pending.append(pool.submit(function, item))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def file_sha256(path, on_bytes=None):
    """SHA-256 of a file, hexadecimal; `on_bytes` is called with the size of each block read."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if on_bytes:
                on_bytes(len(block))
    return digest.hexdigest()
