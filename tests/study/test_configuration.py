import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.common.configfile import load_configfile

from rank_increase.registry import registered
from rank_increase.study import configuration
from rank_increase.study.configuration import (
    ConfigError,
    Toy,
    check_data_dir,
    check_demo,
    check_folder,
    drawn_figures,
    explorer_start,
    figure_options,
    made_tables,
    network_runs,
    read_config,
    read_study,
    shown_networks,
    toy_runs,
)

ROOT = Path(__file__).parents[2]
SIX_LINES = "study: mine\ntoy:\n  dim: 20\n  runs:\n    - alphas: ['1e-4', '1e-8']\n"


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


@pytest.mark.parametrize("name", ["config", "language", "language_larger", "laptop", "paper", "template"])
def test_the_studies_in_the_repository_have_no_mistake(name):
    study = read_study(read_config(ROOT / "config" / f"{name}.yaml"))
    assert study.study == {"config": "demo", "template": "mine"}.get(name, name)


def test_two_alphas_and_a_dimension_are_a_study_of_six_lines_at_most():
    assert len(SIX_LINES.splitlines()) <= 6
    study = read_study(yaml.safe_load(SIX_LINES))
    assert [run["alpha"] for run in toy_runs(study)] == ["1e-4", "1e-8"]
    assert study.toy == Toy(dim=20, runs=study.toy.runs)
    assert network_runs(study) == []
    assert made_tables(study) == ["trajectory", "losses", "events", "conservation", "stages", "theorem", "orbits"]


ONLY_FLOW = (
    "has layers, another loss or weight decay, which only the flow of diagonal weights can have: set `method: flow` and"
    " `weights: diagonal`."
)
OF_BLOCKS = "has a `block`: set `weights: full` and `method: flow`, and remove a `dim_head`."


@pytest.mark.parametrize(
    ("variant", "mistake"),
    [
        ({"weights": "full", "layers": 2}, ONLY_FLOW),
        ({"weights": "diagonal", "method": "gd", "decay": 0.1}, ONLY_FLOW),
        ({"weights": "full", "loss": "cross_entropy"}, ONLY_FLOW),
        (
            {"weights": "diagonal", "layers": 1, "teacher": "dense"},
            "has `layers`, whose teacher is such a transformer too: set `teacher: diagonal`.",
        ),
        ({"weights": "diagonal", "heads": 2}, "has `heads` or `bias_std` without layers: set `layers` to 1 or more."),
        ({"weights": "diagonal", "labels": "hard"}, "has hard labels, which need `loss: cross_entropy`."),
        ({"weights": "diagonal", "block": 4}, OF_BLOCKS),
        ({"weights": "full", "block": 4, "method": "gd"}, OF_BLOCKS),
        ({"weights": "full", "block": 4, "dim_head": 4}, OF_BLOCKS),
        ({"weights": "full", "block": 6}, "has a `block` of 6, which does not divide its `dim`, 20."),
        ({"weights": "full", "block": 20, "dim": 10}, "has a `block` of 20, which does not divide its `dim`, 10."),
    ],
)
def test_structures_and_losses_that_do_not_go_together_are_a_mistake(variant, mistake):
    study = yaml.safe_load(SIX_LINES)
    study["toy"]["variants"] = {"diagonal": {"weights": "diagonal"}, "other": variant}
    with pytest.raises(ConfigError) as raised:
        read_study(study)
    assert str(raised.value) == f"config: `toy.variants.other` {mistake}"


def test_variants_with_a_limit_are_those_of_which_algorithm_1_says_all_stages():
    variants = read_study(read_config(ROOT / "config" / "theory.yaml")).toy.variants
    limits = {name for name, variant in variants.items() if variant.has_limit}
    assert limits >= {"diagonal", "heads", "layers", "no_decay", "decay", "soft_labels", "full", "full_dense"}
    assert limits.isdisjoint({"gd", "sgd", "adam", "muon", "identical_heads", "hard_labels"})
    without = {name for name, variant in variants.items() if not variant.has_stages}
    assert without == {"identical_heads", "hard_labels"}  # other trainings of a problem have its stages


