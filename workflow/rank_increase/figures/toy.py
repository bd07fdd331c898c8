"""Panels of the toy model: one function per kind, which takes a table and fills an Axes."""

from functools import partial
from string import ascii_lowercase
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from seaborn import lineplot, scatterplot

from rank_increase.figures.job import NothingToShow
from rank_increase.figures.style import PRODUCT_LABELS, RESCALED_TIME, new_panels
from rank_increase.notation import PRODUCTS, alpha_label, log_alpha, sort_alphas
from rank_increase.toy.staircase import Staircase
from rank_increase.toy.windows import Window

DIAGONAL_LABELS = {"KQ": r"$\mathrm{diag}(w_Q)\mathrm{diag}(w_K)$", "VO": r"$\mathrm{diag}(w_V)\mathrm{diag}(w_O)$"}
INACTIVE = "0.84"  # gray of entries that never become active, lighter than any stage
PERTURBED_LINE = {"lw": 1.8, "alpha": 0.65}  # lets the reference show through where the two agree
REFERENCE_LINE = {"color": "black", "lw": 0.6, "ls": (0, (5, 4))}
MARK, MARK_SHADE = "#a40000", "#f9ebe9"  # of runs that do not meet the conditions of their experiment


def read_products(tables, variant, alphas, seed):
    """Products over time of runs that differ in alpha: `alpha`, `rescaled_time`, `product`, `index`, `value`.

    Parameters
    ----------
    tables : figures.job.StudyTables
    variant : str
    alphas : list of str or None
        None for all in the table.
    seed : int
    """
    columns = ["alpha", "rescaled_time", "product", "index", "value"]
    rows = tables.read("trajectory", columns, variant=variant, alpha=alphas, seed=seed)
    return rows.astype({"alpha": str})


def read_losses(tables, variant, alphas, seed):
    """Losses over time of the same runs: `alpha`, `rescaled_time`, `loss`, a row for each time."""
    rows = tables.read("losses", ["alpha", "rescaled_time", "loss"], variant=variant, alpha=alphas, seed=seed)
    return rows.astype({"alpha": str})


def read_stages(tables, seed, variant="diagonal"):
    """The table "stages" of one problem; may be empty."""
    return tables.read("stages", variant=variant, seed=seed, may_be_empty=True)


def alpha_colors(alphas):
    """A color for each init scale, darker for smaller ones, so that the order survives printing in gray; a dict."""
    alphas = sort_alphas(alphas)
    return dict(zip(alphas, matplotlib.colormaps["inferno_r"](np.linspace(0.22, 1, len(alphas))), strict=True))


def stage_scale(stages):
    """Color scale of stages of Algorithm 1, dark to light, with gray beyond the last; a ScalarMappable.

    Parameters
    ----------
    stages : pandas.DataFrame
        Table "stages" of one seed.
    """
    # Viridis without its lightest fifth, which is hard to see on white.
    colors = LinearSegmentedColormap.from_list("stages", matplotlib.colormaps["viridis"](np.linspace(0, 0.85, 256)))
    return ScalarMappable(Normalize(1, max(stages["stage"], default=1)), colors.with_extremes(over=INACTIVE))


def entry_colors(stages):
    """A color for each diagonal entry that becomes active in Algorithm 1; a dict (product, index) -> RGBA."""
    entries = stages[["product", "index"]].itertuples(index=False, name=None)
    return dict(zip(entries, stage_scale(stages).to_rgba(stages["stage"]), strict=True))


def rank_colors(dim):
    """A color for each singular value, from the largest, dark, to the smallest; a dict (product, index) -> RGBA."""
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, dim))
    return {(product, index): colors[index] for product in PRODUCTS for index in range(dim)}


