"""What the explorer, the configuration page, the published files, the plan and the status of a study say of it."""

import base64
import csv
import gzip
import html
import json
import re
from itertools import product as product_of

import numpy as np
import pytest
import yaml

from wired import LINEAR_ATTENTION_TABLES, NETWORK_TABLES, ROOT, TOY_TABLES, plain_table

NETWORKS = {"wide": (3, 2), "narrow": (2, 3)}  # layers and heads
SHOWN = ("initial", "delta", "random_product", "noisy_factors")
TABLES = [*TOY_TABLES, *LINEAR_ATTENTION_TABLES]
TABLES += [*(f"{name}/{network}" for name in NETWORK_TABLES for network in NETWORKS)]
ROUNDED = {
    "trajectory": ["value", "log_value"],
    "perturbations": ["value", "reference"],
    "spectra": ["singular_values"],
    "matrices": ["relative_norm", "stable_rank", "effective_rank", "row_cosine", "singular_values"],
}


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
    trajectory, losses, stages = (wired.table(f"tables/{name}") for name in ("trajectory", "losses", "stages"))
    runs = {(run["variant"], run["alpha"], run["seed"]): run for run in study["toy"]["runs"]}
    assert len(runs) == len(study["toy"]["runs"]) == 14
    for (variant, alpha, seed), run in runs.items():
        rows = select(trajectory, variant=variant, alpha=alpha, seed=seed).sort_values("rescaled_time")
        once = select(losses, variant=variant, alpha=alpha, seed=seed).sort_values("time")
        np.testing.assert_allclose(array(run["time"]), once["rescaled_time"], rtol=1e-6)
        np.testing.assert_allclose(array(run["loss"]), once["loss"], rtol=1e-6)
        for product in ("KQ", "VO"):
            values = [select(rows, product=product, index=index)["value"] for index in range(4)]
            np.testing.assert_allclose(array(run[product])[0, 0], values, atol=np.abs(values).max() / 65000)
    problems = {(variant, int(seed)) for variant, of_seed in study["toy"]["stages"].items() for seed in of_seed}
    assert problems == {("diagonal", 3), ("diagonal", 7), ("full", 3), ("full", 7), ("full_dense", 7)}
    for variant, seed in problems:
        found = study["toy"]["stages"][variant][str(seed)]
        rows = select(stages, variant=variant, seed=seed).sort_values("stage")
        np.testing.assert_allclose(array(found["time"]), rows["predicted_time"], rtol=1e-6)
        np.testing.assert_allclose(array(found["loss"]), rows["loss"], rtol=1e-6)
        assert [found["product"], found["index"]] == [rows["product"].tolist(), rows["index"].tolist()]
        for product in ("KQ", "VO"):
            limits = np.stack(rows[product]).T
            np.testing.assert_allclose(
                array(found[product]).reshape(limits.shape), limits, atol=max(abs(limits).max(), 1e-9) / 65000
            )
    forms = study["toy"]["variants"]
    assert forms["full_dense"]["teacher"] == "dense"
    limits = {name: form["limit"] for name, form in forms.items()}
    assert [name for name in limits if limits[name] == "diagonal"] == ["diagonal", "diagonal_gd", "diagonal_sgd"]
    assert (limits["full"], limits["full_dense"]) == ("full", "full_dense")


