import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rank_increase.figures.job import NothingToShow, StudyTables
from rank_increase.figures.networks import (
    BASELINES,
    COLORS,
    INITIAL,
    choose_heads,
    draw_evolution,
    draw_perturbation,
    draw_rank_increase,
    draw_scales,
    draw_stages,
    of_head,
    read_spectra,
    read_stable_ranks,
    scale_to_ranks,
    seed_colors,
    spread_layers,
    stage_colors,
    stage_epochs,
)
from rank_increase.figures.style import paper_style, save_figure
from rank_increase.notation import PRODUCTS
from rank_increase.probes.measures import stable_rank
from rank_increase.registry import find

LAYERS, HEADS, EPOCHS, ALPHAS, SEEDS = 3, 3, [0, 1, 4, 9], ["0.1", "1"], [0, 1]
NETWORKS = {"digits": "Digits", "cifar10": "CIFAR-10"}
MATRICES = ["initial", "trained", "delta", "random_product", "noisy_factors", "turned_factors"]
EQUAL_NORM, OF_FACTORS = "random change of equal norm", "random change of the factors"
TURNED = "change with turned factors"
RANDOM = {EQUAL_NORM: "random_product", OF_FACTORS: "noisy_factors", TURNED: "turned_factors"}
LABELS = {"KQ": r"\Delta W_K W_Q^\top", "VO": r"\Delta W_V W_O^\top"}


def made_up(matrix, epoch, layer, head, product, alpha="1", seed=1, network="digits"):
    """Singular values that no other place has; those of "random_product" have the norm of the delta, no others do."""
    if epoch == 0 and matrix not in ("initial", "trained"):
        return np.zeros(4)
    place = [
        *(names.index(name) for names, name in [(MATRICES, matrix), (list(NETWORKS), network), (ALPHAS, alpha)]),
        *(seed, int(epoch), layer, head, PRODUCTS.index(product)),
    ]
    values = np.sort(np.random.default_rng(place).random(4))[::-1]
    if matrix == "random_product":
        delta = made_up("delta", epoch, layer, head, product, alpha, seed, network)
        return values / np.linalg.norm(values) * np.linalg.norm(delta)
    return 100 * values if matrix == "noisy_factors" else values


def made_up_rank(*place, **run):
    return stable_rank(made_up(*place, **run))


@pytest.fixture(scope="module")
def rows():
    """Rows of both tables of all runs, with the singular values of `made_up`, in no order but that of products."""
    rows = [
        {"network": network, "alpha": alpha, "seed": seed, "epoch": float(epoch), "step": 10 * epoch, "layer": layer,
         "head": head, "product": product, "matrix": matrix}
        for network in NETWORKS for alpha in ALPHAS for seed in SEEDS for epoch in EPOCHS for layer in range(LAYERS)
        for head in range(HEADS) for product in PRODUCTS for matrix in MATRICES
        if matrix != "initial" or epoch == 0
    ]  # fmt: skip
    values = [made_up(**{key: value for key, value in row.items() if key != "step"}) for row in rows]
    frame = pd.DataFrame(rows).assign(singular_values=values, stable_rank=stable_rank(np.stack(values)))
    frame = frame.astype(dict.fromkeys(["network", "alpha", "product", "matrix"], "category"))
    return frame.sample(frac=1, random_state=0).sort_values("product", kind="stable")


@pytest.fixture(scope="module")
def tables(rows, tmp_path_factory):
    """The tables "spectra" and "measures", a file for each network."""
    folder, files = tmp_path_factory.mktemp("tables"), {}
    for table, column in {"spectra": "stable_rank", "measures": "singular_values"}.items():
        for network in NETWORKS:
            path = folder / f"{table}_{network}.parquet"
            rows[rows["network"] == network].drop(columns=column).to_parquet(path, index=False)
            files.setdefault(table, []).append(str(path))
    return StudyTables(files, NETWORKS)


@pytest.fixture
def panel():
    return Figure().subplots()


@pytest.fixture
def head(tables):
    rows = read_spectra(tables, "digits", ["initial", "delta", *BASELINES], alpha="1", seed=1)
    return of_head(rows, 1, 2, "VO")