def test_a_study_may_have_networks_alone(config):
    del config["toy"], config["assumptions"]
    study = read_study(config | {"figures": {}})
    assert made_tables(study) == ["metrics", "spectra", "measures", "matrices"]
    assert {"fig01", "fig12"} <= set(drawn_figures(study))
    assert not {"fig02", "fig07", "fig_limit"} & set(drawn_figures(study))


def test_a_study_may_have_checkpoints_alone():
    series = {"pythia": {**SERIES, "seeds": [4], "label": "Pythia"}}
    study = read_study({"study": "mine", "checkpoints": series})
    assert network_runs(study) == [{"network": "pythia", "alpha": "1", "seed": 4}]
    assert made_tables(study) == ["spectra", "measures", "matrices"]
    drawn = drawn_figures(study)
    assert {"fig01", "fig12"} <= set(drawn)
    assert figure_options(study, drawn["fig12"]) == {"network": "pythia", "seed": 4}
    assert shown_networks(study, drawn["fig01"]) == ["pythia"]
    assert explorer_start(study) == {"scale": "1", "seed": 4}


def test_checkpoints_stand_beside_networks(config):
    config["checkpoints"] = {"pythia": {**SERIES, "seeds": [4]}}
    study = read_study(config)
    runs = [(run["network"], run["alpha"]) for run in network_runs(study)]
    assert runs == [*(("digits", alpha) for alpha in ("0.1", "0.3", "1") for _ in range(3)), ("pythia", "1")]
    assert {"metrics", "spectra"} <= set(made_tables(study))
    figures = drawn_figures(study)
    assert shown_networks(study, figures["fig01"]) == ["digits", "pythia"]
    assert figure_options(study, figures["fig12"])["seed"] == 0
    chosen = read_study(config | {"figures": {"fig12": {"network": "pythia"}}})
    assert figure_options(chosen, figures["fig12"]) == {"network": "pythia", "seed": 4}


