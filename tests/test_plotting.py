import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb, to_rgba
from PIL import Image

import plot_entries
import plot_limit
import plot_losses
import plot_perturbations
import plot_rank_increase
import plot_stage_times
from rank_increase import plotting
from rank_increase.notation import sort_alphas
from rank_increase.plotting import (
    INACTIVE,
    MARK_SHADE,
    LimitLoss,
    NothingToDraw,
    alpha_colors,
    draw_limit,
    draw_limit_distance,
    draw_losses,
    draw_products,
    draw_stage_errors,
    draw_stage_times,
    draw_window,
    entry_colors,
    new_panels,
    note_window,
    paper_style,
    rank_colors,
    read_losses,
    read_products,
    save_figure,
    says_what_is_missing,
    stage_note,
    stage_scale,
    zoom_on_fall,
)
from rank_increase.windows import Window

STAGES = pd.DataFrame(
    {
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
    """A table "trajectory" of seed 0 from names such as diagonal="0.1 1e-8", with loss 1 / (1 + time)."""
    rng = np.random.default_rng(0)
    frames = [
        run(rng.random((9, 4)), structure=structure, alpha=alpha, seed=0)
        for structure, alphas in runs.items()
        for alpha in alphas.split()
    ]
    return pd.concat(frames).assign(loss=lambda rows: 1 / (1 + rows["rescaled_time"]))


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
    return rows.assign(rescaled_time=perturbed_at + step * rows["rescaled_time"])


@pytest.fixture
def panel():
    with paper_style():
        _, [[axes]] = new_panels(1, 1, 2.0)
        yield axes


@pytest.fixture
def captured(monkeypatch):
    """Figures that scripts would have saved."""
    figures = []
    for script in (plot_entries, plot_limit, plot_losses, plot_perturbations, plot_rank_increase, plot_stage_times):
        monkeypatch.setattr(script, "save_figure", lambda figure, *paths, **options: figures.append(figure))
    return figures


@pytest.fixture
def written(tmp_path):
    def write(name, table):
        table.to_parquet(tmp_path / f"{name}.parquet")
        return str(tmp_path / f"{name}.parquet")

    return write


def luminance(color):
    return to_rgb(color) @ np.array([0.299, 0.587, 0.114])


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]


def notes(axes):
    return [text.get_text() for text in axes.texts]


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


@pytest.fixture
def sentence_of(monkeypatch):
    """What a figure says where it shows nothing else."""
    saved = []
    monkeypatch.setattr(plotting, "save_figure", lambda figure, **options: saved.append((figure, options)))

    def call(main, *arguments, **options):
        main(*arguments, **options)
        [(figure, files)] = saved
        assert files == {"pdf": "a.pdf", "png": "a.png", "dpi": 50, "provenance": {"rule": "fig10"}}
        [text] = figure.texts
        assert not figure.axes
        return text.get_text().replace("\n", " ")

    return call


FILES = {"pdf": "a.pdf", "png": "a.png", "dpi": 50, "provenance": {"rule": "fig10"}}


def test_a_figure_without_data_says_what_is_missing(written, sentence_of):
    rows = perturbation([0.0, 1.0], [0.1, 1.0], run=0, assumption="plateaus", seed=0, noise_on="support")
    tables = written("perturbations", rows), written("stages", STAGES)
    options = {"assumption": "activations", "seed": 0, "movement": 0.05, "follow": 5.0}
    said = sentence_of(plot_perturbations.main, *tables, **options, **FILES)
    assert said == (
        "No run was perturbed (activations, seed 0): within the time of the run, no weight passed"
        " `assumptions.threshold` and then became active, followed by another."
    )


def test_a_figure_without_stages_says_so(written, sentence_of, theorem):
    said = sentence_of(plot_stage_times.main, written("theorem", theorem[:0]), max_time=20.0, **FILES)
    assert said == "Algorithm 1 activates no coordinate before rescaled time 20."


def test_a_figure_of_a_run_that_is_not_there_says_so_in_both_files(written, tmp_path):
    table = written("trajectory", trajectory(diagonal="0.1"))
    for name, alphas in (("there", ["0.1"]), ("missing", ["0.1", "1e-4"]), ("again", ["0.1", "1e-4"])):
        files = tmp_path / f"{name}.pdf", tmp_path / f"{name}.png"
        plot_losses.main(table, *files, alphas=alphas, seed=0, dpi=100, provenance={"rule": "fig06"})
    for suffix in ("pdf", "png"):
        there, missing, again = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("there", "missing", "again"))
        assert there != missing == again and b"fig06" in missing
    with Image.open(tmp_path / "missing.png") as image:
        assert image.size == (650, 150)
        assert np.unique(np.array(image.convert("L"))).size > 2  # not blank


