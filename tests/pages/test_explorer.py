import base64
import gzip
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from rank_increase.figures.networks import BASELINES as DRAWN
from rank_increase.pages.explorer import ArrayStore, networks_part, render_page, shown_moments, toy_part
from rank_increase.tables import write_table
from scripts.evidence import build_explorer

VARIANTS = {
    "diagonal": {"weights": "diagonal", "teacher": "diagonal", "method": "flow", "layers": 0},
    "diagonal_gd": {"weights": "diagonal", "teacher": "diagonal", "method": "gd", "layers": 0},
    "full": {"weights": "full", "teacher": "diagonal", "method": "flow", "layers": 0},
}
BASELINES = {
    "random_product": "random change of equal norm",
    "noisy_factors": "random change of the factors",
}
SHOWN = {"scale": "1", "seed": 0, "alpha": "1e-3000", "problem": 99}
EPOCHS = [0, 1, 3, 10]
RANDOM = np.random.default_rng(0)


def spectra_frame(network, alpha, seed, layers=2, heads=3, dim=5, epochs=EPOCHS):
    """Tables "spectra" and "measures" of one run, with random singular values; at epoch 0 the changes are zero."""
    grid = pd.MultiIndex.from_product([epochs, range(layers), range(heads), ["KQ", "VO"]])
    rows = grid.to_frame(index=False, name=["epoch", "layer", "head", "product"])
    rows = rows.assign(network=network, alpha=alpha, seed=seed)

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
    return whole.drop(columns="stable_rank"), whole.drop(columns="singular_values")


def metrics_frame(network, alpha, seed):
    epochs = range(1, EPOCHS[-1] + 1)
    return pd.DataFrame(
        {"network": network, "alpha": alpha, "seed": seed, "epoch": epochs, "test_accuracy": np.linspace(0.1, 0.8, 10)}
    )


def toy_frames(variant, alpha, seed, dim=4, moments=11):
    """Tables "trajectory" and "losses" of one run."""
    run = {"variant": variant, "alpha": alpha, "seed": seed}
    time, product, index = (part.ravel() for part in np.indices((moments, 2, dim)))
    entries = {"product": np.array(["KQ", "VO"])[product], "index": index, "value": RANDOM.normal(size=time.size)}
    trajectory = pd.DataFrame({**run, "rescaled_time": 20.0 * time, **entries})
    moment = np.arange(moments)
    return trajectory, pd.DataFrame({**run, "rescaled_time": 20.0 * moment, "loss": 1 / (1 + moment)})


def stages_frame(seed, dim=4):
    entries = [("KQ", 1), ("VO", 2), ("KQ", 3)]
    products = np.cumsum(RANDOM.normal(size=(2, len(entries), dim)), axis=1)
    return pd.DataFrame(
        {
            "variant": "diagonal",
            "seed": seed,
            "stage": [1, 2, 3],
            "product": [product for product, _ in entries],
            "index": [index for _, index in entries],
            "predicted_time": [30.0, 90.0, 150.0],
            "loss": [0.5, 0.3, 0.1],
            "KQ": list(products[0]),
            "VO": list(products[1]),
        }
    )


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
    toy = [("diagonal", "0.1", 99), ("diagonal", "1e-3000", 99), ("full", "0.1", 99)]
    trajectory, losses = joined(toy_frames(*run) for run in toy)
    return {
        "trajectory": trajectory,
        "losses": losses,
        "stages": stages_frame(99),
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
    order = [("diagonal", "0.1", 99), ("diagonal", "1e-3000", 99), ("full", "0.1", 99)]
    assert [(run["variant"], run["alpha"], run["seed"]) for run in runs] == order
    for run in runs:
        rows = select(tables["trajectory"], variant=run["variant"], alpha=run["alpha"])
        np.testing.assert_array_equal(array(run["time"]), 20.0 * np.arange(11))
        np.testing.assert_allclose(array(run["loss"]), 1 / (1 + np.arange(11)), rtol=1e-7)
        for product in ("KQ", "VO"):
            values = select(rows, product=product)["value"].to_numpy().reshape(11, 4).T
            error = np.abs(array(run[product]) - values).max()
            assert error <= np.abs(values).max() / 65534 * 1.0001
    stages = study["toy"]["stages"]["diagonal"]["99"]
    np.testing.assert_allclose(array(stages["KQ"]), np.stack(tables["stages"]["KQ"], axis=1), atol=1e-3)
    assert (stages["product"], stages["index"]) == (["KQ", "VO", "KQ"], [1, 2, 3])


def test_transformers_are_left_out(tmp_path, tables, monkeypatch):
    monkeypatch.setitem(VARIANTS, "heads", {**VARIANTS["diagonal"], "layers": 1})
    added = {name: tables[name].assign(variant="heads") for name in ("trajectory", "losses", "stages")}
    more = {name: pd.concat([tables[name], added[name]]) if name in added else tables[name] for name in tables}
    toy = decode(build(tmp_path, more).read_text())[0]["toy"]
    assert "heads" not in {*toy["variants"], *toy["stages"], *(run["variant"] for run in toy["runs"])}
    assert len(toy["runs"]) == 3


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
    }