def test_explorer_shows_the_spectra_of_every_run(wired, page):
    study, array = page
    spectra, measures, metrics = (wired.table(f"tables/{name}") for name in ("spectra", "measures", "metrics"))
    rows = spectra.merge(measures, on=[key for key in spectra if key in measures], validate="1:1")
    assert len(rows) == len(spectra) == len(measures)
    assert study["networks"]["names"] == {"wide": "Wide tokens", "narrow": "Narrow tokens"}
    runs = {(run["network"], run["alpha"], run["seed"]): run for run in study["networks"]["runs"]}
    assert len(runs) == len(study["networks"]["runs"])
    assert set(runs) == set(metrics[["network", "alpha", "seed"]].itertuples(index=False, name=None))
    for (network, alpha, seed), run in runs.items():
        of_run = select(rows, network=network, alpha=alpha, seed=seed)
        epochs = sorted(set(of_run["epoch"]))
        np.testing.assert_allclose(run["epochs"], epochs, rtol=1e-12)
        of_epochs = select(metrics, network=network, alpha=alpha, seed=seed).sort_values("epoch")
        for name in ("epoch", "step", "train_loss", "test_loss", "test_accuracy"):
            np.testing.assert_allclose(array(run["metrics"][name]), of_epochs[name], rtol=1e-6)
        assert set(run["products"]) == {"KQ", "VO"}
        keys = ["product", "matrix", "epoch", "layer", "head"]
        found = of_run.set_index(keys)[["singular_values", "stable_rank"]].to_dict("index")
        for product, matrix in product_of(("KQ", "VO"), SHOWN):
            shown = run["products"][product][matrix]
            values, ranks = array(shown["spectra"]), array(shown["stable_rank"])
            assert values.shape[:3] == ranks.shape == (1 if matrix == "initial" else len(epochs), *NETWORKS[network])
            for place, layer, head in np.ndindex(ranks.shape):
                row = found[product, matrix, epochs[place], layer, head]
                expected = row["singular_values"] / (row["singular_values"][0] or 1)
                np.testing.assert_allclose(values[place, layer, head], expected[: values.shape[3]], atol=1e-5)
                assert max(expected[values.shape[3] :], default=0) <= 1e-4
                np.testing.assert_allclose(ranks[place, layer, head], row["stable_rank"], rtol=1e-6)


def test_explorer_begins_with_what_figures_show_and_has_the_claims(wired, page):
    study, _ = page
    assert study["about"]["study"] == "wired"
    assert study["shown"] == {"scale": "1", "seed": 2, "alpha": "1e-32", "problem": 7}
    for found, row in zip(study["claims"], wired.table("claims").to_dict("records"), strict=True):
        assert found["statement"] == row["statement"]
        assert (found["verdict"], found["relation"]) == (row["verdict"], row["relation"])
        assert found["value"] == (None if np.isnan(row["value"]) else row["value"])


def test_configuration_page_has_every_key(wired):
    """Those that the study states with their values, and all others with their defaults."""
    text = (wired.results / "configuration.html").read_text()
    shown = yaml.safe_load(html.unescape(re.search("<pre>(.*)</pre>", text, re.DOTALL)[1]))
    stated = wired.config
    for recipe in (network["recipe"] for network in stated["networks"].values()):
        recipe["optimizer"] = recipe.get("optimizer", {"name": "adam", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8})
        recipe["loss"] = {"name": recipe.get("loss", "cross_entropy")}
    differing = [path for path, value in leaves(stated) if value != look_up(shown, path)]
    assert differing == []
    defaults = yaml.safe_load((ROOT / "config/defaults.yaml").read_text())
    known = {path for path, _ in leaves(stated)}
    for path, value in leaves(defaults):
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in known) and value is not None:
            assert look_up(shown, path) == value, path


