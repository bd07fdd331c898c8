"""The explorer: one HTML file to browse a study's tables with sliders, from disk and offline.

Numbers are stored as one gzipped string of bytes, with a JSON text that says where each array lies in it. What is drawn
is decided by the scripts in workflow/explorer, which page.html includes in order; this module only reads, rounds and
arranges the tables.
"""

import base64
import gzip
import json
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd

from rank_increase.notation import COORDINATE, PRODUCTS, log_alpha
from rank_increase.tables import read_tables

PAGE = Path(__file__).parents[2] / "explorer"
TOY_RUN = ["variant", "alpha", "seed"]
NETWORK_RUN = ["network", "alpha", "seed"]
HEADS = ["epoch", "layer", "head"]
METRICS = ["epoch", "step", "train_loss", "test_loss", "test_accuracy"]
SHOWN = ("initial", "delta", "random_product", "noisy_factors")
SCREEN = 1000  # points that a panel shows side by side; runs with more moments are thinned
MANY, COARSE = 200, 80  # with more runs than so many, points are as few as so many: a page has at most 10 MB
COLUMNS = {  # of each table, those that the page needs
    "trajectory": [*TOY_RUN, "rescaled_time", *COORDINATE, "value"],
    "losses": [*TOY_RUN, "rescaled_time", "loss"],
    "events": [*TOY_RUN, "rescaled_time", *COORDINATE, "direction"],
    "stages": ["variant", "seed", "stage", *COORDINATE, "predicted_time", "loss", *PRODUCTS],
    "spectra": [*NETWORK_RUN, "step", *HEADS, "product", "matrix", "singular_values"],
    "measures": [*NETWORK_RUN, *HEADS, "product", "matrix", "stable_rank"],
    "metrics": [*NETWORK_RUN, *METRICS],
    "claims": ["statement", "source", "measure", "value", "relation", "threshold", "verdict", "n", "details"],
}


class ArrayStore:
    """Arrays, one after another, in one little-endian string of bytes."""

    def __init__(self):
        self._parts, self._size = [], 0

    def add(self, values, kind="float32", step=None):
        """Add an array; return its place, a dict: `type`, `start` in bytes, `shape`, `step` (of integers) or None.

        Parameters
        ----------
        values : array_like
        kind : str
            float32; or int16 or uint16, for multiples of `step`.
        step : float
            Values are rounded to multiples of it.
        """
        values = np.asarray(values, dtype=float)
        stored = (values if step is None else np.rint(values / step)).astype(f"<{np.dtype(kind).str[1:]}")
        place = {"type": kind, "start": self._size, "shape": list(stored.shape), "step": step}
        self._parts.append(stored.tobytes())
        self._size += stored.nbytes
        return place

    def add_signed(self, values):
        """As `add`, in 16 bits: an error of at most 1/65534 of the largest absolute value."""
        return self.add(values, "int16", step=float(np.abs(values).max(initial=0)) / 32767 or 1.0)

    def add_fractions(self, values):
        """As `add`, for values in [0, 1], in 16 bits: an error of at most 1/131070."""
        return self.add(values, "uint16", step=1 / 65535)

    def base64(self):
        """All arrays, gzipped, as text."""
        return _packed(b"".join(self._parts))


def _packed(data):
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def toy_part(store, tables, variants):
    """The page's data on the toy model, a dict; None without runs.

    Parameters
    ----------
    store : ArrayStore
        Takes the arrays.
    tables : dict
        Name -> data frame, of which it shows trajectory, losses, events and stages; maybe without any of them.
    variants : dict
        Name -> `weights`, `teacher`, `method`, `layers`, `heads`, as in the config.
    """
    trajectory, stages = tables.get("trajectory"), tables.get("stages")
    if trajectory is None or trajectory.empty:
        return None
    losses, events = (
        {key: rows for key, rows in tables[name].groupby(TOY_RUN, observed=True)} for name in ("losses", "events")
    )
    none = tables["events"].iloc[:0]
    points = SCREEN if len(losses) <= MANY else COARSE
    runs = [
        {**dict(zip(TOY_RUN, key, strict=True)), **_toy_run(store, rows, losses[key], events.get(key, none), points)}
        for key, rows in trajectory.groupby(TOY_RUN, observed=True)
    ]
    runs.sort(key=lambda run: (list(variants).index(run["variant"]), run["seed"], -log_alpha(run["alpha"])))
    predictions = {}
    for (variant, seed), rows in [] if stages is None else stages.groupby(["variant", "seed"], observed=True):
        form = variants[variant]
        shape = (form["layers"], form["heads"]) if form["layers"] else (1, 1)
        predictions.setdefault(variant, {})[int(seed)] = _prediction(store, rows, shape)
    return {
        "variants": {name: {**form, "limit": _limit(form, variants)} for name, form in variants.items()},
        "runs": runs,
        "stages": predictions,
    }


def _limit(variant, variants):
    """The variant that has the limit of this one: the gradient flow of the same problems; None without."""
    flow = {**variant, "method": "flow"}
    return next((name for name, form in variants.items() if {**form, "method": "flow"} == flow == form), None)


def shown_moments(time, values, points=SCREEN):
    """Moments of a run that a screen can tell apart, an array of indices; all of them if there are few.

    The last moment is kept before time or a curve has moved by more than a point since the one kept before.

    Parameters
    ----------
    time : array, shape (moments,)
    values : array, shape (curves, moments)
        Curves that share an axis.
    points : int
        Points that the screen shows side by side.
    """
    if len(time) <= points:
        return np.arange(len(time))
    curves = np.vstack([time / (time[-1] - time[0]), values / (np.abs(values).max() or 1)])
    kept = [0]
    for moment in range(1, len(time) - 1):
        if np.abs(curves[:, moment + 1] - curves[:, kept[-1]]).max() > 1 / points:
            kept.append(moment)
    return np.array([*kept, len(time) - 1])


