"""Theorem 4.5 in numbers: the stages that Algorithm 1 predicts against measured trajectories."""

import numpy as np
import pandas as pd

from rank_increase.notation import COORDINATE, PRODUCTS, log_alpha
from rank_increase.tables import SCHEMAS


def mid_stage_times(stages, max_time):
    """Rescaled times halfway through the plateau at theta_k, k = 1, 2, ...; the last plateau ends at `max_time`."""
    return middles(stages["predicted_time"].to_numpy(), max_time)


def middles(starts, end):
    """Halfway from each of `starts`, ascending, to the next one, and from the last one to `end`; shape of `starts`."""
    return (starts + np.append(starts[1:], end)) / 2


def mid_stage_products(stages, trajectory, max_time):
    """Products at theta_k and those of a trajectory in the middle of stage k, two arrays of shape (stages, p).

    Coordinates come in the order of the lists in the table "stages", those of W_K W_Q^T first.
    """
    middle = mid_stage_times(stages, max_time)
    products = trajectory.pivot(index="rescaled_time", columns=["product", "layer", "head", "index"], values="value")
    nearest = np.abs(products.index.to_numpy()[:, None] - middle).argmin(axis=0)
    measured = np.hstack([products.iloc[nearest][name].sort_index(axis=1).to_numpy() for name in PRODUCTS])
    return np.hstack([np.stack(stages[name]) for name in PRODUCTS]), measured


def compare_stages(stages, trajectory, events, alpha, max_time):
    """Rows of schema "theorem" for one alpha.

    Parameters
    ----------
    stages, trajectory, events : pandas.DataFrame
        Tables of these schemas; the trajectory must include `mid_stage_times`.
    alpha : str
    max_time : float
        Rescaled time at which both end.
    """
    if stages.empty:
        return pd.DataFrame(columns=SCHEMAS["theorem"].names)
    predicted, measured = mid_stage_products(stages, trajectory, max_time)
    rows = _numbered(stages[["stage", *COORDINATE, "predicted_time"]])
    activations = _numbered(events.loc[events["direction"] > 0, [*COORDINATE, "rescaled_time"]])
    activations["measured_order"] = range(1, len(activations) + 1)
    rows = rows.merge(activations, on=[*COORDINATE, "time_around"], how="left").drop(columns="time_around")
    rows = rows.rename(columns={"rescaled_time": "measured_time"})
    return rows.assign(
        alpha=alpha,
        measured_order=rows["measured_order"].astype("Int32"),
        scaled_delay=(rows["measured_time"] - rows["predicted_time"]) * -log_alpha(alpha),
        distance=np.abs(measured - predicted).max(axis=1),
    )


def _numbered(rows):
    """These rows with a column that counts earlier rows of the coordinate: one that became inactive may return."""
    rows = rows.astype({"product": str})
    return rows.assign(time_around=rows.groupby(COORDINATE).cumcount())