def leaves(config, path=()):
    """Yield (path, value) of everything in a configuration that is no dict."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def look_up(config, path):
    for key in path:
        config = config[key]
    return config


def published_table(wired, name):
    return plain_table(wired.folder / f"results/published/wired/{name}.parquet")


@pytest.mark.parametrize("name", TABLES)
def test_published_tables_are_those_of_the_study(wired, name):
    found, expected = published_table(wired, f"tables/{name}"), wired.table(f"tables/{name}")
    assert list(found.columns) == list(expected.columns)
    assert len(found) == len(expected)
    for column in expected:
        if column in ROUNDED.get(name.split("/")[0], []):
            values, exact = (np.hstack(frame[column].to_numpy()) for frame in (found, expected))
            np.testing.assert_allclose(values, exact, rtol=2**-16)
        else:
            assert [str(value) for value in found[column]] == [str(value) for value in expected[column]], column


def test_published_pages_and_figures_are_those_of_the_study(wired):
    folder = wired.folder / "results/published/wired"
    names = ["claims.md", "explorer.html", *(f"figures/{p.name}" for p in (wired.results / "figures").glob("*.png"))]
    assert len(names) == 2 + 21
    for name in names:
        assert (folder / name).read_bytes() == (wired.results / name).read_bytes()
    tables = [f"tables/{name}.parquet" for name in TABLES]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*names, *tables, "claims.parquet", "published.json"}
    assert published_table(wired, "claims").equals(wired.table("claims"))
    assert json.loads((folder / "published.json").read_text())["study"] == "wired"


def numbers(text, name):
    """What follows a name at the beginning of a line."""
    return re.search(rf"(?m)^  {re.escape(name)}  +(.*)$", text)[1].split()


def benchmark_hours(wired, run):
    with open(wired.results / f"benchmarks/train_network/{run}.tsv") as file:
        return float(next(csv.DictReader(file, delimiter="\t"))["s"]) / 3600


@pytest.fixture(scope="module")
def said(wired):
    """What the rules print that tell a person of a study."""
    return wired.snakemake("plan", "status", "--quiet", "all")


def test_plan_counts_jobs_operations_and_hours(wired, said):
    files = {
        "make_problem": "toy/*/seed_*/problem.npz",
        "run_algorithm1": "toy/*/seed_*/stages.parquet",
        "train_toy": "toy/*/alpha_*/seed_*/trajectory.parquet",
        "compare_theorem": "toy/*/seed_*/theorem.parquet",
        "follow_orbits": "toy/diagonal/seed_*/orbits.parquet",
        "perturb_limit": "toy/diagonal/seed_*/returns.parquet",
        "perturb_toy": "assumptions/*/seed_*/perturbations.parquet",
        "run_linear_attention": "linear_attention/seed_*/linear_attention.parquet",
        "prepare_dataset": "datasets/*/manifest.json",
        "train_network": "networks/*/*/*/metrics.parquet",
        "compute_spectra": "networks/*/*/*/spectra.parquet",
    }
    for rule, pattern in files.items():
        assert numbers(said, rule) == [str(len(list(wired.results.glob(pattern))))]
    wide = {"tokens": 5, "patch": 16, "dim": 12, "depth": 3, "heads": 2, "dim_head": 5, "mlp_dim": 7}
    narrow = {"tokens": 17, "patch": 4, "dim": 10, "depth": 2, "heads": 3, "dim_head": 6, "mlp_dim": 9}
    operations = {
        "wide": 3 * (11 * 128 * training_operations(**wide) + 359 * forward_operations(**wide)),
        "narrow": 4 * (7 * 200 * training_operations(**narrow) + 359 * forward_operations(**narrow)),
    }
    counts = {"wide": 5, "narrow": 2}
    for network, flops in operations.items():
        hours = flops / (0.06e12 * 0.4) / 3600
        runs, _, unit, shown, *on, of_run, total = numbers(said, network)
        assert (runs, unit, shown, on) == (str(counts[network]), "M", f"{flops:.2e}", ["1", "core"])
        assert (of_run, total) == (f"{hours:.3g}", f"{counts[network] * hours:.3g}")
        measured = re.findall(rf"(?m)^  {network} +([\d.]+) +(\d) +(\S+) +(\S+) +\S+$", said)
        assert len(measured) == counts[network]
        for alpha, seed, predicted, took in measured:
            hours_taken = benchmark_hours(wired, f"{network}_alpha_{alpha}_seed_{seed}")
            assert (predicted, took) == (f"{hours:.3g}", f"{hours_taken:.3g}")


def forward_operations(*, tokens, patch, dim, depth, heads, dim_head, mlp_dim):
    """Of matrix products in the forward pass of an image; the last layer is computed for the class token alone."""
    attention = 2 * 2 * heads * tokens * tokens * dim_head  # logits and values
    features, mlp = heads * dim_head, 2 * 2 * dim * mlp_dim
    layer = 2 * tokens * dim * 3 * features + attention + 2 * tokens * features * dim + tokens * mlp
    last = 2 * dim * features + 2 * tokens * dim * 2 * features + attention // tokens + 2 * features * dim + mlp
    return 2 * (tokens - 1) * patch * dim + (depth - 1) * layer + last + 2 * dim * 10


def training_operations(**sizes):
    """Of that and the backward pass, which takes two products for one, but for pixels, which have no gradient."""
    return 3 * forward_operations(**sizes) - 2 * (sizes["tokens"] - 1) * sizes["patch"] * sizes["dim"]


def test_status_counts_finished_runs(said):
    assert 'Study "wired"' in said
    assert numbers(said, "toy runs") == ["14", "0", "14"]
    assert numbers(said, "networks") == ["7", "0", "0", "0", "7"]
    assert numbers(said, "their spectra") == ["7", "0", "7"]
