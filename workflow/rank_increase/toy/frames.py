"""Rows of the toy model's tables, from computed runs."""

import numpy as np
import pandas as pd

from rank_increase.notation import PRODUCTS
from rank_increase.tables import SCHEMAS
from rank_increase.toy.runs import Event


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


def perturbation_frame(moments, log_alpha, dim):
    """Rows of schema "perturbations"; `moments` has a list of assumptions.PerturbedRun for each moment."""
    frames = [
        pd.DataFrame(
            {
                "run": number,
                "noise_on": run.noise_on,
                "perturbed_at": run.times[0] / -log_alpha,
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
        Shape of the products as an array: (2, dim) of a single head, (layers, heads, 2, dim) of a transformer.
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