def test_spectra_come_back_out_of_the_page_normalised(page, tables):
    study, array = decode(page.read_text())
    runs = study["networks"]["runs"]
    assert [(run["alpha"], run["seed"]) for run in runs] == [("0.1", 0), ("1", 0), ("1", 1)]
    for run in runs:
        assert run["epochs"] == EPOCHS and run["accuracy"]["10"] == 0.8
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
                np.testing.assert_allclose(array(places["stable_rank"]).ravel(), ranks["stable_rank"], rtol=1e-7)


@pytest.mark.parametrize(("baseline", "label"), BASELINES.items())
def test_baselines_have_the_same_name_in_legend_curves_and_figures(page, baseline, label):
    text = page.read_text()
    assert re.findall(rf'<path class="{baseline}" d="M1 7H43"/></svg>\s+(.*?)\s+</li>', text) == [label]
    assert re.findall(rf'\b{baseline}: {{\n.*\bname: "(.*?)"', text) == [label]
    assert DRAWN[baseline]["label"] == label


def test_values_that_are_zero_at_every_epoch_are_left_out(tables):
    spectra = tables["spectra"].assign(singular_values=[np.array([2.0, 1.0, 1e-9])] * len(tables["spectra"]))
    part = networks_part(ArrayStore(), spectra, tables["measures"], tables["metrics"], {})
    assert part["runs"][0]["products"]["KQ"]["delta"]["spectra"]["shape"] == [len(EPOCHS), 2, 3, 2]


