"""Decode images to pixels of one size, and convert those that are not 8-bit RGB, upright and large enough."""

import io
import logging
import struct
from collections import Counter
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from rank_increase.data.packed import DatasetError, map_in_order

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SHARD = 256  # images decoded at a time by one thread
# Conversions of images that are not 8-bit RGB, upright and large enough; counted, and logged once for each split.
CONVERSIONS = {
    "frames": "have several frames, of which the first is used",
    "rotated": "are stored turned or mirrored, and set upright by their EXIF orientation",
    "deep": "have 16 bits per channel, of which the upper 8 are kept",
    "transparent": "have an alpha channel or a transparent color, and are drawn on white",
    "palette": "have a palette, and are converted to its colors",
    "gray": "are grayscale, and converted to three equal channels",
    "cmyk": "are CMYK, and converted to RGB without a color profile",
    "small": "are smaller than the packed size, and enlarged",
}
logger = logging.getLogger("rank_increase")


def decoded(encoded, size, threads, sha, split):
    """Yield chunks (images, labels) in order; set sha[split] to the SHA-256 of the SHA-256 of every image as read.

    Threads rather than processes: Pillow decodes and resizes without Python's global lock, and nothing is copied.
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
    """Pixels, labels, joined digests, and a count of `CONVERSIONS`, for a list of (name, bytes or path, label)."""
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
    """Pixels (size, size, 3) of an image, and the `CONVERSIONS` that were needed."""
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
    """The first frame as upright 8-bit RGB, and the `CONVERSIONS` that were needed."""
    # Of an image with 16 bits per channel, Pillow keeps the upper 8 if it is in color. If it is gray, Pillow keeps all
    # 16 and would turn every value above 255 white. The depth is known before the pixels are loaded.
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
    """EXIF orientation, 2 to 8 if the image is not upright; 1 if the EXIF data is damaged, as in some of ImageNet."""
    try:
        return opened.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
