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
    records, _, dim = run.values.shape
    return pd.DataFrame(
        {
            "rescaled_time": (run.time / -log_alpha).repeat(2 * dim),
            **_labels(records, dim),
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
            **coordinate_labels(events["coordinate"], run.values.shape[2]),
            "rescaled_time": events["time"].astype(float) / -log_alpha,
            **events[["direction", "log_next", "log_next_own"]],
        }
    )


def stage_frame(stages, dim):
    """Rows of schema "stages" of a list of algorithm1.Stage; `dim` is the number of its values of a product."""
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
            "log_unit": run.log_unit,
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


def coordinate_labels(coordinates, dim):
    """Columns `product` and `index` of coordinates numbered as in heads.DiagonalHead.loss_and_g."""
    product, index = np.divmod(np.asarray(coordinates, dtype=int), dim)
    return {"product": pd.Categorical.from_codes(product, categories=PRODUCTS), "index": index}


def _labels(records, dim):
    return coordinate_labels(np.tile(np.arange(2 * dim), records), dim)
