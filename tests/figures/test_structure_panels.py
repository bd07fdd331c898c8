import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from rank_increase.figures.job import StudyTables
from rank_increase.figures.structures import coordinate_colors, draw_head
from rank_increase.figures.style import new_panels, paper_style
from rank_increase.figures.toy import INACTIVE
from rank_increase.notation import COORDINATE
from rank_increase.registry import find

SHAPE = (2, 2, 2, 3)  # layers, heads, products, entries
TIME = np.linspace(0, 10, 5)


def trajectory(variant="layers", alpha="1e-8", shape=SHAPE, seed=0):
    """A run with random values."""
    layer, head, product, index = (part.ravel() for part in np.indices(shape))
    labels = {"layer": layer, "head": head, "product": np.array(["KQ", "VO"])[product], "index": index}
    values = np.random.default_rng(len(variant + alpha)).standard_normal((len(TIME), layer.size))
    frames = [pd.DataFrame({**labels, "rescaled_time": t, "value": row}) for t, row in zip(TIME, values, strict=True)]
    return pd.concat(frames).assign(variant=variant, alpha=alpha, seed=seed)


def stages(variant="layers", shape=SHAPE):
    """Three stages: VO 2 of the second head of the second layer, KQ 0 of the first head, and VO 2 once more."""
    size = int(np.prod(shape)) // 2
    VO, KQ, last = np.zeros((3, size)), np.zeros((3, size)), size - 1
    VO[:, last], KQ[1:, 0], VO[2, last] = 0.5, -0.3, -0.7
    place = (shape[0] - 1, shape[1] - 1, "VO", shape[3] - 1)
    frame = pd.DataFrame([place, (0, 0, "KQ", 0), place], columns=COORDINATE)
    return frame.assign(
        variant=variant, seed=0, stage=[1, 2, 3], predicted_time=[2.0, 4.0, 6.0], loss=[0.7, 0.5, 0.2],
        VO=list(VO), KQ=list(KQ),
    )  # fmt: skip


@pytest.fixture
def tables(tmp_path):
    """StudyTables of all variants that the figures show, each at two init scales."""
    transformers = {"heads": (1, 2, 2, 3), "identical_heads": (1, 2, 2, 3), "layers": SHAPE}
    losses = dict.fromkeys(("no_decay", "decay", "soft_labels", "hard_labels"), (1, 1, 2, 3))
    shapes = transformers | losses
    runs = [trajectory(name, alpha, shape) for name, shape in shapes.items() for alpha in ("0.1", "1e-8")]
    limits = [stages(name, shape) for name, shape in shapes.items() if name not in ("identical_heads", "hard_labels")]
    frames = {"trajectory": pd.concat(runs), "stages": pd.concat(limits)}
    moments = frames["trajectory"][["variant", "alpha", "seed", "rescaled_time"]].drop_duplicates()
    frames["losses"] = moments.assign(loss=0.5)
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
    return StudyTables({name: [str(tmp_path / f"{name}.parquet")] for name in frames}, {})


def draw(figure, tables):
    entry = find("figure", figure)
    with paper_style():
        return entry.load()(tables, seed=0, **entry.fixed)


def values_of(run, layer, head, product, index):
    rows = run[(run["layer"] == layer) & (run["head"] == head) & (run["product"] == product) & (run["index"] == index)]
    return rows.sort_values("rescaled_time")["value"].to_numpy()


def test_coordinates_have_the_color_of_their_first_stage_in_the_head_that_it_is_in():
    colors = coordinate_colors(trajectory(), stages())
    active = {place for place, color in colors.items() if color is not INACTIVE}
    assert active == {(1, 1, "VO", 2), (0, 0, "KQ", 0)} and len(colors) == 24
    first, second = (np.mean(to_rgba(colors[place])[:3]) for place in ((1, 1, "VO", 2), (0, 0, "KQ", 0)))
    assert first != second


