"""Every kind of extension in one file each, in a real run; docs/extending.md tells the same as a recipe."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from rank_increase.registry import HOMES, find, registered
from rank_increase.study.configuration import ConfigError, located_extensions, read_config, read_study
from rank_increase.study.digest import library_digest
from rank_increase.study.plan import model_cost
from rank_increase.tables import read_provenance, read_table, read_tables

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "tests" / "data" / "extended.yaml"
FILES = {path.stem: path for path in sorted((ROOT / "tests" / "extensions").glob("*.py"))}
TARGETS = ["networks", "claims", "explorer", "fig_energy_rank", "fig12"]
RUN = Path("networks", "mlp", "alpha_1", "seed_0")
_rng = np.random.default_rng(0)
_start = {f"decoder.layers.0.self_attn.{part}_proj.weight": _rng.normal(size=(8, 8)) for part in ("q", "k", "v", "out")}
OPT = {step: {name: weight + step * np.eye(8) for name, weight in _start.items()} for step in (0, 1)}


def snakemake(folder, config, *arguments):
    """The study of `config` with results in `folder`, which is neither the repository nor where the config is."""
    line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    line += [*arguments, "--configfile", config]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([str(part) for part in line], cwd=ROOT, env=environment, capture_output=True, text=True)


def planned(run):
    """Rules whose jobs a dry run announces."""
    assert run.returncode == 0, run.stdout + run.stderr
    output = run.stdout + run.stderr
    if "Nothing to be done" in output:
        return set()
    table = re.search(r"(?m)^-+ +-+\n((?:\w+ +\d+\n)+)", output)[1]
    return {line.split()[0] for line in table.splitlines()} - {"total", "networks", "fig_energy_rank", "fig12"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The config file and extension files, copied to where they may be edited."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(ROOT / "tests" / "extensions", folder / "extensions", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "studies").mkdir()
    shutil.copy(STUDY, folder / "studies" / "extended.yaml")
    return folder / "studies" / "extended.yaml"


@pytest.fixture(scope="module")
def results(study, tmp_path_factory):
    """The results of a run."""
    folder = tmp_path_factory.mktemp("run")
    for step, tensors in OPT.items():
        (folder / "opt").mkdir(exist_ok=True)
        save_file(tensors, folder / "opt" / f"step_{step}.safetensors")
    run = snakemake(folder, study, *TARGETS)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "results" / "extended"


def test_the_study_has_every_kind_of_extension():
    paths = tuple(map(str, FILES.values()))
    kinds = [kind for kind in HOMES if len(registered(kind, paths)) > len(registered(kind))]
    assert kinds == list(HOMES) == ["model", "adapter", "source", "loss", "optimizer", "measure", "claim", "figure"]
    assert set(FILES) == set(HOMES)


def test_configuring_needs_no_torch():
    code = (
        "import sys; from rank_increase.study.configuration import *;"
        f"config = read_config({str(STUDY)!r}); config |= located_extensions(config, [{str(STUDY)!r}]);"
        "read_study(config); sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.slow
def test_the_source_was_packed(results):
    manifest = json.loads((results / "datasets" / "stripes" / "manifest.json").read_text())
    assert manifest["classes"] == ["horizontal", "vertical", "falling", "rising"]
    assert manifest["counts"] == {"train": 200, "test": 100} and manifest["shape"] == [8, 8, 1]
    assert manifest["source"]["noise"] == 0.5  # an option's default, out of the signature


@pytest.mark.slow
def test_the_model_learned_with_its_loss_and_optimizer(results):
    metrics = read_table(results / RUN / "metrics.parquet")
    assert metrics["test_accuracy"].iloc[-1] > 0.6  # by chance: 0.25
    provenance = read_provenance(results / RUN / "metrics.parquet")
    assert provenance["params"]["model"] == {"family": "residual_mlp", "dim": 16, "hidden": 6, "depth": 2}
    assert provenance["params"]["recipe"]["loss"] == {"name": "smoothed_cross_entropy", "smoothing": 0.2}
    assert provenance["params"]["recipe"]["optimizer"] == {"name": "rmsprop", "decay": 0.95, "eps": 1e-8}
    assert "model.py" not in json.dumps(provenance)  # as a param, a path would train anew where files have moved


@pytest.mark.slow
def test_spectra_are_of_the_products_that_the_model_names(results):
    spectra = read_tables([results / "tables" / "spectra" / "mlp.parquet"])
    assert set(spectra["product"]) == {"W1W2"} and set(spectra["layer"]) == {0, 1} and set(spectra["head"]) == {0}
    step = int(spectra["step"].max())
    with safe_open(results / RUN / "snapshots" / f"step_{step}.safetensors", "numpy") as file:
        W_1, W_2 = file.get_tensor("layer_1.W_1")[0].astype(float), file.get_tensor("layer_1.W_2^T")[0].T.astype(float)
    rows = spectra[(spectra["step"] == step) & (spectra["layer"] == 1) & (spectra["matrix"] == "trained")]
    expected = np.linalg.svd(W_1 @ W_2, compute_uv=False)[:6]
    np.testing.assert_allclose(rows["singular_values"].iloc[0], expected, rtol=1e-9)


@pytest.mark.slow
def test_an_adapter_reads_checkpoints(results):
    spectra = read_table(results / "tables" / "spectra" / "opt.parquet")
    rows = spectra[(spectra["step"] == 1) & (spectra["matrix"] == "delta") & (spectra["product"] == "KQ")]
    key, query = (OPT[0][f"decoder.layers.0.self_attn.{part}_proj.weight"] for part in ("k", "q"))
    assert len(rows) == 2
    for head, part in enumerate((slice(0, 4), slice(4, 8))):
        both = (key + np.eye(8))[part].T @ (query + np.eye(8))[part] - key[part].T @ query[part]
        expected = np.linalg.svd(both, compute_uv=False)
        np.testing.assert_allclose(rows["singular_values"].iloc[head], expected, atol=1e-8 * expected[0])


@pytest.mark.slow
def test_the_measure_is_a_column(results):
    spectra = read_table(results / "tables" / "spectra" / "mlp.parquet")
    measures = read_table(results / "tables" / "measures" / "mlp.parquet")
    for s, found in zip(spectra["singular_values"], measures["energy_rank"], strict=True):
        shares = np.cumsum(s**2) / max((s**2).sum(), 1e-300)
        assert np.isnan(found) if not s.any() else found == np.flatnonzero(shares >= 0.9)[0] + 1
    assert measures["energy_rank"].isna().sum() == 8  # of both layers, four changes before the first step


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig_energy_rank", "fig12"])
def test_figures_show_the_products_of_the_model(results, name):
    """One of an extension, and one of the library that shows whatever products there are."""
    with Image.open(results / "figures" / f"{name}.png") as image:
        assert image.width == 325  # 6.5 inches at 50 dpi
        assert len({pixel for _, pixel in image.convert("RGB").getcolors(image.width * image.height)}) > 50
        provenance = json.loads(image.info["provenance"])
    assert (results / "figures" / f"{name}.pdf").stat().st_size > 5000
    assert provenance["rule"] == "figure" and provenance["wildcards"] == {"figure": name}
    assert "ERROR" not in (results / "logs" / "figures" / f"{name}.log").read_text()
    assert "has no rows" not in (results / "logs" / "figures" / f"{name}.log").read_text()


@pytest.mark.slow
def test_claims_of_the_study_are_those_of_the_library_and_of_the_extension(results):
    claims = read_table(results / "claims.parquet").set_index("id")
    claim = claims.loc["energy_rank.below_initial.mlp.W1W2"]
    assert claim["statement"].startswith("MLP on stripes, W1W2:") and claim["n"] == "runs: 1"
    rows = read_table(results / "tables" / "measures" / "mlp.parquet")
    last = rows[(rows["matrix"] == "delta") & (rows["epoch"] == 4)]["energy_rank"].mean()
    assert claim["value"] == pytest.approx(last / rows[rows["matrix"] == "initial"]["energy_rank"].mean(), rel=1e-12)
    assert claim["verdict"] == ("supported" if claim["value"] < 1 else "not supported")
    assert claims.loc["vit.delta_low_rank.mlp.W1W2", "details"] == "3 seeds with init scale 1"
    assert "energy_rank.below_initial.mlp.W1W2" in (results / "claims.md").read_text()


class Scripts(HTMLParser):
    """Text of the script elements of a page, by id."""

    def __init__(self):
        super().__init__()
        self.texts, self.id = {}, None

    def handle_starttag(self, tag, attributes):
        self.id = dict(attributes).get("id") if tag == "script" else None

    def handle_data(self, data):
        if self.id:
            self.texts[self.id] = self.texts.get(self.id, "") + data


@pytest.mark.slow
def test_the_explorer_has_the_products_and_the_claim(results):
    page = Scripts()
    page.feed((results / "explorer.html").read_text())
    study, arrays = json.loads(page.texts["study"]), gzip.decompress(base64.b64decode(page.texts["arrays"]))
    [run] = [run for run in study["networks"]["runs"] if run["network"] == "mlp"]
    assert study["networks"]["names"]["mlp"] == "MLP on stripes" and list(run["products"]) == ["W1W2"]
    place = run["products"]["W1W2"]["delta"]["stable_rank"]
    ranks = np.frombuffer(arrays, "<f4", np.prod(place["shape"]), place["start"]).reshape(place["shape"])
    rows = read_table(results / "tables" / "measures" / "mlp.parquet")
    rows = rows[(rows["matrix"] == "delta") & (rows["epoch"] == 4)].sort_values("layer")
    np.testing.assert_allclose(ranks[-1, :, 0], rows["stable_rank"], rtol=1e-6)
    assert any(claim["statement"].startswith("MLP on stripes, W1W2: fewer") for claim in study["claims"])


MEASURED = {"measure_spectra", "figure", "claims", "explorer"}
TRAINED = {"train_network", "compute_spectra", "measure_matrices", "collect_network_table", *MEASURED}
EDITS = {  # an edit of each file -> the rules that run again
    "source": ("128 + 50", "128 + 40", {"prepare_dataset", *TRAINED}),
    "model": ("F.gelu", "F.relu", TRAINED),
    "loss": ("outputs.float()", "2 * outputs.float()", TRAINED),
    "optimizer": ("alpha=decay", "alpha=decay**2", TRAINED),
    "measure": ("1 + (energy", "2 + (energy", MEASURED),
    "figure": ('xlabel="epoch"', 'xlabel="epochs"', {"figure"}),
    "claim": ("return ratios.max()", "return ratios.min()", {"claims", "explorer"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_an_extension_runs_what_uses_it_and_nothing_else(study, results, name):
    path = study.parents[1] / "extensions" / f"{name}.py"
    text, (old, new, expected) = path.read_text(), EDITS[name]
    assert text.count(old) == 1
    try:
        path.write_text(text.replace(old, new))
        assert planned(snakemake(results.parents[1], study, "--dry-run", *TARGETS)) == expected
    finally:
        path.write_text(text)


@pytest.mark.slow
def test_nothing_runs_again_for_a_comment_another_extension_or_another_place(study, results, tmp_path):
    """The results and the files may move, and the study may gain an extension that no finished run uses.

    Only a figure whose script has moved is drawn again, as its path is a parameter of the job.
    """
    shutil.copytree(results.parents[1], tmp_path / "run")
    shutil.copytree(study.parents[1], tmp_path / "elsewhere" / "user")
    moved = tmp_path / "elsewhere" / "user" / "studies" / "extended.yaml"
    for path in (moved.parents[1] / "extensions").glob("*.py"):
        path.write_text(path.read_text() + "\n# A comment.\n")
    loss = (FILES["loss"]).read_text().replace("smoothed_cross_entropy", "another")
    (moved.parents[1] / "extensions" / "another.py").write_text(loss)
    moved.write_text(
        moved.read_text().replace(
            "  - ../extensions/loss.py", "  - ../extensions/loss.py\n  - ../extensions/another.py"
        )
    )
    targets = [target for target in TARGETS if target != "fig_energy_rank"]
    assert planned(snakemake(tmp_path / "run", moved, "--dry-run", *targets)) == set()


def test_the_plan_counts_a_model_that_is_an_extension():
    config = read_config(STUDY)
    study = read_study(config | located_extensions(config, [STUDY]))
    samples = {"kind": "pixels", "shape": [8, 8, 1], "classes": 4}
    cost = model_cost(study.networks["mlp"], samples, tuple(study.extensions))
    assert cost["parameters"] == 64 * 16 + 16 + 2 * (2 * 16 + 2 * 16 * 6) + 16 * 4 + 4
    assert cost["forward"] == 2 * (64 * 16 + 2 * 2 * 16 * 6 + 16 * 4)
    assert cost["products"] == [(1, 6, 12)] * 2


def test_paths_are_relative_to_the_config_file_that_states_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    first, second = tmp_path / "a" / "first.yaml", tmp_path / "second.yaml"
    first.write_text("study: x\nextensions: [b/c.py, /d/e.py]\n")
    second.write_text("study: y\n")
    config = read_config(first) | read_config(second)
    located = located_extensions(config, [first, second])["extensions"]
    assert located[0] == "a/b/c.py" and Path(located[1]).resolve() == Path("/d/e.py")
    assert located_extensions(config, []) == {"extensions": ["b/c.py", located[1]]}
    assert located_extensions({"study": "x"}, [second]) == {}


@pytest.mark.parametrize("value", ["b.py", [1], None])
def test_a_wrong_list_is_left_to_the_types(value):
    assert located_extensions({"study": "x", "extensions": value}, []) == {}


def test_a_missing_file_is_one_sentence():
    with pytest.raises(ConfigError, match=r"^config: .*/missing.py cannot be read as Python: .*No such file[^\n]*$"):
        read_study({"study": "x", "extensions": ["missing.py"]})


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        text = FILES["loss"].read_text().replace('"smoothed_cross_entropy"', f'"{folder}"')
        (tmp_path / folder / "loss.py").write_text(f'{text}\nHERE = "{folder}"\n')
    paths = tuple(str(tmp_path / folder / "loss.py") for folder in ("a", "b"))
    for folder in ("a", "b"):
        assert find("loss", folder, paths).load().__globals__["HERE"] == folder


def test_a_digest_does_not_depend_on_where_an_extension_lies(tmp_path):
    shutil.copy(FILES["loss"], tmp_path / "loss.py")
    here, there = (
        library_digest("networks/train_network", also=[find("loss", "smoothed_cross_entropy", (str(path),))])
        for path in (FILES["loss"], tmp_path / "loss.py")
    )
    assert here == there


def test_the_recipe_shows_the_tested_files():
    text = (ROOT / "docs" / "extending.md").read_text()
    shown = dict(re.findall(r"`(tests/[\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)```\n", text, flags=re.S))
    expected = [*(f"tests/extensions/{name}.py" for name in FILES), "tests/data/extended.yaml"]
    assert sorted(shown) == sorted(expected)
    for name, code in shown.items():
        assert code == (ROOT / name).read_text(), name


def test_the_recipe_is_a_study_of_the_named_files():
    named = [Path(path).stem for path in yaml.safe_load(STUDY.read_text())["extensions"]]
    assert sorted(named) == sorted(FILES)
