"""Parquet tables: their schemas, atomic writes, and their provenance."""

import json
import os
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rank_increase.disk import writing

_PRODUCT = ("product", pa.dictionary(pa.int32(), pa.string()))  # such as KQ or VO
_PLACE = [
    ("layer", pa.int32()),  # from 0
    ("head", pa.int32()),  # from 0
    _PRODUCT,
]
_MATRIX = [
    ("step", pa.int64()),  # of the optimizer; 0 is the initialization
    ("epoch", pa.float64()),  # the same in epochs
    *_PLACE,
    # initial, trained, delta (the change by training); random_product (a random change of the same norm),
    # noisy_factors (the change when each factor gets noise with the norm of its own change by training), and
    # turned_factors (the change when each factor gets its own change by training with random singular vectors)
    ("matrix", pa.dictionary(pa.int32(), pa.string())),
]
_RUN = [
    ("network", pa.dictionary(pa.int32(), pa.string())),
    ("alpha", pa.dictionary(pa.int32(), pa.string())),
    ("seed", pa.int32()),
]
SCHEMAS = {
    "losses": pa.schema(
        [
            ("time", pa.float64()),
            ("rescaled_time", pa.float64()),  # time / ln(1/alpha)
            ("loss", pa.float64()),
        ]
    ),
    "trajectory": pa.schema(
        [
            ("rescaled_time", pa.float64()),
            *_PLACE,
            ("index", pa.int32()),  # diagonal entry, or rank of the singular value, from 0
            ("value", pa.float64()),
            ("log_value", pa.float64()),  # natural logarithm of its size, also where that underflows
        ]
    ),
    "events": pa.schema(
        [
            ("order", pa.int32()),  # from 0
            *_PLACE,
            ("index", pa.int32()),
            ("rescaled_time", pa.float64()),
            ("direction", pa.int8()),  # 1: becomes active, -1: becomes inactive
            # Natural logarithm of the largest product that is not active, over the size at which one becomes active
            ("log_next", pa.float64()),  # of both products
            ("log_next_own", pa.float64()),  # of the same product
        ]
    ),
    "stages": pa.schema(
        [
            ("stage", pa.int32()),  # k, from 1
            *_PLACE,
            ("index", pa.int32()),  # diagonal entry; of full weights, how many singular values the product had
            ("sign", pa.int8()),
            ("predicted_time", pa.float64()),  # T_k, rescaled
            ("loss", pa.float64()),  # at theta_k, without the penalty of weight decay
            ("gap_to_next", pa.float64()),  # how much longer the next coordinate would have waited
            ("deactivated", pa.int32()),  # coordinates that left the support
            ("curvature", pa.float64()),  # least eigenvalue of the Hessian in u on the support; null for full weights
            # Diagonal entries, or singular values, of the products at theta_k, layer by layer and head by head
            ("KQ", pa.list_(pa.float64())),
            ("VO", pa.list_(pa.float64())),
        ]
    ),
    "theorem": pa.schema(
        [
            ("alpha", pa.string()),
            ("stage", pa.int32()),
            *_PLACE,
            ("index", pa.int32()),
            ("predicted_time", pa.float64()),
            ("measured_time", pa.float64()),  # null if the coordinate never becomes active
            ("measured_order", pa.int32()),  # from 1
            ("scaled_delay", pa.float64()),  # (measured - predicted) ln(1/alpha), which tends to C_k
            ("distance", pa.float64()),  # largest |product - product at theta_k| in the middle of the stage
            # How the active coordinates in the middle of the stage differ from the support of theta_k
            ("missing", pa.int32()),
            ("extra", pa.int32()),
        ]
    ),
    "orbits": pa.schema(
        [
            ("stage", pa.int32()),
            ("delay", pa.float64()),  # C_k, predicted; null if the coordinate does not pass its level
            ("area", pa.float64()),  # what the stage adds to (distance of the loss to its limit) ln(1/alpha)
            ("resolved_from", pa.float64()),  # ln(1/alpha_0): below alpha_0, theta_k alone is active mid-stage
        ]
    ),
    "returns": pa.schema(
        [
            ("assumption", pa.string()),  # 4.3 or 4.4
            ("stage", pa.int32()),  # k of the theta_k to which the path is to come
            ("std", pa.float64()),  # of the noise on u
            ("draw", pa.int32()),  # from 0
            ("start_distance", pa.float64()),  # largest |product - product at theta_k|
            ("end_distance", pa.float64()),  # infinite if the path does not come to rest
        ]
    ),
    "conservation": pa.schema(
        [
            ("method", pa.string()),  # flow, gd, sgd, adam, sign or muon
            ("rescaled_time", pa.float64()),
            _PRODUCT,
            # Frobenius norms of W_K^T W_K - W_Q^T W_Q or of W_V^T W_V - W_O^T W_O; of diagonal weights, of u^2 - v^2;
            # in units of exp(log_unit)
            ("change", pa.float64()),  # since the start
            ("initial", pa.float64()),
            ("log_unit", pa.float64()),
        ]
    ),
    "perturbations": pa.schema(
        [
            ("run", pa.int32()),
            ("noise_on", pa.string()),  # nonnegligible: weights above the threshold; support: active ones alone
            ("perturbed_at", pa.float64()),  # rescaled
            ("relaxation", pa.float64()),  # slowest rate at theta_k, per rescaled time; null before the first stage
            ("rescaled_time", pa.float64()),
            _PRODUCT,
            ("index", pa.int32()),
            ("value", pa.float64()),
            ("reference", pa.float64()),  # without the perturbation
        ]
    ),
    "linear_attention": pa.schema(
        [
            ("key_query", pa.dictionary(pa.int32(), pa.string())),  # merged (one head) or separate
            ("rank", pa.int32()),  # of a head's key-query matrix, at most
            ("alpha", pa.string()),
            ("stage", pa.int32()),  # k, from 0, the plateau at the start
            ("level", pa.float64()),  # loss on the plateau with k directions learned, in closed form
            ("loss", pa.float64()),  # halfway between the measured times of k and k + 1; null without them
            ("predicted_time", pa.float64()),  # of the k-th direction, up to O(1) as alpha -> 0; null for k = 0
            ("measured_time", pa.float64()),  # null if it is never learned
            ("directions", pa.int32()),  # learned halfway between the predicted times of k and k + 1
            ("heads", pa.int32()),  # active at the same time
        ]
    ),
    "linear_attention_losses": pa.schema(
        [
            ("key_query", pa.dictionary(pa.int32(), pa.string())),
            ("rank", pa.int32()),
            ("alpha", pa.string()),
            ("time", pa.float64()),
            ("loss", pa.float64()),
        ]
    ),
    "metrics": pa.schema(
        [
            ("epoch", pa.int32()),  # from 1
            ("step", pa.int64()),  # at its end
            ("learning_rate", pa.float64()),  # of its last step
            ("train_loss", pa.float64()),  # of the recipe's loss, mean over the epoch while the weights move
            ("train_accuracy", pa.float64()),  # from 0 to 1, in the same way
            ("test_loss", pa.float64()),  # at the end of the epoch
            ("test_accuracy", pa.float64()),
            ("images_per_second", pa.float64()),  # of the training steps alone
        ]
    ),
    "checkpoints": pa.schema(
        [
            ("step", pa.int64()),
            ("epoch", pa.float64()),
            ("files", pa.string()),  # separated by commas
            ("sha256", pa.string()),  # of W_K, W_Q, W_V, W_O of all layers
            ("cosine", pa.float64()),  # of these weights, as one vector, and those of step 0
        ]
    ),
    "spectra": pa.schema([*_MATRIX, ("singular_values", pa.list_(pa.float64()))]),  # descending
    "matrices": pa.schema(
        [
            *_RUN,
            ("step", pa.int64()),
            ("epoch", pa.float64()),
            ("layer", pa.int32()),  # from 0
            ("head", pa.int32()),  # from 0
            ("weight", pa.dictionary(pa.int32(), pa.string())),  # such as W_K
            ("matrix", pa.dictionary(pa.int32(), pa.string())),  # trained, or delta, the change by training
            ("relative_norm", pa.float64()),  # Frobenius norm over that of the initial weight
            ("stable_rank", pa.float64()),
            ("effective_rank", pa.float64()),
            ("row_cosine", pa.float64()),  # mean |cos| of two rows, of those that are not zero
            ("singular_values", pa.list_(pa.float64())),  # descending
        ]
    ),
    "cosines": pa.schema(
        [
            *_RUN,
            ("step", pa.int64()),
            ("layer", pa.int32()),
            ("head", pa.int32()),
            ("weight", pa.dictionary(pa.int32(), pa.string())),
            # |cos| of each two rows of the weight, row by row; rows in the order of the leading eigenvector
            ("cosines", pa.list_(pa.float64())),
        ]
    ),
    "key_query": pa.schema(
        [
            *_RUN,
            ("step", pa.int64()),  # in the window in which W_Q and W_K grow
            ("layer", pa.int32()),
            ("weight", pa.dictionary(pa.int32(), pa.string())),  # W_K or W_Q
            # Which F the linear system has: measured (at each snapshot) or frozen (that of the start of the window)
            ("system", pa.dictionary(pa.int32(), pa.string())),
            ("cosine", pa.float64()),  # of the trained weight and the one that the linear system predicts
            ("relative_norm", pa.float64()),  # of the trained weight, over its initial one
            ("predicted_norm", pa.float64()),  # the same of the predicted one
            ("stable_rank", pa.float64()),  # of the trained weight
            ("predicted_rank", pa.float64()),  # the same of the predicted one
            ("gap", pa.float64()),  # largest singular value of F at this step over the second
        ]
    ),
    "ablations": pa.schema(
        [
            *_RUN,
            ("classes", pa.int32()),
            ("patterns", pa.int32()),  # with a label; null if the data says nothing of them
            # whole; truncated (the change of each matrix to a rank); smallest, random, largest (share of the neurons
            # set to zero, by the norm of their row of W_O); head (set to zero)
            ("ablation", pa.dictionary(pa.int32(), pa.string())),
            ("amount", pa.float64()),  # rank, share, or number of the head
            ("accuracy", pa.float64()),  # on the test split after the last step; random: mean over draws
        ]
    ),
    "gradients": pa.schema(
        [
            *_RUN,
            ("step", pa.int64()),
            ("samples", pa.int32()),  # of the loss whose gradient it is; 0 for all of the train split
            ("layer", pa.int32()),
            ("head", pa.int32()),
            ("weight", pa.dictionary(pa.int32(), pa.string())),
            ("singular_values", pa.list_(pa.float64())),  # descending
        ]
    ),
    "claims": pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),  # place in the paper, version 1
            ("statement", pa.string()),
            ("measure", pa.string()),  # what the value is, and what it is taken over
            ("value", pa.float64()),  # null if not tested
            ("relation", pa.string()),  # supported if `value relation threshold` is true
            ("threshold", pa.float64()),
            ("reason", pa.string()),  # for the threshold
            ("verdict", pa.string()),  # supported, not supported, not tested
            ("n", pa.string()),  # how many runs, problems or heads the value rests on
            ("data", pa.string()),  # tables and runs
            ("details", pa.string()),  # numbers behind the value, or what is missing
        ]
    ),
}


