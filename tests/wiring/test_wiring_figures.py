"""What figures draw, line by line, against the tables of the study: the figures are those that the rules have drawn."""

import json
import math
import re
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.lines import AxLine
from PIL import Image

DIM, SEED, OTHER_SEED, MAX_TIME = 4, 7, 3, 120  # the headline seed, and that of the figures 2 and 8
NETWORK_SEED, DRAW = 2, 5
LABELS = {"wide": "Wide tokens", "narrow": "Narrow tokens"}
SIZES = {"wide": (3, 2), "narrow": (2, 3)}  # layers and heads
IN_EPOCH = {"wide": 11, "narrow": 7}  # steps
# Epochs of snapshots but 0; of those of the first network that are the nearest to six evenly in log(epoch).
EPOCHS = {"wide": [step / 11 for step in (1, 2, 3, 4, 6, 8, 11, 16, 22, 23, 32, 33)], "narrow": [1, 2, 4]}
STAGES = {"wide": [step / 11 for step in (1, 2, 4, 8, 16, 33)], "narrow": [1, 2, 4]}
KQ, VO = r"$W_K W_Q^\top$", r"$W_V W_O^\top$"
NAMES = {"KQ": KQ, "VO": VO}
DELTAS = {"KQ": r"$\Delta W_K W_Q^\top$", "VO": r"$\Delta W_V W_O^\top$"}
RANDOM = {
    "random_product": "random change of equal norm",
    "noisy_factors": "random change of the factors",
    "turned_factors": "change with turned factors",
}
FIGURES = ["fig02", "fig06", "fig07", "fig08", "fig09", "fig10", "fig_limit", "fig_stage_times"]
FIGURES += ["fig_linear_attention", "fig_constants", "fig_full_weights"]
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


def run_of(wired, variant, alpha, seed=SEED):
    rows = wired.table("tables/trajectory")
    return rows[(rows["variant"] == variant) & (rows["alpha"] == alpha) & (rows["seed"] == seed)]


def stages_of(wired, seed=SEED, variant="diagonal"):
    rows = wired.table("tables/stages")
    return rows[(rows["variant"] == variant) & (rows["seed"] == seed)].sort_values("stage")


def theorem_of(wired, seed=None):
    """Rows of the diagonal problems, or of one of them."""
    rows = wired.table("tables/theorem")
    rows = rows[rows["variant"] == "diagonal"]
    return rows if seed is None else rows[rows["seed"] == seed]


def loss_of(wired, variant, alpha, seed=SEED):
    rows = wired.table("tables/losses")
    rows = rows[(rows["variant"] == variant) & (rows["alpha"] == alpha) & (rows["seed"] == seed)].sort_values("time")
    return rows["rescaled_time"].to_numpy(), rows["loss"].to_numpy()


def legend(figure):
    """Labels and colors of the legends of a figure and of its panels."""
    return entries_of(*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes)))


def entries_of(*legends):
    found = {}
    for owner in legends:
        for text, handle in zip(owner.get_texts(), owner.legend_handles, strict=True):
            if hasattr(handle, "get_color") and not isinstance(handle.get_color(), np.ndarray):
                found[text.get_text()] = to_hex(handle.get_color())
            else:
                found[text.get_text()] = to_hex(np.ravel(handle.get_color())[:4])
    return found