def test_full_weights_may_be_left_out(config):
    config["toy"]["runs"] = config["toy"]["runs"][:2]
    assert {run["variant"] for run in toy_runs(read_study(config))} == {"diagonal"}


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
SEEDS = "must be a list of at least one seed, such as [0, 1, 2]."
NAME = 'must be a name of at most 64 letters, digits, "_" and "-".'
POSITIVE = "must be a positive number, such as 0.1 or 1.0e-3 (YAML reads 1e-3 as text)."
MODEL = ("networks", "digits", "model")
RECIPE = ("networks", "digits", "recipe")
VARIANTS = {name: variant.model_dump() for name, variant in configuration.VARIANTS.items()}
SERIES = {"model": {"family": "gpt2", "heads": 3}, "files": "w/{step}.safetensors"}
MISTAKES = {
    "checkpoints without heads": (
        put("checkpoints", {"pythia": {**SERIES, "model": "gpt_neox"}}),
        "config: the key `checkpoints.pythia.model.heads` is missing.",
    ),
    "checkpoints of an unknown family": (
        put("checkpoints", {"pythia": {**SERIES, "model": {"family": "gpt_neo", "heads": 4}}}),
        "config: `checkpoints.pythia.model.family` is 'gpt_neo'; did you mean `gpt_neox`?",
    ),
    "checkpoints with the name of a network": (
        put("checkpoints", {"digits": SERIES}),
        "config: `checkpoints.digits` has the name of one of the `networks`: choose another.",
    ),
    "checkpoints at no step": (
        put("checkpoints", {"pythia": {**SERIES, "files": "w/step.safetensors"}}),
        "config: `checkpoints.pythia.files` lacks {step}, which stands for the number of a checkpoint's step.",
    ),
    "checkpoints that run code": (
        put("checkpoints", {"pythia": {**SERIES, "files": "w/{step}/pytorch_model.bin"}}),
        "config: `checkpoints.pythia.files` must end with .safetensors; docs/checkpoints.md shows how to convert other"
        " files.",
    ),
    "checkpoints of two runs in one place": (
        put("checkpoints", {"pythia": {**SERIES, "seeds": [0, 1]}}),
        "config: `checkpoints.pythia.files` lacks {seed}, which tells the 2 runs apart.",
    ),
    "checkpoints of a run twice": (
        put("checkpoints", {"pythia": {**SERIES, "seeds": [1, 1]}}),
        "config: `checkpoints.pythia.seeds` has a value twice: write it once.",
    ),
    "misspelt key": (put("toy", "sampels", 5), "config: unknown key `toy.sampels`; did you mean `samples`?"),
    "misspelt section": (put("tpy", {}), "config: unknown key `tpy`; did you mean `toy`?"),
    "key like no other": (
        put("assumptions", "plateaus", {"zzz": 1}),
        "config: unknown key `assumptions.plateaus.zzz`; known here: runs, std, follow.",
    ),
    "no study": (drop("study"), "config: the key `study` is missing."),
    "alpha 0": (put("toy", "runs", 0, "alphas", ["0"]), f"config: `toy.runs[0].alphas[0]` is '0', but {ALPHA}"),
    "alpha 0.0e-5": (put("assumptions", "alpha", "0.0e-5"), f"config: `assumptions.alpha` is '0.0e-5', but {ALPHA}"),
    "alpha negative": (
        put("toy", "runs", 1, "alphas", ["1e-8", "-1"]),
        f"config: `toy.runs[1].alphas[1]` is '-1', but {ALPHA}",
    ),
    "alpha no number": (put("assumptions", "alpha", "abc"), f"config: `assumptions.alpha` is 'abc', but {ALPHA}"),
    "alpha without quotes": (
        put("figures", "fig02", "diagonal_alpha", 0.1),
        f"config: `figures.fig02.diagonal_alpha` is 0.1, but {ALPHA}",
    ),
    "alpha with a space": (
        put("assumptions", "alpha", "1e-4 "),
        f"config: `assumptions.alpha` is '1e-4 ', but {ALPHA}",
    ),
    "alpha of 300 digits": (
        put("assumptions", "alpha", "0." + 300 * "0" + "1"),
        f"config: `assumptions.alpha` is '0.{47 * '0'}... (305 characters), but {ALPHA}",
    ),
    "exponent that no library takes": (
        put("assumptions", "alpha", "1e-99999999999999"),
        f"config: `assumptions.alpha` is '1e-99999999999999', but {ALPHA}",
    ),
    "no seed": (put("toy", "runs", 0, "seeds", []), f"config: `toy.runs[0].seeds` is [], but {SEEDS}"),
    "seed twice": (
        put("toy", "runs", 0, "seeds", [3, 3]),
        "config: `toy.runs[0].seeds` has a value twice: write it once.",
    ),
    "one seed, no list": (put("toy", "runs", 0, "seeds", 99), f"config: `toy.runs[0].seeds` is 99, but {SEEDS}"),
    "negative seed": (
        put("toy", "headline_seed", -1),
        "config: `toy.headline_seed` is -1, but must be a whole number from 0 to 4294967295.",
    ),
    "seed that no generator takes": (
        put("assumptions", "seeds", [99, 2**32]),
        "config: `assumptions.seeds[1]` is 4294967296, but must be a whole number from 0 to 4294967295.",
    ),
    "seed that is true": (
        put("assumptions", "seeds", [True]),
        "config: `assumptions.seeds[0]` is True, but must be a whole number from 0 to 4294967295.",
    ),
    "study with a slash": (put("study", "a/b"), f"config: `study` is 'a/b', but {NAME}"),
    "study that leads out": (put("study", ".."), f"config: `study` is '..', but {NAME}"),
    "study that looks like an option": (put("study", "-rf"), f"config: `study` is '-rf', but {NAME}"),
    "study with a line break": (put("study", "a\n"), f"config: `study` is 'a\\n', but {NAME}"),
    "study of 300 letters": (
        put("study", "a" * 300),
        f"config: `study` is '{49 * 'a'}... (302 characters), but {NAME}",
    ),
    "study of the published results": (
        put("study", "published"),
        "config: `study` is 'published', but results/published is no study's: choose another name.",
    ),
    "study of the benchmarks, where upper case does not count": (
        put("study", "Benchmarks"),
        "config: `study` is 'Benchmarks', but results/Benchmarks is no study's: choose another name.",
    ),
    "network with a slash": (
        lambda config: config["networks"].update({"a/b": config["networks"]["digits"]}),
        f"config: the name 'a/b' in `networks` {NAME}",
    ),
    "number that no float holds": (
        put("toy", "step", 10**400),
        f"config: `toy.step` is 1{49 * '0'}... (401 characters), but {POSITIVE}",
    ),
    "number that is not one": (put("toy", "step", float("nan")), f"config: `toy.step` is nan, but {POSITIVE}"),
    "tolerance as text": (put("toy", "flow_rtol", "1e-3"), f"config: `toy.flow_rtol` is '1e-3', but {POSITIVE}"),
    "tolerance too loose": (
        put("toy", "flow_atol", 1.0e-4),
        "config: `toy.flow_atol` is 0.0001, but must be a positive number up to 1.0e-5: above, stages are missed.",
    ),
    "whole number with a point": (
        put("toy", "samples", 1.0e3),  # NumPy would refuse it, in the middle of a job
        "config: `toy.samples` is 1000.0, but must be a whole number from 1.",
    ),
    "figure misspelt": (put("figures", "fig3", {}), "config: unknown key `figures.fig3`; did you mean `fig03`?"),
    "figure to leave out misspelt": (
        put("figures", "without", ["fig8"]),
        "config: `figures.without` has 'fig8'; did you mean `fig08`?",
    ),
    "figure option misspelt": (
        put("figures", "fig07", {"alpha": "0.1"}),
        "config: unknown key `figures.fig07.alpha`; did you mean `alphas`?",
    ),
    "figure with too many pixels": (
        put("figures", "dpi", 100000),
        "config: `figures.dpi` is 100000, but must be a whole number from 30 to 1200.",
    ),
    "figure alpha not run": (
        put("figures", "fig06", {"alphas": ["0.1", "1e-5"]}),
        "config: `figures.fig06.alphas` shows '1e-5', which `toy.runs` does not have: add it there, or show another.",
    ),
    "figure seed not run": (
        put("figures", "fig06", {"seed": 7}),
        "config: `figures.fig06.seed` shows 7, which `toy.runs` does not have: add it there, or show another.",
    ),
    "figure of a network not run": (
        put("figures", "fig12", {"network": "imagenet"}),
        "config: `figures.fig12.network` shows 'imagenet', which `networks` does not have: add it there, or show"
        " another.",
    ),
    "headline seed not run": (
        lambda config: [edit(config) for edit in (put("toy", "headline_seed", 5), put("assumptions", "seeds", [5]))],
        "config: `toy.headline_seed` is 5, which no line of `toy.runs` has: add it there, or show another.",
    ),
    "perturbed seeds without the headline seed": (
        put("assumptions", "seeds", [0]),
        "config: `assumptions.seeds` must contain the seed that figures show, 99.",
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
        put("networks", "digits", "runs", 0, "alphas", ["0.1", "0.3", "1", "1.0"]),
        "config: `networks.digits.runs` has '1' and '1.0', one number: write it in one way.",
    ),
    "init scale that float32 does not hold": (
        put("networks", "digits", "runs", 0, "alphas", ["1e-16"]),
        "config: `networks.digits.runs[0].alphas` has '1e-16', but must stay within 1e-15 and 1e15.",
    ),
    "more dimensions than memory": (
        put("toy", "dim", 10**9),
        "config: a run of `toy` would take 64,000,224,128.0 GB of memory or more, of which no node has above 1,000.0"
        " GB: lower `samples`, `tokens`, `dim` or `points`.",
    ),
    "more points than memory": (
        put("toy", "points", 10**9),
        "config: a run of `toy` would take 6,400.0 GB of memory or more, of which no node has above 1,000.0 GB: lower"
        " `samples`, `tokens`, `dim` or `points`.",
    ),
    "variant not defined": (
        put("toy", "runs", 0, "variant", "diagnoal"),
        "config: `toy.runs[0].variant` is 'diagnoal'; did you mean `diagonal`?",
    ),
    "method unknown": (
        put("toy", "variants", {"diagonal": {"weights": "diagonal", "method": "lion"}}),
        "config: `toy.variants.diagonal.method` is 'lion', but must be one of flow, gd, sgd, adam, sign, muon.",
    ),
    "no runs": (drop("toy", "runs"), "config: the key `toy.runs` is missing."),
    "runs empty": (
        put("toy", "runs", []),
        "config: `toy.runs` is [], but must be a list of at least one line of runs.",
    ),
    "batch too large": (
        put("toy", "batch_size", 1001),
        "config: `toy.batch_size` must not be larger than `toy.samples`.",
    ),
    "one point": (put("toy", "points", 1), "config: `toy.points` is 1, but must be a whole number from 2."),
    "alpha too small for weights": (
        lambda config: [
            edit(config)
            for edit in (
                put("toy", "variants", VARIANTS | {"full_gd": {"weights": "full", "method": "gd"}}),
                put("toy", "runs", 2, {"variant": "full_gd", "alphas": ["1e-200"], "seeds": [99]}),
            )
        ],
        "config: `toy.runs[2]` has alpha '1e-200', too small for variant 'full_gd': products of its weights would"
        " be zero; only flow, and gd and sgd of diagonal weights, go below 1e-150.",
    ),
    "sign descent without a step of its own": (
        put("toy", "variants", VARIANTS | {"signs": {"weights": "diagonal", "method": "sign"}}),
        "config: `toy.variants.signs` needs a `step`, such as 1.0e-3: `toy.step` is that of gd and sgd.",
    ),
    "assumptions without a toy model": (
        lambda config: [edit(config) for edit in (drop("toy"), put("figures", {}))],
        "config: `assumptions` perturbs the toy model: it needs a section `toy`.",
    ),
    "linear attention of a rank above dim": (
        put("linear_attention", {"dim": 3, "ranks": [1, 4]}),
        "config: `linear_attention.ranks` has 4, but heads have no rank above `dim`, 3.",
    ),
    "linear attention with equal eigenvalues": (
        put("linear_attention", {"dim": 3, "ranks": [1], "eigenvalues": [0.5, 0.5, 0.25]}),
        "config: `linear_attention.eigenvalues` must be 3 different numbers, as `dim` is.",
    ),
    "linear attention at too small an alpha": (
        put("linear_attention", {"alphas": ["1e-11"]}),
        "config: `linear_attention.alphas` has '1e-11', but must be from 1e-10 to below 1: double precision does not"
        " resolve a jump at times of order 1/alpha below.",
    ),
    "linear attention at one alpha in two spellings": (
        put("linear_attention", {"alphas": ["1e-2", "0.01"]}),
        "config: `linear_attention.alphas` has a value twice: write it once.",
    ),
    "dataset unknown": (
        put("networks", "digits", "dataset", "digit"),
        "config: `networks.digits.dataset` is 'digit'; did you mean `digits`?",
    ),
    "source unknown": (
        put("datasets", "digits", {"source": "parket"}),
        "config: `datasets.digits.source` is 'parket'; did you mean `parquet`?",
    ),
    "source missing": (put("datasets", "digits", {}), "config: the key `datasets.digits.source` is missing."),
    "option of another source": (
        put("datasets", "digits", {"source": "digits", "size": 3}),
        "config: unknown key `datasets.digits.size`; known here: patch, source.",
    ),
    "model unknown": (
        put(*MODEL, "family", "vitt"),
        "config: `networks.digits.model.family` is 'vitt'; did you mean `vit`?",
    ),
    "model without a family": (drop(*MODEL, "family"), "config: the key `networks.digits.model.family` is missing."),
    "model without a size": (drop(*MODEL, "dim"), "config: the key `networks.digits.model.dim` is missing."),
    "model of no layers": (
        put(*MODEL, "depth", 0),
        "config: `networks.digits.model.depth` is 0, but must be a whole number from 1.",
    ),
    "loss unknown": (
        put(*RECIPE, "loss", "crossentropy"),
        "config: `networks.digits.recipe.loss.name` is 'crossentropy'; did you mean `cross_entropy`?",
    ),
    "optimizer with an option out of range": (
        put(*RECIPE, "optimizer", {"name": "sgd", "momentum": -1}),
        "config: `networks.digits.recipe.optimizer.momentum` is -1, but must be a number from 0 and below 1.",
    ),
    "warm-up that does not end": (
        put(*RECIPE, "warmup_epochs", 30),
        "config: `networks.digits.recipe.warmup_epochs` must be less than its `epochs`.",
    ),
    "model larger than its memory": (
        put(*MODEL, "dim", 10**9),
        "config: `networks.digits.model` has a size of 1,000,000,000: one vector of weights takes 16.0 GB to train, and"
        " `hardware.mem_mb` asks for 2.0 GB; make the one smaller or the other larger.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_configuration_gives_one_sentence(config, mistake):
    edit, sentence = MISTAKES[mistake]
    edit(config)
    with pytest.raises(ConfigError) as caught:
        read_study(config)
    assert str(caught.value) == sentence


def test_all_mistakes_of_a_file_are_reported_together(config):
    chosen = ["misspelt key", "alpha 0", "model without a size", "loss unknown", "figure misspelt"]
    for mistake in chosen:
        MISTAKES[mistake][0](config)
    with pytest.raises(ConfigError) as caught:
        read_study(config)
    assert sorted(str(caught.value).splitlines()) == sorted(MISTAKES[mistake][1] for mistake in chosen)


def test_all_inconsistencies_are_reported_together(config):
    chosen = ["batch too large", "dataset unknown", "figure seed not run", "warm-up that does not end"]
    for mistake in chosen:
        MISTAKES[mistake][0](config)
    with pytest.raises(ConfigError) as caught:
        read_study(config)
    assert sorted(str(caught.value).splitlines()) == sorted(MISTAKES[mistake][1] for mistake in chosen)


@pytest.mark.parametrize("section", ["networks", "figures", "plan", "datasets"])
def test_a_section_left_empty_gives_a_sentence(config, section):
    config[section] = None
    with pytest.raises(ConfigError, match=rf"^config: `{section}` is None, but must be .*\.$"):
        read_study(config)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["toy", "assumptions", "datasets", "networks", "figures", "plan", "data_dir", "extensions", "x"]),
)
def test_whatever_stands_in_a_section_gives_sentences_or_a_study(value, section):
    try:
        read_study(yaml.safe_load(SIX_LINES) | {section: value})
    except ConfigError as error:
        for sentence in str(error).splitlines():
            assert re.fullmatch(r"config: .*[.?]", sentence), sentence


