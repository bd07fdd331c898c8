import json
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb, to_rgba
from PIL import Image

from rank_increase.figures.job import NothingToShow, StudyTables
from rank_increase.figures.style import new_panels, paper_style, save_figure
from rank_increase.figures.toy import (
    INACTIVE,
    MARK_SHADE,
    alpha_colors,
    draw_constants,
    draw_limit,
    draw_limit_distance,
    draw_losses,
    draw_products,
    draw_resolved,
    draw_stage_errors,
    draw_stage_times,
    draw_window,
    entry_colors,
    note_window,
    rank_colors,
    read_limit,
    read_losses,
    read_products,
    stage_note,
    stage_scale,
    zoom_on_fall,
)
from rank_increase.notation import log_alpha, sort_alphas
from rank_increase.registry import find, registered

STAGES = pd.DataFrame(
    {
        "variant": "diagonal",
        "seed": 0,
        "stage": [1, 2, 3],
        "product": ["VO", "KQ", "VO"],
        "index": [0, 1, 1],
        "predicted_time": [2.0, 4.0, 6.0],
        "loss": [0.75, 0.5, 0.25],
    }
)
LABELS = [(product, index) for product in ("KQ", "VO") for index in (0, 1)]


def run(values, **columns):
    """Rows of one run from values of shape (moments, 4), entries in the order of LABELS, a moment per unit of time."""
    product, index = zip(*(len(values) * LABELS), strict=True)
    time = np.arange(len(values), dtype=float).repeat(4)
    frame = pd.DataFrame({"rescaled_time": time, "product": product, "index": index, "value": np.ravel(values)})
    return frame.assign(**columns)


def trajectory(**runs):
    """Tables "trajectory" and "losses" of seed 0 from names such as diagonal="0.1 1e-8", with loss 1 / (1 + time)."""
    rng = np.random.default_rng(0)
    frames = [
        run(rng.random((9, 4)), variant=variant, alpha=alpha, seed=0)
        for variant, alphas in runs.items()
        for alpha in alphas.split()
    ]
    return {
        "trajectory": pd.concat(frames),
        "losses": pd.concat(frame[["variant", "alpha", "seed", "rescaled_time"]].drop_duplicates() for frame in frames)
        .assign(loss=lambda rows: 1 / (1 + rows["rescaled_time"]))
        .sample(frac=1, random_state=0),
    }


def losses(**curves):
    """Losses by alpha, a moment per unit of time."""
    frames = [
        pd.DataFrame({"alpha": alpha, "rescaled_time": np.arange(len(loss), dtype=float), "loss": loss})
        for alpha, loss in curves.items()
    ]
    return pd.concat(frames)


def perturbation(reference, value, step=1.0, perturbed_at=500.0, **columns):
    """A run of the table "perturbations" in which only the entry ("VO", 0) moves."""
    paths = [np.array([[0.0, 0.0, position, 0.0] for position in path]) for path in (reference, value)]
    rows = run(paths[1], **columns).assign(reference=run(paths[0])["value"], perturbed_at=perturbed_at)
    return rows.assign(rescaled_time=perturbed_at + step * rows["rescaled_time"], relaxation=0.5)


@pytest.fixture
def panel():
    with paper_style():
        _, [[axes]] = new_panels(1, 1, 2.0)
        yield axes


@pytest.fixture
def study(tmp_path):
    """StudyTables of data frames by name."""

    def write(**tables):
        files = {name: [str(tmp_path / f"{name}.parquet")] for name in tables}
        for name, table in tables.items():
            categories = [column for column in ("variant", "alpha", "product") if column in table]
            table.astype(dict.fromkeys(categories, "category")).to_parquet(files[name][0], index=False)
        return StudyTables(files, {})

    return write


def draw(figure, tables, **options):
    entry = find("figure", figure)
    return entry.load()(tables, **options, **entry.fixed)


