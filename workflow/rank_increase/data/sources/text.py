"""Text, from text files or Parquet files, as windows of bytes."""

from hashlib import sha256
from pathlib import Path as FilePath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rank_increase.data.packed import DatasetError, Source, Split
from rank_increase.options import Count, Path, Text
from rank_increase.registry import register

BLOCK = 1 << 20  # bytes, or rows, that are read at a time


@register.source("text")
def text(downloads, threads, *, train: Path, test: Path, length: Count, column: Text = "text"):
    """Windows of bytes of a text, one after another, each byte labelled with the next one; the vocabulary has 256.

    Files follow one another in alphabetical order. One that does not end with a line break gets one, and so does a row
    of a Parquet file. An incomplete last window is dropped.

    Parameters
    ----------
    train, test : str
        A .txt or .parquet file each, or a folder of such files.
    length : int
        Bytes of a window.
    column : str
        The column of Parquet files that holds the text.
    """
    splits, sha = {}, {}
    for split, path in (("train", train), ("test", test)):
        files = _files(FilePath(path).expanduser())
        size = sum(map(len, _blocks(files, column)))
        if size <= length:
            raise DatasetError(f"{path} has {size} bytes of text, but a window and its next byte are {length + 1}.")
        chunks = _windows(_blocks(files, column), length, lambda digest, split=split: sha.update({split: digest}))
        splits[split] = Split(str(path), (size - 1) // length, chunks)
    return Source([f"{byte:02x}" for byte in range(256)], (length,), splits, sha, kind="tokens")


def _files(path):
    """Text and Parquet files that a path names, or that are in a folder."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("*") if file.suffix in (".txt", ".parquet"))
    if not found:
        what = "has no .txt and no .parquet file" if path.is_dir() else "does not exist"
        raise DatasetError(f"{path} {what}: a source of text is such a file, or a folder of them.")
    return found


def _blocks(files, column):
    """Yield the text of all files as bytes, in blocks of any size."""
    for file in files:
        yield from _rows(file, column) if file.suffix == ".parquet" else _lines(file)


def _lines(file):
    last = b""
    with open(file, "rb") as opened:
        while block := opened.read(BLOCK):
            yield (last := block)
    if not last.endswith(b"\n"):
        yield b"\n"


def _rows(file, column):
    try:
        table = pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{file} is no readable Parquet file: {error}") from error
    kinds = {field.name: field.type for field in table.schema_arrow}
    if kinds.get(column) not in (pa.string(), pa.large_string()):
        raise DatasetError(f"{file} has no column `{column}` of strings: name another as `column`.")
    for batch in table.iter_batches(BLOCK // 256, columns=[column]):
        rows = [row.encode() for row in batch.column(0).to_pylist() if row is not None]
        yield b"".join(row if row.endswith(b"\n") else row + b"\n" for row in rows)


def _windows(blocks, length, keep_digest):
    """Yield chunks of windows (count, length), uint8, and of the bytes that follow each of their bytes."""
    rest, digest = b"", sha256()
    for block in blocks:
        digest.update(block)
        rest += block
        count = max(0, len(rest) - 1) // length
        tokens = np.frombuffer(rest, dtype=np.uint8)
        yield tokens[: count * length].reshape(-1, length), tokens[1 : count * length + 1].reshape(-1, length)
        rest = rest[count * length :]
    keep_digest(digest.hexdigest())
