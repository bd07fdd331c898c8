import base64
import gzip
import io
import json
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from rank_increase.figures.networks import BASELINES as DRAWN
from rank_increase.pages.explorer import ArrayStore, networks_part, render_page, shown_moments, toy_part
from rank_increase.tables import write_table
from scripts.evidence import build_explorer

SINGLE = {"teacher": "diagonal", "layers": 0, "heads": 1}
VARIANTS = {
    "diagonal": {"weights": "diagonal", "method": "flow", **SINGLE},
    "diagonal_gd": {"weights": "diagonal", "method": "gd", **SINGLE},
    "full": {"weights": "full", "method": "flow", **SINGLE},
    "heads": {"weights": "diagonal", "method": "flow", **SINGLE, "layers": 1, "heads": 2},
}
TOY_RUNS = [("diagonal", "0.1", 99), ("diagonal", "1e-3000", 99), ("full", "0.1", 99), ("heads", "0.1", 99)]
BASELINES = {
    "random_product": "random change of equal norm",
    "noisy_factors": "random change of the factors",
}
SHOWN = {"scale": "1", "seed": 0, "alpha": "1e-3000", "problem": 99}
EPOCHS = [0, 1, 3, 10]
STEPS = 8  # in an epoch
RANDOM = np.random.default_rng(0)