def add_stage_bar(figure, axes, stages, location, **size):
    """Explain the colors of `entry_colors` at the "right" or the "bottom" of `axes`; `size` as for Figure.colorbar."""
    bar = figure.colorbar(
        stage_scale(stages),
        ax=axes,
        extend="max",
        extendfrac=0.04,
        extendrect=True,
        aspect=60,
        location=location,
        **size,
    )
    bar.set_label("stage of Algorithm 1 in which the entry becomes active (gray: in none)")
    bar.outline.set_visible(False)


def draw_products(axes, run, product, colors):
    """A line for each diagonal entry, or singular value, of a product against rescaled time.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    run : pandas.DataFrame
        Columns `rescaled_time`, `product`, `index`, `value` of one run.
    product : str
        KQ or VO.
    colors : dict
        (product, index) -> color; other entries are drawn in gray, below these.
    """
    lines = _by_index(run, product, "value")
    for index in lines:
        color = colors.get((product, index), INACTIVE)
        axes.plot(lines.index, lines[index], color=color, lw=0.9, zorder=2 if (product, index) in colors else 1)
    axes.set(xlim=(0, lines.index[-1]), xlabel=RESCALED_TIME)


def _by_index(run, product, column):
    """One column of a product as a table: a row for each time and a column for each entry."""
    return run[run["product"] == product].pivot(index="rescaled_time", columns="index", values=column)


def row_label(weights, teacher, alpha):
    """Label of a row of Figure 2, for `weights` and `teacher` as in the configuration."""
    return f"{weights} weights,\n{teacher} teacher,\n{alpha_label(alpha)}"


FORMS = {  # variant -> weights and teacher, as in the label of a row of Figure 2
    "diagonal": ("diagonal", "diagonal"),
    "full": ("full", "diagonal"),
    "full_dense": ("full", "dense"),
}


def draw_runs(tables, shown, seed):
    """A figure of single runs, a row of panels for each: both products and the loss.

    Parameters
    ----------
    tables : figures.job.StudyTables
    shown : list of (str, str or None)
        Variant, a key of `FORMS`, and init scale of each row; None for the smallest in the study. Variants without
        runs are left out.
    seed : int
    """
    losses = tables.read("losses", ["variant", "alpha", "rescaled_time", "loss"], seed=seed)
    losses = losses.astype({"variant": str, "alpha": str})
    runs = [
        (variant, alpha or sort_alphas(losses.loc[losses["variant"] == variant, "alpha"])[-1])
        for variant, alpha in shown
        if variant in set(losses["variant"])
    ]
    if not runs:
        variants = dict.fromkeys(variant for variant, _ in shown)
        raise NothingToShow(f"There is no run of {' or '.join(variants)} with seed {seed}.")
    stages, letters = read_stages(tables, seed), iter(ascii_lowercase)
    figure, axes = new_panels(len(runs), 3, 1.95 * len(runs))
    for panels, (variant, alpha) in zip(axes, runs, strict=True):
        run = read_products(tables, variant, [alpha], seed)
        diagonal = FORMS[variant][0] == "diagonal"
        colors = entry_colors(stages) if diagonal else rank_colors(run["index"].max() + 1)
        for panel, product in zip(panels, ("VO", "KQ"), strict=False):
            draw_products(panel, run, product, colors)
            what = "diagonal entries" if diagonal else "singular values"
            panel.set_title(f"({next(letters)}) {what} of {PRODUCT_LABELS[product]}")
        draw_losses(panels[2], read_losses(tables, variant, [alpha], seed), {alpha: "black"})
        panels[2].set_title(f"({next(letters)}) loss")
        panels[0].set_ylabel(row_label(*FORMS[variant], alpha))
    return figure


