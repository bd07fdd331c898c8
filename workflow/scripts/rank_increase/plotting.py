"""Figures: their style, and one function per kind of panel, which takes a table and fills an Axes.

Figures are made without pyplot, so nothing is left behind between two of them, and without seaborn, whose import of
SciPy would take most of the time of a figure job.
"""

import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rank_increase.notation import PRODUCTS, alpha_label, log_alpha, sort_alphas
from rank_increase.tables import atomic, read_table

logger = logging.getLogger("rank_increase")
PAGE_WIDTH = 6.5  # inches, between the margins of a letter page
RESCALED_TIME = r"time / $\ln(1/\alpha)$"
PRODUCT_LABELS = {"KQ": r"$W_K W_Q^\top$", "VO": r"$W_V W_O^\top$"}
DIAGONAL_LABELS = {"KQ": r"$\mathrm{diag}(w_Q)\mathrm{diag}(w_K)$", "VO": r"$\mathrm{diag}(w_V)\mathrm{diag}(w_O)$"}
INACTIVE = "0.84"  # gray of entries that never become active, lighter than any stage
PERTURBED_LINE = {"lw": 1.8, "alpha": 0.65}  # lets the reference over it show where the two agree
REFERENCE_LINE = {"color": "black", "lw": 0.6, "ls": (0, (5, 4))}
MARK, MARK_SHADE = "#a40000", "#f9ebe9"  # of runs that do not meet the conditions of their experiment
STYLE = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "pdf.fonttype": 42,  # TrueType, so that text stays text in the PDF
}


@contextmanager
def paper_style():
    """Our style over Matplotlib's defaults, whatever the user's own settings are, until the block ends."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_panels(rows, columns, height, **options):
    """A figure as wide as a page and its Axes, an array of shape (rows, columns).

    Parameters
    ----------
    height : float
        In inches.
    options : dict
        For matplotlib.figure.Figure.subplots, such as `sharey`.
    """
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(figure, pdf, png, *, dpi, provenance):
    """Write a figure as PDF and as PNG, each all at once or not at all; the same figure gives the same bytes.

    Parameters
    ----------
    pdf, png : str
        Paths.
    dpi : int
        Of the PNG.
    provenance : dict
        Stored as JSON in the files' metadata: "Keywords" of the PDF, "provenance" of the PNG.
    """
    text = json.dumps(provenance)
    with atomic(pdf) as temporary:
        figure.savefig(temporary, format="pdf", metadata={"Keywords": text, "CreationDate": None})
    figure.set_layout_engine("none")  # keeps the layout that the PDF got: to find it takes as long as to draw
    with atomic(png) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"provenance": text})


class NothingToDraw(ValueError):
    """The tables lack what a figure is to show; the text is a sentence for its face."""


def says_what_is_missing(main):
    """Decorate the `main` of a figure: where it raises `NothingToDraw`, the figure shows the sentence instead.

    One figure without data then stops no study. Other errors are errors.

    Parameters
    ----------
    main : callable
        With parameters `pdf`, `png`, `dpi` and `provenance`, as for `save_figure`.
    """

    @wraps(main)
    def draw(*arguments, **options):
        try:
            main(*arguments, **options)
        except NothingToDraw as missing:
            logger.info("nothing to draw: %s", missing)
            given = signature(main).bind(*arguments, **options).arguments
            with paper_style():
                figure = Figure(figsize=(PAGE_WIDTH, 1.5))
                figure.text(0.5, 0.5, fill(str(missing), 80), ha="center", va="center", parse_math=False)
                save_figure(figure, **{key: given[key] for key in ("pdf", "png", "dpi", "provenance")})

    return draw


def read_products(path, structure, alphas, seed):
    """Products over time of runs that differ in alpha: `alpha`, `rescaled_time`, `product`, `index`, `value`.

    Parameters
    ----------
    path, structure : str
    alphas : list of str
    seed : int

    Raises
    ------
    NothingToDraw
        If the table lacks one of the runs.
    """
    columns = ["alpha", "rescaled_time", "product", "index", "value"]
    return _read_runs(path, columns, structure, alphas, seed)


def read_losses(path, structure, alphas, seed):
    """Losses over time of runs that differ in alpha: `alpha`, `rescaled_time`, `loss`, a row for each moment.

    Parameters
    ----------
    path, structure : str
    alphas : list of str or None
        None for all that the table has.
    seed : int

    Raises
    ------
    NothingToDraw
        If the table lacks one of the runs.
    """
    once = [("product", "==", PRODUCTS[0]), ("index", "==", 0)]  # the loss is repeated for every coordinate
    return _read_runs(path, ["alpha", "rescaled_time", "loss"], structure, alphas, seed, once)


def _read_runs(path, columns, structure, alphas, seed, filters=()):
    wanted = [("structure", "==", structure), ("seed", "==", seed), *filters]
    wanted += [] if alphas is None else [("alpha", "in", alphas)]
    rows = read_table(path, columns=columns, filters=wanted)
    rows["alpha"] = rows["alpha"].astype(str)
    found = set(rows["alpha"])
    missing = [alpha for alpha in alphas or () if alpha not in found]
    if missing or rows.empty:
        raise NothingToDraw(
            f"{path} has no run of structure {structure!r} with seed {seed} and alpha {', '.join(missing) or 'any'}"
        )
    return rows


def read_perturbed_runs(path, assumption, seed):
    """Runs of the table "perturbations" that test an assumption on one problem; a list of pandas.DataFrame.

    Raises
    ------
    NothingToDraw
        If there is none: with Assumption 4.4, the flow may come to no moment at which to perturb.
    """
    table = read_table(path, filters=[("assumption", "==", assumption), ("seed", "==", seed)])
    if table.empty:
        raise NothingToDraw(
            f"No run was perturbed ({assumption}, seed {seed}): within the time of the run, no weight passed"
            " `assumptions.threshold` and then became active, followed by another."
        )
    return [run for _, run in table.groupby("run")]


def alpha_colors(alphas):
    """A color for each init scale, the darker the smaller, so that the order survives printing in gray; a dict."""
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
        (product, index) -> color; entries that it lacks are drawn in gray, below the others.
    """
    lines = _by_index(run, product, "value")
    for index in lines:
        color = colors.get((product, index), INACTIVE)
        axes.plot(lines.index, lines[index], color=color, lw=0.9, zorder=2 if (product, index) in colors else 1)
    axes.set(xlim=(0, lines.index[-1]), xlabel=RESCALED_TIME)