def test_without_stages_equal_entries_have_one_color():
    colors = coordinate_colors(trajectory(), stages()[:0])
    assert len({tuple(color) for color in colors.values()}) == 3
    assert tuple(colors[0, 0, "KQ", 1]) == tuple(colors[1, 1, "VO", 1]) != tuple(colors[0, 0, "KQ", 2])


@pytest.mark.parametrize("place", [(1, 1, "VO"), (0, 0, "KQ"), (1, 0, "VO")])
def test_a_panel_has_a_line_for_each_entry_of_its_head_and_the_staircase_of_the_limit(place):
    _, [[panel]] = new_panels(1, 1, 2.0)
    run = trajectory()
    draw_head(panel, run, stages(), place, coordinate_colors(run, stages()))
    staircases = [line for line in panel.lines if line.get_drawstyle() == "steps-post"]
    entries = [line for line in panel.lines if line.get_drawstyle() == "default"]
    assert len(entries) == 3
    for index, line in enumerate(entries):
        np.testing.assert_array_equal(line.get_xydata(), np.c_[TIME, values_of(run, *place, index)])
    expected = {(1, 1, "VO"): [0, 0.5, 0.5, -0.7, -0.7], (0, 0, "KQ"): [0, 0, -0.3, -0.3, -0.3]}
    if place not in expected:
        assert staircases == []
        return
    [line] = staircases
    np.testing.assert_allclose(line.get_xydata(), np.c_[[0, 2, 4, 6, 10], expected[place]])
    assert line.get_zorder() < min(entry.get_zorder() for entry in entries)


@pytest.mark.parametrize(("figure", "variants", "rows"), [("fig_heads", 2, 2), ("fig_layers", 1, 4)])
def test_transformers_are_shown_by_head_at_their_smallest_scale(tables, figure, variants, rows):
    drawn = draw(figure, tables)
    panels = np.reshape(drawn.axes, (rows, 2 * variants))
    names = ["heads", "identical_heads"] if figure == "fig_heads" else ["layers"]
    for column, name in enumerate(names):
        run = trajectory(name, "1e-8", (1, 2, 2, 3) if figure == "fig_heads" else SHAPE)
        for row in range(rows):
            for offset, product in enumerate(("VO", "KQ")):
                panel = panels[row, 2 * column + offset]
                entries = [line for line in panel.lines if line.get_drawstyle() == "default"]
                for index, line in enumerate(entries):
                    expected = values_of(run, row // 2, row % 2, product, index)
                    np.testing.assert_array_equal(line.get_ydata(), expected)
                assert len(entries) == 3
                assert f"layer {row // 2 + 1}, head {row % 2 + 1}" in panel.get_title(loc="left")
        assert "1e-8" in panels[0, 2 * column].get_title(loc="left")
    staircases = [line for panel in drawn.axes for line in panel.lines if line.get_drawstyle() == "steps-post"]
    assert len(staircases) == 2  # none for identical heads


def test_losses_are_shown_over_their_limits_where_they_have_one(tables):
    panels = np.reshape(draw("fig_losses", tables).axes, (3, 4))
    for column, name in enumerate(("no_decay", "decay", "soft_labels", "hard_labels")):
        loss, *products = panels[:, column]
        limit = [line for line in loss.lines if line.get_drawstyle() == "steps-post"]
        assert len(limit) == (name != "hard_labels")
        for line in limit:
            np.testing.assert_allclose(line.get_xydata(), np.c_[[0, 2, 4, 6, 10], [0.5, 0.7, 0.5, 0.2, 0.2]])
        [curve] = [line for line in loss.lines if line.get_drawstyle() == "default"]
        np.testing.assert_allclose(curve.get_xydata(), np.c_[TIME, np.full(5, 0.5)])
        run = trajectory(name, "1e-8", (1, 1, 2, 3))
        for panel, product in zip(products, ("VO", "KQ"), strict=True):
            entries = [line for line in panel.lines if line.get_drawstyle() == "default"]
            for index, line in enumerate(entries):
                np.testing.assert_array_equal(line.get_ydata(), values_of(run, 0, 0, product, index))