def lines(panel):
    return {line.get_label(): line for line in panel.get_lines()}


def test_layers_of_the_paper_or_as_many_spread_over_those_there_are():
    assert spread_layers(6, [0, 2, 4]) == [0, 2, 4]
    assert spread_layers(12, [0, 2, 4]) == [0, 2, 4]
    assert spread_layers(3, [0, 2, 4]) == [0, 1, 2]
    assert spread_layers(3, [0, 1, 2, 3, 4, 5]) == [0, 0, 1, 1, 2, 2]
    assert spread_layers(1, [1]) == [0]


@pytest.mark.parametrize("layers, heads", [(6, 8), (3, 4), (2, 3), (1, 2), (1, 1)])
def test_heads_are_drawn_once_and_repeatably(layers, heads):
    rows = pd.DataFrame([(layer, head) for layer in range(layers) for head in range(heads)], columns=["layer", "head"])
    wanted = list(range(6))
    chosen = choose_heads(rows, wanted, seed=0)
    assert len(chosen) == len(set(chosen)) == min(6, layers * heads)
    assert set(chosen) <= set(rows.itertuples(index=False, name=None))
    assert choose_heads(rows, wanted, seed=0) == chosen
    if heads > 1:
        assert any(choose_heads(rows, wanted, seed) != chosen for seed in range(1, 9))


def test_stages_leave_out_the_zero_change_and_end_with_the_last_epoch():
    assert stage_epochs([0, 1, 2, 3, 5, 10, 20, 50, 100], count=3) == [1, 10, 100]
    assert stage_epochs([0, 7]) == [7]


def test_spectra_are_normalized_red_at_first_and_green_later(panel, head):
    colors = stage_colors(stage_epochs(EPOCHS))
    draw_stages(panel, head, colors)
    initial, *changes, random_product, noisy_factors, turned_factors = panel.get_lines()
    assert initial.get_color() == INITIAL["color"]
    for baseline, line in zip(BASELINES, (random_product, noisy_factors, turned_factors), strict=True):
        assert line.get_color() == BASELINES[baseline]["color"]
    assert len({style["ls"] for style in BASELINES.values()}) == 3
    assert [to_hex(change.get_color()) for change in changes] == [to_hex(color) for color in colors.values()]
    darkness = [sum(change.get_color()[:3]) for change in changes]
    assert darkness == sorted(darkness, reverse=True)
    expect_stages(panel, layer=1, head=2, product="VO")


def expect_stages(panel, *, product, **place):
    """Assert that lines of a panel are what their labels say: normalised, and of the place."""
    place["product"] = product
    expected = {"initial product": made_up("initial", 0, **place)}
    expected |= {f"change, epoch {epoch}": made_up("delta", epoch, **place) for epoch in EPOCHS[1:]}
    expected |= {label: made_up(matrix, EPOCHS[-1], **place) for label, matrix in RANDOM.items()}
    found = lines(panel)
    assert list(found) == list(expected)
    for label, values in expected.items():
        np.testing.assert_array_equal(found[label].get_xdata(), [1, 2, 3, 4])
        np.testing.assert_allclose(found[label].get_ydata(), values / values[0], err_msg=label)


def test_a_change_of_zero_is_in_the_legend_and_not_to_be_seen(panel, head):
    rows = head.assign(singular_values=head["singular_values"].where(head["epoch"] != 1, 0 * head["singular_values"]))
    with np.errstate(all="raise"):
        draw_stages(panel, rows, stage_colors([1, 9]))
    assert np.isnan(lines(panel)["change, epoch 1"].get_ydata()).all()
    assert np.isfinite(lines(panel)["change, epoch 9"].get_ydata()).all()


def test_evolution_begins_at_zero_and_shows_the_largest(panel, head):
    draw_evolution(panel, head, "epoch", shown=2)
    expected = np.stack([made_up("delta", epoch, 1, 2, "VO") for epoch in EPOCHS], axis=1)
    found = panel.get_lines()[::-1]  # the largest is drawn last
    assert sum(found[0].get_color()[:3]) < sum(found[1].get_color()[:3])
    for line, values in zip(found, expected[:2], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), EPOCHS)
        np.testing.assert_allclose(line.get_ydata(), values)


