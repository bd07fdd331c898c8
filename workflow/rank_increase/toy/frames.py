"""Rows of the toy model's tables, from computed runs."""

import numpy as np
import pandas as pd

from rank_increase.notation import PRODUCTS
from rank_increase.tables import SCHEMAS, read_table
from rank_increase.toy.runs import Event, Stage


def run_frames(run, log_alpha, method):
    """Rows of all tables of a runs.Run at ln(alpha) = `log_alpha`; a dict of schema to pandas.DataFrame."""
    return {
        "losses": loss_frame(run, log_alpha),
        "trajectory": trajectory_frame(run, log_alpha),
        "events": event_frame(run, log_alpha),
        "conservation": conservation_frame(run, log_alpha, method),
    }


def loss_frame(run, log_alpha):
    """Rows of schema "losses" of a runs.Run at ln(alpha) = `log_alpha`."""
    return pd.DataFrame({"time": run.time, "rescaled_time": run.time / -log_alpha, "loss": run.loss})


def trajectory_frame(run, log_alpha):
    """Rows of schema "trajectory" of a runs.Run at ln(alpha) = `log_alpha`."""
    records, *shape = run.values.shape
    return pd.DataFrame(
        {
            "rescaled_time": (run.time / -log_alpha).repeat(np.prod(shape)),
            **_labels(records, shape),
            "value": run.values.ravel(),
            "log_value": run.log_values.ravel(),
        }
    )


def event_frame(run, log_alpha):
    """Rows of schema "events" of a runs.Run at ln(alpha) = `log_alpha`."""
    events = pd.DataFrame(run.events, columns=Event._fields)
    return pd.DataFrame(
        {
            "order": range(len(events)),
            **coordinate_labels(events["coordinate"], run.values.shape[1:]),
            "rescaled_time": events["time"].astype(float) / -log_alpha,
            **events[["direction", "log_next", "log_next_own"]],
        }
    )


def stage_frame(stages, shape):
    """Rows of schema "stages" of a list of algorithm1.Stage; `shape` as in `coordinate_labels`."""
    by_product = [stage.product.reshape(-1, *shape[-2:]) for stage in stages]  # (heads of all layers, 2, dim)
    rows = [
        {
            "stage": number,
            "sign": stage.sign,
            "predicted_time": stage.time,
            "loss": stage.loss,
            "gap_to_next": stage.gap_to_next,
            "deactivated": len(stage.deactivated),
            "curvature": stage.curvature,
            "KQ": products[:, 0].ravel(),
            "VO": products[:, 1].ravel(),
        }
        for number, (stage, products) in enumerate(zip(stages, by_product, strict=True), start=1)
    ]
    labels = coordinate_labels([stage.coordinate for stage in stages], shape)
    return pd.DataFrame(rows, columns=SCHEMAS["stages"].names).assign(**labels)


def read_stages(path, shape):
    """The stages of the table "stages" of one problem at `path`, by time: a list of algorithm1.Stage.

    `shape` as in `coordinate_labels`.
    """
    rows, stages, before = read_table(path).astype({"product": str}).sort_values("stage").to_dict("records"), [], 0.0
    for row in rows:
        product = np.stack([np.reshape(row[name], (-1, shape[-1])) for name in PRODUCTS], axis=1).ravel()
        place = [row["layer"], row["head"], PRODUCTS.index(row["product"]), row["index"]][-len(shape) :]
        stage = Stage(
            time=row["predicted_time"],
            coordinate=int(np.ravel_multi_index(place, shape)),
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
    change, initial = run.conservation.reshape(-1, 2).T
    return pd.DataFrame(
        {
            "method": method,
            "rescaled_time": (run.time / -log_alpha).repeat(len(PRODUCTS)),
            "product": np.tile(PRODUCTS, len(run.time)),
            "change": change,
            "initial": initial,
            "log_unit": run.log_unit,
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
                **{name: labels[name] for name in ("product", "index")},
                "value": run.perturbed.ravel(),
                "reference": run.reference.ravel(),
            }
        )
        for number, runs in enumerate(moments)
        for run in runs
        for labels in [_labels(len(run.times), (2, dim))]
    ]
    if not frames:  # no weight passes the threshold in time
        return pd.DataFrame(columns=SCHEMAS["perturbations"].names)
    return pd.concat(frames, ignore_index=True)


def linear_attention_frame(task, flow):
    """Rows of schema "linear_attention" of a linear_attention.Flow, but for the columns that say which flow it is."""
    measured, loss = flow.found()
    directions, heads = flow.active()
    return pd.DataFrame(
        {
            "stage": range(len(task.levels)),
            "level": task.levels,
            "loss": loss,
            "predicted_time": np.append(np.nan, flow.predicted),
            "measured_time": np.append(np.nan, measured),
            "directions": directions,
            "heads": heads,
        }
    )


def linear_attention_losses(flow, points):
    """Rows of schema "linear_attention_losses" in the same way: at most `points` records, more where the loss falls."""
    passed = flow.time / flow.time[-1] + (flow.loss[0] - flow.loss) / np.ptp(flow.loss)
    kept = np.unique(np.searchsorted(np.maximum.accumulate(passed), np.linspace(0, passed[-1], points)))
    return pd.DataFrame({"time": flow.time[kept], "loss": flow.loss[kept]})


def coordinate_labels(coordinates, shape):
    """Columns `layer`, `head`, `product`, `index` of numbered coordinates.

    Parameters
    ----------
    coordinates : array of int
    shape : tuple of int
        Shape of the products as an array: (2, dim) of a single head, (layers, heads, 2, dim) of a transformer; with
        full weights, dim is the number of singular values.
    """
    *place, product, index = np.unravel_index(np.asarray(coordinates, dtype=int), shape)
    layer, head = place or np.zeros((2, len(product)), dtype=int)
    return {
        "layer": layer,
        "head": head,
        "product": pd.Categorical.from_codes(product, categories=PRODUCTS),
        "index": index,
    }


def _labels(records, shape):
    return coordinate_labels(np.tile(np.arange(np.prod(shape)), records), shape)