def _by_index(run, product, column):
    """One column of a product, a row for each moment and a column for each entry."""
    return run[run["product"] == product].pivot(index="rescaled_time", columns="index", values=column)


def row_label(weights, teacher, alpha):
    """What a row of Figure 2 shows, in words, for `weights` and `teacher` as in the config."""
    return f"{weights} weights,\n{teacher} teacher,\n{alpha_label(alpha)}"


def draw_losses(axes, losses, colors, width=1.0):
    """Loss against rescaled time, a line for each alpha, wider and on top the smaller it is.

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
    for alpha, wider in zip(alphas, np.linspace(1, 1.7, len(alphas)), strict=True):
        run = losses[losses["alpha"] == alpha].sort_values("rescaled_time")
        axes.plot("rescaled_time", "loss", data=run, color=colors[alpha], lw=width * wider, label=alpha_label(alpha))
    axes.set(xlim=(0, losses["rescaled_time"].max()), xlabel=RESCALED_TIME, ylabel="training loss")
    axes.set_ylim(bottom=0)


def draw_window(axes, run, product, colors, shaded=False):
    """Entries of a product along a perturbed path, in color, and along the path that it left, dashed.

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
        Whether the run is to be read with care.
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
    """Write `text` between a panel and its title, in red if the run is to be read with care."""
    style = {"color": MARK, "weight": "bold"} if marked else {"color": "0.3"}
    axes.text(0, 1.03, text, transform=axes.transAxes, fontsize=7, va="bottom", **style)


