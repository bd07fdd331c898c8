import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

import plot_head_spectra
import plot_perturbation
import plot_scales
import plot_singular_values
import plot_stable_ranks
import plot_stages
from rank_increase.notation import PRODUCTS
from rank_increase.plotting import NothingToDraw
from rank_increase.spectra import BASELINES as BASELINES_OF_TABLE
from rank_increase.spectra import rank_measures
from rank_increase.tables import SCHEMAS, write_table
from rank_increase.vit_plotting import (
    BASELINES,
    INITIAL,
    PRODUCT_COLORS,
    choose_heads,
    draw_evolution,
    draw_perturbation,
    draw_rank_increase,
    draw_scales,
    draw_stages,
    of_head,
    of_matrix,
    read_head_spectra,
    read_runs,
    read_stable_ranks,
    seed_colors,
    spread_layers,
    stage_colors,
    stage_epochs,
)

LAYERS, HEADS, EPOCHS, ALPHAS, SEEDS = 3, 3, [0, 1, 4, 9], ["0.1", "1"], [0, 1]
DATASETS = ["digits", "cifar10"]
MATRICES = ["initial", "trained", "delta", "random_product", "noisy_factors"]
EQUAL_NORM, OF_FACTORS = "random change of equal norm", "random change of the factors"
LABELS = {"KQ": r"\Delta W_K W_Q^\top", "VO": r"\Delta W_V W_O^\top"}


def made_up(matrix, epoch, layer, head, product, alpha="1", seed=1, dataset="digits"):
    """Singular values that no other place has; those of "random_product" have the norm of the delta, no others do."""
    if epoch == 0 and matrix not in ("initial", "trained"):
        return np.zeros(4)
    place = [
        *(names.index(name) for names, name in [(MATRICES, matrix), (DATASETS, dataset), (ALPHAS, alpha)]),
        *(seed, epoch, layer, head, PRODUCTS.index(product)),
    ]
    values = np.sort(np.random.default_rng(place).random(4))[::-1]
    if matrix == "random_product":
        delta = made_up("delta", epoch, layer, head, product, alpha, seed, dataset)
        return values / np.linalg.norm(values) * np.linalg.norm(delta)
    return 100 * values if matrix == "noisy_factors" else values


def made_up_rank(*place, **run):
    return rank_measures(made_up(*place, **run))["stable_rank"]


def make_rows(dataset, kind, matrices):
    """Rows of all runs with the singular values of `made_up`."""
    rows = [
        {"alpha": alpha, "seed": seed, "epoch": epoch, "layer": layer, "head": head, "product": product,
         "dataset": dataset, kind: matrix}
        for alpha in ALPHAS for seed in SEEDS for epoch in EPOCHS for layer in range(LAYERS) for head in range(HEADS)
        for product in PRODUCTS for matrix in matrices
        if matrix != "initial" or epoch == 0
    ]  # fmt: skip
    values = [made_up(**{"matrix" if key == kind else key: value for key, value in row.items()}) for row in rows]
    frame = pd.DataFrame(rows).assign(singular_values=values, **rank_measures(np.stack(values)))
    return frame.assign(step=frame["epoch"]).sample(frac=1, random_state=0)  # figures owe nothing to their order


@pytest.fixture(scope="module")
def all_tables(tmp_path_factory):
    """Paths of the tables "spectra" and "baselines" by dataset."""
    paths = {}
    for dataset in DATASETS:
        folder = tmp_path_factory.mktemp(dataset)
        for table, kind, matrices in [("spectra", "matrix", MATRICES[:3]), ("baselines", "baseline", MATRICES[3:])]:
            schema = SCHEMAS[table]
            for name, column in [("dataset", "product"), ("alpha", "product"), ("seed", "layer")]:
                schema = schema.append(schema.field(column).with_name(name))
            write_table(folder / f"{table}.parquet", make_rows(dataset, kind, matrices), schema, {})
        paths[dataset] = folder / "spectra.parquet", folder / "baselines.parquet"
    return paths


@pytest.fixture(scope="module")
def tables(all_tables):
    return all_tables["digits"]


@pytest.fixture
def panel():
    return Figure().subplots()


