"""Parquet tables: their schemas, atomic writes, and where they came from."""

import json
import os
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rank_increase.disk import writing
from rank_increase.notation import PRODUCTS

_PRODUCT = ("product", pa.dictionary(pa.int32(), pa.string()))  # KQ or VO
_HEAD = [
    ("epoch", pa.int32()),  # 0 is the initialization
    ("step", pa.int64()),
    ("layer", pa.int32()),  # from 0
    ("head", pa.int32()),  # from 0
    _PRODUCT,
]
_SPECTRUM = [
    ("singular_values", pa.list_(pa.float64())),  # descending
    ("stable_rank", pa.float64()),  # this and the next two: null for the zero matrix
    ("effective_rank", pa.float64()),
    ("participation_ratio", pa.float64()),
    ("numerical_rank", pa.int32()),
    ("frobenius_norm", pa.float64()),
    ("spectral_norm", pa.float64()),
    ("nuclear_norm", pa.float64()),
]
SCHEMAS = {
    "trajectory": pa.schema(
        [
            ("time", pa.float64()),
            ("rescaled_time", pa.float64()),  # time / ln(1/alpha)
            ("loss", pa.float64()),
            _PRODUCT,
            ("index", pa.int32()),  # diagonal entry, or rank of the singular value, from 0
            ("value", pa.float64()),
        ]
    ),
    "events": pa.schema(
        [
            ("order", pa.int32()),  # from 0
            _PRODUCT,
            ("index", pa.int32()),
            ("rescaled_time", pa.float64()),
            ("direction", pa.int8()),  # 1: becomes active, -1: leaves
        ]
    ),
    "stages": pa.schema(
        [
            ("stage", pa.int32()),  # k, from 1
            _PRODUCT,
            ("index", pa.int32()),
            ("sign", pa.int8()),
            ("predicted_time", pa.float64()),  # T_k, rescaled
            ("loss", pa.float64()),  # at theta_k
            ("runner_up", pa.float64()),  # how much longer the second coordinate would have waited
            ("left", pa.int32()),  # coordinates that left the support
            ("curvature", pa.float64()),  # least eigenvalue of the Hessian in u on the support
            ("KQ", pa.list_(pa.float64())),  # products at theta_k
            ("VO", pa.list_(pa.float64())),
        ]
    ),
    "theorem": pa.schema(
        [
            ("alpha", pa.string()),
            ("stage", pa.int32()),
            _PRODUCT,
            ("index", pa.int32()),
            ("predicted_time", pa.float64()),
            ("measured_time", pa.float64()),  # null if the coordinate never becomes active
            ("measured_order", pa.int32()),  # from 1
            ("scaled_delay", pa.float64()),  # (measured - predicted) ln(1/alpha), which tends to C_k
            ("distance", pa.float64()),  # largest |product - product at theta_k| in the middle of the stage
        ]
    ),
    "conservation": pa.schema(
        [
            ("method", pa.string()),  # flow, gd or sgd
            ("rescaled_time", pa.float64()),
            _PRODUCT,
            # Frobenius norms of W_K^T W_K - W_Q^T W_Q or of W_V^T W_V - W_O^T W_O; of diagonal weights, of u^2 - v^2
            ("change", pa.float64()),  # since the start
            ("initial", pa.float64()),
            ("size", pa.float64()),  # sum of the squared Frobenius norms of the two weights
        ]
    ),
    "perturbations": pa.schema(
        [
            ("run", pa.int32()),
            ("noise_on", pa.string()),  # nonnegligible: weights above the threshold; support: active ones alone
            ("perturbed_at", pa.float64()),  # rescaled
            ("rescaled_time", pa.float64()),
            _PRODUCT,
            ("index", pa.int32()),
            ("value", pa.float64()),
            ("reference", pa.float64()),  # without the perturbation
        ]
    ),
    "metrics": pa.schema(
        [
            ("epoch", pa.int32()),  # from 1
            ("step", pa.int64()),  # at its end
            ("learning_rate", pa.float64()),  # of its last step
            ("train_loss", pa.float64()),  # cross-entropy in nats, mean over the epoch while the weights move
            ("train_accuracy", pa.float64()),  # of 1, in the same way
            ("test_loss", pa.float64()),  # at the end of the epoch
            ("test_accuracy", pa.float64()),
            ("images_per_second", pa.float64()),  # of the training steps alone
        ]
    ),
    "spectra": pa.schema([*_HEAD, ("matrix", pa.dictionary(pa.int32(), pa.string())), *_SPECTRUM]),
    # baseline: random_product, a random matrix with the norm and greatest rank of the delta; noisy_factors, the change
    # of the product when noise is added to both initial factors, to each with the norm of its change by training
    "baselines": pa.schema([*_HEAD, ("baseline", pa.dictionary(pa.int32(), pa.string())), *_SPECTRUM]),
    "claims": pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),  # place in the paper, version 1
            ("statement", pa.string()),
            ("measure", pa.string()),  # what the value is, and over what it is taken
            ("value", pa.float64()),  # null if not tested
            ("relation", pa.string()),  # supported if value stands in it to the threshold
            ("threshold", pa.float64()),
            ("verdict", pa.string()),  # supported, not supported, not tested
            ("n", pa.string()),  # what the value rests on, in words
            ("data", pa.string()),  # tables and runs
            ("details", pa.string()),  # numbers behind the value, or what is missing
        ]
    ),
}


