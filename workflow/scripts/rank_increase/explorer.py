"""The explorer: one HTML file in which a study's tables are turned over with sliders, from disk and offline.

Numbers travel as one gzipped string of bytes with a JSON text that says where each array lies in it. What is drawn is
decided in workflow/explorer/explorer.js; here the tables are only read, rounded and laid out for it.
"""

import base64
import gzip
import json
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd

from rank_increase.notation import PRODUCTS, log_alpha
from rank_increase.tables import read_table

PAGE = Path(__file__).parents[2] / "explorer"
RUN = ["structure", "alpha", "seed"]
VIT_RUN = ["dataset", "alpha", "seed"]
HEADS = ["epoch", "layer", "head"]


class ArrayStore:
    """Arrays one after the other in one string of bytes, little-endian."""

    def __init__(self):
        self._parts, self._size = [], 0

    def add(self, values, kind="float32", step=None):
        """Where an array lies, a dict: `type`, `start` in bytes, `shape`, and `step`, the unit of integers, or None.

        Parameters
        ----------
        values : array_like
        kind : str
            float32, or for multiples of `step`, int16 or uint16.
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
        """As `add`, in 16 bits: an error of 1/65534 of the largest absolute value at most."""
        return self.add(values, "int16", step=float(np.abs(values).max(initial=0)) / 32767 or 1.0)

    def add_fractions(self, values):
        """As `add`, for values in [0, 1], in 16 bits: an error of 1/131070 at most."""
        return self.add(values, "uint16", step=1 / 65535)

    def base64(self):
        """All arrays, gzipped, as text."""
        return base64.b64encode(gzip.compress(b"".join(self._parts), mtime=0)).decode()


def toy_part(store, trajectory, stages, structures):
    """What the page knows of the toy model, a dict; None if there is no run.

    Parameters
    ----------
    store : ArrayStore
        Takes the arrays.
    trajectory, stages : pandas.DataFrame or None
        Tables of the study.
    structures : dict
        Name -> `weights`, `teacher`, `method`, as in the config.
    """
    if trajectory is None or trajectory.empty:
        return None
    runs = [
        {**dict(zip(RUN, key, strict=True)), **_toy_run(store, rows)}
        for key, rows in trajectory.groupby(RUN, observed=True)
    ]
    runs.sort(key=lambda run: (list(structures).index(run["structure"]), run["seed"], -log_alpha(run["alpha"])))
    predictions = {} if stages is None else {int(seed): rows for seed, rows in stages.groupby("seed")}
    return {
        "structures": {name: {**form, "predicted": _has_prediction(form)} for name, form in structures.items()},
        "runs": runs,
        "stages": {seed: _prediction(store, rows) for seed, rows in predictions.items()},
    }


def _has_prediction(structure):
    return structure["weights"] == structure["teacher"] == "diagonal"


def _toy_run(store, rows):
    rows = rows.astype({"product": str})
    moments = rows.drop_duplicates("rescaled_time").sort_values("rescaled_time")
    values = rows.pivot(index=["product", "index"], columns="rescaled_time", values="value")
    return {
        "time": store.add(moments["rescaled_time"]),
        "loss": store.add(moments["loss"]),
        **{product: store.add_signed(values.loc[product].to_numpy()) for product in PRODUCTS},
    }


def _prediction(store, stages):
    stages = stages.sort_values("stage")
    return {
        "time": store.add(stages["predicted_time"]),
        "loss": store.add(stages["loss"]),
        "product": stages["product"].astype(str).tolist(),
        "index": stages["index"].tolist(),
        **{product: store.add_signed(np.stack(stages[product], axis=1)) for product in PRODUCTS},
    }


def vit_part(store, spectra, baselines, metrics, names):
    """What the page knows of vision transformers, a dict; None if there is no run.

    Parameters
    ----------
    store : ArrayStore
        Takes the arrays.
    spectra, baselines, metrics : pandas.DataFrame or None
        Tables of the study.
    names : dict
        Dataset -> what the page calls it, if not as the config does.

    Raises
    ------
    ValueError
        If a run lacks spectra of some of its heads.
    """
    if spectra is None or spectra.empty:
        return None
    rows = pd.concat([spectra[spectra["matrix"] != "trained"], baselines.rename(columns={"baseline": "matrix"})])
    rows = rows.astype({"product": str, "matrix": str})
    accuracy = {key: run.sort_values("epoch") for key, run in metrics.groupby(VIT_RUN, observed=True)}
    runs = [
        {
            **dict(zip(VIT_RUN, key, strict=True)),
            "epochs": np.unique(run["epoch"]).tolist(),
            "accuracy": dict(accuracy[key][["epoch", "test_accuracy"]].itertuples(index=False, name=None)),
            "products": {
                product: {
                    matrix: _spectra(store, run[(run["product"] == product) & (run["matrix"] == matrix)], key)
                    for matrix in ("initial", "delta", "random_product", "noisy_factors")
                }
                for product in PRODUCTS
            },
        }
        for key, run in rows.groupby(VIT_RUN, observed=True)
    ]
    runs.sort(key=lambda run: (run["dataset"], log_alpha(run["alpha"]), run["seed"]))
    return {"names": {run["dataset"]: names.get(run["dataset"], run["dataset"]) for run in runs}, "runs": runs}


def _spectra(store, rows, key):
    """Normalised spectra, of shape (epochs, layers, heads, values), and stable ranks, without the last axis."""
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
        "stable_rank": store.add(rows["stable_rank"].to_numpy().reshape(shape)),
    }


def claims_part(claims):
    """What the page knows of the claims, a list of dicts; None if there is none.

    Parameters
    ----------
    claims : pandas.DataFrame or None
        Table of the study.
    """
    if claims is None or claims.empty:
        return None
    return claims.astype(object).where(claims.notna(), None).to_dict("records")


def read_study(tables):
    """Tables by name, with the columns that the page needs, from a dict name -> path."""
    head = [*VIT_RUN, "epoch", "layer", "head", "product", "singular_values", "stable_rank"]
    columns = {
        "trajectory": [*RUN, "rescaled_time", "loss", "product", "index", "value"],
        "stages": ["seed", "stage", "product", "index", "predicted_time", "loss", *PRODUCTS],
        "spectra": [*head, "matrix"],
        "baselines": [*head, "baseline"],
        "metrics": [*VIT_RUN, "epoch", "test_accuracy"],
        "claims": ["statement", "source", "measure", "value", "relation", "threshold", "verdict", "n", "details"],
    }
    return {name: read_table(path, columns=columns[name]) for name, path in tables.items()}


def render_page(study, store):
    """The page as text.

    Parameters
    ----------
    study : dict
        What the page shows, ready for JSON; its text may hold anything.
    store : ArrayStore
        The arrays that `study` refers to.
    """
    parts = {path.name.replace(".", "_"): path.read_text() for path in PAGE.iterdir()}
    # In a script element only "<" can end the text early.
    text = json.dumps(study, allow_nan=False).replace("<", "\\u003c")
    plotly = files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")
    return Template(parts.pop("page_html")).substitute(parts, study=text, arrays=store.base64(), plotly=plotly)