@pytest.mark.parametrize("alpha", ["1", "1.0", "3", "1e2"])
def test_an_init_scale_that_is_not_below_one_is_refused(config, alpha):
    # Times are given in units of ln(1/alpha).
    config["toy"]["runs"][0]["alphas"].append(alpha)
    with pytest.raises(ConfigError, match=re.escape(f"has '{alpha}', but must be below 1")):
        read_study(config)


def test_checking_a_configuration_does_not_change_it(config):
    kept = deepcopy(config)
    read_study(config)
    assert config == kept


def test_a_loss_and_an_optimizer_may_be_names_or_have_options(config):
    recipe = config["networks"]["digits"]["recipe"]
    recipe["loss"], recipe["optimizer"] = "squared_error", {"name": "sgd", "momentum": 0.9}
    read = read_study(config).networks["digits"].recipe
    assert read.loss.name == "squared_error"
    assert read.optimizer.model_dump() == {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0}


def test_runs_are_every_alpha_with_every_seed_of_a_line_and_none_twice(config):
    config["toy"]["runs"] = [
        {"variant": "diagonal", "alphas": ["0.1", "1e-8"], "seeds": [99, 1]},
        {"variant": "diagonal", "alphas": ["1e-8"], "seeds": [1, 2]},
        {"variant": "full", "alphas": ["1e-8"], "seeds": [1]},
    ]
    expected = [
        ("diagonal", "0.1", 99),
        ("diagonal", "0.1", 1),
        ("diagonal", "1e-8", 99),
        ("diagonal", "1e-8", 1),
        ("diagonal", "1e-8", 2),
        ("full", "1e-8", 1),
    ]
    study = read_study(config | {"figures": {}})
    assert [(run["variant"], run["alpha"], run["seed"]) for run in toy_runs(study)] == expected