@pytest.fixture
def head(tables):
    return of_head(read_head_spectra(*tables, alpha="1", seed=1), 1, 2, "VO")


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
    initial, *changes, random_product, noisy_factors = panel.get_lines()
    assert initial.get_color() == INITIAL["color"]
    for baseline, line in {"random_product": random_product, "noisy_factors": noisy_factors}.items():
        assert line.get_color() == BASELINES[baseline]["color"]
    assert len({style["ls"] for style in BASELINES.values()}) == 2
    assert [to_hex(change.get_color()) for change in changes] == [to_hex(color) for color in colors.values()]
    darkness = [sum(change.get_color()[:3]) for change in changes]
    assert darkness == sorted(darkness, reverse=True)
    expect_stages(panel, layer=1, head=2, product="VO")


def expect_stages(panel, *, product, **place):
    """Assert that lines of a panel are what their labels say: normalised, and of the place."""
    place["product"] = product
    expected = {"initial product": made_up("initial", 0, **place)}
    expected |= {f"change, epoch {epoch}": made_up("delta", epoch, **place) for epoch in EPOCHS[1:]}
    expected[EQUAL_NORM] = made_up("random_product", EPOCHS[-1], **place)
    expected[OF_FACTORS] = made_up("noisy_factors", EPOCHS[-1], **place)
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
    draw_evolution(panel, of_matrix(head, "delta"), shown=2)
    expected = np.stack([made_up("delta", epoch, 1, 2, "VO") for epoch in EPOCHS], axis=1)
    for line, values in zip(panel.get_lines(), expected[:2], strict=True):
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
        EQUAL_NORM: made_up("random_product", EPOCHS[-1], **place),
        OF_FACTORS: made_up("noisy_factors", EPOCHS[-1], **place),
    }
    found = {label: line.get_ydata() for label, line in lines(panel).items()}
    assert found.keys() == expected.keys()
    for label, values in expected.items():
        np.testing.assert_allclose(found[label], values, err_msg=label)
    norms = {label: np.linalg.norm(values) for label, values in found.items()}
    assert norms[EQUAL_NORM] == pytest.approx(norms["change by training"], rel=1e-10)
    assert norms[OF_FACTORS] > 10 * norms["change by training"]


def test_scales_have_a_series_per_seed_with_deviations_over_heads_alone(panel, tables):
    ranks = read_stable_ranks(*tables, product="KQ", layer=0, epoch=9)
    draw_scales(panel, ranks, seed_colors(SEEDS))
    expect_scales(panel, layer=0)


def expect_scales(panel, layer):
    """Assert that a panel shows W_K W_Q^T of a layer after the last epoch."""

    def ranks(matrix, alpha, seed):
        run = {"product": "KQ", "alpha": alpha, "seed": seed}
        return [made_up_rank(matrix, EPOCHS[-1], layer, head, **run) for head in range(HEADS)]

    assert [container.get_label() for container in panel.containers] == [f"seed {seed}" for seed in SEEDS]
    for seed, container in zip(SEEDS, panel.containers, strict=True):
        line, _, [bars] = container.lines
        expected = [ranks("delta", alpha, seed) for alpha in ALPHAS]
        np.testing.assert_allclose(line.get_ydata(), np.mean(expected, axis=1))
        lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(lengths, 2 * np.std(expected, axis=1), atol=1e-12)
        np.testing.assert_allclose(line.get_xdata(), [0.1, 1], rtol=0.1)
    for label, matrix in {EQUAL_NORM: "random_product", OF_FACTORS: "noisy_factors"}.items():
        expected = [np.mean([ranks(matrix, alpha, seed) for seed in SEEDS]) for alpha in ALPHAS]
        np.testing.assert_allclose(lines(panel)[label].get_ydata(), expected)
        np.testing.assert_allclose(lines(panel)[label].get_xdata(), [0.1, 1])


def test_rank_increase_begins_after_the_zero_change(panel, tables):
    draw_rank_increase(panel, read_stable_ranks(*tables, alpha="1", seed=1, layer=0))
    expect_rank_increase(panel, layer=0)


