"""What the explorer, the configuration page, the published files, the plan and the status of a study say of it."""

import base64
import csv
import gzip
import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

BASELINE = "noise"  # which baseline the explorer shows, under this name
TOY = ["trajectory", "events", "conservation", "stages", "theorem", "perturbations"]
VIT = ["metrics", "spectra", "baselines"]
ROUNDED = {"trajectory": ["value"], "perturbations": ["value", "reference"]}
ROUNDED |= {"spectra": ["singular_values"], "baselines": ["singular_values"]}


@pytest.fixture(scope="module")
def page(wired):
    """What the explorer shows, and a function that gives its arrays."""
    text = (wired.results / "explorer.html").read_text()
    parts = dict(re.findall(r'<script type="application/[^"]*" id="(\w+)">(.*?)</script>', text, re.DOTALL))
    data = gzip.decompress(base64.b64decode(parts["arrays"]))

    def array(place):
        kind = {"float32": "<f4", "int16": "<i2", "uint16": "<u2"}[place["type"]]
        count = int(np.prod(place["shape"]))
        values = np.frombuffer(data, kind, count, place["start"]).reshape(place["shape"])
        return values * (place["step"] or 1.0)

    return json.loads(parts["study"]), array


def select(rows, **wanted):
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows


def test_explorer_shows_the_toy_runs_and_their_predictions(wired, page):
    study, array = page
    trajectory, stages = wired.table("tables/trajectory"), wired.table("tables/stages")
    runs = {(run["structure"], run["alpha"], run["seed"]): run for run in study["toy"]["runs"]}
    assert len(runs) == len(study["toy"]["runs"]) == 12
    for (structure, alpha, seed), run in runs.items():
        rows = select(trajectory, structure=structure, alpha=alpha, seed=seed).sort_values("time")
        once = select(rows, product="KQ", index=0)
        np.testing.assert_allclose(array(run["time"]), once["rescaled_time"], rtol=1e-6)
        np.testing.assert_allclose(array(run["loss"]), once["loss"], rtol=1e-6)
        for product in ("KQ", "VO"):
            values = [select(rows, product=product, index=index)["value"] for index in range(4)]
            np.testing.assert_allclose(array(run[product]), values, atol=np.abs(values).max() / 65000)
    for seed in (3, 7):
        found, rows = study["toy"]["stages"][str(seed)], select(stages, seed=seed).sort_values("stage")
        np.testing.assert_allclose(array(found["time"]), rows["predicted_time"], rtol=1e-6)
        np.testing.assert_allclose(array(found["loss"]), rows["loss"], rtol=1e-6)
        assert [found["product"], found["index"]] == [rows["product"].tolist(), rows["index"].tolist()]
        for product in ("KQ", "VO"):
            limits = np.stack(rows[product]).T
            np.testing.assert_allclose(array(found[product]), limits, atol=max(abs(limits).max(), 1e-9) / 65000)
    forms = study["toy"]["structures"]
    assert forms["full_dense"]["teacher"] == "dense"
    assert [name for name in forms if forms[name]["predicted"]] == ["diagonal", "diagonal_gd", "diagonal_sgd"]


def test_explorer_shows_the_spectra_of_every_run(wired, page):
    study, array = page
    spectra, baselines = wired.table("tables/spectra"), wired.table("tables/baselines")
    metrics = wired.table("tables/metrics")
    assert study["vit"]["names"] == {"digits": "Digits (8 x 8)"}
    assert sorted((run["alpha"], run["seed"]) for run in study["vit"]["runs"]) == [
        ("0.3", 2),
        ("0.6", 0),
        ("0.6", 2),
        ("1", 2),
    ]
    for run in study["vit"]["runs"]:
        of_run = {"alpha": run["alpha"], "seed": run["seed"]}
        assert run["epochs"] == [0, 1, 2, 3]
        accuracy = select(metrics, **of_run).set_index("epoch")["test_accuracy"]
        assert {int(epoch): value for epoch, value in run["accuracy"].items()} == accuracy.to_dict()
        for product, matrix in np.ndindex(2, 3):
            product, matrix = ("KQ", "VO")[product], ("initial", "delta", BASELINE)[matrix]
            table = select(baselines, baseline=BASELINE) if matrix == BASELINE else select(spectra, matrix=matrix)
            shown = run["products"][product][matrix]
            values, ranks = array(shown["spectra"]), array(shown["stable_rank"])
            assert values.shape[:3] == ranks.shape == (1 if matrix == "initial" else 4, 3, 2)
            for epoch, layer, head in np.ndindex(ranks.shape):
                where = {"product": product, "epoch": epoch, "layer": layer, "head": head}
                [row] = select(table, **of_run, **where).to_dict("records")
                expected = row["singular_values"] / (row["singular_values"][0] or 1)
                np.testing.assert_allclose(values[epoch, layer, head], expected[: values.shape[3]], atol=1e-5)
                np.testing.assert_allclose(ranks[epoch, layer, head], row["stable_rank"], rtol=1e-6)