@pytest.mark.parametrize("text", ["costs $5 and $6", r"\frac{", "x" * 500])
def test_any_sentence_can_be_shown(tmp_path, text):
    @says_what_is_missing
    def main(table, pdf, png, *, dpi, provenance):
        raise NothingToDraw(text)

    main("table", tmp_path / "a.pdf", tmp_path / "a.png", dpi=50, provenance={})
    assert (tmp_path / "a.pdf").exists() and (tmp_path / "a.png").exists()


def test_other_errors_of_a_figure_stay_errors(tmp_path):
    @says_what_is_missing
    def main(pdf, png, *, dpi, provenance):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        main(tmp_path / "a.pdf", tmp_path / "a.png", dpi=50, provenance={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", sorted(path.stem for path in Path(plot_entries.__file__).parent.glob("plot_*.py")))
def test_every_figure_can_say_what_is_missing(script):
    assert hasattr(import_module(script).main, "__wrapped__")


def test_figure_jobs_import_no_slow_package():
    scripts = Path(plot_entries.__file__).parent
    names = [path.stem for path in scripts.glob("plot_*.py")]
    code = (
        f"import sys, {', '.join(names)}; print({{'torch', 'numba', 'scipy', 'matplotlib.pyplot'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=scripts, capture_output=True, text=True, check=True)
    assert len(names) == 12 and done.stdout.strip() == "set()"


# Reading


def test_runs_are_read_by_structure_alpha_and_seed(written):
    path = written("trajectory", trajectory(diagonal="0.1 1e-8", full="0.1"))
    assert read_losses(path, "diagonal", None, 0)["alpha"].value_counts().to_dict() == {"0.1": 9, "1e-8": 9}
    products = read_products(path, "diagonal", ["1e-8"], 0)
    assert len(products) == 36 and set(products["alpha"]) == {"1e-8"}


@pytest.mark.parametrize(("structure", "alphas", "seed"), [("full", ["0.1", "1e-4"], 0), ("full", None, 1)])
def test_a_missing_run_is_named(written, structure, alphas, seed):
    path = written("trajectory", trajectory(full="0.1"))
    with pytest.raises(ValueError, match=f"no run of structure 'full' with seed {seed} and alpha (1e-4|any)$"):
        read_losses(path, structure, alphas, seed)


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


def test_a_window_is_measured_in_the_largest_difference_over_entries():
    reference = np.r_[np.linspace(0, 1, 6), np.full(5, 1.0)]
    window = Window.of(perturbation(reference, reference + np.linspace(0.4, 0.1, 11), step=0.5))
    assert (window.start_distance, window.end_distance) == pytest.approx((0.4, 0.1))
    assert (window.movement, window.final_speed) == (1.0, 0.0)
    on_support = Window.of(perturbation(reference, reference + np.linspace(0.2, 0.1, 11), step=0.5))
    assert window.distances(on_support) == "distance 0.400 to 0.100, ratio 0.25 (support: 0.50)"


def test_a_window_that_was_not_perturbed_says_so():
    still, moved = (Window.of(perturbation([1.0, 1.0], [1.0 + shift] * 2)) for shift in (0.0, 0.1))
    assert still.distances(still) == "not perturbed: no weight is active or above the threshold"
    assert moved.distances(still) == "distance 0.100 to 0.100, ratio 1.00 (support: not perturbed)"


def test_the_final_speed_is_that_of_the_last_tenth_per_unit_of_time():
    reference = np.r_[np.zeros(19), 0.1, 0.3]
    assert Window.of(perturbation(reference, reference, step=0.5)).final_speed == pytest.approx(0.3)


@pytest.mark.parametrize(("movement", "off"), [(0.049, False), (0.051, True)])
def test_only_a_reference_that_moves_is_not_on_a_plateau(movement, off):
    note, marked = Window(0.1, 0.05, movement, final_speed=9.0).plateau_note(0.05)
    assert marked == off and note.startswith("not on a plateau" if off else "on a plateau")
    assert f"{movement:.3f}" in note


@pytest.mark.parametrize(("speed", "restless"), [(0.009, False), (0.011, True)])
def test_only_a_reference_that_moves_at_the_end_is_not_at_rest(speed, restless):
    note, marked = Window(0.1, 0.05, movement=9.0, final_speed=speed).rest_note(0.01)
    assert marked == restless and note.startswith("window ends before rest" if restless else "window ends at rest")


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
    ("assumption", "expected"),
    [
        ("plateaus", {0: "on a plateau", 1: "not on a plateau", 2: "not on a plateau"}),
        ("activations", {0: "window ends at rest", 1: "window ends at rest", 2: "window ends before rest"}),
    ],
)
def test_every_run_is_shown_and_those_to_be_read_with_care_are_shaded(written, captured, assumption, expected):
    still, early, late = np.full(11, 1.0), np.r_[0.0, np.full(10, 1.0)], np.r_[np.full(10, 0.0), 1.0]
    table = pd.concat(
        perturbation(path, path + shift, run=number, assumption=name, seed=seed, noise_on=noise_on)
        for number, path in enumerate((still, early, late))
        for name, seed in ((assumption, 0), ("other", 0), (assumption, 1))
        for noise_on, shift in (("nonnegligible", 0.1), ("support", np.linspace(0.2, 0.1, 11)))
    )
    paths = written("perturbations", table), written("stages", STAGES)
    options = {"assumption": assumption, "seed": 0, "movement": 0.05, "follow": 5.0}
    plot_perturbations.main(*paths, "pdf", "png", **options, dpi=50, provenance={})
    panels = np.reshape(captured[0].axes[:6], (3, 2))
    for number, (left, right) in enumerate(panels):
        [note] = notes(right)
        assert note.startswith(expected[number]) and notes(left)[0].endswith("ratio 1.00 (support: 0.50)")
        marked = "not on" in note or "before" in note
        assert [axes.get_facecolor() == to_rgba(MARK_SHADE) for axes in (left, right)] == [marked, marked]


# Theorem 4.5


@pytest.fixture
def theorem():
    """Three stages at two alphas; delays 8 / ln(1/alpha) times 1, 2 and 4, one stage not reached at the larger."""
    frames = []
    for alpha, scale in (("1e-8", 8 * np.log(10)), ("1e-4", 4 * np.log(10))):
        predicted = np.array([100.0, 200.0, 300.0])
        measured = predicted + np.array([1, -2, 4]) * 8 / scale
        frames.append(pd.DataFrame({"seed": 0, "alpha": alpha, "stage": [1, 2, 3], "predicted_time": predicted}))
        frames[-1]["measured_time"] = np.where((alpha == "1e-4") & (predicted == 300), np.nan, measured)
    return pd.concat(frames)


def test_stage_times_are_points_near_the_diagonal(panel, theorem):
    draw_stage_times(panel, theorem, alpha_colors(theorem["alpha"]), 1000)
    larger, smaller = panel.lines[:2]
    assert np.isfinite(larger.get_ydata()).tolist() == [True, True, False]
    assert np.abs(smaller.get_ydata() - smaller.get_xdata()).max() == pytest.approx(4 / np.log(10))
    assert panel.lines[2].get_slope() == 1
    assert (panel.get_xlim(), panel.get_ylim()) == ((0, 1000), (0, 1000))


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
    limit = LimitLoss.of(STAGES, losses(**{"1e-3000": [1.0, 0.9], "0.1": [1.1, 0.9]}))
    assert limit.times.tolist() == [0, 2, 4, 6] and limit.heights.tolist() == [1, 0.75, 0.5, 0.25]
    assert limit.at(np.array([0, 1.9, 2, 5, 100])).tolist() == [1, 1, 0.75, 0.5, 0.25]
    draw_limit(panel, limit, 8.0)
    [line] = panel.lines
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xydata().tolist() == [[0, 1], [2, 0.75], [4, 0.5], [6, 0.25], [8, 0.25]]


def test_the_distance_of_late_steps_lies_within_its_bounds():
    limit = LimitLoss(np.array([0, 2.0, 4.0, 6.0]), np.array([1, 0.75, 0.5, 0.25]))
    time, delay = np.linspace(0, 8, 41), 0.3
    curve = pd.DataFrame({"rescaled_time": time, "loss": limit.at(np.maximum(time - delay, 0))})
    estimate, lower, upper = limit.distance(curve.sample(frac=1, random_state=0))
    exact = 3 * 0.25 * delay / 8
    assert lower <= exact <= upper and lower <= estimate <= upper
    assert upper - lower < 0.25 * 3 * 0.4 / 8 and estimate == pytest.approx(exact, rel=0.4)


def test_a_loss_that_is_the_limit_at_every_moment_may_be_as_far_as_a_moment_lasts():
    limit = LimitLoss(np.array([0, 3.0]), np.array([1, 0.5]))
    estimate, lower, upper = limit.distance(
        losses(**{"0.1": limit.at(np.arange(0.0, 9.0, 2)).tolist()}).assign(rescaled_time=np.arange(0.0, 9.0, 2))
    )
    assert (estimate, lower) == (0, 0) and upper == pytest.approx(0.5 * 2 / 8)


def test_the_distance_to_the_limit_is_drawn_with_its_bounds(panel):
    curves = losses(**{"1e-8": [1.0, 1.0, 0.9, 0.75, 0.6, 0.5, 0.4], "0.1": [1.0, 1.0, 1.0, 0.9, 0.9, 0.6, 0.6]})
    limit = LimitLoss.of(STAGES, curves)
    draw_limit_distance(panel, curves, limit, alpha_colors(curves["alpha"]))
    bar, point = panel.lines[2:4]
    estimate, lower, upper = limit.distance(curves[curves["alpha"] == "1e-8"])
    assert point.get_xydata() == pytest.approx(np.array([[8 * np.log(10), estimate]]))
    assert bar.get_ydata() == pytest.approx([lower, upper])
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")


def test_the_detail_is_where_the_limit_falls(panel):
    limit = LimitLoss.of(STAGES, losses(**{"0.1": [1.0, 0.9]}))
    zoom_on_fall(panel, limit, 0.8, 0.4)
    assert (panel.get_xlim(), panel.get_ylim()) == ((2, 6), (0.4, 0.8))
    zoom_on_fall(panel, limit, 0.8, 0.1)  # it does not get there
    assert panel.get_xlim() == (2, 6)


# Whole figures, from tables


def test_figure_2_has_a_row_for_each_structure(written, captured):
    table = trajectory(diagonal="1e-8", full="0.1")
    rows = [
        {"structure": structure, "alpha": alpha, "weights": structure, "teacher": "diagonal", "method": "flow"}
        for structure, alpha in (("diagonal", "1e-8"), ("full", "0.1"))
    ]
    paths = written("trajectory", table), written("stages", STAGES)
    plot_rank_increase.main(*paths, "pdf", "png", rows=rows, seed=0, dpi=50, provenance={})
    [figure] = captured
    assert [title[:21] for title in titles(figure)] == [
        "(a) diagonal entries ",
        "(b) diagonal entries ",
        "(c) loss",
        "(d) singular values o",
        "(e) singular values o",
        "(f) loss",
    ]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 1, 2, 2, 1]
    assert "α = 0.1" in figure.axes[3].get_ylabel()


@pytest.mark.parametrize("product", ["KQ", "VO"])
def test_figures_7_and_8_have_a_panel_for_each_alpha_in_order(written, captured, product):
    alphas = ["0.1", "1e-4", "1e-32"]
    paths = written("trajectory", trajectory(diagonal="1e-32 0.1 1e-4")), written("stages", STAGES)
    plot_entries.main(*paths, "pdf", "png", product=product, alphas=alphas, seed=0, dpi=50, provenance={})
    panels = captured[0].axes[:4]
    assert [axes.get_visible() for axes in panels] == [True, True, True, False]
    assert [axes.get_title(loc="left").split(" = ")[1] for axes in panels[:3]] == alphas
    assert len({axes.get_ylim() for axes in panels[:3]}) == 1
    for lines in zip(*(axes.lines for axes in panels[:3]), strict=True):
        assert len({to_rgba(line.get_color()) for line in lines}) == 1


@pytest.mark.parametrize(("seeds", "panels"), [(1, 2), (3, 6), (4, 8)])
def test_stage_times_have_two_panels_for_each_seed(written, captured, theorem, seeds, panels):
    table = pd.concat([theorem.assign(seed=seed) for seed in range(seeds)])
    plot_stage_times.main(written("theorem", table), "pdf", "png", max_time=1000, dpi=50, provenance={})
    shown = [title.partition(",")[0] for title in titles(captured[0])]
    assert len(shown) == panels and sorted(filter(None, shown)) == [f"seed {seed}" for seed in range(seeds)]


def test_figure_6_and_the_limit_show_every_alpha(written, captured):
    table = written("trajectory", trajectory(diagonal="0.1 1e-3000"))
    options = {"seed": 0, "dpi": 50, "provenance": {}}
    plot_losses.main(table, "pdf", "png", alphas=["0.1", "1e-3000"], **options)
    plot_limit.main(table, written("stages", STAGES), "pdf", "png", **options)
    assert [len(axes.lines) for axes in captured[0].axes] == [2]
    assert [len(axes.lines) for axes in captured[1].axes] == [3, 3, 5]


def test_a_study_too_short_for_any_stage_still_has_its_figures(tmp_path, written, theorem):
    tables = {
        "trajectory": written("trajectory", trajectory(diagonal="0.1")),
        "stages": written("stages", STAGES[:0].astype({"stage": int})),
        "theorem": written("theorem", theorem[:0]),
    }
    files = {"pdf": str(tmp_path / "figure.pdf"), "png": str(tmp_path / "figure.png")}
    options = {**files, "dpi": 50, "provenance": {}}
    runs = {"trajectory": tables["trajectory"], "stages": tables["stages"], "seed": 0}
    plot_limit.main(**runs, **options)
    plot_entries.main(**runs, product="KQ", alphas=["0.1"], **options)
    plot_stage_times.main(tables["theorem"], max_time=1000, **options)
    plot_stage_times.main(written("theorem", theorem.assign(measured_time=np.nan)), max_time=1000, **options)
