"""What figures draw, line by line, against the tables of the study: the figures are those that the rules have drawn."""

import json
import math
import re
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import AxLine
from PIL import Image

DIM, SEED, VIT_SEED, ALPHA, MAX_TIME = 4, 7, 2, "0.6", 120
KQ, VO = r"$W_K W_Q^\top$", r"$W_V W_O^\top$"
NAMES = {"KQ": KQ, "VO": VO}
DELTAS = {"KQ": r"$\Delta W_K W_Q^\top$", "VO": r"$\Delta W_V W_O^\top$"}
BASELINE, BASELINE_LABEL = "noise", "random change of equal norm"  # which baseline figures show, and what they call it
FIGURES = ["fig02", "fig06", "fig07", "fig08", "fig09", "fig10", "fig_dense", "fig_limit", "fig_stage_times"]
FIGURES += ["fig01", "fig03", "fig04", "fig05", "fig11", "fig12", "fig13", "fig14", "fig15", "fig16"]
GRAY = "#d6d6d6"  # of entries that never become active


def panels(figure):
    """Axes that show something, in reading order, without color bars."""
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]


def curves(axes):
    """Lines of a panel but for straight guides: (label, x, y, color)."""
    lines = [line for line in axes.lines if not isinstance(line, AxLine)]
    return [(line.get_label(), *map(np.asarray, line.get_data()), to_hex(line.get_color())) for line in lines]


def assert_curve(curve, x, y, label=None):
    np.testing.assert_allclose(np.asarray(curve[1], float), np.asarray(list(x), float), rtol=1e-9)
    np.testing.assert_allclose(np.asarray(curve[2], float), np.asarray(y, float), rtol=1e-9, atol=1e-300)
    if label is not None:
        assert curve[0] == label


def run_of(wired, structure, alpha, seed=SEED):
    rows = wired.table("tables/trajectory")
    return rows[(rows["structure"] == structure) & (rows["alpha"] == alpha) & (rows["seed"] == seed)]


def loss_of(rows):
    rows = rows[(rows["product"] == "VO") & (rows["index"] == DIM - 1)].sort_values("time")
    return rows["rescaled_time"].to_numpy(), rows["loss"].to_numpy()


def legend(figure):
    """Labels and colors of the legends of a figure and of its panels."""
    found = {}
    for owner in (*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))):
        for text, handle in zip(owner.get_texts(), owner.legend_handles, strict=True):
            if hasattr(handle, "get_color") and not isinstance(handle.get_color(), np.ndarray):
                found[text.get_text()] = to_hex(handle.get_color())
            else:
                found[text.get_text()] = to_hex(np.ravel(handle.get_color())[:4])
    return found


def assert_entries(wired, axes, run, product, *, staged):
    """A panel has a line for each entry, in the color of its stage, or of its rank."""
    drawn = curves(axes)
    assert len(drawn) == DIM
    for index, curve in enumerate(drawn):
        rows = run[(run["product"] == product) & (run["index"] == index)].sort_values("rescaled_time")
        assert_curve(curve, rows["rescaled_time"], rows["value"])
    if staged:
        stages = wired.table("tables/stages")
        stages = stages[(stages["seed"] == SEED) & (stages["product"] == product)].sort_values("stage")
        colored = [curve[3] != GRAY for curve in drawn]
        assert colored == [index in set(stages["index"]) for index in range(DIM)]
        drawn = [drawn[index] for index in stages["index"]]
    assert_darker_and_darker(drawn[::-1])


def assert_darker_and_darker(drawn):
    shades = [luminance(color) for *_, color in drawn]
    assert all(a > b for a, b in pairwise(shades))


