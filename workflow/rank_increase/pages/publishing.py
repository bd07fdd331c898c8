"""Publishing a study: its tables, rounded where that changes nothing that matters, and their provenance."""

import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rank_increase.tables import atomic, read_arrow, read_provenance

MANTISSA_BITS = 16  # a relative error of 2^-17: invisible in figures, irrelevant to verdicts
ROUNDED = {
    "trajectory": ["value", "log_value"],
    "perturbations": ["value", "reference"],
    "spectra": ["singular_values"],
    "matrices": ["relative_norm", "stable_rank", "effective_rank", "row_cosine", "singular_values"],
}


def round_mantissa(values, bits=MANTISSA_BITS):
    """Floating point numbers rounded to `bits` bits of mantissa; they compress to half the size.

    Parameters
    ----------
    values : numpy.ndarray
        Of float64, finite or not, of any shape.
    bits : int
        Below 52.
    """
    dropped = 52 - bits
    raw = np.ascontiguousarray(values, dtype=float).view(np.uint64)
    rounded = (raw + np.uint64(1 << (dropped - 1))) >> np.uint64(dropped) << np.uint64(dropped)
    return np.where(np.isfinite(values), rounded.view(float), values)


def _table(path):
    """Name of a file's table: the file's own name, or that of its folder if that has a file for each network."""
    path = Path(path)
    return path.stem if path.parent.name == "tables" else path.parent.name


def publish_table(source, target):
    """Copy a table with the same schema and metadata; round the columns that `ROUNDED` lists for it."""
    columns = ROUNDED.get(_table(source), [])
    table = read_arrow(source)
    for column in columns:
        place, values = table.schema.get_field_index(column), table.column(column).combine_chunks()
        table = table.set_column(place, table.schema.field(place), _rounded(values))
    plain = [name for name in table.schema.names if name not in columns]
    paths = [f"{name}.list.element" if pa.types.is_list(table.schema.field(name).type) else name for name in columns]
    with atomic(target) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=plain,
            column_encoding={path: "BYTE_STREAM_SPLIT" for path in paths},
        )


def _rounded(values):
    if pa.types.is_list(values.type):
        return pa.ListArray.from_arrays(values.offsets, _rounded(values.values), mask=values.is_null())
    return pa.array(round_mantissa(values.to_numpy(zero_copy_only=False)))


def publish(files, source, target):
    """Copy files of a study into a folder; tables and figures already there are deleted.

    Parameters
    ----------
    files : list of str
        Paths within `source`.
    source, target : str
        Folders.
    """
    for folder in ("tables", "figures"):
        shutil.rmtree(Path(target, folder), ignore_errors=True)
    for file in files:
        path = Path(file)
        copy = Path(target) / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            publish_table(path, copy)
        else:
            shutil.copyfile(path, copy)


def origin(claims):
    """The origin of results: study, commit, versions, date, and this machine without its name; a dict.

    Parameters
    ----------
    claims : str
        Path of the table "claims", the last one that a study makes.
    """
    provenance = read_provenance(claims)
    release = platform.freedesktop_os_release() if platform.system() == "Linux" else {}
    return {
        "study": provenance["study"],
        "commit": provenance["commit"],
        "date": datetime.fromtimestamp(os.path.getmtime(claims), UTC).date().isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
            "system": release.get("PRETTY_NAME", platform.system()),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
        "versions": provenance["versions"],
        "rounded_to_mantissa_bits": {"bits": MANTISSA_BITS, "columns": ROUNDED},
    }