def spectra_frame(network, alpha, seed, layers=2, heads=3, dim=5, epochs=EPOCHS):
    """Tables "spectra" and "measures" of one run, with random singular values; at epoch 0 the changes are zero."""
    grid = pd.MultiIndex.from_product([epochs, range(layers), range(heads), ["KQ", "VO"]])
    rows = grid.to_frame(index=False, name=["epoch", "layer", "head", "product"])
    rows = rows.assign(network=network, alpha=alpha, seed=seed, step=(rows["epoch"] * STEPS).astype(int))

    def of_matrix(name, rows):
        drawn = len(rows) // len(epochs) if name == "random_product" else len(rows)  # its direction is that of a head
        values = np.sort(RANDOM.random((drawn, dim)))[:, ::-1]
        values = np.tile(values, (len(rows) // drawn, 1)) * RANDOM.random((len(rows), 1))
        values[(rows["epoch"] == 0) & (name != "initial")] = 0
        with np.errstate(invalid="ignore"):
            ranks = (values**2).sum(axis=1) / values[:, 0] ** 2
        return rows.assign(matrix=name, singular_values=list(values), stable_rank=ranks)

    parts = [of_matrix("initial", rows[rows["epoch"] == 0])]
    whole = pd.concat([*parts, *(of_matrix(name, rows) for name in ("trained", "delta", *BASELINES))])
    return whole.drop(columns="stable_rank"), whole.drop(columns=["singular_values", "step"])


def metrics_frame(network, alpha, seed):
    epochs = np.arange(1, EPOCHS[-1] + 1)
    run = {"network": network, "alpha": alpha, "seed": seed, "epoch": epochs, "step": epochs * STEPS}
    losses = {"train_loss": 2 / epochs, "test_loss": 2.5 / epochs}
    return pd.DataFrame({**run, **losses, "test_accuracy": np.linspace(0.1, 0.8, 10)})


def toy_frames(variant, alpha, seed, dim=4, moments=11):
    """Tables "trajectory" and "losses" of one run."""
    run = {"variant": variant, "alpha": alpha, "seed": seed}
    shape = moments, 2, VARIANTS[variant]["heads"], dim
    time, product, head, index = (part.ravel() for part in np.indices(shape))
    place = {"product": np.array(["KQ", "VO"])[product], "layer": 0, "head": head, "index": index}
    values = RANDOM.normal(size=time.size)
    trajectory = pd.DataFrame({**run, "rescaled_time": 20.0 * time, **place, "value": values})
    moment = np.arange(moments)
    return trajectory, pd.DataFrame({**run, "rescaled_time": 20.0 * moment, "loss": 1 / (1 + moment)})


STAGES = {"product": ["KQ", "VO", "KQ"], "layer": 0, "head": [0, 0, 0], "index": [1, 2, 3]}
PREDICTED = [30.0, 90.0, 150.0]


def stages_frame(variant, seed, dim=4):
    """Table "stages" of one problem; the third stage of a variant with heads is that of the second head."""
    heads = VARIANTS[variant]["heads"]
    places = {**STAGES, "head": [0, 0, heads - 1]}
    products = np.cumsum(RANDOM.normal(size=(2, 3, heads * dim)), axis=1)
    run = {"variant": variant, "seed": seed, "stage": [1, 2, 3], "predicted_time": PREDICTED, "loss": [0.5, 0.3, 0.1]}
    return pd.DataFrame({**run, **places, "KQ": list(products[0]), "VO": list(products[1])})


def events_frame(variant, alpha, seed):
    """Table "events": the first two predicted stages happen, a bit late, and another coordinate comes and goes."""
    heads = VARIANTS[variant]["heads"]
    times = [34.0, 97.0, 120.0, 130.0]
    places = {"product": ["KQ", "VO", "VO", "VO"], "layer": 0, "head": [0, 0, heads - 1, heads - 1]}
    run = {"variant": variant, "alpha": alpha, "seed": seed, "rescaled_time": times, "direction": [1, 1, 1, -1]}
    places["index"] = [1, 2, 0, 0]
    return pd.DataFrame({**run, **places})


def claims_frame():
    claim = {
        "source": "Figure 6",
        "measure": "a ratio",
        "relation": "<",
        "threshold": 0.5,
        "n": "1 seed",
        "details": "-",
    }
    rows = [("It falls.", 0.25, "supported"), ("<b>It</b> grows.", 0.75, "not supported"), ("?", None, "not tested")]
    return pd.DataFrame(
        [{**claim, "statement": name, "value": value, "verdict": verdict} for name, value, verdict in rows]
    )


def joined(parts):
    """Tables of all runs, from tuples of tables of single ones."""
    return [pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True)]


def study_tables(network="digits"):
    runs = [(network, "0.1", 0), (network, "1", 0), (network, "1", 1)]
    spectra, measures = joined(spectra_frame(*run) for run in runs)
    trajectory, losses = joined(toy_frames(*run) for run in TOY_RUNS)
    return {
        "trajectory": trajectory,
        "losses": losses,
        "events": pd.concat([events_frame(*run) for run in TOY_RUNS]),
        "stages": pd.concat([stages_frame(variant, 99) for variant in ("diagonal", "heads")]),
        "spectra": spectra,
        "measures": measures,
        "metrics": pd.concat([metrics_frame(*run) for run in runs]),
        "claims": claims_frame(),
    }


def build(folder, tables, names=None):
    """The page that the rule makes of these tables; gives its path."""
    paths = {}
    for name, table in tables.items():
        paths[name] = [folder / f"{name}.parquet"]
        schema = pa.Schema.from_pandas(table, preserve_index=False)
        write_table(paths[name][0], table, schema, {"commit": "0123456789abcdef"})
    page = folder / "explorer.html"
    build_explorer.main(
        paths,
        page,
        variants=VARIANTS,
        names=names or {},
        shown=SHOWN,
        provenance={"study": "tiny", "rule": "explorer"},
    )
    return page


class Elements(HTMLParser):
    """Start tags of a page with their attributes, and the text of each script by its id."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts = [], {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.setdefault(self.tags[-1][1].get("id"), data)


def decode(page):
    """What a page shows, and a function that gives the arrays it refers to."""
    scripts = Elements(page).scripts
    data = gzip.decompress(base64.b64decode(scripts["arrays"]))

    def array(place):
        values = np.frombuffer(data, place["type"], np.prod(place["shape"], dtype=int), place["start"])
        return values.reshape(place["shape"]) * (place["step"] or 1)

    return json.loads(scripts["study"]), array


@pytest.fixture(scope="module")
def tables():
    return study_tables()


@pytest.fixture(scope="module")
def page(tables, tmp_path_factory):
    return build(tmp_path_factory.mktemp("page"), tables, names={"digits": "Digits (8 x 8)"})


def select(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


# The file


def test_toy_runs_come_back_out_of_the_page(page, tables):
    study, array = decode(page.read_text())
    runs = study["toy"]["runs"]
    assert [(run["variant"], run["alpha"], run["seed"]) for run in runs] == TOY_RUNS
    for run in runs:
        heads = VARIANTS[run["variant"]]["heads"]
        rows = select(tables["trajectory"], variant=run["variant"], alpha=run["alpha"])
        np.testing.assert_array_equal(array(run["time"]), 20.0 * np.arange(11))
        np.testing.assert_allclose(array(run["loss"]), 1 / (1 + np.arange(11)), rtol=1e-7)
        for product in ("KQ", "VO"):
            values = select(rows, product=product)["value"].to_numpy().reshape(11, 1, heads, 4)
            error = np.abs(array(run[product]) - np.moveaxis(values, 0, -1)).max()
            assert error <= np.abs(values).max() / 65534 * 1.0001
        events = run["events"]
        assert array(events["time"]).tolist() == [34, 97, 120]  # without the one that leaves
        assert (events["product"], events["index"]) == (["KQ", "VO", "VO"], [1, 2, 0])
        assert (events["layer"], events["head"]) == ([0, 0, 0], [0, 0, heads - 1])


@pytest.mark.parametrize(("variant", "heads"), [("diagonal", 1), ("heads", 2)])
def test_stages_come_back_out_of_the_page(page, tables, variant, heads):
    study, array = decode(page.read_text())
    stages, rows = study["toy"]["stages"][variant]["99"], select(tables["stages"], variant=variant)
    for product in ("KQ", "VO"):
        expected = np.stack(rows[product], axis=1).reshape(1, heads, 4, 3)
        np.testing.assert_allclose(array(stages[product]), expected, atol=1e-3)
    assert (stages["product"], stages["index"]) == (["KQ", "VO", "KQ"], [1, 2, 3])
    assert stages["head"] == [0, 0, heads - 1]
    assert array(stages["time"]).tolist() == PREDICTED


@pytest.mark.parametrize("records", [50, 20000])
def test_runs_are_thinned_to_what_a_screen_tells_apart(records):
    """Between kept moments, curves and time stay within a thousandth of their range; few moments all stay."""
    rng = np.random.default_rng(records)
    time = np.cumsum(rng.exponential(size=records) ** 4)
    values = np.cumsum(rng.standard_normal((3, records)) * (rng.random(records) < 0.02), axis=1)
    kept = shown_moments(time, values)
    assert (kept[0], kept[-1]) == (0, records - 1)
    if records == 50:
        assert kept.tolist() == list(range(50))
        return
    assert len(kept) < records / 4
    curves = np.vstack([time / np.ptp(time), values / np.abs(values).max()])
    for start, end in pairwise(kept):
        between = curves[:, start + 1 : end]
        assert np.abs(between - curves[:, [start]]).max(initial=0) <= 1e-3


def test_the_page_says_where_it_comes_from(page):
    study = decode(page.read_text())[0]
    assert study["provenance"] == {"study": "tiny", "rule": "explorer"}
    assert study["about"]["commits"] == ["0123456789abcdef"]


def test_the_limit_of_a_variant_is_that_of_the_flow_of_its_problems(page):
    variants = decode(page.read_text())[0]["toy"]["variants"]
    assert {name: form["limit"] for name, form in variants.items()} == {
        "diagonal": "diagonal",
        "diagonal_gd": "diagonal",
        "full": "full",
        "heads": "heads",
    }


def test_spectra_come_back_out_of_the_page_normalised(page, tables):
    study, array = decode(page.read_text())
    runs = study["networks"]["runs"]
    assert [(run["alpha"], run["seed"]) for run in runs] == [("0.1", 0), ("1", 0), ("1", 1)]
    for run in runs:
        assert run["epochs"] == EPOCHS and run["steps"] == [STEPS * epoch for epoch in EPOCHS]
        metrics = select(tables["metrics"], alpha=run["alpha"], seed=run["seed"])
        for name, place in run["metrics"].items():
            np.testing.assert_allclose(array(place), metrics[name], rtol=1e-7)
        for product, matrices in run["products"].items():
            assert set(matrices) == {"initial", "delta", *BASELINES}
            for matrix, places in matrices.items():
                wanted = {"alpha": run["alpha"], "seed": run["seed"], "product": product, "matrix": matrix}
                rows, ranks = select(tables["spectra"], **wanted), select(tables["measures"], **wanted)
                values = np.stack(rows["singular_values"])
                expected = values / np.where(values[:, :1] > 0, values[:, :1], 1)
                found = array(places["spectra"])
                assert found.shape[:3] == (1 if matrix == "initial" else len(EPOCHS), 2, 3)
                np.testing.assert_allclose(found.reshape(len(rows), -1), expected, atol=1 / 131000)
                np.testing.assert_allclose(array(places["largest"]).ravel(), values[:, 0], rtol=1e-7)
                np.testing.assert_allclose(array(places["stable_rank"]).ravel(), ranks["stable_rank"], rtol=1e-7)


@pytest.mark.parametrize(("baseline", "label"), BASELINES.items())
def test_baselines_have_the_same_name_in_legend_curves_and_figures(page, baseline, label):
    text = page.read_text()
    assert re.findall(rf'<path class="{baseline}" d="M1 7H43"/></svg>\s+(.*?)\s+</li>', text) == [label]
    assert re.findall(rf'\b{baseline}: {{\n.*\bname: "(.*?)"', text) == [label]
    assert DRAWN[baseline]["label"] == label


def test_values_that_are_zero_at_every_epoch_are_left_out(tables):
    spectra = tables["spectra"].assign(singular_values=[np.array([2.0, 1.0, 1e-9])] * len(tables["spectra"]))
    part = networks_part(ArrayStore(), {**tables, "spectra": spectra}, {})
    assert part["runs"][0]["products"]["KQ"]["delta"]["spectra"]["shape"] == [len(EPOCHS), 2, 3, 2]


def test_a_run_without_some_of_its_heads_is_named(tables):
    with pytest.raises(ValueError, match="^the spectra of the run digits 0.1 0 are incomplete$"):
        networks_part(ArrayStore(), {**tables, "spectra": tables["spectra"].iloc[1:]}, {})


def test_the_page_refers_to_nothing_outside_it_and_forbids_to_load_it(page):
    tags = Elements(page.read_text()).tags
    assert not [attributes for _, attributes in tags if {"src", "href"} & set(attributes)]
    [policy] = [item["content"] for tag, item in tags if tag == "meta" and "http-equiv" in item]
    assert policy.startswith("default-src 'none';") and "http" not in policy
    style = page.read_text().split("<style>")[1].split("</style>")[0]
    assert "@import" not in style and "url(" not in style


def test_a_study_of_cifar_on_a_laptop_stays_below_10_mb():
    store = ArrayStore()
    runs = [("cifar10", alpha, 0) for alpha in ("0.1", "0.3", "1", "2")]
    size = {"layers": 6, "heads": 8, "dim": 64, "epochs": range(16)}
    spectra, measures = joined(spectra_frame(*run, **size) for run in runs)
    metrics = pd.concat([metrics_frame(*run) for run in runs])
    networks = networks_part(store, {"spectra": spectra, "measures": measures, "metrics": metrics}, {})
    assert networks["runs"][0]["products"]["KQ"]["delta"]["spectra"]["shape"] == [16, 6, 8, 64]
    # The toy half of the demo: 16 runs. Noise, unlike what training gives, does not become smaller when compressed.
    runs = [("diagonal", f"1e-{number}", 0) for number in range(1, 17)]
    trajectory, losses = joined(toy_frames(*run, 50, 567) for run in runs)
    tables = {"trajectory": trajectory, "losses": losses, "stages": stages_frame("diagonal", 0, dim=50)}
    tables["events"] = pd.concat([events_frame(*run) for run in runs])
    toy = toy_part(store, tables, VARIANTS)
    page = render_page({"about": {}, "shown": {}, "toy": toy, "networks": networks}, store)
    assert 4e6 < len(page.encode()) < 10e6


NAMES = ["</script><script>document.title = 'changed'</script>", "<!--<script>", "$arrays ${plotly} $$", "<b>é ‖</b>"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_whatever_it_holds(tables, tmp_path, name):
    page = build(tmp_path, tables, names={"digits": name}).read_text()
    assert decode(page)[0]["networks"]["names"] == {"digits": name}
    assert [tag for tag, _ in Elements(page).tags].count("script") == 4


def test_the_page_is_made_without_slow_packages():
    code = (
        "import sys; from scripts.evidence import build_explorer;"
        "print({'torch', 'numba', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    folder = Path(build_explorer.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The page in a browser


def test_without_a_browser_the_end_of_the_tests_says_that_the_script_was_not_tested(tmp_path):
    line = [sys.executable, "-m", "pytest", __file__, "-k", "arrow_keys", "-p", "no:cacheprovider"]
    done = subprocess.run(
        line, cwd=Path(__file__).parents[2], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert "the explorer's script was NOT TESTED" in done.stdout and "apt-get install chromium" in done.stdout


class Page:
    """The page, opened from disk, and what can be read from it."""

    def __init__(self, driver, path, view="", width=1280, anew=False):
        self.driver = driver
        driver.get_log("browser")
        opened = [driver.current_url.partition("#")[0], self.run("return innerWidth")]
        if opened == [f"file://{path}", width] and not anew:  # another view of a page needs no new one
            go = "document.activeElement.blur(); scrollTo(0, 0); history.replaceState(null, '', `#${arguments[0]}`);"
            driver.execute_script(f"{go} dispatchEvent(new Event('hashchange'))", view)
            return
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(f"file://{path}#{view}")
        self.wait(lambda: self.run("return document.body.dataset.ready"))

    def wait(self, condition):
        WebDriverWait(self.driver, 300, poll_frequency=0.05).until(lambda _: condition())

    def run(self, script):
        return self.driver.execute_script(script)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, selector, *keys):
        self.find(selector).send_keys(*keys)

    def choose(self, selector, label):
        Select(self.find(selector)).select_by_visible_text(label)

    def lines(self, plot):
        """The y values of each trace of a plot."""
        return self.run(f"return document.getElementById('{plot}').data.map((trace) => trace.y)")

    def curves(self, plot, name):
        """The traces of a plot that have a name."""
        traces = f"document.getElementById('{plot}').data.filter((trace) => trace.name === '{name}')"
        return self.run(f"return {traces}.map(({{x, y}}) => ({{x, y}}))")

    def axis(self, plot, name="yaxis"):
        """The layout of an axis of a plot."""
        return self.run(f"return document.getElementById('{plot}').layout.{name}")

    def drawn(self, plot):
        """What the browser has on screen in a plot."""
        return self.find(f"#{plot}").get_attribute("innerHTML")

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture
def opened(chromium, page):
    """Opens the page, at a view and a width; at the end no error may have reached the console."""
    pages = []

    def open_page(view="", width=1280, path=page, **options):
        pages.append(Page(chromium, path, view, width, **options))
        return pages[-1]

    yield open_page
    assert not any(page.errors() for page in pages)


def delta(tables, epoch, **wanted):
    """Normalised spectra of the change, one row for each head of the second layer."""
    rows = select(tables["spectra"], matrix="delta", layer=1, epoch=epoch, **wanted)
    values = np.stack(rows["singular_values"])
    return values / values[:, :1]


def test_the_page_opens_from_disk_with_the_values_of_the_tables_and_loads_nothing(opened, tables):
    browser = opened(anew=True)
    assert "tiny" in browser.find("#about").text and "0123456789ab" in browser.find("#about").text
    spectra = delta(tables, 10, alpha="1", seed=0, product="KQ")
    np.testing.assert_allclose(browser.lines("spectra")[-1], spectra.mean(axis=0), atol=1e-4)
    ranks = (spectra**2).sum(axis=1)
    [curve] = browser.curves("training", "change by training")
    np.testing.assert_allclose(curve["y"][-1], ranks.mean(), rtol=1e-6)
    assert f"Stable rank of the change: {ranks.mean():.3g};" in browser.find("#networks-readout").text
    assert "Test accuracy: 80.0" in browser.find("#networks-readout").text
    np.testing.assert_allclose(browser.lines("scales")[2][-1], ranks.mean(), rtol=1e-6)
    run = select(tables["trajectory"], variant="diagonal", alpha="1e-3000", product="VO", index=2)["value"]
    assert any(line[:11] == pytest.approx(run.tolist(), abs=1e-3) for line in browser.lines("stages"))
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.run("return document.querySelectorAll('.plot .main-svg').length") >= 6


@pytest.mark.parametrize(("baseline", "label"), BASELINES.items())
def test_curves_of_random_changes_are_those_of_their_names(opened, tables, baseline, label):
    browser = opened("head=2&product=VO&layer=0")
    wanted = {"matrix": baseline, "alpha": "1", "seed": 0, "product": "VO", "layer": 0, "head": 2}
    values = select(tables["spectra"], **wanted, epoch=10)["singular_values"].iloc[0]
    expected = select(tables["measures"], **wanted).sort_values("epoch")["stable_rank"]
    [spectrum], [ranks], [*_, scales] = (
        browser.run(
            f"return document.getElementById('{plot}').data.filter((trace) => trace.name === '{label}')"
            ".map((trace) => trace.y)"
        )
        for plot in ("spectra", "training", "scales")
    )
    np.testing.assert_allclose(spectrum, values / values[0], atol=1e-4)
    np.testing.assert_allclose(ranks, expected.iloc[1:], rtol=1e-6)
    of_other_seed = select(tables["measures"], **{**wanted, "seed": 1}, epoch=10)["stable_rank"].iloc[0]
    assert scales[-1] == pytest.approx(of_other_seed, rel=1e-6)
    assert f"{expected.iloc[-1]:.3g} ({label.removeprefix('random change ')})" in browser.find("#networks-readout").text


def test_arrow_keys_on_the_slider_turn_training_over(opened, tables):
    browser = opened("head=2&product=VO")
    before = browser.drawn("spectra")
    browser.press("#epoch", Keys.ARROW_LEFT)
    expected = delta(tables, 3, alpha="1", seed=0, product="VO")[2]
    np.testing.assert_allclose(browser.lines("spectra")[-1], expected, atol=1e-4)
    assert browser.drawn("spectra") != before
    assert browser.find("#epoch").get_attribute("aria-valuetext") == "3 of 10"
    browser.press("#epoch", Keys.HOME)
    assert "Epoch 0" in browser.find("#networks-readout").text and len(browser.lines("spectra")) == 1
    assert "nothing has changed yet" in browser.drawn("spectra")


@pytest.mark.parametrize(
    "start", [lambda page: page.find("#epoch-play").click(), lambda page: page.press("#epoch", " ")]
)
def test_play_goes_through_the_epochs_from_the_first_to_the_last_and_stops(opened, start):
    browser = opened(anew=True)
    assert browser.find("#epoch").get_attribute("value") == "3"
    browser.run(
        "window.seen = [];"
        "document.getElementById('epoch').addEventListener("
        "'input', ({target}) => window.seen.push([target.value, document.getElementById('epoch-value').value]))"
    )
    start(browser)
    browser.wait(lambda: len(browser.run("return window.seen")) > 3 and browser.find("#epoch-play").text == "Play")
    assert browser.run("return window.seen") == [
        ["0", "0 of 10"],
        ["1", "1 of 10"],
        ["2", "3 of 10"],
        ["3", "10 of 10"],
    ]
    browser.press("#epoch", Keys.HOME, " ", " ")
    assert browser.find("#epoch-play").text == "Play"


def test_every_selector_changes_what_is_drawn(opened, tables):
    browser = opened()
    for selector, label in {"scale": "0.1", "product": "W_V W_Oᵀ", "layer": "1", "head": "2"}.items():
        before = browser.lines("spectra"), browser.lines("training")
        browser.choose(f"#{selector}", label)
        assert before[0] != browser.lines("spectra") and before[1] != browser.lines("training")
    rows = select(tables["spectra"], matrix="delta", layer=0, head=1, epoch=10, alpha="0.1", product="VO")
    values = rows["singular_values"].iloc[0]
    np.testing.assert_allclose(browser.lines("spectra")[-1], values / values[0], atol=1e-4)
    browser.choose("#scale", "1")
    before = browser.lines("spectra")
    browser.choose("#seed", "1")
    assert browser.lines("spectra") != before
    assert browser.find("#networks .which").text == "of W_V W_Oᵀ, layer 1, head 2"


def click(browser, plot, x, y):
    """Click on a plot at a place given in shares of its width and height."""
    place = browser.find(f"#{plot} .plotly")
    browser.run(f"document.getElementById('{plot}').scrollIntoView({{block: 'center'}})")
    width, height = place.size["width"], place.size["height"]
    offset = round((x - 0.5) * width), round((y - 0.5) * height)
    ActionChains(browser.driver).move_to_element_with_offset(place, *offset).pause(0.2).click().perform()


def test_a_click_on_a_curve_moves_the_sliders(opened):
    browser = opened()
    click(browser, "training", 0.33, 0.5)
    browser.wait(lambda: browser.find("#epoch-value").text == "3 of 10")
    click(browser, "scales", 0.2, 0.6)
    browser.wait(lambda: browser.find("#scale").get_attribute("value") == "0.1")
    click(browser, "stages", 0.9, 0.1)
    browser.wait(lambda: browser.find("#time").get_attribute("value") in ("160", "180", "200"))


def test_the_cursor_in_time_runs_through_loss_and_entries(opened):
    browser = opened("time=100")
    assert "2 of 3 stages should have happened, 2 have" in browser.find("#toy-readout").text
    assert "entry 4 of W_K W_Qᵀ at 150.0" in browser.find("#toy-readout").text
    browser.press("#time", Keys.END)
    assert "3 of 3 stages" in browser.find("#toy-readout").text
    cursor = browser.run("return document.getElementById('stages').layout.shapes[0]")
    assert (cursor["x0"], cursor["yref"], cursor["y0"], cursor["y1"]) == (200, "paper", 0, 1)


def test_the_slider_of_init_scales_goes_from_the_largest_to_the_smallest(opened, tables):
    browser = opened()
    assert browser.find("#alpha-value").text == "1e-3000"
    browser.press("#alpha", Keys.HOME)
    assert browser.find("#alpha-value").text == "0.1"
    run = select(tables["trajectory"], variant="diagonal", alpha="0.1", product="KQ", index=1)["value"]
    assert any(line[:11] == pytest.approx(run.tolist(), abs=1e-3) for line in browser.lines("stages"))


def test_stage_times_and_limit_are_drawn_where_there_is_a_prediction_alone(opened):
    browser = opened()
    [cursor, stages] = browser.run("return document.getElementById('stages').layout.shapes")
    assert stages["path"] == "M30,0V1M90,0V1M150,0V1"
    limit = [1, 0.5, 0.3, 0.1, 0.1]
    assert any(line == pytest.approx(limit, rel=1e-6) for line in browser.lines("stages"))
    browser.choose("#variant", "full: full weights, diagonal teacher, gradient flow")
    assert len(browser.run("return document.getElementById('stages').layout.shapes")) == 1
    assert "Activations so far: 3. Algorithm 1 predicts nothing" in browser.find("#toy-readout").text
    assert not any(item.is_displayed() for item in browser.driver.find_elements(By.CSS_SELECTOR, ".prediction"))
    assert not browser.find("#alpha").is_enabled()


def test_a_view_is_in_the_address_and_comes_back_from_it(opened):
    browser = opened()
    browser.choose("#head", "3")
    browser.press("#epoch", Keys.HOME)
    browser.press("#alpha", Keys.HOME)
    browser.wait(lambda: "alpha=0.1" in browser.driver.current_url)
    view = browser.driver.current_url.split("#")[1]
    assert browser.find("#link").get_attribute("href").split("#")[1] == view
    again = opened(view, anew=True)
    assert Select(again.find("#head")).first_selected_option.text == "3"
    assert (again.find("#epoch-value").text, again.find("#alpha-value").text) == ("0 of 10", "0.1")


def test_a_nonsensical_address_gives_the_default_view(opened):
    browser = opened("network=x&layer=99&head=-1&epoch=none&time=later&alpha=%3Cb%3E&__proto__=1")
    assert (browser.find("#epoch-value").text, browser.find("#alpha-value").text) == ("10 of 10", "1e-3000")
    assert browser.find("#time-value").text == "200"


def test_a_phone_shows_one_column_without_scrolling_sideways(opened):
    browser = opened(width=390)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    shown = "[...document.querySelectorAll('.plot')].filter((plot) => plot.offsetHeight)"
    lefts = browser.run(f"return {shown}.map((plot) => plot.getBoundingClientRect().left)")
    assert len(lefts) == 6 and len(set(lefts)) == 1


def test_every_control_has_a_name_and_shows_that_it_has_the_focus(opened):
    browser = opened()
    controls = browser.driver.find_elements(By.CSS_SELECTOR, "a, select, input, button, summary")
    controls = [control for control in controls if control.is_displayed()]
    plots = [plot for plot in browser.driver.find_elements(By.CSS_SELECTOR, ".plot") if plot.is_displayed()]
    # 11 selects, 8 inputs, 4 buttons; two buttons for each figure; explanations and the link
    assert len(controls) == 11 + 8 + 4 + 2 * len(plots) + 4 + len(claims_frame()) + 1
    assert all(control.accessible_name for control in controls)
    assert all(plot.accessible_name for plot in plots)
    reached = set()
    for _ in range(len(controls) + 5):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = browser.driver.switch_to.active_element
        reached.add(focused.get_attribute("id") or focused.accessible_name)
        if focused.tag_name != "body":
            assert focused.value_of_css_property("outline-style") == "solid"
    enabled = {control.get_attribute("id") or control.accessible_name for control in controls if control.is_enabled()}
    assert enabled <= reached


def values_of(tables, **wanted):
    """Singular values of the change, a row for each snapshot or head, of the run that the page shows first."""
    wanted = {"matrix": "delta", "alpha": "1", "seed": 0, "product": "KQ", **wanted}
    return np.stack(select(tables["spectra"], **wanted)["singular_values"])


def test_singular_values_of_the_change_are_followed_through_training(opened, tables):
    browser = opened("head=2&layer=0")
    values = values_of(tables, head=2, layer=0)
    for index in range(5):
        [curve] = browser.curves("training", f"singular value {index + 1}")
        assert curve["x"] == [STEPS * epoch for epoch in EPOCHS]
        np.testing.assert_allclose(curve["y"], values[:, index], atol=1e-4)
    browser.choose("#head", "mean of all")
    [curve] = browser.curves("training", "singular value 2")
    mean = values_of(tables, layer=0).reshape(len(EPOCHS), 3, 5).mean(axis=1)
    np.testing.assert_allclose(curve["y"], mean[:, 1], atol=1e-4)
    browser.press("#epoch", Keys.ARROW_LEFT)
    line = browser.run("return document.getElementById('training').layout.shapes[0]")
    assert (line["x0"], line["yref"]) == (3 * STEPS, "paper")


def test_loss_and_accuracy_stand_on_the_axis_of_the_singular_values(opened, tables):
    browser = opened()
    metrics = select(tables["metrics"], alpha="1", seed=0)
    names = {"training loss": "train_loss", "test loss": "test_loss", "test accuracy": "test_accuracy"}
    for name, column in names.items():
        [curve] = browser.curves("training", name)
        assert curve["x"] == metrics["step"].tolist()
        np.testing.assert_allclose(curve["y"], metrics[column], rtol=1e-6)


def test_boxes_make_axes_logarithmic(opened):
    browser = opened()
    axes = [("training", "xaxis"), ("training", "yaxis"), ("spectra", "yaxis"), ("stages", "yaxis")]

    def kinds():
        return [browser.axis(*place).get("type") for place in axes]

    assert "log" not in kinds()
    for box, expected in {"log-time": [0], "log-values": [0, 1, 2], "log-loss": [0, 1, 2, 3]}.items():
        browser.find(f"#{box}").click()
        assert [place for place, kind in enumerate(kinds()) if kind == "log"] == expected
    low, high = browser.axis("training", "xaxis")["range"]
    assert 10**low < STEPS and 10**high > STEPS * EPOCHS[-1]  # without step 0


def test_all_heads_stand_in_a_heat_map_where_a_click_chooses(opened, tables):
    browser = opened()

    def shown():
        return np.array(browser.run("return document.getElementById('overview').data[0].z"))

    of_run = select(tables["measures"], alpha="1", seed=0, product="KQ", epoch=10)
    ranks, random = (
        select(of_run, matrix=matrix)["stable_rank"].to_numpy().reshape(2, 3) for matrix in ("delta", "random_product")
    )
    np.testing.assert_allclose(shown(), ranks, rtol=1e-6)
    browser.choose("#overview-of", "stable rank / that of a random change of equal norm")
    np.testing.assert_allclose(shown(), ranks / random, rtol=1e-6)
    browser.choose("#overview-of", "largest singular value of the change")
    np.testing.assert_allclose(shown(), values_of(tables, epoch=10)[:, 0].reshape(2, 3), rtol=1e-6)
    click(browser, "overview", 0.75, 0.2)
    chosen = [browser.find(f"#{name}") for name in ("layer", "head")]
    browser.wait(lambda: [select.get_attribute("value") for select in chosen] == ["0", "2"])
    click(browser, "overview", 0.75, 0.2)
    browser.wait(lambda: chosen[1].get_attribute("value") == "all")


def test_two_runs_of_networks_stand_side_by_side_on_the_same_axes(opened, tables):
    browser = opened("head=1")
    beside = [browser.find(f"#{plot}-beside") for plot in ("spectra", "training", "overview")]
    assert not any(plot.is_displayed() for plot in beside)
    browser.choose("#beside", "Digits (8 x 8), α = 0.1, seed 0")
    assert all(plot.is_displayed() for plot in beside)
    left, right = (browser.find(f"#{plot}").location for plot in ("training", "training-beside"))
    assert left["y"] == right["y"] and left["x"] < right["x"]
    values = values_of(tables, alpha="0.1", head=1, layer=1)
    [curve] = browser.curves("training-beside", "singular value 3")
    np.testing.assert_allclose(curve["y"], values[:, 2], atol=1e-4)
    np.testing.assert_allclose(browser.lines("spectra-beside")[-1], values[-1] / values[-1, 0], atol=1e-4)
    for name in ("yaxis", "yaxis2", "yaxis3"):
        assert browser.axis("training", name)["range"] == browser.axis("training-beside", name)["range"]
    assert "α = 1, seed 0: Epoch 10" in browser.find("#networks-readout").text
    assert "α = 0.1, seed 0: Epoch 10" in browser.find("#networks-readout").text
    click(browser, "overview-beside", 0.75, 0.2)  # chooses in both
    browser.wait(lambda: browser.find("#head").get_attribute("value") == "2")


def test_curves_of_the_toy_model_are_drawn_up_to_the_time_of_the_slider(opened, tables):
    browser = opened("alpha=0.1&time=110")
    run = select(tables["trajectory"], variant="diagonal", alpha="0.1", product="VO", index=2)["value"].to_numpy()
    [entry] = browser.curves("stages", "entry 3, stage 2")
    assert entry["x"] == [0, 20, 40, 60, 80, 100, 110]
    np.testing.assert_allclose(entry["y"], [*run[:6], run[5:7].mean()], atol=1e-3)  # 110 is halfway
    [loss] = browser.curves("stages", "loss")
    assert loss["x"][-1] == 110
    assert all(curve["x"][-2:] == [150, 200] for curve in browser.curves("stages", "predicted limit")[:1])
    browser.press("#time", Keys.HOME)
    assert [curve["x"] for curve in browser.curves("stages", "loss")] == [[0]]


def test_stages_that_happened_stand_beside_those_predicted(opened):
    browser = opened("time=96")
    assert browser.curves("stages", "predicted") == [{"x": PREDICTED, "y": [1, 2, 3]}]
    assert browser.curves("stages", "measured") == [{"x": [34], "y": [1]}]
    browser.press("#time", Keys.END)
    assert browser.curves("stages", "measured") == [{"x": [34, 97], "y": [1, 2]}]  # the third never does
    browser.choose("#variant", "full: full weights, diagonal teacher, gradient flow")
    assert browser.curves("stages", "predicted") == []
    assert browser.curves("stages", "measured") == [{"x": [34, 97, 120], "y": [1, 2, 3]}]


def test_heads_of_a_transformer_are_chosen_and_their_stages_shown(opened, tables):
    browser = opened("variant=diagonal")
    assert not browser.find("#toy-head").is_displayed()
    browser.choose("#variant", "heads: diagonal weights, diagonal teacher, gradient flow, layers: 1, heads: 2")
    browser.choose("#toy-head", "2")
    assert not browser.find("#toy-layer").is_displayed()
    rows = select(tables["trajectory"], variant="heads", product="KQ", head=1, index=3)
    [entry] = browser.curves("stages", "entry 4, stage 3")
    np.testing.assert_allclose(entry["y"], rows["value"], atol=1e-3)
    assert browser.curves("stages", "predicted") == [{"x": PREDICTED, "y": [1, 2, 3]}]


def test_two_runs_of_the_toy_model_stand_side_by_side_on_the_same_axes(opened, tables):
    browser = opened("alpha=1e-3000&time=100")
    assert not browser.find("#stages-beside").is_displayed()
    browser.choose("#toy-beside", "heads, α = 0.1, seed 99")
    assert browser.find("#stages-beside").is_displayed()
    rows = select(tables["trajectory"], variant="heads", product="KQ", head=0, index=1)
    [entry] = browser.curves("stages-beside", "entry 2, stage 1")
    np.testing.assert_allclose(entry["y"], rows["value"][:6], atol=1e-3)
    for name in ("xaxis", "yaxis", "yaxis2", "yaxis3", "yaxis4"):
        assert browser.axis("stages", name)["range"] == browser.axis("stages-beside", name)["range"]


def download(browser, folder, label, name):
    """The bytes of the file that a button gives."""
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    browser.run(f"document.querySelector('[aria-label=\"{label}\"]').click()")
    browser.wait(lambda: (folder / name).exists() and (folder / name).stat().st_size > 0)
    return (folder / name).read_bytes()


def test_what_is_shown_is_downloaded_as_a_table_and_as_an_image(opened, tables, tmp_path):
    browser = opened("head=1&beside=Digits (8 x 8), α = 0.1, seed 0&time=100")
    text = download(browser, tmp_path, "Download training as CSV", "tiny-training.csv").decode()
    table = pd.read_csv(io.StringIO(text))
    for alpha in ("1", "0.1"):
        rows = select(table, plot=f"Digits (8 x 8), α = {alpha}, seed 0", curve="singular value 1")
        np.testing.assert_allclose(rows["y"], values_of(tables, alpha=alpha, head=1, layer=1)[:, 0], rtol=1e-4)
        assert set(rows["x_axis"]) == {"step"} and set(rows["y_axis"]) == {"singular value"}
    text = download(browser, tmp_path, "Download stages as CSV", "tiny-stages.csv").decode()
    assert select(pd.read_csv(io.StringIO(text)), curve="loss")["x"].max() == 100  # up to the slider
    text = download(browser, tmp_path, "Download overview as CSV", "tiny-overview.csv").decode()
    assert len(pd.read_csv(io.StringIO(text)).dropna()) == 12  # layers, heads, runs
    image = download(browser, tmp_path, "Download scales as PNG", "tiny-scales.png")
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    size = browser.find("#scales").size
    assert struct.unpack(">II", image[16:24]) == (2 * size["width"], 2 * size["height"])


def test_the_live_panel_trains_what_it_says(opened):
    browser = opened("live-alpha=1e-4&live-problem=34")
    assert "predicts the first 6 stages" in browser.find("#live-readout").text
    assert browser.curves("live-stages", "loss")[0]["x"] == [0]
    browser.find("#live-train").click()
    browser.wait(lambda: browser.find("#live").get_attribute("data-training") == "done")
    [loss] = browser.curves("live-stages", "loss")
    [predicted], [measured] = (browser.curves("live-stages", name) for name in ("predicted", "measured"))
    assert loss["x"][-1] == pytest.approx(1.25 * predicted["x"][-1])
    assert loss["y"][-1] < 0.02 * loss["y"][0]
    assert measured["y"] == predicted["y"] == [1, 2, 3, 4, 5, 6]
    off = np.abs(np.subtract(measured["x"], predicted["x"])).max()
    assert f"6 have happened, at times {measured['x'][0]:.3g}" in browser.find("#live-readout").text
    assert f"at most {off:.3g} from the prediction" in browser.find("#live-readout").text
    browser.press("#live-alpha", Keys.ARROW_RIGHT)  # trains at once, and keeps the loss for comparison
    browser.wait(lambda: browser.find("#live").get_attribute("data-training") == "done")
    assert browser.find("#live-alpha-value").text == "1e-6"
    assert browser.curves("live-stages", "loss at α = 1e-4") == [loss]
    [smaller] = browser.curves("live-stages", "measured")
    assert np.abs(np.subtract(smaller["x"], predicted["x"])).max() < off
    browser.press("#live-problem", Keys.BACKSPACE, Keys.BACKSPACE, "5", Keys.ENTER)
    assert browser.curves("live-stages", "predicted")[0]["x"] != predicted["x"]
    assert browser.curves("live-stages", "loss at α = 1e-4") == []


def test_firefox_shows_the_values_of_the_tables_and_trains(firefox, page, tables):
    firefox.open(f"file://{page}#head=1&layer=0&live-alpha=1e-4&live-problem=34")
    firefox.run("while (!document.body.dataset.ready) await new Promise((wake) => setTimeout(wake, 50));")

    def curve(plot, name):
        traces = f"document.getElementById('{plot}').data.filter((trace) => trace.name === '{name}')"
        return firefox.run(f"const [{{x, y}}] = {traces}; return [x, y];")

    np.testing.assert_allclose(
        curve("training", "singular value 2")[1], values_of(tables, head=1, layer=0)[:, 1], atol=1e-4
    )
    assert curve("stages", "predicted") == [PREDICTED, [1, 2, 3]]
    assert firefox.run("return [...document.querySelectorAll('.plot .main-svg')].length") >= 6
    trained = "document.getElementById('live').dataset.training === 'done'"
    wait = f"while (!({trained})) await new Promise((wake) => setTimeout(wake, 50));"
    firefox.run(f"document.getElementById('live-train').click(); {wait}")
    predicted, measured = (curve("live-stages", name)[0] for name in ("predicted", "measured"))
    np.testing.assert_allclose(measured, predicted, rtol=0.3)
    assert len(measured) == 6 and not firefox.errors


@pytest.mark.parametrize(
    ("half", "present", "missing", "sentence"),
    [
        ("networks", "toy", ["spectra", "measures", "metrics"], "This study trains no networks."),
        ("toy", "networks", ["trajectory", "losses", "stages"], "This study has no runs of the toy model."),
        ("claims", "networks", ["claims"], "This study has no table of claims."),
    ],
)
def test_a_study_without_one_half_says_so(opened, tables, tmp_path, half, present, missing, sentence):
    path = build(tmp_path, {name: table for name, table in tables.items() if name not in missing})
    browser = opened(path=path)
    assert browser.find(f"#{half} .missing").text == sentence
    assert not browser.find(f"#{half} .part").is_displayed()
    assert browser.find(f"#{present} .part").is_displayed()
    assert not browser.find(f"#{present} .missing").is_displayed()


def test_claims_stand_in_a_table_with_verdicts_that_read_without_colour(opened):
    browser = opened()
    assert browser.find("#claims-readout").text == "Of 3 claims, 1 supported, 1 not supported, 1 not tested."
    cells = [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
        for row in browser.driver.find_elements(By.CSS_SELECTOR, "#claims-rows tr")
    ]
    assert [row[0] for row in cells] == ["✓ supported", "✗ not supported", "– not tested"]
    assert cells[1][1].startswith("<b>It</b> grows.")
    assert [row[2] for row in cells] == ["0.25 (threshold: < 0.5)", "0.75 (threshold: < 0.5)", "–"]


def test_a_study_too_short_for_any_stage_and_without_metrics_is_drawn(opened, tables, tmp_path):
    """As of networks that were trained elsewhere."""
    some = {name: table for name, table in tables.items() if name != "metrics"}
    browser = opened(path=build(tmp_path, {**some, "stages": tables["stages"].iloc[:0]}))
    assert "predicts nothing for this problem" in browser.find("#toy-readout").text
    assert "accuracy" not in browser.find("#networks-readout").text
    assert [curve["x"] for curve in browser.curves("training", "test loss")] == [[]]
    assert browser.axis("training", "yaxis3")["range"] == [0, 1.04]


def test_the_browser_shows_a_name_as_it_is(opened, tables, tmp_path):
    name = " ".join(NAMES)
    browser = opened(path=build(tmp_path, tables, names={"digits": name}))
    assert Select(browser.find("#network")).first_selected_option.text == name
    assert browser.driver.title == "Gradual rank increase: tiny"