def luminance(color):
    return to_rgb(color) @ np.array([0.299, 0.587, 0.114])


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def notes(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def theorem():
    """Three stages at two alphas; delays 8 / ln(1/alpha) times 1, 2 and 4, one stage not reached at the larger."""
    frames = []
    for alpha, scale in (("1e-8", 8 * np.log(10)), ("1e-4", 4 * np.log(10))):
        predicted = np.array([100.0, 200.0, 300.0])
        measured = predicted + np.array([1, -2, 4]) * 8 / scale
        frames.append(pd.DataFrame({"variant": "diagonal", "seed": 0, "alpha": alpha, "stage": [1, 2, 3]}))
        frames[-1]["predicted_time"] = predicted
        frames[-1]["scaled_delay"] = (measured - predicted) * scale
        frames[-1]["measured_time"] = np.where((alpha == "1e-4") & (predicted == 300), np.nan, measured)
    return pd.concat(frames, ignore_index=True)


# Style and files


def test_the_style_is_ours_inside_the_block_and_gone_after_it():
    with matplotlib.rc_context({"lines.linewidth": 7, "axes.grid": True}):
        with paper_style():
            assert (matplotlib.rcParams["pdf.fonttype"], matplotlib.rcParams["axes.grid"]) == (42, False)
        assert (matplotlib.rcParams["lines.linewidth"], matplotlib.rcParams["axes.grid"]) == (7, True)


def test_the_same_figure_gives_the_same_bytes_and_says_where_it_comes_from(tmp_path):
    provenance = {"rule": "fig06", "params": {"alphas": ["1e-32"]}}
    for name in ("first", "second"):
        with paper_style():
            figure, [[axes]] = new_panels(1, 1, 2.0)
            draw_losses(axes, losses(**{"0.1": [1.0, 0.5]}), {"0.1": "black"})
            save_figure(figure, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", dpi=50, provenance=provenance)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.pdf", "first.png", "second.pdf", "second.png"]
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()
    pdf = (tmp_path / "first.pdf").read_bytes()
    assert b"fig06" in pdf and b"/CIDFontType2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    with Image.open(tmp_path / "first.png") as png:
        assert (json.loads(png.text["provenance"]), png.size) == (provenance, (325, 100))


def test_figure_jobs_import_no_slow_package():
    figures = registered("figure").values()
    scripts = {entry.path for entry in figures}
    folder, names = next(iter(scripts)).parent, ", ".join(sorted(path.stem for path in scripts))
    code = f"import sys, {names}; print({{'torch', 'numba', 'statsmodels'}} & set(sys.modules))"
    environment = {"PYTHONPATH": str(folder.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert len(figures) >= 15 and done.stdout.strip() == "set()"


def test_seaborn_leaves_the_style_as_it_is_and_no_figure_in_pyplot(study, theorem):
    tables = study(theorem=theorem, **trajectory(diagonal="0.1"))
    with paper_style():
        before = dict(matplotlib.rcParams)
        draw("fig06", tables, seed=0)
        draw("fig_stage_times", tables)
        assert dict(matplotlib.rcParams) == before
    assert not sys.modules["matplotlib.pyplot"].get_fignums()


# Reading


def test_runs_are_read_by_variant_alpha_and_seed(study):
    tables = study(**trajectory(diagonal="0.1 1e-8", full="0.1"))
    assert read_losses(tables, "diagonal", None, 0)["alpha"].value_counts().to_dict() == {"0.1": 9, "1e-8": 9}
    products = read_products(tables, "diagonal", ["1e-8"], 0)
    assert len(products) == 36 and set(products["alpha"]) == {"1e-8"}


@pytest.mark.parametrize(
    ("alphas", "seed", "missing"), [(["0.1", "1e-4"], 0, "alpha 1e-4"), (None, 1, ".*seed 1"), (["0.1"], 1, ".*seed 1")]
)
def test_a_missing_run_is_named(study, alphas, seed, missing):
    tables = study(**trajectory(full="0.1"))
    with pytest.raises(NothingToShow, match=f"The table losses has no rows with {missing}"):
        read_losses(tables, "full", alphas, seed)


# Colors


def test_alphas_are_in_order_and_darker_the_smaller():
    alphas = ["1e-3000", "0.1", "1e-4", "1e-300", "0.01"]
    assert sort_alphas(alphas) == ["0.1", "0.01", "1e-4", "1e-300", "1e-3000"]
    colors = alpha_colors(alphas)
    assert list(colors) == sort_alphas(alphas)
    assert (np.diff([luminance(color) for color in colors.values()]) < -0.05).all()


def test_entries_have_the_color_of_their_stage():
    colors = entry_colors(STAGES)
    assert list(colors) == [("VO", 0), ("KQ", 1), ("VO", 1)]
    assert (np.diff([luminance(color) for color in colors.values()]) > 0.1).all()
    assert to_rgba(stage_scale(STAGES).to_rgba(4)) == to_rgba(INACTIVE)


def test_without_stages_no_entry_has_a_color():
    assert entry_colors(STAGES[:0]) == {}


def test_singular_values_are_lighter_the_smaller():
    colors = rank_colors(5)
    assert (np.diff([luminance(colors["KQ", index]) for index in range(5)]) > 0).all()


# Panels over time


def test_products_are_a_line_for_each_entry_of_one_product(panel):
    values = np.arange(12.0).reshape(3, 4)
    draw_products(panel, run(values), "KQ", {("KQ", 1): "red", ("VO", 0): "blue"})
    inactive, active = panel.lines
    assert np.array_equal(inactive.get_xydata(), [[0, 0], [1, 4], [2, 8]])
    assert np.array_equal(active.get_xydata(), [[0, 1], [1, 5], [2, 9]])
    assert (inactive.get_color(), active.get_color()) == (INACTIVE, "red")
    assert inactive.zorder < active.zorder and panel.get_xlim() == (0, 2)


def test_losses_are_drawn_from_the_largest_alpha_to_the_smallest(panel):
    curves = losses(**{"1e-32": [3.0, 1.0], "0.1": [3.0, 2.0], "1e-4": [3.0, 1.5]})
    draw_losses(panel, curves, alpha_colors(curves["alpha"]))
    assert [line.get_label() for line in panel.lines] == ["α = 0.1", "α = 1e-4", "α = 1e-32"]
    assert [list(line.get_ydata()) for line in panel.lines] == [[3, 2], [3, 1.5], [3, 1]]
    assert (np.diff([line.get_linewidth() for line in panel.lines]) > 0).all()
    assert panel.get_ylim()[0] == 0


# Perturbation runs


def test_a_window_shows_the_perturbed_path_solid_and_the_reference_dashed(panel):
    rows = perturbation([1.0, 1.0, 1.0], [1.5, 1.2, 1.1], perturbed_at=373.42)
    draw_window(panel, rows, "VO", {("VO", 0): "red"}, shaded=True)
    perturbed, reference = panel.lines[:2]
    assert (perturbed.get_linestyle(), reference.get_linestyle()) == ("-", "--")
    assert list(perturbed.get_ydata()) == [1.5, 1.2, 1.1] and list(reference.get_ydata()) == [1, 1, 1]
    assert perturbed.get_color() == "red" and len(panel.lines) == 4
    assert panel.get_title(loc="left").endswith("= 373.4") and panel.get_xlim() == (373.42, 375.42)
    assert panel.get_facecolor() == to_rgba(MARK_SHADE)


def test_a_marked_note_stands_out(panel):
    note_window(panel, "plain")
    note_window(panel, "marked", marked=True)
    plain, marked = panel.texts
    assert (plain.get_weight(), marked.get_weight()) == ("normal", "bold")


@pytest.mark.parametrize(
    ("figure", "assumption", "expected"),
    [
        ("fig09", "plateaus", {0: "on a plateau", 1: "not on a plateau", 2: "not on a plateau"}),
        ("fig10", "activations", {0: "window ends at rest", 1: "window ends at rest", 2: "window ends before rest"}),
    ],
)
def test_every_run_is_shown_and_those_to_be_read_with_care_are_shaded(study, figure, assumption, expected):
    still, early, late = np.full(11, 1.0), np.r_[0.0, np.full(10, 1.0)], np.r_[np.full(10, 0.0), 1.0]
    table = pd.concat(
        perturbation(path, path + shift, run=number, assumption=name, seed=seed, noise_on=noise_on)
        for number, path in enumerate((still, early, late))
        for name, seed in ((assumption, 0), ("other", 0), (assumption, 1))
        for noise_on, shift in (("nonnegligible", 0.1), ("support", np.linspace(0.2, 0.1, 11)))
    )
    options = {"movement": 0.05, "rows": 9} | ({"follow": 5.0} if figure == "fig10" else {})
    panels = draw(figure, study(perturbations=table, stages=STAGES), seed=0, **options).axes
    panels = np.reshape(panels[:6], (3, 2))
    for number, (left, right) in enumerate(panels):
        [note] = notes(right)
        assert note.startswith(expected[number]) and notes(left)[0].endswith("ratio 1.00 (support: 0.50)")
        marked = "not on" in note or "before" in note
        assert [axes.get_facecolor() == to_rgba(MARK_SHADE) for axes in (left, right)] == [marked, marked]


# Theorem 4.5


def test_stage_times_are_points_in_the_color_of_their_alpha_near_the_diagonal(panel, theorem):
    colors = alpha_colors(theorem["alpha"])
    draw_stage_times(panel, theorem, colors, 400)
    [points] = panel.collections
    measured = theorem.dropna(subset="measured_time")
    expected = [
        (*times, *to_rgba(colors[alpha]))
        for alpha, *times in measured[["alpha", "predicted_time", "measured_time"]].to_numpy().tolist()
    ]
    found = np.c_[points.get_offsets(), points.get_facecolors()].tolist()
    assert len(found) == 5 and sorted(found) == pytest.approx(np.array(sorted(expected)))
    [diagonal] = panel.lines
    assert diagonal.get_slope() == 1 and diagonal.zorder < points.zorder
    assert panel.get_xlim() == panel.get_ylim() == (0, 400)


def test_stage_times_of_every_problem_are_within_the_axes_that_panels_share(study, theorem):
    later = theorem.assign(predicted_time=theorem["predicted_time"] + 500, measured_time=theorem["measured_time"] + 500)
    figure = draw("fig_stage_times", study(theorem=pd.concat([later, theorem.assign(seed=1)])))
    for panel in figure.axes[:2]:
        assert panel.get_xlim() == panel.get_ylim() == (0, pytest.approx(1.02 * later["measured_time"].max()))


def test_stages_that_were_not_measured_are_counted(theorem):
    assert stage_note(theorem) == "n = 3 stages\n1 not activated at α = 1e-4"
    assert stage_note(theorem[theorem["alpha"] == "1e-8"]) == "n = 3 stages"


def test_stage_errors_are_median_percentiles_and_largest(panel, theorem):
    draw_stage_errors(panel, theorem, alpha_colors(theorem["alpha"]))
    bar, median, largest = panel.lines[3:6]
    delays = np.array([1, 2, 4]) / np.log(10)
    assert median.get_xydata() == pytest.approx(np.array([[8 * np.log(10), delays[1]]]))
    assert largest.get_ydata() == pytest.approx(delays[2:])
    assert bar.get_ydata() == pytest.approx(np.quantile(delays, [0.1, 0.9]))
    (x, y), (x2, y2) = panel.lines[6].get_xy1(), panel.lines[6].get_xy2()
    assert np.log(y2 / y) / np.log(x2 / x) == pytest.approx(-1) and y == pytest.approx(delays[1])


# The limit of the loss


def test_the_limit_steps_down_at_the_predicted_times(panel):
    limit = read_limit(losses(**{"1e-3000": [1.0, 0.9], "0.1": [1.1, 0.9]}), STAGES)
    assert limit.times.tolist() == [0, 2, 4, 6] and limit.heights.tolist() == [1, 0.75, 0.5, 0.25]
    assert limit.at(np.array([0, 1.9, 2, 5, 100])).tolist() == [1, 1, 0.75, 0.5, 0.25]
    draw_limit(panel, limit, 8.0)
    [line] = panel.lines
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xydata().tolist() == [[0, 1], [2, 0.75], [4, 0.5], [6, 0.25], [8, 0.25]]


def test_the_distance_to_the_limit_is_drawn_for_each_alpha(panel):
    curves = losses(**{"1e-8": [1.0, 1.0, 0.9, 0.75, 0.6, 0.5, 0.4], "0.1": [1.0, 1.0, 1.0, 0.9, 0.9, 0.6, 0.6]})
    limit = read_limit(curves, STAGES)
    draw_limit_distance(panel, curves.sample(frac=1, random_state=0), limit, alpha_colors(curves["alpha"]))
    expected = [
        [-log_alpha(alpha), limit.distance(np.arange(7.0), curves.loc[curves["alpha"] == alpha, "loss"].to_numpy()) / 6]
        for alpha in ("0.1", "1e-8")
    ]
    np.testing.assert_allclose(np.concatenate([line.get_xydata() for line in panel.lines[:2]]), expected)
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    (x, y), (x2, y2) = panel.lines[2].get_xy1(), panel.lines[2].get_xy2()
    assert np.log(y2 / y) / np.log(x2 / x) == pytest.approx(-1) and [x, y] == pytest.approx(expected[1])


def test_constants_are_drawn_against_what_is_predicted(panel, theorem):
    joined = theorem.assign(delay=np.arange(len(theorem), dtype=float))
    draw_constants(panel, joined, alpha_colors(theorem["alpha"]))
    for line, alpha in zip(panel.lines, ("1e-4", "1e-8"), strict=False):
        rows = joined[joined["alpha"] == alpha]
        np.testing.assert_array_equal(line.get_xydata(), rows[["delay", "scaled_delay"]])
    assert panel.lines[2].get_slope() == 1


def test_the_share_of_stages_told_apart_is_drawn_with_its_prediction(panel, theorem):
    rows = theorem.assign(missing=[0, 1, 0, 0, 0, 0], extra=[0, 0, 2, 0, 0, 1])
    of_alpha = {alpha: of["missing"].add(of["extra"]).eq(0).mean() for alpha, of in rows.groupby("alpha")}
    orbits = pd.DataFrame({"resolved_from": np.log(10) * np.array([5.0, 3.0, 0.0, 1000.0])})
    draw_resolved(panel, rows, orbits, alpha_colors(theorem["alpha"]))
    predicted, *measured = panel.lines
    for line, alpha, x in zip(measured, ("1e-4", "1e-8"), (4, 8), strict=True):
        np.testing.assert_allclose(line.get_xydata(), [[x, of_alpha[alpha]]])
    # Half of the four stages by 3, three by 5; the last is beyond what is shown.
    steps = [[2, 0], [2, 0.25], [3, 0.5], [5, 0.75], [16, 1], [16, 1]]
    np.testing.assert_allclose(predicted.get_xydata(), steps)


def test_the_detail_is_where_the_limit_falls(panel):
    limit = read_limit(losses(**{"0.1": [1.0, 0.9]}), STAGES)
    zoom_on_fall(panel, limit, 0.8, 0.4)
    assert (panel.get_xlim(), panel.get_ylim()) == ((2, 6), (0.4, 0.8))
    zoom_on_fall(panel, limit, 0.8, 0.1)  # it does not get there
    assert panel.get_xlim() == (2, 6)


# Whole figures, from tables


def test_figure_2_has_a_row_for_each_variant(study):
    tables = study(stages=STAGES, **trajectory(diagonal="0.1 1e-8", full="0.1 0.01"))
    figure = draw("fig02", tables, seed=0, full_alphas=["0.1"])
    assert [title[:21] for title in titles(figure)] == [
        "(a) diagonal entries ",
        "(b) diagonal entries ",
        "(c) loss",
        "(d) singular values o",
        "(e) singular values o",
        "(f) loss",
    ]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 1, 2, 2, 1]
    table = tables.read("trajectory").astype({"variant": str, "alpha": str, "product": str})
    for row, (variant, alpha) in enumerate([("diagonal", "1e-8"), ("full", "0.1")]):
        assert f"α = {alpha}" in figure.axes[3 * row].get_ylabel()
        assert figure.axes[3 * row].get_ylabel().startswith(f"{variant} weights")
        for axes, product, symbol in zip(figure.axes[3 * row :], ("VO", "KQ"), ("W_V W_O", "W_K W_Q"), strict=False):
            shown = table[(table["variant"] == variant) & (table["alpha"] == alpha) & (table["product"] == product)]
            expected = shown.pivot(index="rescaled_time", columns="index", values="value").to_numpy().T
            assert symbol in axes.get_title() and np.array_equal([line.get_ydata() for line in axes.lines], expected)
        loss = figure.axes[3 * row + 2].lines[0]
        np.testing.assert_allclose(loss.get_ydata(), 1 / (1 + np.arange(9)))


@pytest.mark.parametrize(("figure", "product"), [("fig07", "KQ"), ("fig08", "VO")])
@pytest.mark.parametrize("alphas", [None, ["1e-4", "0.1", "1e-32"]])
def test_figures_7_and_8_have_a_panel_for_each_alpha_in_order(study, figure, product, alphas):
    tables = study(stages=STAGES, **trajectory(diagonal="1e-32 0.1 1e-4"))
    panels = draw(figure, tables, seed=0, alphas=alphas).axes[:4]
    alphas = alphas or ["0.1", "1e-4", "1e-32"]
    assert [axes.get_visible() for axes in panels] == [True, True, True, False]
    assert [axes.get_title().split(" = ")[1] for axes in panels[:3]] == alphas
    assert len({axes.get_ylim() for axes in panels[:3]}) == 1
    for lines in zip(*(axes.lines for axes in panels[:3]), strict=True):
        assert len({to_rgba(line.get_color()) for line in lines}) == 1
    table = tables.read("trajectory").astype({"alpha": str, "product": str})
    for axes, alpha in zip(panels[:3], alphas, strict=True):
        shown = table[(table["alpha"] == alpha) & (table["product"] == product)]
        expected = shown.pivot(index="rescaled_time", columns="index", values="value").to_numpy().T
        assert np.array_equal([line.get_ydata() for line in axes.lines], expected)


@pytest.mark.parametrize(("seeds", "panels"), [(1, 2), (3, 6), (4, 8)])
def test_stage_times_have_two_panels_for_each_seed(study, theorem, seeds, panels):
    figure = draw("fig_stage_times", study(theorem=pd.concat([theorem.assign(seed=seed) for seed in range(seeds)])))
    shown = [title.partition(",")[0] for title in titles(figure)]
    assert len(shown) == panels and sorted(filter(None, shown)) == [f"seed {seed}" for seed in range(seeds)]


def test_figure_6_and_the_limit_show_every_alpha(study):
    tables = study(stages=STAGES, **trajectory(diagonal="0.1 1e-3000", full="0.01"))
    figure = draw("fig06", tables, seed=0)
    [panel] = figure.axes
    assert [line.get_label() for line in panel.lines] == ["α = 0.1", "α = 1e-3000"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["α = 0.1", "α = 1e-3000"]
    limit = draw("fig_limit", tables, seed=0)
    assert [len(axes.lines) for axes in limit.axes] == [3, 3, 3]
    [legend] = limit.legends
    assert [text.get_text() for text in legend.get_texts()][1:] == ["α = 0.1", "α = 1e-3000"]


def test_trainings_have_products_above_the_loss_of_each(study):
    tables = study(stages=STAGES, **trajectory(diagonal="0.1", sgd="0.1", adam="0.1", sign="0.1", full="0.1"))
    shown = {"diagonal": "flow", "sgd": "SGD", "adam": "Adam", "sign": "signs", "full": "full weights"}
    axes = draw("fig_trainings", tables, seed=0, alpha="0.1", shown=shown, full=["full"]).axes
    grid = np.reshape(axes, (4, 4))
    assert [panel.get_title() for panel in grid[::2].flat] == [*shown.values(), "", "", ""]
    assert [panel.get_visible() for panel in grid[2:].flat] == 2 * [True, False, False, False]
    assert {len(panel.lines) for panel in (*grid[1], grid[3, 0])} == {1}


def test_a_study_too_short_for_any_stage_still_has_its_figures(study, theorem):
    tables = study(
        stages=STAGES[:0].astype({"stage": int}),
        theorem=theorem[:0].astype({"seed": int}),
        **trajectory(diagonal="0.1"),
    )
    draw("fig_limit", tables, seed=0)
    orbits = pd.DataFrame({"variant": "diagonal", "seed": 0, "stage": [1], "delay": 1.0, "resolved_from": 1.0})[:0]
    with pytest.raises(NothingToShow, match="^Algorithm 1 activates no coordinate in the time of the runs.$"):
        draw("fig_constants", study(theorem=theorem[:0], orbits=orbits))
    draw("fig07", tables, seed=0, alphas=["0.1"])
    with pytest.raises(NothingToShow, match="^Algorithm 1 activates no coordinate in the time of the runs.$"):
        draw("fig_stage_times", tables)
    draw("fig_stage_times", study(theorem=theorem.assign(measured_time=np.nan)))  # over the table before