def luminance(color):
    return np.dot([int(color[place : place + 2], 16) for place in (1, 3, 5)], [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_of_its_rule_and_has_the_resolution_asked_for(wired, name):
    figure = wired.figure(name)
    with Image.open(wired.results / f"figures/{name}.png") as image:
        assert json.loads(image.info["provenance"])["rule"] == name
        np.testing.assert_allclose(image.size, figure.get_size_inches() * 31, atol=1)
    assert (wired.results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("fig02", [("diagonal", "1e-8", "diagonal", "diagonal"), ("full", "0.01", "full", "diagonal")]),
        ("fig_dense", [("full", "0.01", "full", "diagonal"), ("full_dense", "0.01", "full", "dense")]),
    ],
)
def test_rank_increase_shows_products_and_loss_of_its_runs(wired, name, rows):
    axes = panels(wired.figure(name))
    assert len(axes) == 3 * len(rows)
    for number, (structure, alpha, weights, teacher) in enumerate(rows):
        run, of_row = run_of(wired, structure, alpha), axes[3 * number : 3 * number + 3]
        assert of_row[0].get_ylabel() == f"{weights} weights,\n{teacher} teacher,\nα = {alpha}"
        what = "diagonal entries" if weights == "diagonal" else "singular values"
        for panel, product, letter in zip(of_row, ("VO", "KQ"), "abcdef"[3 * number :], strict=False):
            assert panel.get_title(loc="left") == f"({letter}) {what} of {NAMES[product]}"
            assert_entries(wired, panel, run, product, staged=weights == "diagonal")
        [loss] = curves(of_row[2])
        assert_curve(loss, *loss_of(run), f"α = {alpha}")
        assert of_row[2].get_title(loc="left").endswith("loss")


def test_losses_are_of_the_headline_seed_and_under_their_alphas(wired):
    figure = wired.figure("fig06")
    [axes] = panels(figure)
    assert len(curves(axes)) == 2
    for curve, alpha in zip(curves(axes), ("0.01", "1e-8"), strict=True):
        assert_curve(curve, *loss_of(run_of(wired, "diagonal", alpha)), f"α = {alpha}")
        assert legend(figure)[f"α = {alpha}"] == curve[3]
    assert_darker_and_darker(curves(axes))


@pytest.mark.parametrize(("name", "product", "letters"), [("fig07", "KQ", "QK"), ("fig08", "VO", "VO")])
def test_entries_are_of_the_product_of_their_figure(wired, name, product, letters):
    axes = panels(wired.figure(name))
    assert axes[0].get_ylabel() == f"diagonal entries of {NAMES[product]}"
    weights = "".join(rf"\mathrm{{diag}}(w_{letter})" for letter in letters)
    for panel, alpha in zip(axes, ("1e-8", "0.01"), strict=True):  # in the order of the configuration
        assert panel.get_title(loc="left") == f"Entries of ${weights}$, for α = {alpha}"
        assert_entries(wired, panel, run_of(wired, "diagonal", alpha), product, staged=True)


def window(rows):
    """Distances at both ends, movement of the reference, and its speed in the last tenth, by plain loops."""
    times = sorted(rows["rescaled_time"].unique())
    entries = [rows[rows["rescaled_time"] == time].sort_values(["product", "index"]) for time in times]
    values, reference = ([of[column].to_numpy() for of in entries] for column in ("value", "reference"))
    late = max(n for n, time in enumerate(times) if time <= times[-1] - (times[-1] - times[0]) / 10)
    return {
        "start": max(abs(values[0] - reference[0])),
        "end": max(abs(values[-1] - reference[-1])),
        "movement": max(max(abs(at - reference[0])) for at in reference),
        "speed": max(abs(reference[-1] - reference[late])) / (times[-1] - times[late]),
    }


@pytest.mark.parametrize(("name", "assumption"), [("fig09", "plateaus"), ("fig10", "activations")])
def test_perturbations_are_of_their_assumption_with_their_numbers(wired, name, assumption):
    figure, table = wired.figure(name), wired.table("tables/perturbations")
    table = table[(table["assumption"] == assumption) & (table["seed"] == SEED)]
    axes, runs = panels(figure), sorted(table["run"].unique())
    assert len(axes) == 2 * len(runs)
    for number, run in enumerate(runs):
        both = {
            noise_on: table[(table["run"] == run) & (table["noise_on"] == noise_on)] for noise_on in table["noise_on"]
        }
        rows, found, of_support = both["nonnegligible"], window(both["nonnegligible"]), window(both["support"])
        marked = bool(found["movement"] > 0.07 if assumption == "plateaus" else found["speed"] > 0.07 / 5)
        for panel, product in zip(axes[2 * number : 2 * number + 2], ("VO", "KQ"), strict=True):
            at = rows["perturbed_at"].iloc[0]
            start = rf"Entries of {NAMES[product]}, perturb time / $\ln(1/\alpha)$ = {at:.1f}"
            assert panel.get_title(loc="left") == start
            drawn = curves(panel)
            assert len(drawn) == 2 * DIM
            for index in range(DIM):
                entry = rows[(rows["product"] == product) & (rows["index"] == index)].sort_values("rescaled_time")
                assert_curve(drawn[2 * index], entry["rescaled_time"], entry["value"])
                assert_curve(drawn[2 * index + 1], entry["rescaled_time"], entry["reference"])
            assert (to_hex(panel.get_facecolor()) != "#ffffff") == marked
        notes = [panel.texts[0].get_text() for panel in axes[2 * number : 2 * number + 2]]
        ratios = [of["end"] / of["start"] for of in (found, of_support)]
        assert notes[0] == (
            f"distance {found['start']:.3f} to {found['end']:.3f}, ratio {ratios[0]:.2f} (support: {ratios[1]:.2f})"
        )
        if assumption == "plateaus":
            said = f"{'not ' * marked}on a plateau: reference moves {found['movement']:.3f}"
        else:
            said = f"window ends {'before' if marked else 'at'} rest: speed {found['speed']:.3f}"
        assert notes[1] == said
    assert list(legend(figure)) == ["perturbed", "unperturbed reference"]


def staircase(wired):
    stages = wired.table("tables/stages")
    stages = stages[stages["seed"] == SEED].sort_values("stage")
    start = loss_of(run_of(wired, "diagonal", "1e-32"))[1][0]
    return np.r_[0, stages["predicted_time"]], np.r_[start, stages["loss"]]


def test_limit_shows_losses_over_the_prediction_and_their_distance(wired):
    curves_panel, detail, distances = panels(wired.figure("fig_limit"))
    times, heights = staircase(wired)
    alphas = ["0.01", "1e-8", "1e-32"]
    for panel in (curves_panel, detail):
        limit, *losses = curves(panel)
        assert_curve(limit, np.r_[times, MAX_TIME], np.r_[heights, heights[-1]])
        for curve, alpha in zip(losses, alphas, strict=True):
            assert_curve(curve, *loss_of(run_of(wired, "diagonal", alpha)), f"α = {alpha}")
        assert_darker_and_darker(losses)
    drawn = curves(distances)
    assert_darker_and_darker(drawn[1::2])
    for number, alpha in enumerate(alphas):
        (_, bar_x, bounds, _), (_, x, estimate, _) = drawn[2 * number : 2 * number + 2]
        time, loss = loss_of(run_of(wired, "diagonal", alpha))
        at = np.array([heights[times <= moment][-1] for moment in time])
        np.testing.assert_allclose([*bar_x, *x], -math.log(float(alpha)))
        np.testing.assert_allclose(estimate, np.trapezoid(abs(loss - at), time) / MAX_TIME)
        assert bounds[0] <= estimate[0] <= bounds[1]


def test_stage_times_are_those_of_each_seed(wired):
    figure, theorem = wired.figure("fig_stage_times"), wired.table("tables/theorem")
    axes = panels(figure)  # times of both seeds, then errors of both
    for number, seed in enumerate((3, 7)):
        rows = theorem[theorem["seed"] == seed]
        times, errors = axes[number], axes[2 + number]
        assert times.get_title(loc="left").startswith(f"seed {seed}, n = {rows['stage'].nunique()} stages")
        assert times.get_xlim() == times.get_ylim() == (0, MAX_TIME)
        drawn = curves(errors)
        assert_darker_and_darker(curves(times))
        assert_darker_and_darker(drawn[1::3])
        for place, (curve, alpha) in enumerate(zip(curves(times), ("0.01", "1e-8", "1e-32"), strict=True)):
            of_alpha = rows[rows["alpha"] == alpha]
            assert_curve(curve, of_alpha["predicted_time"], of_alpha["measured_time"])
            assert legend(figure)[f"α = {alpha}"] == curve[3]
            delay = abs(of_alpha["measured_time"] - of_alpha["predicted_time"]).dropna().to_numpy()
            bar, median, largest = drawn[3 * place : 3 * place + 3]
            assert_curve(bar, 2 * [-math.log(float(alpha))], np.quantile(delay, [0.1, 0.9]))
            np.testing.assert_allclose([*median[2], *largest[2]], [np.median(delay), delay.max()])
    missed = theorem[(theorem["seed"] == 7) & (theorem["alpha"] == "0.01")]["measured_time"].isna().sum()
    assert f"{missed} not activated at α = 0.01" in axes[1].get_title(loc="left")


def spectrum(wired, product, layer, head, epoch, matrix, alpha=ALPHA):
    """Singular values of a row of the tables, of the seed shown."""
    of_noise = matrix == BASELINE
    rows = wired.table("tables/digits/baselines" if of_noise else "tables/digits/spectra")
    wanted = {"product": product, "layer": layer, "head": head, "epoch": epoch, "alpha": alpha, "seed": VIT_SEED}
    wanted["baseline" if of_noise else "matrix"] = matrix
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    [values] = rows["singular_values"]
    return values


def drawn_heads(layers):
    """Heads drawn at random, with the number that the configuration gives."""
    orders = np.random.default_rng(5).permuted(np.tile(np.arange(2), (3, 1)), axis=1)
    return [(layer, int(orders[layer, layers[:place].count(layer)])) for place, layer in enumerate(layers)]


def assert_stages(wired, panel, product, layer, head, handles):
    """A panel has the normalized spectra of a head: initial, noise at the end, and changes from first to last epoch."""
    initial, noise, *deltas = curves(panel)
    for curve, epoch, matrix in [(initial, 0, "initial"), (noise, 3, BASELINE)]:
        values = spectrum(wired, product, layer, head, epoch, matrix)
        assert_curve(curve, range(1, len(values) + 1), values / values[0])
    assert len(deltas) == 3
    for curve, epoch in zip(deltas, (1, 2, 3), strict=True):
        values = spectrum(wired, product, layer, head, epoch, "delta")
        assert_curve(curve, range(1, len(values) + 1), values / values[0])
        assert handles[f"change, epoch {epoch}"] == curve[3]
    assert_darker_and_darker(deltas)
    assert handles["initial product"] == initial[3]
    assert handles[BASELINE_LABEL] == noise[3]


def test_head_spectra_are_of_the_dataset_and_a_head_of_the_second_layer(wired):
    figure = wired.figure("fig01")
    [panel], [(layer, head)] = panels(figure), drawn_heads([1])
    assert panel.get_title(loc="left") == f"(a) Digits (8 x 8): layer {layer + 1}, head {head + 1}"
    assert_stages(wired, panel, "KQ", layer, head, legend(figure))


@pytest.mark.parametrize("name", ["fig11", "fig13", "fig15"])
def test_stages_of_spectra_are_of_both_products_in_all_layers(wired, name):
    figure, heads = wired.figure(name), drawn_heads([0, 1, 2])
    assert figure.get_suptitle() == "Digits (8 x 8)"
    places = [(product, *head) for product in ("KQ", "VO") for head in heads]
    for panel, letter, (product, layer, head) in zip(panels(figure), "abcdef", places, strict=True):
        assert panel.get_title(loc="left") == f"({letter}) {DELTAS[product]}, layer {layer + 1}, head {head + 1}"
        assert_stages(wired, panel, product, layer, head, legend(figure))


def test_singular_values_over_training_are_of_their_scale_and_product(wired):
    figure, [(layer, head)] = wired.figure("fig03"), drawn_heads([1])
    assert figure.get_suptitle() == f"Digits (8 x 8): layer {layer + 1}, head {head + 1}"
    places = [(product, alpha) for product in ("KQ", "VO") for alpha in ("1", "0.3")]
    for panel, letter, (product, alpha) in zip(panels(figure), "abcd", places, strict=True):
        assert panel.get_title(loc="left") == f"({letter}) {DELTAS[product]}, init scale {alpha}"
        values = [spectrum(wired, product, layer, head, epoch, "delta", alpha) for epoch in range(4)]
        drawn = curves(panel)
        assert len(drawn) == 10
        for curve, of_index in zip(drawn, np.transpose(values), strict=True):
            assert_curve(curve, range(4), of_index)
        assert_darker_and_darker(drawn[::-1])


def test_perturbation_is_what_the_last_epoch_has_added(wired):
    figure = wired.figure("fig05")
    assert figure.get_suptitle() == f"Digits (8 x 8): {KQ}"
    for panel, letter, (layer, head) in zip(panels(figure), "abcdef", drawn_heads([0, 0, 1, 1, 2, 2]), strict=True):
        assert panel.get_title(loc="left") == f"({letter}) layer {layer + 1}, head {head + 1}"
        expected = {
            "initial product": (0, "initial"),
            "change by training": (3, "delta"),
            BASELINE_LABEL: (3, BASELINE),
        }
        for curve, (label, place) in zip(curves(panel), expected.items(), strict=True):
            values = spectrum(wired, "KQ", layer, head, *place)
            assert_curve(curve, range(1, len(values) + 1), values, label)
            assert legend(figure)[label] == curve[3]


def stable_ranks(wired, **wanted):
    """Stable ranks of the table of spectra, or if `wanted` has a baseline, of baselines."""
    rows = wired.table("tables/digits/baselines" if "baseline" in wanted else "tables/digits/spectra")
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    return rows["stable_rank"].dropna().to_numpy()


def test_scales_are_of_the_last_epoch_with_all_seeds_and_scales(wired):
    figure = wired.figure("fig04")
    assert figure.get_suptitle() == "Digits (8 x 8)"
    assert len(panels(figure)) == 3
    assert panels(figure)[0].get_ylabel() == f"stable rank of {DELTAS['KQ']}"
    for layer, panel in enumerate(panels(figure)):
        assert panel.get_title(loc="left") == f"({'abc'[layer]}) layer {layer + 1}"
        where = {"product": "KQ", "layer": layer, "epoch": 3}
        for container, (seed, alphas), side in zip(
            panel.containers, [(0, ["0.6"]), (2, ["0.3", "0.6", "1"])], (-0.5, 0.5), strict=True
        ):
            assert container.get_label() == f"seed {seed}"
            line, _, [bars] = container
            ranks = [stable_ranks(wired, **where, matrix="delta", alpha=alpha, seed=seed) for alpha in alphas]
            assert [len(of_scale) for of_scale in ranks] == [2] * len(alphas)
            scales = [float(alpha) * 1.06**side for alpha in alphas]
            np.testing.assert_allclose(line.get_xdata(), scales)
            np.testing.assert_allclose(line.get_ydata(), [of_scale.mean() for of_scale in ranks])
            lengths = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
            np.testing.assert_allclose(lengths, [of_scale.std() for of_scale in ranks])
            assert legend(figure)[f"seed {seed}"] == to_hex(line.get_color())
        noise = next(curve for curve in curves(panel) if curve[0] == BASELINE_LABEL)
        alphas = ["0.3", "0.6", "1"]
        means = [stable_ranks(wired, **where, baseline=BASELINE, alpha=alpha).mean() for alpha in alphas]
        assert_curve(noise, map_floats(alphas), means)


def map_floats(texts):
    return [float(text) for text in texts]


@pytest.mark.parametrize("name", ["fig12", "fig14", "fig16"])
def test_stable_ranks_over_training_are_of_their_layer_and_product(wired, name):
    figure = wired.figure(name)
    assert figure.get_suptitle() == "Digits (8 x 8)"
    assert len(panels(figure)) == 3
    for layer, panel in enumerate(panels(figure)):
        assert panel.get_title(loc="left") == f"({'abc'[layer]}) layer {layer + 1}"
        where = {"layer": layer, "alpha": ALPHA, "seed": VIT_SEED}
        *of_products, noise = curves(panel)
        for curve, band, product in zip(of_products, panel.collections, ("KQ", "VO"), strict=True):
            ranks = [stable_ranks(wired, **where, product=product, matrix="delta", epoch=epoch) for epoch in (1, 2, 3)]
            assert_curve(curve, (1, 2, 3), [of_epoch.mean() for of_epoch in ranks], DELTAS[product])
            assert legend(figure)[DELTAS[product]] == curve[3] == to_hex(band.get_facecolor()[0][:3])
            corners = band.get_paths()[0].vertices
            for epoch, of_epoch in zip((1, 2, 3), ranks, strict=True):
                edges = corners[corners[:, 0] == epoch, 1]
                expected = [of_epoch.mean() - of_epoch.std(), of_epoch.mean() + of_epoch.std()]
                np.testing.assert_allclose([edges.min(), edges.max()], expected)
        means = [stable_ranks(wired, **where, baseline=BASELINE, epoch=epoch).mean() for epoch in (1, 2, 3)]
        assert_curve(noise, (1, 2, 3), means, BASELINE_LABEL)


def test_every_figure_of_the_study_is_looked_at(wired):
    drawn = {path.stem for path in (wired.results / "figures").glob("*.png")}
    assert drawn == set(FIGURES)
    assert {re.sub(r"\D", "", name) for name in drawn} >= {f"{number:02}" for number in range(1, 17)}