def test_a_run_without_some_of_its_heads_is_named(tables):
    with pytest.raises(ValueError, match="^the spectra of the run digits 0.1 0 are incomplete$"):
        networks_part(ArrayStore(), tables["spectra"].iloc[1:], tables["measures"], tables["metrics"], {})


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
    networks = networks_part(store, spectra, measures, metrics, {})
    assert networks["runs"][0]["products"]["KQ"]["delta"]["spectra"]["shape"] == [16, 6, 8, 64]
    # The toy half of the demo: 16 runs. Noise, unlike what training gives, does not become smaller when compressed.
    trajectory, losses = joined(toy_frames("diagonal", f"1e-{number}", 0, 50, 567) for number in range(1, 17))
    toy = toy_part(store, trajectory, losses, stages_frame(0, dim=50), VARIANTS)
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


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium."""
    paths = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if not all(paths):
        pytest.skip(
            "the explorer's script was NOT TESTED, for there is no Chromium with chromedriver: on Debian,"
            " `apt-get install chromium chromium-driver`; elsewhere, install Chrome and the chromedriver of its version"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(paths[1]))
    yield driver
    driver.quit()


class Page:
    """The page, opened from disk, and what can be read from it."""

    def __init__(self, driver, path, view="", width=1280):
        self.driver = driver
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(f"file://{path}#{view}")
        self.wait(lambda: self.run("return document.body.dataset.ready"))

    def wait(self, condition):
        WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda _: condition())

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

    def drawn(self, plot):
        """What the browser has on screen in a plot."""
        return self.find(f"#{plot}").get_attribute("innerHTML")

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture
def opened(chromium, page):
    """Opens the page, at a view and a width; at the end no error may have reached the console."""
    pages = []

    def open_page(view="", width=1280, path=page):
        pages.append(Page(chromium, path, view, width))
        return pages[-1]

    yield open_page
    assert not pages[-1].errors()


def delta(tables, epoch, **wanted):
    """Normalised spectra of the change, one row for each head of the second layer."""
    rows = select(tables["spectra"], matrix="delta", layer=1, epoch=epoch, **wanted)
    values = np.stack(rows["singular_values"])
    return values / values[:, :1]


def test_the_page_opens_from_disk_with_the_values_of_the_tables_and_loads_nothing(opened, tables):
    browser = opened()
    assert "tiny" in browser.find("#about").text and "0123456789ab" in browser.find("#about").text
    spectra = delta(tables, 10, alpha="1", seed=0, product="KQ")
    np.testing.assert_allclose(browser.lines("spectra")[-1], spectra.mean(axis=0), atol=1e-4)
    ranks = (spectra**2).sum(axis=1)
    np.testing.assert_allclose(browser.lines("ranks")[-1][-1], ranks.mean(), rtol=1e-6)
    assert f"Stable rank of the change: {ranks.mean():.3g};" in browser.find("#networks-readout").text
    assert "Test accuracy: 80.0" in browser.find("#networks-readout").text
    np.testing.assert_allclose(browser.lines("scales")[2][-1], ranks.mean(), rtol=1e-6)
    run = select(tables["trajectory"], variant="diagonal", alpha="1e-3000", product="VO", index=2)["value"]
    assert any(line[:11] == pytest.approx(run.tolist(), abs=1e-3) for line in browser.lines("stages"))
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.run("return document.querySelectorAll('.plot .main-svg').length") >= 4


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
        for plot in ("spectra", "ranks", "scales")
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
    browser = opened()
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
        before = browser.lines("spectra"), browser.lines("ranks")
        browser.choose(f"#{selector}", label)
        assert before[0] != browser.lines("spectra") and before[1] != browser.lines("ranks")
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
    click(browser, "ranks", 0.38, 0.6)
    browser.wait(lambda: browser.find("#epoch-value").text == "3 of 10")
    click(browser, "scales", 0.2, 0.6)
    browser.wait(lambda: browser.find("#scale").get_attribute("value") == "0.1")
    click(browser, "stages", 0.9, 0.1)
    browser.wait(lambda: browser.find("#time").get_attribute("value") in ("160", "180", "200"))


def test_the_cursor_in_time_runs_through_loss_and_entries(opened):
    browser = opened("time=100")
    assert "2 of 3 stages" in browser.find("#toy-readout").text
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
    assert "predicts nothing for full weights" in browser.find("#toy-readout").text
    assert not any(item.is_displayed() for item in browser.driver.find_elements(By.CSS_SELECTOR, ".prediction"))
    assert not browser.find("#alpha").is_enabled()


def test_a_view_is_in_the_address_and_comes_back_from_it(opened):
    browser = opened()
    browser.choose("#head", "3")
    browser.press("#epoch", Keys.HOME)
    browser.press("#alpha", Keys.HOME)
    browser.wait(lambda: "alpha=0.1" in browser.driver.current_url)
    view = browser.driver.current_url.split("#")[1]
    again = opened(view)
    assert Select(again.find("#head")).first_selected_option.text == "3"
    assert (again.find("#epoch-value").text, again.find("#alpha-value").text) == ("0 of 10", "0.1")


def test_a_nonsensical_address_gives_the_default_view(opened):
    browser = opened("network=x&layer=99&head=-1&epoch=none&time=later&alpha=%3Cb%3E&__proto__=1")
    assert (browser.find("#epoch-value").text, browser.find("#alpha-value").text) == ("10 of 10", "1e-3000")
    assert browser.find("#time-value").text == "100"


def test_a_phone_shows_one_column_without_scrolling_sideways(opened):
    browser = opened(width=390)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    lefts = browser.run("return [...document.querySelectorAll('.plot')].map((p) => p.getBoundingClientRect().left)")
    assert len(lefts) == 4 and len(set(lefts)) == 1


def test_every_control_has_a_name_and_shows_that_it_has_the_focus(opened):
    browser = opened()
    controls = browser.driver.find_elements(By.CSS_SELECTOR, "select, input, button, summary")
    assert len(controls) == 16 + 1 + len(claims_frame())
    assert all(control.accessible_name for control in controls)
    assert all(plot.accessible_name for plot in browser.driver.find_elements(By.CSS_SELECTOR, ".plot"))
    reached = set()
    for _ in range(24):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = browser.driver.switch_to.active_element
        reached.add(focused.get_attribute("id") or focused.tag_name)
        if focused.tag_name != "body":
            assert focused.value_of_css_property("outline-style") == "solid"
    enabled = {control.get_attribute("id") or "summary" for control in controls if control.is_enabled()}
    assert enabled <= reached


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


def test_a_study_too_short_for_any_stage_is_drawn_without_a_prediction(opened, tables, tmp_path):
    browser = opened(path=build(tmp_path, {**tables, "stages": tables["stages"].iloc[:0]}))
    assert "predicts nothing for this problem" in browser.find("#toy-readout").text


def test_the_browser_shows_a_name_as_it_is(opened, tables, tmp_path):
    name = " ".join(NAMES)
    browser = opened(path=build(tmp_path, tables, names={"digits": name}))
    assert Select(browser.find("#network")).first_selected_option.text == name
    assert browser.driver.title == "Gradual rank increase: tiny"
