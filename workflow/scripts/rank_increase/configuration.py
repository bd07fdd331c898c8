"""The configuration of a study: validation with sentences a person can act on, and the runs it asks for."""

import math
import os
from difflib import get_close_matches
from itertools import product
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import extend

from rank_increase.notation import log_alpha

SCRIPTS = Path(__file__).parents[1]
SCHEMA = SCRIPTS.parent / "schemas" / "config.schema.yaml"
MIN_LOG_ALPHA = log_alpha("1e-150")  # below, alpha^2 is no float64
LOG_SCALES = log_alpha("1e-15"), log_alpha("1e15")  # of a vision transformer, whose float32 squares and more must hold
VIT_SETTINGS = ("models", "training", "hardware")  # of each dataset that is trained on
SOURCE_KEYS = {  # beside `source`, which all datasets have: keys that are needed, keys that may be left out
    "digits": ((), ()),
    "cifar10": ((), ("mirrors",)),
    "cifar100": ((), ("mirrors",)),
    "image_folder": (("path", "size"), ()),
    "parquet": (("train", "test", "classes", "size"), ()),
}


# JSON Schema takes 1000.0 for an integer and infinity for a number; NumPy and the solvers would not.
_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            ),
        }
    ),
)


class ConfigError(ValueError):
    """A user's mistake; its text is one sentence that says what to change."""


def check_config(config):
    """Raise a `ConfigError` for the first mistake in a configuration.

    Parameters
    ----------
    config : dict
    """
    schema = yaml.safe_load(SCHEMA.read_text())
    error = best_match(_Validator(schema).iter_errors(config))
    if error:
        raise ConfigError(_sentence(error))
    toy, figures = config["toy"], config["figures"]
    for number, line in enumerate(toy["runs"]):
        if line["structure"] not in toy["structures"]:
            raise ConfigError(
                f"config: `toy.runs[{number}].structure` is {line['structure']!r}, but must be one of the names under"
                f" `toy.structures`: {', '.join(toy['structures'])}."
            )
        for alpha in line["alphas"]:
            _check_below_one(f"toy.runs[{number}].alphas", alpha)
        structure = toy["structures"][line["structure"]]
        in_weights = structure["method"] != "flow" or structure["weights"] == "full"
        for alpha in line["alphas"] if in_weights else []:
            if log_alpha(alpha) < MIN_LOG_ALPHA:
                raise ConfigError(
                    f"config: `toy.runs[{number}]` has alpha {alpha!r}, too small for structure {line['structure']!r}:"
                    " products of its weights would be zero; only the flow of diagonal weights goes below 1e-150."
                )
    if toy["batch_size"] > toy["samples"]:
        raise ConfigError("config: `toy.batch_size` must not be larger than `toy.samples`.")
    seed, runs = toy["headline_seed"], toy_runs(config)
    shown = [
        *(("figures.alphas", "diagonal", alpha) for alpha in figures["alphas"]),
        ("figures.fig02_diagonal_alpha", "diagonal", figures["fig02_diagonal_alpha"]),
        ("figures.fig02_full_alpha", "full", figures["fig02_full_alpha"]),
    ]
    for key, structure, alpha in shown:
        if {"structure": structure, "alpha": alpha, "seed": seed} not in runs:
            raise ConfigError(
                f"config: `{key}` shows alpha {alpha!r} of structure {structure!r}, which `toy.runs` does not have with"
                f" the headline seed {seed}: add it there, or show another."
            )
    _check_below_one("assumptions.alpha", config["assumptions"]["alpha"])
    if seed not in config["assumptions"]["seeds"]:
        raise ConfigError(f"config: `assumptions.seeds` must contain `toy.headline_seed`, {seed}: figures show it.")
    _check_vit(config)


def _check_below_one(key, alpha):
    if log_alpha(alpha) >= 0:
        raise ConfigError(f"config: `{key}` is {alpha!r}, but must be below 1: times are in units of ln(1/alpha).")


def _check_vit(config):
    vit = config["vit"]
    for name, dataset in config["datasets"].items():
        needed, optional = SOURCE_KEYS[dataset["source"]]
        for key in needed:
            if key not in dataset:
                raise ConfigError(f"config: `datasets.{name}` lacks the key `{key}`, which {dataset['source']} needs.")
        for key in dataset:
            if key not in ("source", *needed, *optional):
                raise ConfigError(f"config: `datasets.{name}.{key}` is no key of {dataset['source']}: remove it.")
    for number, line in enumerate(vit["runs"]):
        where, name = f"vit.runs[{number}]", line["dataset"]
        for key, known in [("datasets", config["datasets"]), *((f"vit.{k}", vit[k]) for k in VIT_SETTINGS)]:
            if name not in known:
                raise ConfigError(
                    f"config: `{where}.dataset` is {name!r}, which is not among `{key}`: {', '.join(known)}."
                )
        for alpha in line["alphas"]:
            if not LOG_SCALES[0] <= log_alpha(alpha) <= LOG_SCALES[1]:
                raise ConfigError(f"config: `{where}` has alpha {alpha!r}, but must stay within 1e-15 and 1e15.")
        if vit["training"][name]["warmup_epochs"] >= vit["training"][name]["epochs"]:
            raise ConfigError(f"config: `vit.training.{name}.warmup_epochs` must be less than its `epochs`.")
    figures = config["figures"]["vit"]
    runs = vit_runs(config)
    for figure, datasets in figures["datasets"].items():
        for dataset, alpha in product(datasets, figures["fig03_alphas"] if figure == "fig03" else [figures["alpha"]]):
            if {"dataset": dataset, "alpha": alpha, "seed": figures["seed"]} not in runs:
                raise ConfigError(
                    f"config: `figures.vit.datasets.{figure}` shows {dataset!r} with alpha {alpha!r} and seed"
                    f" {figures['seed']}, which `vit.runs` does not have: add it there, or show another."
                )


def check_folder(folder):
    """Raise a `ConfigError` if no results can be written to `folder`, existing or not."""
    folder = Path(folder).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is a file where the folder of results should be: move it away.")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"no permission to write to {nearest}: choose another folder with --directory.")


def _sentence(error):
    where = error.json_path.removeprefix("$").removeprefix(".")
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(key for key in error.instance if key not in known)
        guess = get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean `{guess[0]}`?" if guess else f"known here: {', '.join(known)}."
        return f"config: unknown key `{f'{where}.' if where else ''}{unknown}`; {hint}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"config: the key `{f'{where}.' if where else ''}{missing}` is missing."
    expected = error.schema.get("description", error.message)
    return f"config: `{where}` is {error.instance!r}, but must be {expected}."


def toy_runs(config):
    """The toy runs of a study, each a dict with `structure`, `alpha`, `seed`; none twice."""
    runs = {
        (line["structure"], alpha, seed): None
        for line in config["toy"]["runs"]
        for alpha in line["alphas"]
        for seed in line["seeds"]
    }
    return [dict(zip(("structure", "alpha", "seed"), run, strict=True)) for run in runs]


def vit_runs(config):
    """The runs of vision transformers of a study, each a dict with `dataset`, `alpha`, `seed`; none twice."""
    runs = {
        (line["dataset"], alpha, seed): None
        for line in config["vit"]["runs"]
        for alpha in line["alphas"]
        for seed in line["seeds"]
    }
    return [dict(zip(("dataset", "alpha", "seed"), run, strict=True)) for run in runs]