def expect_rank_increase(panel, layer):
    """Assert that lines of a panel are what their labels say, of all heads of a layer."""

    def ranks(matrix, product):
        return [[made_up_rank(matrix, epoch, layer, head, product) for head in range(HEADS)] for epoch in EPOCHS[1:]]

    found = lines(panel)
    for product, band in zip(PRODUCTS, panel.collections, strict=True):
        line, expected = found[f"${LABELS[product]}$"], ranks("delta", product)
        assert line.get_color() == PRODUCT_COLORS[product] == to_hex(band.get_facecolor()[0])
        np.testing.assert_array_equal(line.get_xdata(), EPOCHS[1:])
        np.testing.assert_allclose(line.get_ydata(), np.mean(expected, axis=1))
        heights = band.get_paths()[0].vertices
        at_last = heights[np.isclose(heights[:, 0], EPOCHS[-1]), 1]
        np.testing.assert_allclose(at_last.max() - at_last.min(), 2 * np.std(expected[-1]))
    for label, matrix in {EQUAL_NORM: "random_product", OF_FACTORS: "noisy_factors"}.items():
        expected = np.mean([ranks(matrix, product) for product in PRODUCTS], axis=(0, 2))
        np.testing.assert_array_equal(found[label].get_xdata(), EPOCHS[1:])
        np.testing.assert_allclose(found[label].get_ydata(), expected)
    assert len(found) == 4


def test_the_baselines_shown_are_those_that_the_table_has():
    assert set(BASELINES) == set(BASELINES_OF_TABLE) == set(MATRICES[3:])


def test_a_run_that_is_not_there_is_named(tables):
    with pytest.raises(ValueError, match="has no rows with matrix delta, alpha 2"):
        read_runs(tables[0], ["stable_rank"], matrix="delta", alpha="2")


RUN = {"alpha": "1", "seed": 1}


@pytest.fixture
def draw(monkeypatch):
    """Runs the script of a figure and gives the panels that it would have saved, and the texts of its legend."""

    def panels_of(script, *inputs, **options):
        saved = []
        monkeypatch.setattr(script, "save_figure", lambda figure, *paths, **_: saved.append(figure))
        script.main(*inputs, None, None, **options, dpi=30, provenance={})
        [figure] = saved
        legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        return [panel for panel in figure.axes if panel.get_visible()], legend, figure.get_suptitle()

    return panels_of


def titled(panel, *kinds):
    """Layer and head, counted from 0, and product, as the title of a panel says."""
    title, place = panel.get_title("left"), {}
    for kind in ("layer", "head"):
        if kind in kinds:
            place[kind] = int(re.search(rf"{kind} (\d+)", title)[1]) - 1
    if "product" in kinds:
        [place["product"]] = [product for product, label in LABELS.items() if label in title]
    return place


def test_figure_1_shows_each_dataset_under_its_name(draw, all_tables):
    inputs = [list(paths) for paths in zip(*all_tables.values(), strict=True)]
    panels, _, _ = draw(plot_head_spectra, *inputs, names=["Digits", "CIFAR-10"], layers=[1], draw=0, **RUN)
    for dataset, name, panel in zip(DATASETS, ["Digits", "CIFAR-10"], panels, strict=True):
        assert f") {name}: layer 2, head" in panel.get_title("left")
        expect_stages(panel, **titled(panel, "layer", "head"), product="KQ", dataset=dataset)
        assert [text.get_text() for text in panel.get_legend().get_texts()] == list(lines(panel))


def test_figure_3_shows_the_change_at_each_init_scale(draw, tables):
    panels, _, title = draw(
        plot_singular_values, tables[0], name="Digits", layers=[2], draw=0, alphas=ALPHAS[::-1], seed=1
    )
    assert title.startswith("Digits: layer 3, head ")
    head = int(title[-1]) - 1
    places = [(product, alpha) for product in PRODUCTS for alpha in ALPHAS[::-1]]
    for panel, (product, alpha) in zip(panels, places, strict=True):
        assert titled(panel, "product")["product"] == product
        assert panel.get_title("left").endswith(f"init scale {alpha}")
        expected = [made_up("delta", epoch, 2, head, product, alpha=alpha) for epoch in EPOCHS]
        np.testing.assert_allclose([line.get_ydata() for line in panel.get_lines()], np.transpose(expected))


def test_figure_4_shows_layers_after_the_last_epoch(draw, tables):
    panels, legend, title = draw(plot_scales, *tables, name="Digits", layers=[0, 2])
    assert title == "Digits"
    for layer, panel in zip([0, 2], panels, strict=True):
        assert titled(panel, "layer") == {"layer": layer}
        expect_scales(panel, layer)
    assert legend == ["seed 0", "seed 1", EQUAL_NORM, OF_FACTORS]


