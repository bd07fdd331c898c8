"""Encoded images in Parquet files, in the layout used by public dataset hubs."""

from pathlib import Path as FilePath

import pyarrow as pa
import pyarrow.parquet as pq

from rank_increase.data.decoding import SHARD, decoded
from rank_increase.data.packed import DatasetError, Source, Split
from rank_increase.options import Count, Path
from rank_increase.registry import register


@register.source("parquet")
def parquet(downloads, threads, *, train: Path, test: Path, classes: Count, size: Count):
    """Encoded images in two Parquet files, columns `image` (a struct with `bytes`, or binary) and `label` (integer).

    Parameters
    ----------
    train, test : str
        Paths of the two files.
    classes : int
        Number of classes. Their names come from the file's metadata `class_names`, separated by commas, if present.
    size : int
        Side of the packed images, in pixels: the shorter side is resized to it, and the center cropped.
    threads : int
    """
    splits, sha, names = {}, {}, None
    for split, path in (("train", train), ("test", test)):
        path = FilePath(path).expanduser()
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
        splits[split] = Split(str(path), file.metadata.num_rows, decoded(encoded, size, threads, sha, split))
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