def measures_schema(spectra, measures):
    """The schema of the table at `spectra`, with a column for each of these measures instead of the singular values.

    A measure without a value, such as the rank of the zero matrix, is null.
    """
    kept = [field for field in pq.read_schema(spectra) if field.name != "singular_values"]
    return pa.schema([*kept, *((name, pa.float64()) for name in measures)])


@contextmanager
def atomic(path):
    """A temporary path beside `path`: renamed to `path` if the block succeeds, deleted if it fails.

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
        with suppress(OSError):  # the error that came first says why
            temporary.unlink(missing_ok=True)


def write_table(path, frame, schema, provenance):
    """Write a data frame to Parquet, completely or not at all.

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
        If a column is missing or unexpected, or a value does not fit its type.
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
    """Raise a ValueError with one sentence if the table at `path`, which the block reads, is damaged."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        if getattr(error, "errno", None):  # from the system, such as a missing file
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} is damaged: delete it, and the same command makes it anew ({reason})") from error


def read_table(path, **options):
    """The table at `path` as a data frame; `options` go to pandas.read_parquet (columns, filters).

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


def read_tables(paths, **options):
    """The rows of several tables of one schema as one data frame; `options` as for `read_table`."""
    frames = [read_table(path, **options) for path in paths]
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def read_provenance(path):
    """The provenance of the table at `path`, as given to `write_table`; raises a ValueError if the file is damaged."""
    with reading(path):
        schema = pq.read_schema(path)
    return json.loads(schema.metadata[b"provenance"])


def collect(parts, path, provenance):
    """Write the rows of the tables `parts` to one table, with a column for each wildcard of the parts.

    A column that the parts already have, such as alpha in "theorem", is kept. The wildcard `table` becomes no column.
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