def test_perturbation_is_that_of_the_last_epoch(panel, head):
    draw_perturbation(panel, head)
    expect_perturbation(panel, layer=1, head=2, product="VO")


def expect_perturbation(panel, **place):
    """Assert that lines of a panel are what their labels say, and that of random changes one alone has equal norm."""
    expected = {
        "initial product": made_up("initial", 0, **place),
        "change by training": made_up("delta", EPOCHS[-1], **place),
        **{label: made_up(matrix, EPOCHS[-1], **place) for label, matrix in RANDOM.items()},
    }
    found = {label: line.get_ydata() for label, line in lines(panel).items()}
    assert found.keys() == expected.keys()
    for label, values in expected.items():
        np.testing.assert_allclose(found[label], values, err_msg=label)
    norms = {label: np.linalg.norm(values) for label, values in found.items()}
    assert norms[EQUAL_NORM] == pytest.approx(norms["change by training"], rel=1e-10)
    assert norms[OF_FACTORS] > 10 * norms["change by training"]


def test_scales_have_a_series_per_seed_with_deviations_over_heads_alone(panel, tables):
    ranks = read_stable_ranks(tables, "digits", product="KQ", layer=0, epoch=9)
    draw_scales(panel, ranks, seed_colors(SEEDS))
    scale_to_ranks(panel)
    expect_scales(panel, layer=0)


def expect_scales(panel, layer):
    """Assert that a panel shows W_K W_Q^T of a layer after the last epoch."""

    def ranks(matrix, alpha, seed):
        run = {"product": "KQ", "alpha": alpha, "seed": seed}
        return [made_up_rank(matrix, EPOCHS[-1], layer, head, **run) for head in range(HEADS)]

    for seed, container in zip(SEEDS, panel.containers, strict=True):
        line, (_, _, [bars]) = lines(panel)[f"seed {seed}"], container.lines
        expected = [ranks("delta", alpha, seed) for alpha in ALPHAS]
        np.testing.assert_allclose(line.get_ydata(), np.mean(expected, axis=1))
        np.testing.assert_allclose([segment[0, 0] for segment in bars.get_segments()], line.get_xdata())
        lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(lengths, 2 * np.std(expected, axis=1), atol=1e-12)
        np.testing.assert_allclose(line.get_xdata(), [0.1, 1], rtol=0.1)
    for label, matrix in RANDOM.items():
        expected = [np.mean([ranks(matrix, alpha, seed) for seed in SEEDS]) for alpha in ALPHAS]
        np.testing.assert_allclose(lines(panel)[label].get_ydata(), expected)
        np.testing.assert_allclose(lines(panel)[label].get_xdata(), [0.1, 1])


def test_rank_increase_begins_after_the_zero_change(panel, tables):
    draw_rank_increase(panel, read_stable_ranks(tables, "digits", alpha="1", seed=1, layer=0), "epoch")
    scale_to_ranks(panel)
    expect_rank_increase(panel, layer=0)


def expect_rank_increase(panel, layer):
    """Assert that lines of a panel are what their labels say, of all heads of a layer."""

    def ranks(matrix, product):
        return [[made_up_rank(matrix, epoch, layer, head, product) for head in range(HEADS)] for epoch in EPOCHS[1:]]

    curves = panel.get_lines()
    for number, (product, band) in enumerate(zip(PRODUCTS, panel.collections, strict=True)):
        line, minimum, *at_random = curves[number * 5 : number * 5 + 5]
        expected = ranks("delta", product)
        means = np.mean(expected, axis=1)
        assert line.get_label() == f"${LABELS[product]}$"
        assert line.get_color() == COLORS[PRODUCTS.index(product)] == to_hex(band.get_facecolor()[0])
        np.testing.assert_array_equal(line.get_xdata(), EPOCHS[1:])
        np.testing.assert_allclose(line.get_ydata(), means)
        heights = band.get_paths()[0].vertices
        at_last = heights[np.isclose(heights[:, 0], EPOCHS[-1]), 1]
        np.testing.assert_allclose(at_last.max() - at_last.min(), 2 * np.std(expected[-1]))
        np.testing.assert_allclose(minimum.get_data(), [[EPOCHS[1:][means.argmin()]], [means.min()]])
        for baseline, curve in zip(BASELINES, at_random, strict=True):
            np.testing.assert_array_equal(curve.get_xdata(), EPOCHS[1:])
            np.testing.assert_allclose(curve.get_ydata(), np.mean(ranks(baseline, product), axis=1))
            assert curve.get_color() == line.get_color()
            assert curve._unscaled_dash_pattern == Line2D([], [], ls=BASELINES[baseline]["ls"])._unscaled_dash_pattern
    assert [line.get_label() for line in curves[10:]] == list(RANDOM)  # empty, for the legend