def test_figures_are_those_whose_tables_are_made_less_those_left_out(config):
    config["figures"]["without"] = ["fig09"]
    drawn = drawn_figures(read_study(config))
    assert {"fig01", "fig02", "fig10", "fig12", "fig_limit"} <= set(drawn)
    assert "fig09" not in drawn
    assert not {"fig13", "fig14", "fig15", "fig16"} & set(drawn)  # drawn only where the configuration names them
    config["figures"]["fig13"] = {"network": "digits"}
    assert "fig13" in drawn_figures(read_study(config))


def test_options_of_a_figure_are_those_stated_and_else_follow_from_the_runs(config):
    config["networks"]["second"] = deepcopy(config["networks"]["digits"])
    config["figures"]["fig12"] = {"network": "second"}
    study, figures = read_study(config), registered("figure")
    assert figure_options(study, figures["fig06"])["seed"] == 99
    assert figure_options(study, figures["fig06"])["alphas"] == ["0.1", "0.01", "1e-4", "1e-8", "1e-16", "1e-32"]
    assert figure_options(study, figures["fig01"])["networks"] == ["digits", "second"]
    assert figure_options(study, figures["fig11"])["network"] == "digits"
    assert figure_options(study, figures["fig12"])["network"] == "second"
    assert shown_networks(study, figures["fig12"]) == ["second"]
    assert shown_networks(study, figures["fig01"]) == ["digits", "second"]


