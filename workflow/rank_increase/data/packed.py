"""Packed image datasets: per split one array of uint8 pixels that can be memory-mapped, and its labels.

A dataset is a folder with train_images.npy and test_images.npy of shape (count, height, width, channels),
train_labels.npy and test_labels.npy, int64, and manifest.json. The manifest is written last: without it the dataset is
incomplete.
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
ARRAYS = tuple(f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels"))
FILES = (*ARRAYS, "manifest.json")


class DatasetError(ValueError):
    """A data error that the user must fix; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Split:
    """A split of a source: the number of images, and chunks (images, labels) of them, in order.

    `origin` names the file or folder, for messages.
    """

    origin: str
    count: int
    chunks: Iterable


@dataclass(frozen=True)
class Source:
    """The origin of a dataset.

    `classes` are their names, `shape` is (height, width, channels), `splits` has a `Split` for "train" and for "test".
    `sha256` has the digests of what was read; it is complete once all chunks have been read.
    """

    classes: list
    shape: tuple
    splits: dict
    sha256: dict


@dataclass(frozen=True)
class Dataset:
    """A packed dataset: its arrays, memory-mapped read-only, and its manifest.

    `digest` is the SHA-256 of what the manifest says about the contents, wherever they come from.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    manifest: dict
    digest: str


def pack(folder, source, description, on_images=None, *, again=True):
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
    on_images : callable, optional
        Called with the number of images packed so far.
    again : bool
        Whether to pack even if a dataset with the same description exists; another process may have packed it while
        this one waited.

    Raises
    ------
    DatasetError
        If a label is none of the classes, a split has no images or all its images are of one colour, the disk is too
        small, or the folder holds other files or cannot be written to; and what the source raises.
    """
    folder = Path(folder).resolve()  # replace what a link points to, not the link
    workplace = folder.with_name(f".{folder.name}.packing")
    try:
        with owned(workplace, f"dataset {folder}", patience=math.inf) as ownership:
            if again or not _is_made_from(folder, description):
                _pack_as_owner(folder, workplace, ownership, source, description, on_images)
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


def _pack_as_owner(folder, workplace, ownership, source, description, on_images):
    """Write a dataset beside its folder, then move it there in one step."""
    for leftover in filter(Path.is_dir, workplace.iterdir()):  # from a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    _check_folder(folder)
    _check_disk(folder, source)
    with ownership.replacing(folder, workplace) as new:
        new.mkdir()
        manifest = _write(new, source, on_images)
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
    needed = sum(split.count for split in source.splits.values()) * (int(np.prod(source.shape)) + 8)
    free = shutil.disk_usage(next(path for path in folder.absolute().parents if path.exists())).free
    if free < needed:
        raise DatasetError(
            f"too little disk: {folder} would take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free: make room,"
            " or set `data_dir` to another place."
        )


def _write(folder, source, on_images):
    """Write the arrays; return the manifest without the source."""
    histogram = np.zeros((source.shape[2], 256), dtype=np.int64)  # of the train split, by channel
    digests, counts, packed = {}, {}, 0
    for name, split in source.splits.items():
        labels = []
        # Not through a memory map: on a full disk, that kills the process without a message.
        with open(folder / f"{name}_images.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (split.count, *source.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for images, of_images in split.chunks:
                _check_labels(of_images, len(source.classes), split.origin, sum(map(len, labels)))
                file.write(np.ascontiguousarray(images, dtype=np.uint8))
                labels.append(of_images)
                if name == "train":
                    for channel, counted in enumerate(histogram):
                        counted += np.bincount(images[..., channel].ravel(), minlength=256)
                packed += len(images)
                if on_images:
                    on_images(packed)
        counts[name] = sum(map(len, labels))
        if counts[name] != split.count or not split.count:
            raise DatasetError(f"{split.origin} has {counts[name]} images where {max(split.count, 1)} were expected.")
        np.save(folder / f"{name}_labels.npy", np.concatenate(labels).astype(np.int64))
    shares, pixel = histogram / histogram.sum(axis=1, keepdims=True), np.arange(256)
    mean = shares @ pixel  # (channels,)
    std = np.sqrt((shares * (pixel - mean[:, None]) ** 2).sum(axis=1))
    if (histogram.max(axis=1) == histogram.sum(axis=1)).any():
        raise DatasetError(f"{source.splits['train'].origin}: a channel is the same in all pixels of all images.")
    for path in sorted(folder.iterdir()):
        digests[path.name] = file_sha256(path)
    return {
        "classes": source.classes,
        "shape": list(source.shape),
        "counts": counts,
        "mean": mean.tolist(),  # of the train split by channel, in units of a pixel's 0 to 255
        "std": std.tolist(),
        "sha256": digests,
    }


def _check_labels(labels, classes, origin, before):
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DatasetError(
            f"{origin}: image {before + wrong[0]} has label {labels[wrong[0]]}, but the {classes} classes have labels"
            f" 0 to {classes - 1}."
        )


def open_dataset(folder):
    """The `Dataset` that `pack` wrote to `folder`. No pixel is read yet, and nothing is unpickled.

    Raises
    ------
    DatasetError
        If a file is missing, truncated, or differs from the manifest.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    shape, counts, classes = manifest["shape"], manifest["counts"], len(manifest["classes"])
    arrays = {}
    for split in SPLITS:
        for kind, dtype, of_one in (("images", np.uint8, shape), ("labels", np.int64, [])):
            name = f"{split}_{kind}"
            path = folder / f"{name}.npy"
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DatasetError(
                    f"{path} is missing or damaged: delete {folder}, and it is made anew ({error})."
                ) from error
            if array.dtype != dtype or list(array.shape) != [counts[split], *of_one]:
                raise DatasetError(
                    f"{path} holds {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of shape"
                    f" {(counts[split], *of_one)} as manifest.json says: delete {folder}, and it is made anew."
                )
            arrays[name] = array
        _check_labels(arrays[f"{split}_labels"], classes, folder / f"{split}_labels.npy", 0)
    contents = {key: value for key, value in manifest.items() if key != "source"}
    digest = sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return Dataset(**arrays, manifest=manifest, digest=digest)


def _read_manifest(folder):
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for key in ("source", "classes", "shape", "counts", "mean", "std", "sha256"):
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