def test_layers_with_one_head_have_no_deviation(panel, tables):
    ranks = read_stable_ranks(tables, "digits", alpha="1", seed=1, layer=0, head=0)
    draw_rank_increase(panel, ranks, "epoch")
    expected = [made_up_rank("delta", epoch, 0, 0, "KQ") for epoch in EPOCHS[1:]]
    np.testing.assert_allclose(lines(panel)[f"${LABELS['KQ']}$"].get_ydata(), expected)


@pytest.mark.parametrize("figure", ["fig03", "fig12"])
def test_the_axis_of_training_shows_epochs_or_steps_with_epochs_above(rows, tables, tmp_path, figure):
    draw_figure = find("figure", figure).load()

    def axis(tables):
        figure = draw_figure(tables, network="digits", seed=1)
        panels = [panel for panel in figure.axes if panel.get_visible()]
        above = [child for child in panels[0].child_axes]
        x = panels[0].get_lines()[0].get_xdata()
        return panels[-1].get_xlabel(), panels[0].get_xscale(), panels[0].get_xlim(), x[-1], above

    name, scale, limits, last, above = axis(tables)
    assert (name, scale, limits, last, above) == ("epoch", "linear", (0, 9), 9, [])
    column = {"fig03": "stable_rank", "fig12": "singular_values"}[figure]
    within = rows[rows["network"] == "digits"].assign(epoch=rows["epoch"] / 2, step=rows["step"]).drop(columns=column)
    within.to_parquet(tmp_path / "within.parquet", index=False)
    names = {"spectra": [str(tmp_path / "within.parquet")], "measures": [str(tmp_path / "within.parquet")]}
    name, scale, limits, last, [above] = axis(StudyTables(names, NETWORKS))
    assert (name, scale, limits, last) == ("step", "log", (10, 90), 90)
    above.figure.draw_without_rendering()
    np.testing.assert_allclose(above.get_xlim(), (0.5, 4.5))
    assert above.get_xlabel() == "epoch"


def test_a_run_that_is_not_there_is_named(tables):
    with pytest.raises(NothingToShow, match="The table measures has no rows with .*alpha 2"):
        read_stable_ranks(tables, "digits", alpha="2")


RUN = {"alpha": "1", "seed": 1}


def draw(figure, tables, **options):
    """The visible panels of a figure, the texts of its legends, and its title."""
    figure = find("figure", figure).load()(tables, **options)
    legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [panel for panel in figure.axes if panel.get_visible()], legend, figure.get_suptitle()


def titled(panel, *kinds):
    """Layer and head, counted from 0, and product, as the title of a panel says."""
    title, place = panel.get_title("left") or panel.get_title(), {}
    for kind in ("layer", "head"):
        if kind in kinds:
            place[kind] = int(re.search(rf"{kind} (\d+)", title)[1]) - 1
    if "product" in kinds:
        [place["product"]] = [product for product, label in LABELS.items() if label in title]
    return place


def test_figure_1_shows_each_network_under_its_name(tables):
    panels, _, _ = draw("fig01", tables, networks=list(NETWORKS), **RUN)
    for (network, name), panel in zip(NETWORKS.items(), panels, strict=True):
        assert f") {name}: layer 2, head" in panel.get_title()
        expect_stages(panel, **titled(panel, "layer", "head"), product="KQ", network=network)
        assert [text.get_text() for text in panel.get_legend().get_texts()] == list(lines(panel))


