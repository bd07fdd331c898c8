"""Panels of linear attention."""

from rank_increase.figures.style import RESCALED_TIME
from rank_increase.notation import alpha_label, log_alpha, sort_alphas


def draw_linear_attention(axes, stages, losses, colors):
    """Losses of one parametrisation for every alpha, in the unit of time of its plateaus, over the known levels.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    stages, losses : pandas.DataFrame
        Tables "linear_attention" and "linear_attention_losses" of one problem and parametrisation.
    colors : dict
        Of figures.toy.alpha_colors.

    Returns
    -------
    str
        What the parametrisation is.
    """
    key_query, rank, dim = stages["key_query"].iloc[0], stages["rank"].iloc[0], stages["stage"].max()
    for level in stages["level"].unique():
        axes.axhline(level, color="0.6", lw=0.6, ls=(0, (5, 4)))
    for alpha in sort_alphas(stages["alpha"]):
        run = losses[losses["alpha"] == alpha]
        if key_query == "merged":
            time, label, name = run["time"] / -log_alpha(alpha), RESCALED_TIME, "merged key and query"
        elif rank == dim:
            since = run["time"] - stages.loc[stages["alpha"] == alpha, "measured_time"].min()
            time, label = since[since > 0] / -log_alpha(alpha), r"(time - $T_1$) / $\ln(1/\alpha)$"
            name = "one head of full rank"
        else:
            time, label, name = float(alpha) * run["time"], r"$\alpha$ time", f"heads of rank {rank}"
        axes.plot(time, run.loc[time.index, "loss"], color=colors[alpha], label=alpha_label(alpha))
    axes.set(xlabel=label, ylabel="loss", xscale="log")
    return name


def draw_jump_times(axes, stages, colors):
    """Measured against predicted times of stages, times alpha, of heads with separate key and query.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    stages : pandas.DataFrame
        Table "linear_attention".
    colors : dict
        Of figures.toy.alpha_colors.
    """
    separate = stages[stages["key_query"] == "separate"].dropna(subset=["predicted_time", "measured_time"])
    for alpha, color in colors.items():
        rows = separate[separate["alpha"] == alpha]
        scaled = (float(alpha) * rows[column] for column in ("predicted_time", "measured_time"))
        axes.plot(*scaled, "o", ms=2.5, color=color)
    axes.axline((1, 1), (10, 10), color="0.5", lw=0.8, zorder=1)
    axes.set(xlabel=r"predicted, $\times\,\alpha$", ylabel=r"measured, $\times\,\alpha$", xscale="log", yscale="log")
