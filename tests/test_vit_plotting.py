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
from rank_increase.plotting import NothingToDraw
from rank_increase.spectra import rank_measures
from rank_increase.tables import SCHEMAS, write_table
from rank_increase.vit_plotting import (
    BASELINE,
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

LAYERS, HEADS, EPOCHS, ALPHAS, SEEDS = 2, 3, [0, 1, 4, 9], ["0.1", "1"], [0, 1]


def make_rows(kind, matrices):
    """Rows with singular values that say where they are from; those of a delta are zero at epoch 0."""
    rows = [
        {"dataset": "digits", "alpha": alpha, "seed": seed, "epoch": epoch, "step": epoch, "layer": layer, "head": head,
         "product": product, kind: matrix}
        for alpha in ALPHAS for seed in SEEDS for epoch in EPOCHS for layer in range(LAYERS) for head in range(HEADS)
        for product in ("KQ", "VO") for matrix in matrices
        if matrix != "initial" or epoch == 0
    ]  # fmt: skip
    values = [
        np.sort([1 + row["epoch"], (1 + row["head"]) * float(row["alpha"]), 0.1 * row["seed"], 0])[::-1]
        * (row["epoch"] > 0 or row[kind] in ("initial", "trained"))
        for row in rows
    ]
    return pd.DataFrame(rows).assign(singular_values=values, **rank_measures(np.stack(values)))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for table, kind, matrices in [
        ("spectra", "matrix", ["initial", "trained", "delta"]),
        ("baselines", "baseline", ["factors", "noise"]),
    ]:
        schema = SCHEMAS[table]
        for name, column in [("dataset", "product"), ("alpha", "product"), ("seed", "layer")]:
            schema = schema.append(schema.field(column).with_name(name))
        write_table(folder / f"{table}.parquet", make_rows(kind, matrices), schema, {})
    return folder / "spectra.parquet", folder / "baselines.parquet"


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
    initial, noise, *changes = panel.get_lines()
    assert initial.get_color() == INITIAL["color"]
    assert noise.get_color() == BASELINE["color"]
    np.testing.assert_allclose(initial.get_ydata(), [1, 1 / 3, 0.1 / 3, 0])
    assert [to_hex(change.get_color()) for change in changes] == [to_hex(color) for color in colors.values()]
    for epoch, change in zip([1, 4, 9], changes, strict=True):
        expected = np.sort([1 + epoch, 3, 0.1, 0])[::-1]
        np.testing.assert_allclose(change.get_ydata(), expected / expected[0])
        np.testing.assert_array_equal(change.get_xdata(), [1, 2, 3, 4])
    darkness = [sum(change.get_color()[:3]) for change in changes]
    assert darkness == sorted(darkness, reverse=True)


def test_evolution_begins_at_zero_and_shows_the_largest(panel, head):
    draw_evolution(panel, of_matrix(head, "delta"), shown=2)
    largest, second = panel.get_lines()
    np.testing.assert_array_equal(largest.get_xdata(), EPOCHS)
    np.testing.assert_allclose(largest.get_ydata(), [0, 3, 5, 10])
    np.testing.assert_allclose(second.get_ydata(), [0, 2, 3, 3])


def test_perturbation_is_that_of_the_last_epoch(panel, head):
    draw_perturbation(panel, head)
    np.testing.assert_allclose(lines(panel)["change by training"].get_ydata(), [10, 3, 0.1, 0])
    np.testing.assert_allclose(lines(panel)["initial product"].get_ydata(), [3, 1, 0.1, 0])


def stable_ranks(epoch, alpha, seed):
    values = [np.array([1 + epoch, (1 + head) * float(alpha), 0.1 * seed]) for head in range(HEADS)]
    return [(s**2).sum() / s.max() ** 2 for s in values]


def test_scales_have_a_series_per_seed_with_deviations_over_heads_alone(panel, tables):
    ranks = read_stable_ranks(*tables, product="KQ", layer=0, epoch=9)
    draw_scales(panel, ranks, seed_colors(SEEDS))
    assert len(panel.containers) == len(SEEDS)
    for seed, container in zip(SEEDS, panel.containers, strict=True):
        line, _, [bars] = container.lines
        expected = [stable_ranks(9, alpha, seed) for alpha in ALPHAS]
        np.testing.assert_allclose(line.get_ydata(), np.mean(expected, axis=1))
        lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(lengths, 2 * np.std(expected, axis=1), atol=1e-12)
        np.testing.assert_allclose(line.get_xdata(), [0.1, 1], rtol=0.1)
    assert BASELINE["label"] in lines(panel)


def test_rank_increase_begins_after_the_zero_change(panel, tables):
    draw_rank_increase(panel, read_stable_ranks(*tables, alpha="1", seed=1, layer=0))
    for product, line, band in zip(PRODUCT_COLORS, panel.get_lines(), panel.collections, strict=False):
        assert line.get_color() == PRODUCT_COLORS[product]
        np.testing.assert_array_equal(line.get_xdata(), EPOCHS[1:])
        expected = [stable_ranks(epoch, "1", 1) for epoch in EPOCHS[1:]]
        np.testing.assert_allclose(line.get_ydata(), np.mean(expected, axis=1))
        heights = band.get_paths()[0].vertices
        at_last = heights[np.isclose(heights[:, 0], EPOCHS[-1]), 1]
        np.testing.assert_allclose(at_last.max() - at_last.min(), 2 * np.std(expected[-1]))


def test_a_run_that_is_not_there_is_named(tables):
    with pytest.raises(ValueError, match="has no rows with matrix delta, alpha 2"):
        read_runs(tables[0], ["stable_rank"], matrix="delta", alpha="2")


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
