import ast
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from snakemake.common.configfile import load_configfile

from rank_increase import configuration
from rank_increase.configuration import (
    ConfigError,
    check_config,
    check_data_dir,
    check_demo,
    check_folder,
    read_config,
    toy_runs,
)

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
LIBRARY = sorted((SCRIPTS / "rank_increase").glob("*.py"))
RULE_SCRIPTS = sorted(SCRIPTS.glob("*.py"))
SCHEMA = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


def test_the_default_configuration_has_no_mistake(config):
    check_config(config)


def uncommented_keys(text):
    """Keys of a YAML text with no comment on their line, in the lines right above, or first below them.

    Keys in an unbroken row share the comment above the first; those under a key share its comment.
    """
    lines, bare = text.splitlines(), []
    for number, line in enumerate(lines):
        match = re.match(r"( *)(?:- )?(\w+):", line)
        if not match or "#" in line:
            continue
        above = number - 1
        while above >= 0 and lines[above].strip() and not lines[above].lstrip().startswith("#"):
            above -= 1
        below = lines[number + 1].lstrip() if number + 1 < len(lines) else ""
        opens_section = line.rstrip().endswith(":") and below.startswith("#")
        if not (above >= 0 and lines[above].strip()) and not opens_section:
            bare.append(match[2])
    return bare


def test_every_key_of_the_default_configuration_has_a_comment():
    text = (ROOT / "config" / "config.yaml").read_text()
    assert uncommented_keys(text) == []
    assert uncommented_keys(re.sub(r"(?m)^ *# Samples in a minibatch.*\n", "\n", text)) == ["batch_size"]