def test_figure_5_shows_heads_after_the_last_epoch(draw, tables):
    panels, legend, title = draw(plot_perturbation, *tables, name="Digits", layers=[0, 1, 2, 2], draw=0, **RUN)
    assert "W_K W_Q" in title
    places = [titled(panel, "layer", "head") for panel in panels]
    assert [place["layer"] for place in places] == [0, 1, 2, 2]
    for panel, place in zip(panels, places, strict=True):
        expect_perturbation(panel, **place, product="KQ")
    assert legend == ["initial product", "change by training", EQUAL_NORM, OF_FACTORS]


def test_figure_11_shows_both_products_of_heads(draw, tables):
    panels, legend, _ = draw(plot_stages, *tables, name="Digits", layers=[0, 1, 2], draw=0, **RUN)
    places = [titled(panel, "layer", "head", "product") for panel in panels]
    assert [(place["product"], place["layer"]) for place in places] == [
        (product, layer) for product in PRODUCTS for layer in range(LAYERS)
    ]
    for panel, place in zip(panels, places, strict=True):
        expect_stages(panel, **place)
    assert legend == list(lines(panels[0]))


def test_figure_12_shows_every_layer(draw, tables):
    panels, legend, _ = draw(plot_stable_ranks, *tables, name="Digits", **RUN)
    for layer, panel in zip(range(LAYERS), panels, strict=True):
        assert titled(panel, "layer") == {"layer": layer}
        expect_rank_increase(panel, layer)
    assert legend == [f"${label}$" for label in LABELS.values()] + [EQUAL_NORM, OF_FACTORS]


def test_one_of_several_runs_that_is_not_there_is_missed(tables):
    with pytest.raises(NothingToDraw, match=r"has no rows with alpha \['1', '2'\]"):
        read_runs(tables[0], ["alpha", "stable_rank"], alpha=["1", "2"])


def test_a_figure_of_a_run_that_is_not_there_says_so(tables, tmp_path):
    spectra, baselines = tables
    one = {"seed": 0, "draw": 0, "name": "Digits"}
    calls = {
        "fig01": (plot_head_spectra, [[spectra], [baselines]], {"layers": [1], "names": ["A"], "alpha": "2"}),
        "fig03": (plot_singular_values, [spectra], {**one, "layers": [1], "alphas": ["1", "2"]}),
        "fig05": (plot_perturbation, tables, {**one, "layers": [0, 1], "alpha": "2"}),
        "fig11": (plot_stages, tables, {**one, "layers": [0, 2, 4], "alpha": "2"}),
        "fig12": (plot_stable_ranks, tables, {"alpha": "2", "seed": 0, "name": "Digits"}),
    }
    calls["fig01"][2].update(seed=0, draw=0)
    for figure, (script, inputs, options) in calls.items():
        pdf, png = tmp_path / f"{figure}.pdf", tmp_path / f"{figure}.png"
        script.main(*inputs, pdf, png, **options, dpi=100, provenance={})
        assert pdf.exists()
        with Image.open(png) as image:
            assert image.size == (650, 150)


def test_every_figure_is_drawn_from_the_tables(tables, tmp_path):
    spectra, baselines = tables
    run = {"alpha": "1", "seed": 0, "draw": 0, "name": "Digits"}
    one = {key: run[key] for key in ("seed", "draw", "name")}
    figures = {
        "fig01": (plot_head_spectra, [[spectra] * 2, [baselines] * 2], {**run, "layers": [1], "names": ["A", "B"]}),
        "fig03": (plot_singular_values, [spectra], {**one, "layers": [1], "alphas": ALPHAS}),
        "fig04": (plot_scales, tables, {"name": "Digits", "layers": [0, 2, 4]}),
        "fig05": (plot_perturbation, tables, {**run, "layers": [0, 1, 2, 3, 4, 5]}),
        "fig11": (plot_stages, tables, {**run, "layers": [0, 2, 4]}),
        "fig12": (plot_stable_ranks, tables, {key: run[key] for key in ("alpha", "seed", "name")}),
    }
    del figures["fig01"][2]["name"]
    for figure, (script, inputs, options) in figures.items():
        pdf, png = tmp_path / f"{figure}.pdf", tmp_path / f"{figure}.png"
        script.main(*inputs, pdf, png, **options, dpi=30, provenance={})
        assert pdf.stat().st_size > 1000
        assert png.read_bytes().startswith(b"\x89PNG")