def test_explorer_begins_with_what_figures_show_and_has_the_claims(wired, page):
    study, _ = page
    assert study["about"]["study"] == "wired"
    assert study["shown"] == {"scale": "0.6", "seed": 2, "alpha": "1e-8", "problem": 7}
    for found, row in zip(study["claims"], wired.table("claims").to_dict("records"), strict=True):
        assert found["statement"] == row["statement"]
        assert (found["verdict"], found["relation"]) == (row["verdict"], row["relation"])
        assert found["value"] == (None if np.isnan(row["value"]) else row["value"])


def test_configuration_page_has_every_key(wired):
    text = (wired.results / "configuration.html").read_text()
    assert yaml.safe_load(html.unescape(re.search("<pre>(.*)</pre>", text, re.DOTALL)[1])) == wired.config


def published_table(wired, name):
    frame = pd.read_parquet(wired.folder / f"results/published/wired/{name}.parquet")
    return frame.astype({key: str for key in frame if frame[key].dtype == "category"})


@pytest.mark.parametrize("name", [*TOY, *(f"digits/{name}" for name in VIT)])
def test_published_tables_are_those_of_the_study(wired, name):
    found, expected = published_table(wired, f"tables/{name}"), wired.table(f"tables/{name}")
    assert list(found.columns) == list(expected.columns)
    assert len(found) == len(expected)
    for column in expected:
        if column in ROUNDED.get(name.removeprefix("digits/"), []):
            values, exact = (np.hstack(frame[column].to_numpy()) for frame in (found, expected))
            np.testing.assert_allclose(values, exact, rtol=2**-16)
        else:
            assert [str(value) for value in found[column]] == [str(value) for value in expected[column]], column


def test_published_pages_and_figures_are_those_of_the_study(wired):
    folder = wired.folder / "results/published/wired"
    names = ["claims.md", "explorer.html", *(f"figures/{p.name}" for p in (wired.results / "figures").glob("*.png"))]
    assert len(names) == 2 + 19
    for name in names:
        assert (folder / name).read_bytes() == (wired.results / name).read_bytes()
    tables = [f"tables/{name}.parquet" for name in (*TOY, *(f"digits/{name}" for name in VIT))]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*names, *tables, "claims.parquet", "published.json"}
    assert published_table(wired, "claims").equals(wired.table("claims"))
    assert json.loads((folder / "published.json").read_text())["study"] == "wired"


def numbers(text, name):
    """What follows a name at the beginning of a line."""
    return re.search(rf"(?m)^  {re.escape(name)}  +(.*)$", text)[1].split()


def benchmark_hours(wired, run):
    with open(wired.results / f"benchmarks/train_vit/{run}.tsv") as file:
        return float(next(csv.DictReader(file, delimiter="\t"))["s"]) / 3600


@pytest.fixture(scope="module")
def said(wired):
    """What the rules print that tell a person of a study."""
    return wired.snakemake("plan", "status", "--quiet", "all")


def test_plan_counts_jobs_operations_and_hours(wired, said):
    files = {
        "make_problem": "toy/*/seed_*/problem.npz",
        "run_algorithm1": "toy/diagonal/seed_*/stages.parquet",
        "train_toy": "toy/*/alpha_*/seed_*/trajectory.parquet",
        "compare_theorem": "toy/diagonal/seed_*/theorem.parquet",
        "perturb_toy": "assumptions/*/seed_*/perturbations.parquet",
        "prepare_dataset": "datasets/*/manifest.json",
        "train_vit": "vit/*/*/*/metrics.parquet",
        "compute_spectra": "vit/*/*/*/spectra.parquet",
        "compute_baselines": "vit/*/*/*/baselines.parquet",
    }
    for rule, pattern in files.items():
        assert numbers(said, rule) == [str(len(list(wired.results.glob(pattern))))]
    heads = 2 * 2 * (2 * 5 * 5 * 5)  # of logits and values, 5 tokens of 5 features for each of 2 heads
    layer = 2 * 5 * 12 * 30 + heads + 2 * 5 * 10 * 12 + 2 * 2 * 5 * 12 * 7
    last = 2 * 12 * 10 + 2 * 5 * 12 * 20 + heads / 5 + 2 * 10 * 12 + 2 * 2 * 12 * 7  # for the class token alone
    forward = 2 * 4 * 16 * 12 + 2 * layer + last + 2 * 12 * 10
    flops = 3 * (3 * 11 * 128 + 359) * forward
    hours = flops / (0.06e12 * 0.4) / 3600
    runs, _, unit, shown, *on, of_run, total = numbers(said, "digits")
    assert (runs, unit, shown, on) == ("4", "M", f"{flops:.2e}", ["1", "core"])
    assert (of_run, total) == (f"{hours:.3g}", f"{4 * hours:.3g}")
    measured = re.findall(r"(?m)^  digits +([\d.]+) +(\d) +(\S+) +(\S+) +\S+$", said)
    assert len(measured) == 4
    for alpha, seed, predicted, took in measured:
        hours_taken = benchmark_hours(wired, f"digits_alpha_{alpha}_seed_{seed}")
        assert (predicted, took) == (f"{hours:.3g}", f"{hours_taken:.3g}")


def test_status_counts_finished_runs(said):
    assert 'Study "wired"' in said
    assert numbers(said, "toy runs") == ["12", "0", "12"]
    assert numbers(said, "vision transformers") == ["4", "0", "0", "0", "4"]
    assert numbers(said, "their spectra") == ["4", "0", "4"]