def add_window_legend(figure, with_speed):
    """Say below a figure of windows what the lines and, `with_speed` or without, the numbers in the notes are."""
    explanation = "distance: largest |perturbed - reference| over the entries of both products"
    explanation += "\nsupport: the ratio for the same noise on active weights alone"
    if with_speed:
        explanation += (
            "\nspeed: of the fastest entry of the reference, per unit of rescaled time, at the end of the window"
        )
    handles = [
        Line2D([], [], color=matplotlib.colormaps["viridis"](0.4), **PERTURBED_LINE, label="perturbed"),
        Line2D([], [], **REFERENCE_LINE, label="unperturbed reference"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, title=explanation)


def draw_stage_times(axes, theorem, colors, max_time):
    """Measured against predicted stage times, a color for each alpha.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    theorem : pandas.DataFrame
        Table "theorem" of one seed; stages without a measured time are not drawn (see `stage_note`).
    colors : dict
        Of `alpha_colors`.
    max_time : float
        End of both axes.
    """
    for alpha in sort_alphas(theorem["alpha"]):
        rows = theorem[theorem["alpha"] == alpha]
        axes.plot("predicted_time", "measured_time", "o", data=rows, ms=2.5, mew=0, color=colors[alpha])
    axes.axline((0, 0), slope=1, color="0.5", lw=0.8, zorder=1)
    axes.set(xlim=(0, max_time), ylim=(0, max_time), aspect="equal")
    axes.set(xlabel=r"predicted $T_k$", ylabel=r"measured $T$")


def stage_note(theorem):
    """How many stages there are, and how many have no measured time at which alpha; lines that fit over a panel."""
    missing = theorem["measured_time"].isna().groupby(theorem["alpha"]).sum()
    by_count = {}
    for alpha in sort_alphas(missing.index):
        by_count.setdefault(missing[alpha], []).append(alpha)
    missed = [f"{count} not activated at α = {', '.join(alphas)}" for count, alphas in by_count.items() if count]
    return "\n".join([f"n = {theorem['stage'].nunique()} stages", *(fill(line, 32) for line in missed)])


def draw_stage_errors(axes, theorem, colors):
    """|T - T_k| against ln(1/alpha): median, 10th to 90th percentile and largest over the stages that occur.

    A line of slope -1 goes through the median of the smallest alpha: Theorem 4.5 does not promise a rate, but this is
    what a delay of C_k / ln(1/alpha) looks like.

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


@dataclass(frozen=True)
class LimitLoss:
    """The loss in the limit alpha -> 0, a step function of rescaled time: heights[k] from times[k] on, times[0] = 0."""

    times: np.ndarray
    heights: np.ndarray

    @classmethod
    def of(cls, stages, losses):
        """From the table "stages" of one seed; the loss at theta_0 is where the run with the smallest alpha starts."""
        smallest = losses[losses["alpha"] == sort_alphas(losses["alpha"])[-1]]
        start = smallest.loc[smallest["rescaled_time"].idxmin(), "loss"]
        stages = stages.sort_values("stage")
        return cls(np.r_[0.0, stages["predicted_time"]], np.r_[start, stages["loss"]])

    def at(self, time):
        """Heights at an array of rescaled times."""
        return self.heights[np.searchsorted(self.times, time, side="right") - 1]

    def distance(self, run):
        """Mean |loss - limit| over the rescaled time of a run: an estimate, a lower and an upper bound.

        The estimate is by the trapezoidal rule on the moments recorded. Where the loss falls is only known to lie
        between two of them, so at tiny alpha, where that decides, the bounds are far apart. They follow from a loss
        that does not rise between two moments, as it cannot under gradient flow.

        Parameters
        ----------
        run : pandas.DataFrame
            `rescaled_time` and `loss` of one run.
        """
        run = run.sort_values("rescaled_time")
        time, loss = run["rescaled_time"].to_numpy(), run["loss"].to_numpy()
        duration = time[-1] - time[0]
        estimate = np.trapezoid(np.abs(loss - self.at(time)), time) / duration
        edges = np.unique(np.r_[time, self.times[(self.times > time[0]) & (self.times < time[-1])]])
        before = np.searchsorted(time, edges[:-1], side="right") - 1
        above, below = loss[before] - self.at(edges[:-1]), self.at(edges[:-1]) - loss[before + 1]
        lower = np.diff(edges) @ np.maximum(0, np.maximum(-above, -below)) / duration
        upper = np.diff(edges) @ np.maximum(np.abs(above), np.abs(below)) / duration
        return estimate, lower, upper


def draw_limit(axes, limit, end):
    """The limit of the loss as a broad gray staircase, for curves to be drawn over, up to rescaled time `end`."""
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
    """Narrow a panel of losses to where the limit falls between two fractions of its start, if it does."""
    heights = limit.heights / limit.heights[0]
    start, end = (limit.times[(heights < fraction).argmax()] for fraction in (high, low))
    if start < end:
        axes.set(xlim=(start, end), ylim=(low * limit.heights[0], high * limit.heights[0]))


def draw_limit_distance(axes, losses, limit, colors):
    """Mean |loss - limit| against ln(1/alpha), with bars from the lower to the upper bound.

    The line of slope -1 goes through the geometric mean of the points.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    losses : pandas.DataFrame
        Of `read_losses`.
    limit : LimitLoss
    colors : dict
        Of `alpha_colors`.
    """
    points = []
    for alpha in sort_alphas(losses["alpha"]):
        estimate, lower, upper = limit.distance(losses[losses["alpha"] == alpha])
        points.append((-log_alpha(alpha), estimate))
        axes.plot(2 * [points[-1][0]], [lower, upper], color=colors[alpha], lw=1.5)
        axes.plot(*points[-1], "o", ms=4.5, color=colors[alpha])
    _scale_to_alpha(axes, *np.exp(np.log(points).mean(axis=0)))
    axes.set(ylabel="mean |loss - limit|")