def draw_full_weights(tables, seed, alphas):
    """A figure of full weights: for each teacher the loss of every alpha, and singular values for some `alphas`."""
    forms = {variant: teacher for variant, (weights, teacher) in FORMS.items() if weights == "full"}
    present = set(tables.read("losses", ["variant"], seed=seed)["variant"].astype(str))
    forms = {variant: teacher for variant, teacher in forms.items() if variant in present}
    if not forms:
        raise NothingToShow(f"There is no run with full weights and seed {seed}.")
    letters = iter(ascii_lowercase)
    figure, axes = new_panels(len(forms), 4, 2.3 * len(forms))
    for panels, (variant, teacher) in zip(axes, forms.items(), strict=True):
        losses, stages = read_losses(tables, variant, None, seed), read_stages(tables, seed, variant)
        known, end = sort_alphas(losses["alpha"]), losses["rescaled_time"].max()
        shown = alphas or list(dict.fromkeys([known[0], known[len(known) // 2], known[-1]]))
        draw_limit(panels[0], read_limit(losses, stages), end)
        draw_losses(panels[0], losses, alpha_colors(losses["alpha"]), width=0.6)
        panels[0].set_title(f"({next(letters)}) {teacher} teacher")
        panels[1].set_ylabel(f"singular values of {PRODUCT_LABELS['VO']}")
        for panel, alpha in zip(panels[1:], shown, strict=False):
            run = read_products(tables, variant, [alpha], seed)
            draw_limit_products(panel, stages, "VO", end)
            draw_products(panel, run, "VO", rank_colors(run["index"].max() + 1))
            panel.set_title(f"({next(letters)}) {alpha_label(alpha)}")
        for panel in panels[1 + len(shown) :]:
            panel.set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_limit_products(axes, stages, product, end):
    """Entries, or singular values, of a product in the limit of Algorithm 1: gray steps up to rescaled time `end`.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    stages : pandas.DataFrame
        Table "stages" of one problem.
    product : str
        KQ or VO.
    end : float
    """
    if stages.empty:
        return
    values = np.stack(stages.sort_values("stage")[product])
    times = np.r_[0.0, np.sort(stages["predicted_time"]), end]
    for entry in np.vstack([np.zeros(values.shape[1]), values, values[-1]]).T:
        axes.plot(times, entry, drawstyle="steps-post", color="0.8", lw=2.5, zorder=0)


def draw_entries(tables, product, alphas, seed):
    """A figure of the diagonal entries of a product, a panel for each of `alphas`, two in a row, in this order."""
    runs, stages = read_products(tables, "diagonal", alphas, seed), read_stages(tables, seed)
    alphas = alphas or sort_alphas(runs["alpha"])
    rows = -(-len(alphas) // 2)
    figure, axes = new_panels(rows, 2, 2.2 * rows, sharex=True, sharey=True)
    for panel, alpha in zip(axes.flat, alphas, strict=False):
        draw_products(panel, runs[runs["alpha"] == alpha], product, entry_colors(stages))
        panel.set_title(f"Entries of {DIAGONAL_LABELS[product]}, for {alpha_label(alpha)}")
        panel.label_outer()
    for panel in axes[:, 0]:
        panel.set_ylabel(f"diagonal entries of {PRODUCT_LABELS[product]}")
    for panel in axes.flat[len(alphas) :]:
        panel.set_visible(False)
    add_stage_bar(figure, axes, stages, "right", fraction=0.03, pad=0.01)
    return figure


def draw_windows(tables, assumption, seed, rows, note, with_speed=False):
    """A figure of the perturbation runs of an assumption, a row of panels for each.

    Parameters
    ----------
    tables : figures.job.StudyTables
    assumption : {"plateaus", "activations"}
    seed : int
    rows : int
        Number of runs to show, evenly from the first to the last; all if there are fewer.
    note : callable
        Window -> a note on the run, and whether the run needs caution.
    with_speed : bool
        Whether notes mention the speed at the end of a window.
    """
    table, stages = tables.read("perturbations", assumption=assumption, seed=seed), read_stages(tables, seed)
    numbers = np.sort(table["run"].unique())
    numbers = numbers[np.linspace(0, len(numbers) - 1, min(rows, len(numbers))).round().astype(int)]
    runs = [table[table["run"] == number] for number in numbers]
    figure, axes = new_panels(len(runs), 2, 1.65 * len(runs) + 0.7)
    for panels, choices in zip(axes, runs, strict=True):
        run, on_support = (choices[choices["noise_on"] == noise_on] for noise_on in ("nonnegligible", "support"))
        window = Window.of(run)
        said, marked = note(window)
        for panel, product in zip(panels, ("VO", "KQ"), strict=True):
            draw_window(panel, run, product, entry_colors(stages), shaded=marked)
        panels[0].set_ylabel("coordinate value")
        note_window(panels[0], window.distances(Window.of(on_support)))
        note_window(panels[1], said, marked)
    add_stage_bar(figure, axes, stages, "bottom", fraction=0.015, pad=0.02)
    add_window_legend(figure, with_speed=with_speed)
    return figure


def draw_losses(axes, losses, colors, width=1.0):
    """Loss against rescaled time, a line for each alpha; lines of smaller alpha are wider and on top.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    losses : pandas.DataFrame
        Of `read_losses`.
    colors : dict
        Of `alpha_colors`.
    width : float
        Of the line of the largest alpha, in points.
    """
    alphas = sort_alphas(losses["alpha"])
    curve = partial(lineplot, x="rescaled_time", y="loss", estimator=None, legend=False, ax=axes)
    for alpha, wider in zip(alphas, np.linspace(1, 1.7, len(alphas)), strict=True):
        run = losses[losses["alpha"] == alpha]
        curve(run, color=colors[alpha], lw=width * wider, label=alpha_label(alpha))
    axes.set(xlim=(0, losses["rescaled_time"].max()), xlabel=RESCALED_TIME, ylabel="training loss")
    axes.set_ylim(bottom=0)


def draw_window(axes, run, product, colors, shaded=False):
    """Entries of a product along a perturbed path, in color, and along the unperturbed path, dashed.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    run : pandas.DataFrame
        One run of the table "perturbations".
    product : str
        KQ or VO.
    colors : dict
        As for `draw_products`.
    shaded : bool
        Whether the run needs caution.
    """
    perturbed, reference = (_by_index(run, product, column) for column in ("value", "reference"))
    for index in perturbed:
        active = (product, index) in colors
        color = colors[product, index] if active else INACTIVE
        axes.plot(perturbed.index, perturbed[index], color=color, **PERTURBED_LINE, zorder=2 if active else 1)
        axes.plot(reference.index, reference[index], **REFERENCE_LINE, zorder=3)
    axes.set(xlim=(perturbed.index[0], perturbed.index[-1]), facecolor=MARK_SHADE if shaded else "white")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title(
        f"Entries of {PRODUCT_LABELS[product]}, perturb {RESCALED_TIME} = {run['perturbed_at'].iloc[0]:.1f}",
        fontsize=7.5,
        pad=13,  # leaves room for the note
    )


def note_window(axes, text, marked=False):
    """Write `text` between a panel and its title, in red if the run needs caution."""
    style = {"color": MARK, "weight": "bold"} if marked else {"color": "0.3"}
    axes.text(0, 1.03, text, transform=axes.transAxes, fontsize=7, va="bottom", **style)


def add_window_legend(figure, with_speed):
    """Explain below a figure of windows its lines and the numbers in its notes, including speeds if `with_speed`."""
    explanation = "distance: largest |perturbed - reference| over the entries of both products"
    explanation += "\nsupport: the ratio for the same noise on active weights alone"
    if not with_speed:
        explanation += (
            "\nmoves: the reference; keeps: what the slowest mode keeps of a perturbation until the window ends"
        )
    if with_speed:
        explanation += (
            "\nspeed: of the fastest entry of the reference, per unit of rescaled time, at the end of the window"
        )
    handles = [
        Line2D([], [], color=matplotlib.colormaps["viridis"](0.4), **PERTURBED_LINE, label="perturbed"),
        Line2D([], [], **REFERENCE_LINE, label="unperturbed reference"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, title=explanation)


def draw_stage_times(axes, theorem, colors, end):
    """Measured against predicted stage times, a color for each alpha.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    theorem : pandas.DataFrame
        Table "theorem" of one seed; stages without a measured time are not drawn (see `stage_note`).
    colors : dict
        Of `alpha_colors`.
    end : float
        The latest time that the axes show, which panels may share.
    """
    points = {"s": 2.5**2, "linewidth": 0, "zorder": 2, "legend": False}
    scatterplot(theorem, x="predicted_time", y="measured_time", hue="alpha", palette=colors, **points, ax=axes)
    axes.axline((0, 0), slope=1, color="0.5", lw=0.8, zorder=1)
    axes.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    axes.set(xlabel=r"predicted $T_k$", ylabel=r"measured $T$")


def stage_note(theorem):
    """The number of stages, and of those without a measured time, by alpha; lines that fit above a panel."""
    missing = theorem["measured_time"].isna().groupby(theorem["alpha"]).sum()
    by_count = {}
    for alpha in sort_alphas(missing.index):
        by_count.setdefault(missing[alpha], []).append(alpha)
    missed = [f"{count} not activated at α = {', '.join(alphas)}" for count, alphas in by_count.items() if count]
    return "\n".join([f"n = {theorem['stage'].nunique()} stages", *(fill(line, 32) for line in missed)])


def draw_stage_errors(axes, theorem, colors):
    """|T - T_k| against ln(1/alpha): median, 10th to 90th percentile and largest over the stages that occur.

    A line of slope -1 goes through the median at the smallest alpha: the slope of a delay of C_k / ln(1/alpha).
    Theorem 4.5 itself does not promise a rate.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    theorem : pandas.DataFrame
        Table "theorem" of one seed.
    colors : dict
        Of `alpha_colors`.
    """
    measured = theorem.dropna(subset="measured_time")
    delay = (measured["measured_time"] - measured["predicted_time"]).abs()
    axes.set(ylabel=r"$|T - T_k|$")
    for alpha in sort_alphas(measured["alpha"]):
        low, median, high, largest = delay[measured["alpha"] == alpha].quantile([0.1, 0.5, 0.9, 1.0])
        x = -log_alpha(alpha)
        axes.plot([x, x], [low, high], color=colors[alpha], lw=2)
        axes.plot(x, median, "o", ms=4.5, color=colors[alpha])
        axes.plot(x, largest, "^", ms=4, mfc="white", mew=1, color=colors[alpha])
    if len(measured):
        _scale_to_alpha(axes, x, median)


def _scale_to_alpha(axes, x, y):
    """Logarithmic axes against ln(1/alpha) with a line of slope -1 through (x, y)."""
    axes.set(xscale="log", yscale="log", xlabel=r"$\ln(1/\alpha)$")
    axes.axline((x, y), (x / 2, 2 * y), color="0.5", lw=0.8, ls="--", zorder=1)
    axes.minorticks_off()


def add_error_legend(figure, colors):
    """Explain the colors and marks of `draw_stage_times` and `draw_stage_errors` below a figure."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=4.5, color=colors[alpha], label=alpha_label(alpha)) for alpha in colors
    ]
    handles += [
        Line2D([], [], ls="", marker="o", ms=4.5, color="0.3", label="median over stages"),
        Line2D([], [], color="0.3", lw=2, label="10th to 90th percentile"),
        Line2D([], [], ls="", marker="^", ms=4, mfc="white", mew=1, color="0.3", label="largest"),
        Line2D([], [], color="0.5", lw=0.8, ls="--", label="slope -1"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def read_limit(losses, stages):
    """The toy.staircase.Staircase of one problem.

    Parameters
    ----------
    losses : pandas.DataFrame
        Of `read_losses`; the initial loss at the smallest alpha is that at theta_0.
    stages : pandas.DataFrame
        Table "stages" of the problem.
    """
    smallest = losses[losses["alpha"] == sort_alphas(losses["alpha"])[-1]]
    return Staircase.of(stages, smallest.loc[smallest["rescaled_time"].idxmin(), "loss"])


def draw_limit(axes, limit, end):
    """The limit of the loss as a broad gray staircase up to rescaled time `end`, to be drawn below curves."""
    axes.plot(
        np.r_[limit.times, end],
        np.r_[limit.heights, limit.heights[-1]],
        drawstyle="steps-post",
        color="0.78",
        lw=4,
        zorder=1,
        label=r"limit $\alpha \to 0$ (Algorithm 1)",
    )


def zoom_on_fall(axes, limit, high, low):
    """Zoom a panel of losses to where the limit falls between two fractions of its initial value, if it does."""
    heights = limit.heights / limit.heights[0]
    start, end = (limit.times[(heights < fraction).argmax()] for fraction in (high, low))
    if start < end:
        axes.set(xlim=(start, end), ylim=(low * limit.heights[0], high * limit.heights[0]))


def draw_limit_distance(axes, losses, limit, colors):
    """Mean |loss - limit| over rescaled time against ln(1/alpha).

    The line of slope -1 goes through the point of the smallest alpha.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    losses : pandas.DataFrame
        Of `read_losses`.
    limit : toy.staircase.Staircase
    colors : dict
        Of `alpha_colors`.
    """
    for alpha in sort_alphas(losses["alpha"]):
        run = losses[losses["alpha"] == alpha].sort_values("rescaled_time")
        time = run["rescaled_time"].to_numpy()
        point = -log_alpha(alpha), limit.distance(time, run["loss"].to_numpy()) / (time[-1] - time[0])
        axes.plot(*point, "o", ms=4.5, color=colors[alpha])
    _scale_to_alpha(axes, *point)
    axes.set(ylabel="mean |loss - limit|")


def draw_constants(axes, theorem, colors):
    """Measured C_k = (T - T_k) ln(1/alpha) against C_k as the orbits predict it, a point for each stage.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    theorem : pandas.DataFrame
        Tables "theorem" and "orbits" of any problems, joined.
    colors : dict
        Of `alpha_colors`.
    """
    for alpha in sort_alphas(theorem["alpha"]):
        rows = theorem[theorem["alpha"] == alpha]
        axes.plot(rows["delay"], rows["scaled_delay"], "o", ms=2, mew=0, color=colors[alpha])
    axes.axline((0, 0), slope=1, color="0.5", lw=0.8, zorder=0)
    axes.set(xlabel=r"predicted $C_k$", ylabel=r"$(T - T_k) \ln(1/\alpha)$")


def draw_resolved(axes, theorem, orbits, colors):
    """Share of stages whose support alone is active in their middle, against log10(1/alpha): measured, and predicted.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    theorem, orbits : pandas.DataFrame
        Tables of any problems.
    colors : dict
        Of `alpha_colors`.
    """
    bounds = np.sort(orbits["resolved_from"].to_numpy()) / np.log(10)
    alphas = {alpha: -log_alpha(alpha) / np.log(10) for alpha in sort_alphas(theorem["alpha"])}
    start, end = min(alphas.values()) / 2, 2 * max(alphas.values())
    edges = np.clip(bounds, start, end)
    shares = np.arange(1, len(edges) + 1) / len(edges)
    axes.plot(np.r_[start, edges, end], np.r_[0, shares, shares[-1]], drawstyle="steps-post", color="0.6", lw=1.2)
    for alpha, x in alphas.items():
        rows = theorem[theorem["alpha"] == alpha]
        axes.plot(x, ((rows["missing"] == 0) & (rows["extra"] == 0)).mean(), "o", ms=4.5, color=colors[alpha])
    axes.set(xscale="log", xlim=(start, end), ylim=(0, 1.03), xlabel=r"$\log_{10}(1/\alpha)$", ylabel="share of stages")