@pytest.mark.parametrize("alphas", [None, ["1", "0.1"]])
def test_figure_3_shows_the_change_at_each_init_scale(tables, alphas):
    panels, _, title = draw("fig03", tables, network="digits", alphas=alphas, seed=1)
    assert title.startswith("Digits: layer 2, head ")
    head = int(title[-1]) - 1
    places = [(product, alpha) for product in PRODUCTS for alpha in alphas or ALPHAS]
    for panel, (product, alpha) in zip(panels, places, strict=True):
        assert titled(panel, "product")["product"] == product
        assert panel.get_title().endswith(f"init scale {alpha}")
        expected = [made_up("delta", epoch, 1, head, product, alpha=alpha) for epoch in EPOCHS]
        found = [line.get_ydata() for line in panel.get_lines()[::-1]]
        np.testing.assert_allclose(found, np.transpose(expected))
    assert [panel.get_ylabel() for panel in panels] == 2 * ["singular values", *[""] * (len(panels) // 2 - 1)]


def test_figure_4_shows_layers_after_the_last_epoch(tables):
    panels, legend, title = draw("fig04", tables, network="digits")
    assert title == "Digits"
    for layer, panel in zip(range(LAYERS), panels, strict=True):
        assert titled(panel, "layer") == {"layer": layer}
        expect_scales(panel, layer)
        assert [label.get_text() for label in panel.get_xticklabels()] == ALPHAS[::-1]
        assert panel.get_yscale() == panel.get_xscale() == "log"
    assert legend == ["seed 0", "seed 1", *RANDOM]


def test_figure_5_shows_heads_after_the_last_epoch(tables):
    panels, legend, title = draw("fig05", tables, network="digits", **RUN)
    assert "W_K W_Q" in title
    places = [titled(panel, "layer", "head") for panel in panels]
    assert [place["layer"] for place in places] == [0, 0, 1, 1, 2, 2]
    for panel, place in zip(panels, places, strict=True):
        expect_perturbation(panel, **place, product="KQ")
    assert legend == ["initial product", "change by training", *RANDOM]


def test_figure_11_shows_both_products_of_heads(tables):
    panels, legend, _ = draw("fig11", tables, network="digits", **RUN)
    places = [titled(panel, "layer", "head", "product") for panel in panels]
    assert [(place["product"], place["layer"]) for place in places] == [
        (product, layer) for product in PRODUCTS for layer in range(LAYERS)
    ]
    for panel, place in zip(panels, places, strict=True):
        expect_stages(panel, **place)
    assert legend == list(lines(panels[0]))


def test_figure_12_shows_every_layer(tables):
    panels, legend, _ = draw("fig12", tables, network="digits", **RUN)
    for layer, panel in zip(range(LAYERS), panels, strict=True):
        assert titled(panel, "layer") == {"layer": layer}
        expect_rank_increase(panel, layer)
        assert panel.get_yscale() == "log"
    assert legend == [f"${label}$" for label in LABELS.values()] + list(RANDOM)


@pytest.mark.parametrize("figure, options", [("fig04", {}), ("fig12", RUN)])
def test_a_shared_axis_of_ranks_has_room_for_every_layer(rows, tmp_path, figure, options):
    grown = rows.assign(stable_rank=rows["stable_rank"] * 10 ** rows["layer"])
    grown[grown["network"] == "digits"].drop(columns="singular_values").to_parquet(
        tmp_path / "measures.parquet", index=False
    )
    tables = StudyTables({"measures": [str(tmp_path / "measures.parquet")]}, NETWORKS)
    panels, _, _ = draw(figure, tables, network="digits", **options)
    highest = [max(np.max(line.get_ydata(), initial=0) for line in panel.get_lines()) for panel in panels]
    assert highest[-1] > 50 * highest[0]
    for panel, height in zip(panels, highest, strict=True):
        assert panel.get_ylim()[0] == 0.9 and panel.get_ylim()[1] > height


@pytest.mark.parametrize("figure, options", [("fig03", {}), ("fig04", {}), ("fig12", RUN)])
def test_what_seaborn_draws_has_the_same_bytes_again(tables, tmp_path, figure, options):
    for name in ("first", "second"):
        with paper_style():
            drawn = find("figure", figure).load()(tables, network="digits", **options)
            save_figure(drawn, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", dpi=30, provenance={})
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()