def subschemas(schema, path="config"):
    yield path, schema
    for key, value in schema.get("properties", {}).items():
        yield from subschemas(value, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from subschemas(schema[key], f"{path}[{key}]")


def resolved(schema):
    return SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")] if "$ref" in schema else schema


def all_subschemas():
    found = list(subschemas(SCHEMA))
    for name, schema in SCHEMA["$defs"].items():
        found += subschemas(schema, name)
    return found


@pytest.mark.parametrize(("path", "schema"), [pytest.param(*pair, id=pair[0]) for pair in all_subschemas()])
def test_every_level_of_the_schema_is_described_and_closed(path, schema):
    schema = resolved(schema)
    assert schema.get("description"), "without it the sentence about a mistake has no end"
    if schema.get("type") == "object" and "properties" in schema:
        assert schema["additionalProperties"] is False
        if path == "config.figures.vit.datasets":  # a study need not draw every figure
            assert "required" not in schema
        elif path != "config.datasets[additionalProperties]":  # whose keys depend on the source: SOURCE_KEYS
            assert sorted(schema["required"]) == sorted(schema["properties"])
    elif schema.get("type") == "object":
        assert isinstance(schema["additionalProperties"], dict)
        assert "propertyNames" in schema


def put(*path_and_value):
    *path, last, value = path_and_value

    def edit(config):
        for key in path:
            config = config[key]
        config[last] = value

    return edit


def drop(*path):
    def edit(config):
        for key in path[:-1]:
            config = config[key]
        del config[path[-1]]

    return edit


ALPHA = 'must be a positive number in quotes, such as "0.1" or "1e-32".'
SEEDS = "must be a list of at least one seed, each written once, such as [0, 1, 2]."
MISTAKES = {
    "misspelt key": (
        put("toy", "sampels", 5),
        "config: unknown key `toy.sampels`; did you mean `samples`?",
    ),
    "misspelt section": (put("tpy", {}), "config: unknown key `tpy`; did you mean `toy`?"),
    "key like no other": (
        put("assumptions", "plateaus", "zzz", 1),
        "config: unknown key `assumptions.plateaus.zzz`; known here: runs, std, follow.",
    ),
    "alpha 0": (
        put("toy", "runs", 0, "alphas", ["0"]),
        f"config: `toy.runs[0].alphas[0]` is '0', but {ALPHA}",
    ),
    "alpha 0.0e-5": (put("assumptions", "alpha", "0.0e-5"), f"config: `assumptions.alpha` is '0.0e-5', but {ALPHA}"),
    "alpha negative": (
        put("toy", "runs", 1, "alphas", ["1e-8", "-1"]),
        f"config: `toy.runs[1].alphas[1]` is '-1', but {ALPHA}",
    ),
    "alpha no number": (put("assumptions", "alpha", "abc"), f"config: `assumptions.alpha` is 'abc', but {ALPHA}"),
    "alpha without quotes": (
        put("figures", "fig02_full_alpha", 0.1),
        f"config: `figures.fig02_full_alpha` is 0.1, but {ALPHA}",
    ),
    "alpha with a space": (
        put("assumptions", "alpha", "1e-4 "),
        f"config: `assumptions.alpha` is '1e-4 ', but {ALPHA}",
    ),
    "no seed": (put("toy", "runs", 0, "seeds", []), f"config: `toy.runs[0].seeds` is [], but {SEEDS}"),
    "seed twice": (put("assumptions", "seeds", [3, 3]), f"config: `assumptions.seeds` is [3, 3], but {SEEDS}"),
    "one seed, no list": (put("toy", "runs", 0, "seeds", 99), f"config: `toy.runs[0].seeds` is 99, but {SEEDS}"),
    "negative seed": (
        put("toy", "headline_seed", -1),
        "config: `toy.headline_seed` is -1, but must be a whole number from 0.",
    ),
    "study with a slash": (
        put("study", "a/b"),
        'config: `study` is \'a/b\', but must be a name of letters, digits, "_" and "-" only.',
    ),
    "study that leads out": (
        put("study", ".."),
        'config: `study` is \'..\', but must be a name of letters, digits, "_" and "-" only.',
    ),
    "study of 300 letters": (
        put("study", "a" * 300),
        "config: `study` has 300 characters, of which 64 are allowed.",
    ),
    "study of the published results": (
        put("study", "published"),
        "config: `study` is 'published', but results/published is no study's: choose another name.",
    ),
    "study of the benchmarks, where upper case does not count": (
        put("study", "Benchmarks"),
        "config: `study` is 'Benchmarks', but results/Benchmarks is no study's: choose another name.",
    ),
    "dataset of 300 letters": (
        put("figures", "vit", "datasets", "fig01", ["a" * 300]),
        "config: `figures.vit.datasets.fig01[0]` has 300 characters, of which 64 are allowed.",
    ),
    "alpha of 300 digits": (
        put("assumptions", "alpha", "0." + 300 * "0" + "1"),
        "config: `assumptions.alpha` has 303 characters, of which 24 are allowed.",
    ),
    "exponent that no library takes": (
        put("assumptions", "alpha", "1e-99999999999999"),
        f"config: `assumptions.alpha` is '1e-99999999999999', but {ALPHA}",
    ),
    "seed that no generator takes": (
        put("assumptions", "seeds", [99, 2**32]),
        "config: `assumptions.seeds[1]` is 4294967296, but must be a whole number from 0 to 4294967295.",
    ),
    "number that no float holds": (
        put("toy", "step", 10**400),
        f"config: `toy.step` is 1{400 * '0'}, but must be a positive number; YAML wants 1.0e-3 rather than 1e-3.",
    ),
    "figure misspelt": (
        put("figures", "vit", "datasets", "fig3", ["digits"]),
        "config: unknown key `figures.vit.datasets.fig3`; did you mean `fig03`?",
    ),
    "figure like no other": (
        put("figures", "vit", "datasets", "loss", ["digits"]),
        "config: unknown key `figures.vit.datasets.loss`; known here: fig01, fig03, fig04, fig05, fig11, fig12, fig13,"
        " fig14, fig15, fig16.",
    ),
    "figure that is a number": (
        put("figures", "vit", "datasets", 3, ["digits"]),
        "config: unknown key `figures.vit.datasets.3`; known here: fig01, fig03, fig04, fig05, fig11, fig12, fig13,"
        " fig14, fig15, fig16.",
    ),
    "one alpha written in two ways in a line": (
        put("toy", "runs", 1, "alphas", ["1e-8", "0.1", "0.10"]),
        "config: `toy.runs` has '0.1' and '0.10', one number: write it in one way.",
    ),
    "one alpha written in two ways in two lines": (
        put("toy", "runs", 4, "alphas", ["1e-2"]),
        "config: `toy.runs` has '0.01' and '1e-2', one number: write it in one way.",
    ),
    "one tiny alpha written in two ways": (
        put("toy", "runs", 1, "alphas", ["10e-3001"]),
        "config: `toy.runs` has '1e-3000' and '10e-3001', one number: write it in one way.",
    ),
    "init scale written in two ways": (
        put("vit", "runs", 0, "alphas", ["0.1", "0.3", "1", "1.0"]),
        "config: `vit.runs` has '1' and '1.0', one number: write it in one way.",
    ),
    "more dimensions than memory": (
        put("toy", "dim", 10**9),
        "config: a run of `toy` would take 64,000,208,096.0 GB of memory or more, of which no node has above 1,000.0"
        " GB: lower `samples`, `tokens`, `dim` or `points`.",
    ),
    "more points than memory": (
        put("toy", "points", 10**9),
        "config: a run of `toy` would take 4,800.0 GB of memory or more, of which no node has above 1,000.0 GB: lower"
        " `samples`, `tokens`, `dim` or `points`.",
    ),
    "model larger than its memory": (
        put("vit", "models", "digits", "dim", 10**9),
        "config: the model `vit.models.digits` takes 18,432.0 GB of memory to train, and `vit.hardware.digits.mem_mb`"
        " asks for 2.0 GB: make the one smaller or the other larger.",
    ),
    "figure with too many pixels": (
        put("figures", "dpi", 100000),
        "config: `figures.dpi` is 100000, but must be a whole number from 30 to 1200.",
    ),
    "structure with a slash": (
        put("toy", "structures", "a/b", {"weights": "full", "teacher": "dense", "method": "gd"}),
        'config: `toy.structures` is \'a/b\', but must be a name of letters, digits, "_" and "-" only.',
    ),
    "structure not defined": (
        put("toy", "runs", 0, "structure", "diagnoal"),
        "config: `toy.runs[0].structure` is 'diagnoal', but must be one of the names under `toy.structures`:"
        " diagonal, full, full_dense, diagonal_gd, diagonal_sgd.",
    ),
    "method unknown": (
        put("toy", "structures", "diagonal_gd", "method", "adam"),
        "config: `toy.structures.diagonal_gd.method` is 'adam', but must be flow, gd or sgd.",
    ),
    "figure alpha not run": (
        put("figures", "alphas", ["0.1", "1e-5"]),
        "config: `figures.alphas` shows alpha '1e-5' of structure 'diagonal', which `toy.runs` does not have with the"
        " headline seed 99: add it there, or show another.",
    ),
    "full figure alpha not run": (
        put("figures", "fig02_full_alpha", "0.01"),
        "config: `figures.fig02_full_alpha` shows alpha '0.01' of structure 'full', which `toy.runs` does not have with"
        " the headline seed 99: add it there, or show another.",
    ),
    "headline seed not run": (
        put("toy", "headline_seed", 5),
        "config: `figures.alphas` shows alpha '0.1' of structure 'diagonal', which `toy.runs` does not have with the"
        " headline seed 5: add it there, or show another.",
    ),
    "headline seed not perturbed": (
        put("assumptions", "seeds", [0]),
        "config: `assumptions.seeds` must contain `toy.headline_seed`, 99: figures show it.",
    ),
    "tolerance too loose": (
        put("toy", "flow_atol", 1.0e-4),
        "config: `toy.flow_atol` is 0.0001, but must be a positive number up to 1.0e-5.",
    ),
    "tolerance as text": (
        put("toy", "flow_rtol", "1e-3"),
        "config: `toy.flow_rtol` is '1e-3', but must be a positive number; YAML wants 1.0e-3 rather than 1e-3.",
    ),
    "no runs": (drop("toy", "runs"), "config: the key `toy.runs` is missing."),
    "no figures": (drop("figures"), "config: the key `figures` is missing."),
    "runs empty": (
        put("toy", "runs", []),
        "config: `toy.runs` is [], but must be a list of at least one line of runs.",
    ),
    "batch too large": (
        put("toy", "batch_size", 1001),
        "config: `toy.batch_size` must not be larger than `toy.samples`.",
    ),
    "one point": (put("toy", "points", 1), "config: `toy.points` is 1, but must be a whole number from 2."),
    "no sample": (put("toy", "samples", 0), "config: `toy.samples` is 0, but must be a whole number from 1."),
    "alpha too small for weights": (
        put("toy", "runs", 4, "alphas", ["1e-200"]),
        "config: `toy.runs[4]` has alpha '1e-200', too small for structure 'diagonal_gd': products of its weights would"
        " be zero; only the flow of diagonal weights goes below 1e-150.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_configuration_gives_one_sentence(config, mistake):
    edit, sentence = MISTAKES[mistake]
    edit(config)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("section", ["toy", "assumptions", "figures"])
def test_a_section_left_empty_gives_a_sentence(config, section):
    config[section] = None
    with pytest.raises(ConfigError, match=rf"^config: `{section}` is None, but must be (?!None is not of type).*\.$"):
        check_config(config)


@pytest.mark.parametrize("alpha", ["1", "1.0", "3", "1e2"])
def test_an_init_scale_that_is_not_below_one_is_refused(config, alpha):
    # Times are given in units of ln(1/alpha).
    config["toy"]["runs"][0]["alphas"].append(alpha)
    with pytest.raises(ConfigError, match=re.escape(f"is '{alpha}', but must be")):
        check_config(config)


def test_a_whole_number_may_not_be_written_with_a_point(config):
    config["toy"]["samples"] = 1.0e3  # NumPy would refuse it, in the middle of a job
    with pytest.raises(ConfigError, match="`toy.samples` is 1000.0, but must be a whole number from 1"):
        check_config(config)


def test_checking_a_configuration_does_not_change_it(config):
    kept = deepcopy(config)
    check_config(config)
    assert config == kept


def test_runs_are_every_alpha_with_every_seed_of_a_line_and_none_twice(config):
    config["toy"]["runs"] = [
        {"structure": "diagonal", "alphas": ["0.1", "1e-8"], "seeds": [99, 1]},
        {"structure": "diagonal", "alphas": ["1e-8"], "seeds": [1, 2]},
        {"structure": "full", "alphas": ["1e-8"], "seeds": [1]},
    ]
    expected = [
        ("diagonal", "0.1", 99),
        ("diagonal", "0.1", 1),
        ("diagonal", "1e-8", 99),
        ("diagonal", "1e-8", 1),
        ("diagonal", "1e-8", 2),
        ("full", "1e-8", 1),
    ]
    assert [(run["structure"], run["alpha"], run["seed"]) for run in toy_runs(config)] == expected


def test_results_can_go_to_a_folder_that_does_not_exist_yet(tmp_path):
    check_folder(tmp_path / "results" / "study")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_of_results_is_named(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/results is a file where the folder of results should be"):
        check_folder(tmp_path / "results" / "study")


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(configuration.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ConfigError, match=rf"^no permission to write to {tmp_path}/results: choose another folder"):
        check_folder(tmp_path / "results" / "study")


def test_data_may_be_read_only_and_need_not_be_there_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration.os, "access", lambda path, mode: False)
    check_data_dir(tmp_path)
    check_data_dir(str(tmp_path / "new" / "folder"))


@pytest.mark.parametrize("below", ["", "/digits"])
def test_a_file_in_place_of_the_data_is_named(tmp_path, below):
    file = tmp_path / "data.tar"
    file.touch()
    with pytest.raises(ConfigError) as caught:
        check_data_dir(f"{file}{below}")
    assert str(caught.value) == f"config: `data_dir` is '{file}{below}', but {file} is a file: name a folder."


@pytest.mark.parametrize("name", ["demo", "Demo"])
def test_the_demo_is_its_own_configuration_and_no_other(config, name):
    check_demo(deepcopy(config), config)
    other = deepcopy(config)
    other["study"], other["figures"]["dpi"] = name, 300
    with pytest.raises(ConfigError, match="^config: the study 'demo' is what config/config.yaml says and nothing else"):
        check_demo(other, config)
    other["study"] = "mine"
    check_demo(other, config)


@pytest.mark.parametrize(
    "path", [*ROOT.glob("config/*.yaml"), ROOT / "tests/data/tiny.yaml"], ids=lambda path: path.name
)
def test_a_config_file_is_read_as_snakemake_reads_it(path):
    assert read_config(path) == load_configfile(path)


FILES = {
    "UTF-16": ("study: mine\n".encode("utf-16"), "is not text in UTF-8: save it as UTF-8."),
    "UTF-16 without a mark": (
        "study: mine\n".encode("utf-16-le"),
        "is not YAML: control characters are not allowed.",
    ),
    "Latin-1": ("# für mich\nstudy: mine\n".encode("latin-1"), "is not text in UTF-8: save it as UTF-8."),
    "tabs": (b"study: mine\ntoy:\n\tdim: 3\n", "is not YAML: line 3: indent with spaces instead of tabs."),
    "tab behind spaces": (
        b"study: mine\ntoy:\n  dim: 3\n \ttokens: 3\n",
        "is not YAML: line 4: indent with spaces instead of tabs.",
    ),
    "open bracket": (
        b"study: [mine\n",
        "is not YAML: line 2: did not find expected ',' or ']'.",
    ),
    "key that is a list": (b"[study]: mine\n", "is not YAML: line 1: found unhashable key."),
    "empty": (b"# study: mine\n", "has no keys: it needs at least `study: NAME`."),
    "list": (b"- study: mine\n", "has no keys: it needs at least `study: NAME`."),
    "key twice": (b"study: mine\ntoy: {}\nstudy: yours\n", "has the key `study` twice, in lines 1 and 3."),
    "key twice in a section": (
        b"study: mine\ntoy:\n  dim: 5\n  'dim': 6\n",
        "has the key `dim` twice, in lines 3 and 4.",
    ),
    "key twice in a list": (
        b"toy:\n  runs:\n    - {structure: full, seeds: [0], seeds: [1]}\n",
        "has the key `seeds` twice, in lines 3 and 3.",
    ),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_file_that_is_no_configuration_gives_one_sentence(tmp_path, mistake):
    content, sentence = FILES[mistake]
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(caught.value) == f"{file} {sentence}"


def test_a_key_may_be_in_several_sections_and_in_several_entries_of_a_list(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("a: {x: 1, 1: 2}\nb: {x: 1, '1': 2}\nc: [{x: 1}, {x: 2}]\n")
    assert read_config(file) == {"a": {"x": 1, 1: 2}, "b": {"x": 1, "1": 2}, "c": [{"x": 1}, {"x": 2}]}


def test_where_there_is_no_config_file_those_there_are_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nosuch.yaml; studies in .*/config: demo, laptop, paper\.$"):
        read_config(ROOT / "config" / "nosuch.yaml")
    with pytest.raises(ConfigError, match=r"nosuch.yaml; studies in .*: none\.$"):
        read_config(tmp_path / "nosuch.yaml")
    with pytest.raises(ConfigError, match=r" cannot be read: Is a directory\.$"):
        read_config(tmp_path)


def imports(path):
    """(module, names) of each import in a file, at any depth; names is None for `import module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


@pytest.mark.parametrize("path", [*RULE_SCRIPTS, *LIBRARY], ids=lambda path: path.name)
def test_library_code_is_imported_by_name_from_its_module(path):
    modules = {f"rank_increase.{module.stem}" for module in LIBRARY} - {"rank_increase.__init__"}
    for module, names in imports(path):
        assert not module.startswith("."), "the digest does not follow it"
        if module.split(".")[0] == "rank_increase":
            assert module in modules
            assert names
            assert names != ["*"]


def closure(path):
    """The script and every library module that it imports, directly or not."""
    pending, found = [path], set()
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            modules = (module for module, _ in imports(path) if module.startswith("rank_increase."))
            pending += [SCRIPTS / Path(*module.split(".")).with_suffix(".py") for module in modules]
    return found


def packages(path):
    return {module.split(".")[0] for file in closure(path) for module, _ in imports(file)}


@pytest.mark.parametrize("script", RULE_SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_documented_and_start_quickly(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 60
    assert ast.get_docstring(ast.parse(text)).startswith("Rule")
    assert "snakemake.config" not in text
    assert "__future__" not in packages(script)
    if "vit" not in script.stem:
        assert "torch" not in packages(script)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("plot_*.py")), ids=lambda path: path.stem)
def test_figures_import_no_solver_and_no_compiler(script):
    assert "matplotlib" in packages(script)
    assert not packages(script) & {"numba", "torch", "scipy"}


def test_every_script_belongs_to_a_rule_with_its_own_digest():
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    used = set(re.findall(r'"\.\./scripts/(\w+)\.py"', rules))
    assert used == {script.stem for script in RULE_SCRIPTS}
    always_run = {"plan_study", "report_status", "clean_study"}  # they make no file that could be out of date
    assert used - always_run == set(re.findall(r'library_digest\("(\w+)"', rules))
