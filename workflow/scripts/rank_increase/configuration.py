"""The configuration of a study: validation with sentences a person can act on, and the runs it asks for."""

import os
import sys
from decimal import Decimal
from difflib import SequenceMatcher
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
MAX_TOY_BYTES = 10**12  # of a toy run: the memory of a large node
OTHER_RESULTS = ("published", "benchmarks")  # folders of results/ that are no study's
VIT_SETTINGS = ("models", "training", "hardware")  # of each dataset that is trained on
SOURCE_KEYS = {  # beside `source`, which all datasets have: keys that are needed, keys that may be left out
    "digits": ((), ()),
    "cifar10": ((), ("mirrors",)),
    "cifar100": ((), ("mirrors",)),
    "image_folder": (("path", "size"), ()),
    "parquet": (("train", "test", "classes", "size"), ()),
}


# JSON Schema takes 1000.0 for an integer and infinity or 10^400 for a number; NumPy and the solvers would not.
_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
            ),
        }
    ),
)


class ConfigError(ValueError):
    """A user's mistake; its text is one sentence that says what to change."""


def read_config(path):
    """Read a config file, which is YAML in UTF-8.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict

    Raises
    ------
    ConfigError
        If there is no such file, it is no YAML, or it has a key twice, of which YAML would silently take the last.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        studies = sorted({"config": "demo"}.get(file.stem, file.stem) for file in path.parent.glob("*.yaml"))
        raise ConfigError(f"there is no {path}; studies in {path.parent}: {', '.join(studies) or 'none'}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8: save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root, config = yaml.compose(text, loader), yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_yaml_mistake(error, text)}.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} has no keys: it needs at least `study: NAME`.")
    _check_keys(path, root)
    return config


def _yaml_mistake(error, text):
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return error.reason
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    tab = "\t" in line[: len(line) - len(line.lstrip())]
    return f"line {mark.line + 1}: {'indent with spaces instead of tabs' if tab else error.problem}"


def _check_keys(path, node):
    """Refuse a key that a mapping has twice, at any depth below a node of YAML."""
    if isinstance(node, yaml.MappingNode):
        lines = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, (key.tag, str(key.value))
            if name in lines:
                raise ConfigError(f"{path} has the key `{key.value}` twice, in lines {lines[name]} and {line}.")
            lines[name] = line
            _check_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(path, value)


def check_demo(config, demo):
    """Raise a `ConfigError` if a configuration would write other results to the folder of the demo.

    Parameters
    ----------
    config : dict
        With what the user gave, if anything, by --configfile and --config.
    demo : dict
        What config/config.yaml says.
    """
    if str(config["study"]).casefold() == demo["study"].casefold() and config != demo:
        raise ConfigError(
            f"config: the study {demo['study']!r} is what config/config.yaml says and nothing else: give yours a name,"
            " `study: NAME` in the file that --configfile names, or --config study=NAME."
        )


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
    if config["study"].casefold() in OTHER_RESULTS:
        raise ConfigError(
            f"config: `study` is {config['study']!r}, but results/{config['study']} is no study's: choose another name."
        )
    toy, figures = config["toy"], config["figures"]
    _check_spellings("toy.runs", toy["runs"])
    _check_toy_sizes(config)
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


def _check_spellings(key, runs):
    spellings = {}
    for alpha in (alpha for line in runs for alpha in line["alphas"]):
        first = spellings.setdefault(Decimal(alpha), alpha)
        if first != alpha:
            raise ConfigError(f"config: `{key}` has {first!r} and {alpha!r}, one number: write it in one way.")


def _check_toy_sizes(config):
    """Refuse sizes with which no run of the toy model can start; those of large nodes are left to the user."""
    toy = config["toy"]
    used = [toy["structures"][line["structure"]] for line in toy["runs"] if line["structure"] in toy["structures"]]
    matrices = any("full" in structure.values() or "dense" in structure.values() for structure in used)
    data = 2 * toy["samples"] * toy["tokens"] * toy["dim"]  # X and Y
    weights = 8 * toy["dim"] ** (2 if matrices else 1)  # the student's and the teacher's
    table = 6 * 2 * toy["dim"] * max(toy["points"], config["assumptions"]["points"])  # columns of both products
    size = 8 * (data + weights + table)
    if size > MAX_TOY_BYTES:
        raise ConfigError(
            f"config: a run of `toy` would take {_gigabytes(size)} of memory or more, of which no node has above"
            f" {_gigabytes(MAX_TOY_BYTES)}: lower `samples`, `tokens`, `dim` or `points`."
        )


def _check_vit_size(config, name):
    """Refuse a model that does not fit the memory of its job; what images and activations take comes on top."""
    model, memory = config["vit"]["models"][name], config["vit"]["hardware"][name]["mem_mb"] * 10**6
    layer = model["dim"] * (4 * model["heads"] * model["dim_head"] + 2 * model["mlp_dim"])
    size = 4 * 4 * model["depth"] * layer  # weights, gradients and both moments of Adam, in float32
    if size > memory:
        raise ConfigError(
            f"config: the model `vit.models.{name}` takes {_gigabytes(size)} of memory to train, and"
            f" `vit.hardware.{name}.mem_mb` asks for {_gigabytes(memory)}: make the one smaller or the other larger."
        )


def _gigabytes(size):
    return f"{Decimal(size) / 10**9:,.1f} GB"  # a Decimal, as sizes may pass what a float holds


def _check_vit(config):
    vit = config["vit"]
    _check_spellings("vit.runs", vit["runs"])
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
        _check_vit_size(config, name)
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
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is a file where the folder of results should be: move it away.")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"no permission to write to {nearest}: choose another folder with --directory.")


def check_data_dir(folder):
    """Raise a `ConfigError` if `folder`, which may be read-only or not exist yet, can be no folder."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise ConfigError(f"config: `data_dir` is {str(folder)!r}, but {nearest} is a file: name a folder.")


def _nearest(folder):
    """The folder, or the nearest above it that exists."""
    folder = Path(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _sentence(error):
    where = error.json_path.removeprefix("$").removeprefix(".")
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(key for key in error.instance if key not in known)
        likeness = {key: SequenceMatcher(None, key, str(unknown)).ratio() for key in known}
        guess = max(likeness, key=likeness.get)
        hint = f"did you mean `{guess}`?" if likeness[guess] > 0.6 else f"known here: {', '.join(known)}."
        return f"config: unknown key `{f'{where}.' if where else ''}{unknown}`; {hint}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"config: the key `{f'{where}.' if where else ''}{missing}` is missing."
    if error.validator == "maxLength":
        return f"config: `{where}` has {len(error.instance)} characters, of which {error.validator_value} are allowed."
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


if __name__ == "__main__":
    # For make: Snakemake reads config files before any code of ours, and answers some mistakes with a traceback.
    try:
        read_config(sys.argv[1])
    except ConfigError as error:
        sys.exit(str(error))
