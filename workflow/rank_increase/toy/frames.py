"""Rows of the toy model's tables, from computed runs."""

import numpy as np
import pandas as pd

from rank_increase.notation import PRODUCTS
from rank_increase.tables import SCHEMAS


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


def perturbation_frame(moments, log_alpha, dim):
    """Rows of schema "perturbations"; `moments` has a list of assumptions.PerturbedRun for each moment."""
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


def coordinate_labels(coordinates, dim):
    """Columns `product` and `index` of coordinates numbered as in heads.DiagonalHead.loss_and_g."""
    product, index = np.divmod(np.asarray(coordinates, dtype=int), dim)
    return {"product": pd.Categorical.from_codes(product, categories=PRODUCTS), "index": index}


def _labels(records, dim):
    return coordinate_labels(np.tile(np.arange(2 * dim), records), dim)