@contextmanager
def atomic(path):
    """A temporary path beside `path` that takes its name when the block ends well, and is deleted when it does not.

    Raises
    ------
    DiskError
        If the disk is full or cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # what came before says why
            temporary.unlink(missing_ok=True)


def write_table(path, frame, schema, provenance):
    """Write a data frame to Parquet, all at once or not at all.

    Parameters
    ----------
    path : str
    frame : pandas.DataFrame
        With exactly the columns of the schema, in any order.
    schema : str
        A key of `SCHEMAS`; or a pyarrow.Schema.
    provenance : dict
        Stored as JSON in the file's metadata under the key "provenance".

    Raises
    ------
    ValueError
        If a column is missing or too much, or a value does not fit its type.
    """
    schema = SCHEMAS[schema] if isinstance(schema, str) else schema
    if set(frame.columns) != set(schema.names):
        raise ValueError(f"{path}: columns are {sorted(frame.columns)}, the schema wants {sorted(schema.names)}")
    try:
        table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    table = table.replace_schema_metadata({"provenance": json.dumps(provenance)})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@contextmanager
def reading(path):
    """Raise a ValueError with one sentence if the table at `path`, which is read in the block, is damaged."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        if getattr(error, "errno", None):  # the system's, such as a file that is not there
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} is damaged: delete it, and the same command makes it anew ({reason})") from error


def read_table(path, **options):
    """A data frame with the table at `path`; `options` go to pandas.read_parquet (columns, filters).

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    with reading(path):
        return pd.read_parquet(path, **options)


def read_arrow(path):
    """The table at `path` as a pyarrow.Table, with its metadata; raises a ValueError if the file is damaged."""
    with reading(path):
        return pq.read_table(path)


def read_provenance(path):
    """What `write_table` was told of the origin of the table at `path`; raises a ValueError if the file is damaged."""
    with reading(path):
        schema = pq.read_schema(path)
    return json.loads(schema.metadata[b"provenance"])


def trajectory_frame(run, log_alpha):
    """Rows of schema "trajectory" of a toy.Run at ln(alpha) = `log_alpha`."""
    records, _, dim = run.values.shape
    return pd.DataFrame(
        {
            "time": run.time.repeat(2 * dim),
            "rescaled_time": (run.time / -log_alpha).repeat(2 * dim),
            "loss": run.loss.repeat(2 * dim),
            **_labels(records, dim),
            "value": run.values.ravel(),
        }
    )


def event_frame(run, log_alpha):
    """Rows of schema "events" of a toy.Run at ln(alpha) = `log_alpha`."""
    time, coordinate, direction = (
        (list(column) for column in zip(*run.events, strict=True)) if run.events else ([], [], [])
    )
    return pd.DataFrame(
        {
            "order": range(len(time)),
            **coordinate_labels(coordinate, run.values.shape[2]),
            "rescaled_time": [moment / -log_alpha for moment in time],
            "direction": direction,
        }
    )


def conservation_frame(run, log_alpha, method):
    """Rows of schema "conservation" of a toy.Run; none where it conserves by construction."""
    if run.conservation is None:
        return pd.DataFrame(columns=SCHEMAS["conservation"].names)
    change, initial, size = run.conservation.reshape(-1, 3).T
    return pd.DataFrame(
        {
            "method": method,
            "rescaled_time": (run.time / -log_alpha).repeat(len(PRODUCTS)),
            "product": np.tile(PRODUCTS, len(run.time)),
            "change": change,
            "initial": initial,
            "size": size,
        }
    )


def perturbation_frame(moments, log_alpha, dim):
    """Rows of schema "perturbations"; `moments` holds, for each, the assumptions.PerturbedRun that leave from it."""
    frames = [
        pd.DataFrame(
            {
                "run": number,
                "noise_on": run.noise_on,
                "perturbed_at": run.times[0] / -log_alpha,
                "rescaled_time": (run.times / -log_alpha).repeat(2 * dim),
                **_labels(len(run.times), dim),
                "value": run.perturbed.ravel(),
                "reference": run.reference.ravel(),
            }
        )
        for number, runs in enumerate(moments)
        for run in runs
    ]
    if not frames:  # no weight passes the threshold in time
        return pd.DataFrame(columns=SCHEMAS["perturbations"].names)
    return pd.concat(frames, ignore_index=True)


def coordinate_labels(coordinates, dim):
    """Columns `product` and `index` of coordinates numbered as in toy.DiagonalHead.loss_and_g."""
    product, index = np.divmod(np.asarray(coordinates, dtype=int), dim)
    return {"product": pd.Categorical.from_codes(product, categories=PRODUCTS), "index": index}


def _labels(records, dim):
    return coordinate_labels(np.tile(np.arange(2 * dim), records), dim)


def collect(parts, path, provenance):
    """Write the rows of the tables `parts` to one, with a column for every wildcard that a part came from.

    A column that the parts have already, such as alpha in "theorem", is kept as it is. The kind of table is none.
    """
    tables = []
    for part in parts:
        table = read_arrow(part)
        wildcards = read_provenance(part)["wildcards"]
        for name in reversed([name for name in wildcards if name not in ("table", *table.column_names)]):
            value = int(wildcards[name]) if name == "seed" else wildcards[name]
            column = pa.array([value]).dictionary_encode() if isinstance(value, str) else pa.array([value], pa.int32())
            table = table.add_column(0, name, pa.chunked_array([column.take(pa.array([0] * len(table), pa.int32()))]))
        tables.append(table)
    table = pa.concat_tables(tables).unify_dictionaries()
    table = table.replace_schema_metadata({"provenance": json.dumps(provenance)})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
