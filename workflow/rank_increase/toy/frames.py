"""Rows of the toy model's tables, from computed runs."""

import numpy as np
import pandas as pd

from rank_increase.notation import PRODUCTS
from rank_increase.tables import SCHEMAS, read_table
from rank_increase.toy.algorithm1 import Stage


def loss_frame(run, log_alpha):
    """Rows of schema "losses" of a runs.Run at ln(alpha) = `log_alpha`."""
    return pd.DataFrame({"time": run.time, "rescaled_time": run.time / -log_alpha, "loss": run.loss})


def trajectory_frame(run, log_alpha):
    """Rows of schema "trajectory" of a runs.Run at ln(alpha) = `log_alpha`."""
    records, _, dim = run.values.shape
    return pd.DataFrame(
        {
            "rescaled_time": (run.time / -log_alpha).repeat(2 * dim),
            **_labels(records, dim),
            "value": run.values.ravel(),
        }
    )


def event_frame(run, log_alpha):
    """Rows of schema "events" of a runs.Run at ln(alpha) = `log_alpha`."""
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


def stage_frame(stages, dim):
    """Rows of schema "stages" of a list of algorithm1.Stage; `dim` is the number of entries of a product."""
    rows = [
        {
            "stage": number,
            "sign": stage.sign,
            "predicted_time": stage.time,
            "loss": stage.loss,
            "gap_to_next": stage.gap_to_next,
            "deactivated": len(stage.deactivated),
            "curvature": stage.curvature,
            "KQ": stage.product[:dim],
            "VO": stage.product[dim:],
        }
        for number, stage in enumerate(stages, start=1)
    ]
    labels = coordinate_labels([stage.coordinate for stage in stages], dim)
    return pd.DataFrame(rows, columns=SCHEMAS["stages"].names).assign(**labels)


def read_stages(path):
    """The stages of the table "stages" of one problem at `path`, by time: a list of algorithm1.Stage."""
    rows, stages, before = read_table(path).astype({"product": str}).sort_values("stage").to_dict("records"), [], 0.0
    for row in rows:
        product = np.concatenate([row[name] for name in PRODUCTS])
        stage = Stage(
            time=row["predicted_time"],
            coordinate=PRODUCTS.index(row["product"]) * len(row[PRODUCTS[0]]) + row["index"],
            sign=row["sign"],
            product=product,
            loss=row["loss"],
            gap_to_next=row["gap_to_next"],
            deactivated=tuple(np.flatnonzero((before != 0) & (product == 0)).tolist()),
            curvature=row["curvature"],
        )
        stages.append(stage)
        before = product
    return stages


def orbit_frame(orbits, resolved_from):
    """Rows of schema "orbits" of a list of orbits.Orbit, and of orbits.resolved_from, ln(1/alpha_0), of each."""
    return pd.DataFrame(
        {
            "stage": range(1, len(orbits) + 1),
            "delay": [orbit.delay for orbit in orbits],
            "area": [orbit.area for orbit in orbits],
            "resolved_from": resolved_from,
        }
    )


def return_frame(returns):
    """Rows of schema "returns" of a list of returns.Return."""
    return pd.DataFrame([vars(each) for each in returns], columns=SCHEMAS["returns"].names)


def conservation_frame(run, log_alpha, method):
    """Rows of schema "conservation" of a runs.Run; none if it conserves by construction."""
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


def perturbation_frame(moments, log_alpha, dim, stages):
    """Rows of schema "perturbations".

    Parameters
    ----------
    moments : list
        For each moment, a list of assumptions.PerturbedRun.
    log_alpha : float
    dim : int
        Number of entries of a product.
    stages : list of algorithm1.Stage
        Their curvature c at theta_k gives the relaxation: u = ±v returns at rate c / 2, as both weights move.
    """
    times, curvature = [stage.time for stage in stages], np.array([np.nan, *(stage.curvature for stage in stages)])
    frames = [
        pd.DataFrame(
            {
                "run": number,
                "noise_on": run.noise_on,
                "perturbed_at": run.times[0] / -log_alpha,
                "relaxation": curvature[np.searchsorted(times, run.times[0] / -log_alpha, side="right")]
                / 2
                * -log_alpha,
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
    """Columns `product` and `index` of coordinates numbered as in heads.DiagonalHead.loss_and_g."""
    product, index = np.divmod(np.asarray(coordinates, dtype=int), dim)
    return {"product": pd.Categorical.from_codes(product, categories=PRODUCTS), "index": index}


def _labels(records, dim):
    return coordinate_labels(np.tile(np.arange(2 * dim), records), dim)
