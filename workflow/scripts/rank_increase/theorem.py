"""Theorem 4.5 in numbers: the stages that Algorithm 1 predicts against measured trajectories."""

import numpy as np

from rank_increase.notation import PRODUCTS, log_alpha


def mid_stage_times(stages, max_time):
    """Rescaled times halfway through the plateau at theta_k, k = 1, 2, ...; the last plateau ends at `max_time`."""
    start = stages["predicted_time"].to_numpy()
    return (start + np.append(start[1:], max_time)) / 2


def compare_stages(stages, trajectory, events, alpha, max_time):
    """Rows of schema "theorem" for one alpha.

    Parameters
    ----------
    stages, trajectory, events : pandas.DataFrame
        Of these schemas; the trajectory recorded at `mid_stage_times` too.
    alpha : str
    max_time : float
        Rescaled time up to which both go.
    """
    middle = mid_stage_times(stages, max_time)
    products = trajectory.pivot(index="rescaled_time", columns=["product", "index"], values="value")
    nearest = np.abs(products.index.to_numpy()[:, None] - middle).argmin(axis=0)
    measured = np.hstack([products.iloc[nearest][name].sort_index(axis=1).to_numpy() for name in PRODUCTS])
    predicted = np.hstack([np.stack(stages[name]) for name in PRODUCTS])
    activations = events[events["direction"] > 0].drop_duplicates(["product", "index"]).reset_index(drop=True)
    activations["measured_order"] = activations.index + 1
    rows = stages[["stage", "product", "index", "predicted_time"]].astype({"product": str})
    rows = rows.merge(activations.astype({"product": str}), on=["product", "index"], how="left")
    rows = rows.rename(columns={"rescaled_time": "measured_time"}).drop(columns=["order", "direction"])
    return rows.assign(
        alpha=alpha,
        measured_order=rows["measured_order"].astype("Int32"),
        scaled_delay=(rows["measured_time"] - rows["predicted_time"]) * -log_alpha(alpha),
        distance=np.abs(measured - predicted).max(axis=1),
    )
