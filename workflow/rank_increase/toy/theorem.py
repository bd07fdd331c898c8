"""Theorem 4.5 in numbers: the stages that Algorithm 1 predicts against measured trajectories."""

import numpy as np
import pandas as pd

from rank_increase.notation import PRODUCTS, log_alpha
from rank_increase.tables import SCHEMAS
from rank_increase.toy.frames import coordinate_labels


def middles(starts, end):
    """Halfway from each of `starts`, ascending, to the next one, and from the last one to `end`; shape of `starts`."""
    starts = np.asarray(starts)
    return (starts + np.append(starts[1:], end)[: len(starts)]) / 2


def mid_stage_products(stages, trajectory, max_time):
    """Products at theta_k and those of a trajectory in the middle of stage k, two arrays of shape (stages, p).

    Coordinates come in the order of the lists in the table "stages", those of W_K W_Q^T first.
    """
    middle = middles(stages["predicted_time"].to_numpy(), max_time)
    products = trajectory.pivot(index="rescaled_time", columns=["product", "layer", "head", "index"], values="value")
    nearest = np.abs(products.index.to_numpy()[:, None] - middle).argmin(axis=0)
    measured = np.hstack([products.iloc[nearest][name].sort_index(axis=1).to_numpy() for name in PRODUCTS])
    return np.hstack([np.stack(stages[name]) for name in PRODUCTS]), measured


def activation_levels(stages):
    """Sizes of the products above which coordinates count as active, shape (p,).

    Half of what theta_k has in the stage that activates the coordinate (the smallest of these, if several stages do):
    products span orders of magnitude, so that an absolute level would miss the smallest, and the moment of half the way
    depends least on it. Coordinates that no stage activates share the smallest level: any of them is noticed.

    Parameters
    ----------
    stages : list of algorithm1.Stage
        At least one.
    """
    levels = np.full(len(stages[0].product), np.inf)
    for stage in stages:
        reached = abs(stage.product[stage.coordinate])
        if reached > 0:
            levels[stage.coordinate] = min(levels[stage.coordinate], reached / 2)
    return np.where(np.isfinite(levels), levels, levels.min())


def compare_stages(stages, trajectory, events, alpha, max_time, shape):
    """Rows of schema "theorem" for one alpha.

    Parameters
    ----------
    stages : list of algorithm1.Stage
    trajectory, events : pandas.DataFrame
        Tables of these schemas; the trajectory must include the `middles` of stages.
    alpha : str
    max_time : float
        Rescaled time at which both end.
    shape : tuple of int
        As in frames.coordinate_labels.
    """
    if not stages:
        return pd.DataFrame(columns=SCHEMAS["theorem"].names)
    products = trajectory.pivot(index="rescaled_time", columns=["layer", "head", "product", "index"], values="value")
    products = products.sort_index(axis=1)  # the order in which coordinates are numbered
    middle = middles([stage.time for stage in stages], max_time)
    measured = products.to_numpy()[np.abs(products.index.to_numpy()[:, None] - middle).argmin(axis=0)]
    predicted = np.stack([stage.product for stage in stages])
    support, half = predicted != 0, abs(predicted) / 2
    labels = coordinate_labels([stage.coordinate for stage in stages], shape)
    names, times = list(labels), [stage.time for stage in stages]
    found = _numbered(pd.DataFrame({"stage": range(1, len(stages) + 1), **labels, "predicted_time": times}), names)
    activations = _numbered(events.loc[events["direction"] > 0, [*names, "rescaled_time"]], names)
    # One that passes its level again, though it has not left, counts once; so does one that no stage activates.
    visits = found.groupby(names).size()
    allowed = [visits.get(key, 1) for key in activations[names].itertuples(index=False, name=None)]
    activations = activations[activations["time_around"] < allowed]
    activations["measured_order"] = range(1, len(activations) + 1)
    found = found.merge(activations, on=[*names, "time_around"], how="left").drop(columns="time_around")
    found = found.rename(columns={"rescaled_time": "measured_time"})
    return found.assign(
        alpha=alpha,
        measured_order=found["measured_order"].astype("Int32"),
        scaled_delay=(found["measured_time"] - found["predicted_time"]) * -log_alpha(alpha),
        distance=np.abs(measured - predicted).max(axis=1),
        missing=(support & (np.sign(predicted) * measured < half)).sum(axis=1),
        extra=(~support & (abs(measured) >= activation_levels(stages))).sum(axis=1),
    )


def ordered_pairs(stages, apart):
    """Whether stages come in the predicted order: for each pair that is predicted at least `apart` apart, an array.

    Parameters
    ----------
    stages : pandas.DataFrame
        Rows of schema "theorem", of one run. A stage that does not occur comes last.
    apart : float
        In rescaled time.
    """
    rows = stages.sort_values("predicted_time")
    predicted, measured = rows["predicted_time"].to_numpy(), rows["measured_time"].fillna(np.inf).to_numpy()
    return (measured[None, :] > measured[:, None])[predicted[None, :] - predicted[:, None] >= apart]


def _numbered(rows, names):
    """These rows with a column that counts earlier rows of the coordinate: one that became inactive may return."""
    rows = rows.astype({"product": str})
    return rows.assign(time_around=rows.groupby(names).cumcount())