def test_the_explorer_begins_with_the_headline_problem_at_the_papers_smallest_alpha(config):
    assert explorer_start(read_study(config)) == {"scale": "1", "seed": 0, "problem": 99, "alpha": "1e-32"}


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
    check_demo(deepcopy(config))
    other = deepcopy(config)
    other["study"], other["figures"]["dpi"] = name, 300
    with pytest.raises(ConfigError, match="^config: the study 'demo' is what config/config.yaml says and nothing else"):
        check_demo(other)
    other["study"] = "mine"
    check_demo(other)


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
    with pytest.raises(
        ConfigError, match=r"nosuch.yaml; studies in .*/config: .*defaults, demo, .*paper, template, theory\.$"
    ):
        read_config(ROOT / "config" / "nosuch.yaml")
    with pytest.raises(ConfigError, match=r"nosuch.yaml; studies in .*: none\.$"):
        read_config(tmp_path / "nosuch.yaml")
    with pytest.raises(ConfigError, match=r" cannot be read: Is a directory\.$"):
        read_config(tmp_path)


def test_linear_attention_alone_is_a_study():
    study = read_study({"study": "x", "linear_attention": {}})
    assert made_tables(study) == ["linear_attention", "linear_attention_losses"]
    assert list(drawn_figures(study)) == ["fig_linear_attention"]
    assert len(study.linear_attention.seeds) >= 17  # 0.025^(1/17) > 0.8, the lower bound of Clopper and Pearson