def _toy_run(store, rows, losses, events, points):
    rows, moments = rows.astype({"product": str}), losses.sort_values("rescaled_time")
    values = rows.pivot(index=["product", "layer", "head", "index"], columns="rescaled_time", values="value")
    shown = shown_moments(moments["rescaled_time"].to_numpy(), values.to_numpy(), points)
    moments, values = moments.iloc[shown], values.iloc[:, shown]
    shape = rows["layer"].nunique(), rows["head"].nunique(), -1, len(moments)
    activated = events[events["direction"] > 0].sort_values("rescaled_time")
    return {
        "time": store.add(moments["rescaled_time"]),
        "loss": store.add(moments["loss"]),
        **{product: store.add_signed(values.loc[product].to_numpy().reshape(shape)) for product in PRODUCTS},
        "events": {"time": store.add(activated["rescaled_time"]), **_coordinates(activated)},
    }


def _prediction(store, stages, shape):
    """The stages of a problem, its products in the `shape` (layers, heads)."""
    stages = stages.sort_values("stage")
    return {
        "time": store.add(stages["predicted_time"]),
        "loss": store.add(stages["loss"]),
        **_coordinates(stages),
        **{
            product: store.add_signed(np.stack(stages[product], axis=1).reshape(*shape, -1, len(stages)))
            for product in PRODUCTS
        },
    }


def _coordinates(rows):
    """Which coordinate each row is about: a list for each column."""
    return {name: rows[name].astype(str if name == "product" else int).tolist() for name in COORDINATE}


def networks_part(store, tables, names):
    """The page's data on networks, a dict; None without runs.

    Parameters
    ----------
    store : ArrayStore
        Takes the arrays.
    tables : dict
        Name -> data frame, of which it shows spectra, measures and metrics; maybe without any of them.
    names : dict
        Network -> its label on the page.

    Raises
    ------
    ValueError
        If a run lacks spectra of some of its heads.
    """
    if tables.get("spectra") is None or tables["spectra"].empty:
        return None
    keys = [*NETWORK_RUN, *HEADS, "product", "matrix"]
    rows, ranks = (
        tables[name][tables[name]["matrix"].isin(SHOWN)].astype({"matrix": str, "product": str})
        for name in ("spectra", "measures")
    )
    rows = rows.merge(ranks, on=keys, how="left", validate="1:1")
    metrics = tables.get("metrics", pd.DataFrame(columns=COLUMNS["metrics"]))  # none of networks trained elsewhere
    trained = {key: run.sort_values("epoch") for key, run in metrics.groupby(NETWORK_RUN, observed=True)}
    runs = [
        {
            **dict(zip(NETWORK_RUN, key, strict=True)),
            "epochs": np.unique(run["epoch"]).tolist(),
            "steps": np.unique(run["step"]).tolist(),
            "metrics": {name: store.add(trained.get(key, metrics.iloc[:0])[name]) for name in METRICS},
            "products": {
                product: {
                    matrix: _spectra(store, run[(run["product"] == product) & (run["matrix"] == matrix)], key)
                    for matrix in SHOWN
                }
                for product in run["product"].unique()
            },
        }
        for key, run in rows.groupby(NETWORK_RUN, observed=True)
    ]
    runs.sort(key=lambda run: (run["network"], log_alpha(run["alpha"]), run["seed"]))
    return {"names": {run["network"]: names.get(run["network"], run["network"]) for run in runs}, "runs": runs}


def _spectra(store, rows, key):
    """Normalised spectra, (epochs, layers, heads, values); without the last axis, stable ranks and largest values."""
    rows = rows.sort_values(HEADS)
    shape = tuple(rows[name].nunique() for name in HEADS)
    if len(rows) != np.prod(shape):
        raise ValueError(f"the spectra of the run {' '.join(map(str, key))} are incomplete")
    values = np.stack(rows["singular_values"])
    # A product that has not changed has no normalised spectrum: all zeros. Its stable rank is null in the table.
    normalised = values / np.where(values[:, :1] > 0, values[:, :1], 1)
    normalised = normalised[:, : max(1, (normalised > 1e-4).sum(axis=1).max())]
    return {
        "spectra": store.add_fractions(normalised.reshape(*shape, -1)),
        "largest": store.add(values[:, 0].reshape(shape)),
        "stable_rank": store.add(rows["stable_rank"].to_numpy().reshape(shape)),
    }


def claims_part(claims):
    """The page's data on the claims, a list of dicts; None without claims.

    Parameters
    ----------
    claims : pandas.DataFrame or None
        Table of the study.
    """
    if claims is None or claims.empty:
        return None
    return claims.astype(object).where(claims.notna(), None).to_dict("records")


def read_study(tables):
    """Tables by name, with the columns that the page needs; `tables` is a dict name -> list of paths, maybe empty."""
    return {name: read_tables(paths, columns=COLUMNS[name]) for name, paths in tables.items() if paths}


def render_page(study, store):
    """The page as text.

    Parameters
    ----------
    study : dict
        What the page shows, ready for JSON; its texts may contain any characters.
    store : ArrayStore
        The arrays that `study` refers to.
    """
    parts = {path.name.replace(".", "_"): path.read_text() for path in PAGE.iterdir()}
    # Within a script element only "<" can end the text early.
    text = json.dumps(study, allow_nan=False).replace("<", "\\u003c")
    plotly = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return Template(parts.pop("page_html")).substitute(parts, study=text, arrays=store.base64(), plotly=_packed(plotly))