def assert_entries(wired, axes, run, product, *, staged, seed=SEED):
    """A panel has a line for each entry, in the color of its stage, or of its rank."""
    drawn = curves(axes)
    assert len(drawn) == DIM
    for index, curve in enumerate(drawn):
        rows = run[(run["product"] == product) & (run["index"] == index)].sort_values("rescaled_time")
        assert_curve(curve, rows["rescaled_time"], rows["value"])
    if staged:
        stages = stages_of(wired, seed)
        stages = stages[stages["product"] == product]
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
        provenance = json.loads(image.info["provenance"])
        assert (provenance["rule"], provenance["wildcards"]) == ("figure", {"figure": name})
        np.testing.assert_allclose(image.size, figure.get_size_inches() * 31, atol=1)
    assert (wired.results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")


def test_rank_increase_shows_products_and_loss_of_its_runs(wired):
    rows = [("diagonal", "1e-8"), ("full", "1e-16"), ("full", "0.01")]
    axes = panels(wired.figure("fig02"))
    assert len(axes) == 3 * len(rows)
    for number, (variant, alpha) in enumerate(rows):
        run, of_row = run_of(wired, variant, alpha, OTHER_SEED), axes[3 * number : 3 * number + 3]
        assert of_row[0].get_ylabel() == f"{variant} weights,\ndiagonal teacher,\nα = {alpha}"
        what = "diagonal entries" if variant == "diagonal" else "singular values"
        for panel, product, letter in zip(of_row, ("VO", "KQ"), "abcdefghi"[3 * number :], strict=False):
            assert panel.get_title(loc="left") == f"({letter}) {what} of {NAMES[product]}"
            assert_entries(wired, panel, run, product, staged=variant == "diagonal", seed=OTHER_SEED)
        [loss] = curves(of_row[2])
        assert_curve(loss, *loss_of(wired, variant, alpha, OTHER_SEED), f"α = {alpha}")
        assert of_row[2].get_title(loc="left").endswith("loss")


def test_full_weights_are_drawn_over_their_limit(wired):
    figure = wired.figure("fig_full_weights")
    rows = [("full", "diagonal", ["0.01", "1e-16"]), ("full_dense", "dense", ["0.01"])]
    axes, letters = panels(figure), iter("abcde")
    assert len(axes) == sum(1 + len(alphas) for *_, alphas in rows)
    for variant, teacher, alphas in rows:
        loss, *products = [axes.pop(0) for _ in range(1 + len(alphas))]
        assert loss.get_title(loc="left") == f"({next(letters)}) {teacher} teacher"
        limit, *losses = curves(loss)
        times, heights = staircase(wired, variant, alphas[-1])
        assert_curve(limit, np.r_[times, MAX_TIME], np.r_[heights, heights[-1]])
        for curve, alpha in zip(losses, alphas, strict=True):
            assert_curve(curve, *loss_of(wired, variant, alpha), f"α = {alpha}")
        assert_darker_and_darker(losses)
        assert products[0].get_ylabel() == f"singular values of {VO}"
        values = np.stack(stages_of(wired, variant=variant)["VO"])
        for panel, alpha in zip(products, alphas, strict=True):
            assert panel.get_title(loc="left") == f"({next(letters)}) α = {alpha}"
            run = run_of(wired, variant, alpha)
            drawn = curves(panel)
            for index, (gray, curve) in enumerate(zip(drawn[:DIM], drawn[DIM:], strict=True)):
                assert_curve(gray, np.r_[times, MAX_TIME], np.r_[0, values[:, index], values[-1, index]])
                assert gray[3] == "#cccccc"
                of_index = run[(run["product"] == "VO") & (run["index"] == index)].sort_values("rescaled_time")
                assert_curve(curve, of_index["rescaled_time"], of_index["value"])
            assert_darker_and_darker(drawn[:DIM:-1])
            assert {line.get_drawstyle() for line in [*panel.lines[:DIM], loss.lines[0]]} == {"steps-post"}
    assert list(legend(figure)) == [r"limit $\alpha \to 0$ (Algorithm 1)", "α = 0.01", "α = 1e-16"]


def test_losses_are_of_the_headline_seed_and_under_their_alphas(wired):
    figure = wired.figure("fig06")
    [axes] = panels(figure)
    assert len(curves(axes)) == 2
    for curve, alpha in zip(curves(axes), ("0.01", "1e-8"), strict=True):
        assert_curve(curve, *loss_of(wired, "diagonal", alpha), f"α = {alpha}")
        assert legend(figure)[f"α = {alpha}"] == curve[3]
    assert_darker_and_darker(curves(axes))


@pytest.mark.parametrize(
    ("name", "product", "letters", "seed", "alphas"),
    [("fig07", "KQ", "QK", SEED, ("1e-8", "0.01")), ("fig08", "VO", "VO", OTHER_SEED, ("0.01", "1e-32"))],
)
def test_entries_are_of_the_product_and_the_options_of_their_figure(wired, name, product, letters, seed, alphas):
    axes = panels(wired.figure(name))
    assert axes[0].get_ylabel() == f"diagonal entries of {NAMES[product]}"
    weights = "".join(rf"\mathrm{{diag}}(w_{letter})" for letter in letters)
    for panel, alpha in zip(axes, alphas, strict=True):  # in the order of the configuration
        assert panel.get_title(loc="left") == f"Entries of ${weights}$, for α = {alpha}"
        assert_entries(wired, panel, run_of(wired, "diagonal", alpha, seed), product, staged=True, seed=seed)


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


@pytest.mark.parametrize(
    ("name", "assumption", "bound", "default"),
    [("fig09", "plateaus", 4e-3, 0.05), ("fig10", "activations", 5e-4 / 5, 0.05 / 6.1)],
)
def test_perturbations_are_of_their_assumption_with_their_numbers(wired, name, assumption, bound, default):
    figure, table = wired.figure(name), wired.table("tables/perturbations")
    table = table[(table["assumption"] == assumption) & (table["seed"] == SEED)]
    axes, runs, marks = panels(figure), sorted(table["run"].unique()), []
    assert len(axes) == 2 * len(runs)
    for number, run in enumerate(runs):
        both = {
            noise_on: table[(table["run"] == run) & (table["noise_on"] == noise_on)] for noise_on in table["noise_on"]
        }
        rows, found, of_support = both["nonnegligible"], window(both["nonnegligible"]), window(both["support"])
        measured = found["movement" if assumption == "plateaus" else "speed"]
        marked = bool(measured > bound)
        marks.append([marked, bool(measured > default)])
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
            said = f"{'not ' * marked}on a plateau: moves {found['movement']:.3f}"
            length = rows["rescaled_time"].max() - rows["rescaled_time"].min()
            kept = math.exp(-rows["relaxation"].iloc[0] * length)
            said += "" if math.isnan(kept) else f", keeps {kept:.2f}"
        else:
            said = f"window ends {'before' if marked else 'at'} rest: speed {found['speed']:.3f}"
        assert notes[1] == said
    assert [True, False] in marks and [False, False] in marks  # the options of the study make a difference
    assert list(legend(figure)) == ["perturbed", "unperturbed reference"]


def staircase(wired, variant="diagonal", smallest="1e-32"):
    stages = stages_of(wired, variant=variant)
    start = loss_of(wired, variant, smallest)[1][0]
    return np.r_[0, stages["predicted_time"]], np.r_[start, stages["loss"]]


def test_limit_shows_losses_over_the_prediction_and_their_distance(wired):
    curves_panel, detail, distances = panels(wired.figure("fig_limit"))
    times, heights = staircase(wired)
    alphas = ["0.01", "1e-8", "1e-32"]
    for panel in (curves_panel, detail):
        limit, *losses = curves(panel)
        assert_curve(limit, np.r_[times, MAX_TIME], np.r_[heights, heights[-1]])
        for curve, alpha in zip(losses, alphas, strict=True):
            assert_curve(curve, *loss_of(wired, "diagonal", alpha), f"α = {alpha}")
        assert_darker_and_darker(losses)
    drawn = curves(distances)
    assert_darker_and_darker(drawn)
    fine = (np.arange(200000) + 0.5) / 200000 * MAX_TIME
    height = heights[np.searchsorted(times, fine, side="right") - 1]
    for (_, x, estimate, _), alpha in zip(drawn, alphas, strict=True):
        np.testing.assert_allclose(x, -math.log(float(alpha)))
        expected = abs(np.interp(fine, *loss_of(wired, "diagonal", alpha)) - height).mean()
        np.testing.assert_allclose(estimate, expected, rtol=1e-3)


def test_constants_are_those_of_the_orbits(wired):
    figure = wired.figure("fig_constants")
    constants, resolved = panels(figure)
    theorem, orbits = theorem_of(wired), wired.table("tables/orbits")
    said = {(row["seed"], row["stage"]): row for row in orbits.to_dict("records")}
    step, *shares = curves(resolved)
    for curve, share, alpha in zip(curves(constants), shares, ("0.01", "1e-8", "1e-32"), strict=True):
        rows = theorem[theorem["alpha"] == alpha].to_dict("records")
        predicted = [said[row["seed"], row["stage"]]["delay"] for row in rows]
        found = sorted(zip(curve[1].tolist(), map(str, curve[2]), strict=True))
        assert found == sorted(zip(predicted, (str(row["scaled_delay"]) for row in rows), strict=True))
        alone = [row["missing"] == row["extra"] == 0 for row in rows]
        assert_curve(share, [-math.log10(float(alpha))], [np.mean(alone)])
        assert legend(figure)[f"α = {alpha}"] == curve[3] == share[3]
    bounds = np.sort(orbits["resolved_from"]) / math.log(10)
    np.testing.assert_allclose(step[1][1:-1], np.clip(bounds, 1, 64))
    np.testing.assert_allclose(step[2][1:-1], np.arange(1, len(bounds) + 1) / len(bounds))


def test_stage_times_are_those_of_each_seed(wired):
    figure, theorem = wired.figure("fig_stage_times"), theorem_of(wired)
    axes = panels(figure)  # times of both seeds, then errors of both
    alphas = ["0.01", "1e-8", "1e-32"]
    end = 1.02 * theorem[["predicted_time", "measured_time"]].max().max()  # of all seeds: panels share their axes
    for number, seed in enumerate((3, 7)):
        rows = theorem_of(wired, seed)
        times, errors = axes[number], axes[2 + number]
        assert times.get_title(loc="left").startswith(f"seed {seed}, n = {rows['stage'].nunique()} stages")
        assert times.get_xlim() == times.get_ylim() == (0, end)
        drawn, colors = curves(errors), [legend(figure)[f"α = {alpha}"] for alpha in alphas]
        assert_darker_and_darker([[color] for color in colors])
        measured = rows.dropna(subset="measured_time")
        expected = [
            (predicted, time, colors[alphas.index(alpha)])
            for alpha, predicted, time in measured[["alpha", "predicted_time", "measured_time"]].to_numpy()
        ]
        [points] = times.collections
        places = np.broadcast_to(points.get_offsets(), (len(expected), 2)).tolist()
        found = [(*place, to_hex(color)) for place, color in zip(places, points.get_facecolors(), strict=True)]
        assert sorted(found) == sorted(expected)
        for place, alpha in enumerate(alphas):
            of_alpha = measured[measured["alpha"] == alpha]
            delay = abs(of_alpha["measured_time"] - of_alpha["predicted_time"]).to_numpy()
            bar, median, largest = drawn[3 * place : 3 * place + 3]
            assert bar[3] == median[3] == largest[3] == colors[place]
            assert_curve(bar, 2 * [-math.log(float(alpha))], np.quantile(delay, [0.1, 0.9]))
            np.testing.assert_allclose([*median[2], *largest[2]], [np.median(delay), delay.max()])
    missed = theorem_of(wired, 7)
    missed = missed[missed["alpha"] == "0.01"]["measured_time"].isna().sum()
    assert f"{missed} not activated at α = 0.01" in axes[1].get_title(loc="left")


def rows_of(wired, table, network, **wanted):
    rows = wired.table(f"tables/{table}/{network}")
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    return rows


def spectrum(wired, network, product, layer, head, epoch, matrix, alpha="0.6"):
    """Singular values of a row of the tables, of the seed shown."""
    where = {"product": product, "layer": layer, "head": head, "alpha": alpha, "seed": NETWORK_SEED}
    rows = rows_of(wired, "spectra", network, **where, matrix=matrix)
    [values] = rows[np.isclose(rows["epoch"], epoch, rtol=1e-9)]["singular_values"]
    return values


def drawn_heads(network, layers, draw=DRAW):
    """Heads drawn at random, with the number that the configuration gives."""
    depth, heads = SIZES[network]
    orders = np.random.default_rng(draw).permuted(np.tile(np.arange(heads), (depth, 1)), axis=1)
    return [(layer, int(orders[layer, layers[:place].count(layer)])) for place, layer in enumerate(layers)]


def assert_stages(wired, panel, network, product, layer, head, handles, alpha="0.6"):
    """A panel has the normalized spectra of a head: initial, changes from first to last epoch, and three at random."""
    drawn, last = curves(panel), EPOCHS[network][-1]
    initial, changes, at_random = drawn[0], drawn[1:-3], drawn[-3:]
    expected = [(initial, 0, "initial")]
    expected += [(curve, last, matrix) for curve, matrix in zip(at_random, RANDOM, strict=True)]
    expected += [(curve, epoch, "delta") for curve, epoch in zip(changes, STAGES[network], strict=True)]
    for curve, epoch, matrix in expected:
        values = spectrum(wired, network, product, layer, head, epoch, matrix, alpha)
        assert_curve(curve, range(1, len(values) + 1), values / values[0])
    assert_darker_and_darker(changes)
    labels = [f"change, epoch {epoch:g}" for epoch in STAGES[network]]
    labels = ["initial product", *labels, *RANDOM.values()]
    assert [curve[0] for curve in drawn] == labels
    assert {label: handles[label] for label in labels} == {curve[0]: curve[3] for curve in drawn}
    assert len(handles) == len(labels)


def test_head_spectra_are_of_the_networks_and_a_head_of_the_second_layer(wired):
    figure, networks = wired.figure("fig01"), ["narrow", "wide"]
    for panel, letter, network in zip(panels(figure), "ab", networks, strict=True):
        [(layer, head)] = drawn_heads(network, [1])
        assert panel.get_title(loc="left") == f"({letter}) {LABELS[network]}: layer {layer + 1}, head {head + 1}"
        assert_stages(wired, panel, network, "KQ", layer, head, entries_of(panel.get_legend()))


@pytest.mark.parametrize(
    ("name", "network", "alpha", "layers", "draw"),
    [
        ("fig11", "wide", "0.6", [0, 1, 2], 5),
        ("fig13", "narrow", "0.6", [0, 0, 1], 6),
        ("fig15", "wide", "0.3", [0, 1, 2], 8),
    ],
)
def test_stages_of_spectra_are_of_both_products_in_all_layers(wired, name, network, alpha, layers, draw):
    figure, heads = wired.figure(name), drawn_heads(network, layers, draw)
    assert figure.get_suptitle() == LABELS[network]
    places = [(product, *head) for product in ("KQ", "VO") for head in heads]
    for panel, letter, (product, layer, head) in zip(panels(figure), "abcdef", places, strict=True):
        assert panel.get_title(loc="left") == f"({letter}) {DELTAS[product]}, layer {layer + 1}, head {head + 1}"
        assert_stages(wired, panel, network, product, layer, head, legend(figure), alpha)


def assert_axis_of_steps(shown, columns):
    """The network "wide" has snapshots within epochs: steps on a logarithmic axis, epochs above the first row."""
    for number, panel in enumerate(shown):
        assert panel.get_xscale() == "log" and panel.get_xlim() == (1, 33)
        above = panel.child_axes
        assert len(above) == (number < columns)
        if above:
            np.testing.assert_allclose(above[0].get_xlim(), (1 / 11, 3))
    assert shown[-1].get_xlabel() == "step"


def test_singular_values_over_training_are_of_their_scale_and_product(wired):
    figure, [(layer, head)] = wired.figure("fig03"), drawn_heads("wide", [1])
    assert figure.get_suptitle() == f"{LABELS['wide']}: layer {layer + 1}, head {head + 1}"
    places = [(product, alpha) for product in ("KQ", "VO") for alpha in ("1", "0.3")]
    epochs = [0, *EPOCHS["wide"]]
    steps = [round(11 * epoch) for epoch in epochs]
    assert_axis_of_steps(panels(figure), 2)
    for panel, letter, (product, alpha) in zip(panels(figure), "abcd", places, strict=True):
        assert panel.get_title(loc="left") == f"({letter}) {DELTAS[product]}, init scale {alpha}"
        values = [spectrum(wired, "wide", product, layer, head, epoch, "delta", alpha) for epoch in epochs]
        drawn = sorted(curves(panel), key=lambda curve: -curve[2][-1])
        assert len(drawn) == 10
        for curve, of_index in zip(drawn, np.transpose(values), strict=True):
            assert_curve(curve, steps, of_index)
        assert_darker_and_darker(drawn[::-1])


def test_perturbation_is_what_the_last_epoch_has_added(wired):
    figure, heads = wired.figure("fig05"), drawn_heads("narrow", [0, 0, 0, 1, 1, 1])
    assert figure.get_suptitle() == f"{LABELS['narrow']}: {KQ}"
    for panel, letter, (layer, head) in zip(panels(figure), "abcdef", heads, strict=True):
        assert panel.get_title(loc="left") == f"({letter}) layer {layer + 1}, head {head + 1}"
        expected = {"initial product": (0, "initial"), "change by training": (4, "delta")}
        expected |= {label: (4, matrix) for matrix, label in RANDOM.items()}
        for curve, (label, place) in zip(curves(panel), expected.items(), strict=True):
            values = spectrum(wired, "narrow", "KQ", layer, head, *place)
            assert_curve(curve, range(1, len(values) + 1), values, label)
            assert legend(figure)[label] == curve[3]


def stable_ranks(wired, network, epoch, **wanted):
    """Stable ranks in the table of measures."""
    rows = rows_of(wired, "measures", network, **wanted)
    return rows[np.isclose(rows["epoch"], epoch, rtol=1e-9)]["stable_rank"].dropna().to_numpy()


def test_scales_are_of_the_last_epoch_with_all_seeds_and_scales(wired):
    figure = wired.figure("fig04")
    assert figure.get_suptitle() == LABELS["wide"]
    assert len(panels(figure)) == 3
    assert panels(figure)[0].get_ylabel() == f"stable rank of {DELTAS['KQ']}"
    for layer, panel in enumerate(panels(figure)):
        assert panel.get_title(loc="left") == f"({'abc'[layer]}) layer {layer + 1}"
        where = {"epoch": 3, "product": "KQ", "layer": layer}
        *of_seeds, first, second, third = (curve for curve in curves(panel) if curve[0] != "_nolegend_")
        bars = [bars for bars in panel.collections if isinstance(bars, LineCollection)]
        series = zip(of_seeds, bars, [(0, ["1"]), (2, ["0.3", "0.6", "1"]), (5, ["1"])], (-1, 0, 1), strict=True)
        for curve, of_curve, (seed, alphas), side in series:
            ranks = [stable_ranks(wired, "wide", **where, matrix="delta", alpha=alpha, seed=seed) for alpha in alphas]
            assert [len(of_scale) for of_scale in ranks] == [2] * len(alphas)
            scales = [float(alpha) * 1.06**side for alpha in alphas]
            assert_curve(curve, scales, [of_scale.mean() for of_scale in ranks], f"seed {seed}")
            ends = [sorted(segment[:, 1]) for segment in of_curve.get_segments()]
            expected = [(r.mean() - r.std(), r.mean() + r.std()) for r in ranks]
            np.testing.assert_allclose(ends, expected)
            assert legend(figure)[f"seed {seed}"] == curve[3]
        for curve, matrix in zip((first, second, third), RANDOM, strict=True):
            alphas = ["0.3", "0.6", "1"]
            means = [stable_ranks(wired, "wide", **where, matrix=matrix, alpha=alpha).mean() for alpha in alphas]
            assert_curve(curve, [float(alpha) for alpha in alphas], means, RANDOM[matrix])
            assert legend(figure)[RANDOM[matrix]] == curve[3]


@pytest.mark.parametrize(
    ("name", "network", "alpha"), [("fig12", "wide", "0.6"), ("fig14", "narrow", "1"), ("fig16", "wide", "0.3")]
)
def test_stable_ranks_over_training_are_of_their_layer_and_product(wired, name, network, alpha):
    figure, epochs = wired.figure(name), EPOCHS[network]
    axis = [round(11 * epoch) for epoch in epochs] if network == "wide" else epochs
    assert figure.get_suptitle() == LABELS[network]
    assert len(panels(figure)) == SIZES[network][0]
    if network == "wide":
        assert_axis_of_steps(panels(figure), 3)
    for layer, panel in enumerate(panels(figure)):
        assert panel.get_title(loc="left") == f"({'abc'[layer]}) layer {layer + 1}"
        where = {"layer": layer, "alpha": alpha, "seed": NETWORK_SEED}
        drawn = curves(panel)
        for number, (band, product) in enumerate(zip(panel.collections, ("KQ", "VO"), strict=True)):
            curve, minimum, *at_random = drawn[5 * number : 5 * number + 5]
            found = {"product": product, "matrix": "delta"}
            ranks = [stable_ranks(wired, network, epoch, **where, **found) for epoch in epochs]
            assert [len(of_epoch) for of_epoch in ranks] == [SIZES[network][1]] * len(epochs)
            means = [of_epoch.mean() for of_epoch in ranks]
            assert_curve(curve, axis, means, DELTAS[product])
            assert_curve(minimum, [axis[int(np.argmin(means))]], [min(means)])
            assert legend(figure)[DELTAS[product]] == curve[3] == to_hex(band.get_facecolor()[0][:3])
            corners = band.get_paths()[0].vertices
            for place, of_epoch in zip(axis, ranks, strict=True):
                edges = corners[np.isclose(corners[:, 0], place, rtol=1e-9), 1]
                expected = [of_epoch.mean() - of_epoch.std(), of_epoch.mean() + of_epoch.std()]
                np.testing.assert_allclose([edges.min(), edges.max()], expected)
            for of_random, matrix in zip(at_random, RANDOM, strict=True):
                wanted = {**where, "matrix": matrix, "product": product}
                assert_curve(of_random, axis, [stable_ranks(wired, network, e, **wanted).mean() for e in epochs])
                assert of_random[3] == curve[3]
        assert [curve[0] for curve in drawn[10:]] == list(RANDOM.values()) == list(legend(figure))[2:]


def test_every_figure_of_the_study_is_looked_at(wired):
    drawn = {path.stem for path in (wired.results / "figures").glob("*.png")}
    assert drawn == set(FIGURES)
    assert {re.sub(r"\D", "", name) for name in drawn} >= {f"{number:02}" for number in range(1, 17)}
