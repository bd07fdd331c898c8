"""The configuration of a study: its sections as types, its mistakes as sentences, and the runs that it asks for.

Config files, the JSON schema and config/README.md follow from the types below and from what is registered.
"""

import os
import sys
from decimal import Decimal
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path as FilePath
from typing import Annotated, Literal, Union

import yaml
from pydantic import BeforeValidator, Field, ValidationError, create_model

from rank_increase.notation import log_alpha
from rank_increase.options import (
    Alpha,
    Alphas,
    Count,
    Dpi,
    Name,
    Path,
    Points,
    Positive,
    Section,
    Seed,
    Seeds,
    Share,
    Size,
    Text,
)
from rank_increase.registry import RegistryError, registered
from rank_increase.training.recipe import Recipe

MIN_LOG_ALPHA = log_alpha("1e-150")  # below, alpha^2 is no float64
LOG_SCALES = log_alpha("1e-15"), log_alpha("1e15")  # of a network, whose float32 squares and more must hold
TOY_TABLES = ("trajectory", "losses", "events", "conservation", "stages", "theorem", "perturbations")
NETWORK_TABLES = ("metrics", "spectra", "measures")
RESERVED = ("published", "benchmarks")  # folders of results/ that are no study's
MAX_TOY_BYTES = 10**12  # of a toy run: the memory of a large node
ONE_LINE = Field(min_length=1, json_schema_extra={"must_be": "a list of at least one line of runs"})
DEMO = FilePath(__file__).resolve().parents[3] / "config" / "config.yaml"


class ConfigError(ValueError):
    """A user's mistake; its text is one sentence for each, which say what to change."""


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
    path = FilePath(path)
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


class Variant(Section):
    """A variant of the toy experiment."""

    weights: Literal["diagonal", "full"]
    """The student's: diagonal or full."""
    teacher: Literal["diagonal", "dense"] = "diagonal"
    """diagonal (spread singular values) or dense (crowded ones)."""
    method: Literal["flow", "gd", "sgd"] = "flow"
    """flow (gradient flow), gd (full-batch gradient descent) or sgd."""


class ToyRuns(Section):
    """Runs of the toy model: every alpha with every seed."""

    variant: Name = "diagonal"
    """A name under `toy.variants`."""
    alphas: Alphas
    """Init scales, below 1. Paper: 0.1 to 1e-32."""
    seeds: Seeds = [0]
    """Each draws a problem: data, teacher and initial weights."""


VARIANTS = {
    "diagonal": Variant(weights="diagonal"),
    "full": Variant(weights="full"),
    "full_dense": Variant(weights="full", teacher="dense"),
    "diagonal_gd": Variant(weights="diagonal", method="gd"),
    "diagonal_sgd": Variant(weights="diagonal", method="sgd"),
}


class Toy(Section):
    """The toy model: one attention head taught by another (paper, eq. 1, section 5 and Appendix A)."""

    samples: Count = 1000
    """Random sequences (paper: 1000)."""
    tokens: Count = 10
    """Tokens in each (paper: 10)."""
    dim: Count = 50
    """Their dimension (paper: 50)."""
    teacher_std_KQ: Positive = 0.6
    """Standard deviation of the teacher's W_K and W_Q entries. The paper does not say."""
    teacher_std_VO: Positive = 0.8
    """Standard deviation of the teacher's W_V and W_O entries. The paper does not say."""
    headline_seed: Seed | None = None
    """The problem that figures show; null: the first seed of the first line of `runs`."""
    max_time: Positive = 1000
    """Training time, in units of ln(1/alpha) (paper: 1000)."""
    points: Points = 501
    """Recorded moments of a run."""
    activation_weight: Positive = 0.1
    """A coordinate is active once the larger of its two weights is above this."""
    flow_rtol: Positive = 1.0e-10
    """Relative error bound of the flow of diagonal weights, of the conserved coordinate s."""
    flow_atol: Annotated[
        float,
        Field(gt=0, le=1e-5, json_schema_extra={"must_be": "a positive number up to 1.0e-5: above, stages are missed"}),
    ] = 1.0e-6
    """Absolute error bound of the same."""
    full_flow_rtol: Positive = 1.0e-4
    """Relative error bound of the flow of full weights."""
    full_flow_atol: Positive = 1.0e-4
    """Absolute error bound of the same, in units of alpha."""
    step: Positive = 0.45
    """Learning rate of GD and SGD. The paper does not say; the ticks of its Figure 9 imply about 0.45."""
    batch_size: Count = 100
    """Samples in a minibatch of SGD."""
    variants: dict[Name, Variant] = VARIANTS
    """Named variants of the experiment."""
    runs: Annotated[list[ToyRuns], ONE_LINE]
    """Which to run."""


class Plateaus(Section):
    """Assumption 4.3: perturbations at random moments."""

    runs: Count = 5
    """How many moments (paper: 5)."""
    std: Positive = 0.05
    """Standard deviation of the noise (paper: 0.05)."""
    follow: Positive = 6.1
    """How long to follow, in units of ln(1/alpha): 1000 epochs of the paper, at a step of 0.45 and alpha = 1e-32."""


class Activations(Section):
    """Assumption 4.4: perturbations where a weight becomes nonnegligible, followed until the next one does."""

    runs: Count = 5
    """How many moments (paper: 5)."""
    std: Positive = 0.01
    """Standard deviation of the noise (paper: 0.01)."""


class Assumptions(Section):
    """Perturbation runs on diagonal weights (paper, Appendix A, Figures 9 and 10)."""

    alpha: Alpha = "1e-32"
    """Init scale of the perturbed trajectory (paper: 1e-32)."""
    seeds: Seeds
    """Problems whose trajectory is perturbed."""
    threshold: Positive = 1.0e-5
    """Weights above this are perturbed, and an activation is a weight that passes it (paper: tau = 1e-5)."""
    points: Points = 201
    """Recorded moments of each run."""
    plateaus: Plateaus = Plateaus()
    """Assumption 4.3."""
    activations: Activations = Activations()
    """Assumption 4.4."""


class Hardware(Section):
    """What a run asks of the machine; its results do not depend on it, but for rounding."""

    gpu: Size = 0
    """GPUs to ask SLURM for, each with a process of its own; 0 for a run on the CPU."""
    processes: Count = 1
    """Processes of a run on the CPU, which share the threads."""
    threads: Count = 1
    """CPU cores. Small models do best with 1, and as many runs side by side as there are cores."""
    mem_mb: Count = 3000
    """Memory, in MB."""
    runtime: Count = 240
    """Minutes after which SLURM ends the job; the next attempt, which is given more, resumes it."""
    pass_size: Size = 0
    """Samples that a device takes at once; a batch is made of as many passes as it needs. 0: no limit."""


class NetworkRuns(Section):
    """Runs of a network: every init scale with every seed."""

    alphas: Alphas
    """Init scales: factors on the initial values of all layers but the token embedding; "1" is the default."""
    seeds: Seeds = [0]
    """Of the initial weights and of the order of the samples."""


class Network(Section):
    """A model on a dataset with a recipe."""

    label: Text | None = None
    """What figures and pages call it; null: its name."""
    dataset: Name
    """A name under `datasets`."""
    model: dict
    """The model, by `family` and its options."""
    recipe: Recipe
    """How it is trained."""
    hardware: Hardware = Hardware()
    """What a run asks of the machine."""
    runs: Annotated[list[NetworkRuns], ONE_LINE]
    """Which to run."""


class Rate(Section):
    """What a device computes."""

    peak_tflops: Positive
    """Matrix products, in 10^12 floating point operations a second."""
    utilisation: Share
    """The share of it that training comes to."""


class Images(Section):
    """Size of a dataset that is not packed yet."""

    train: Count
    """Samples to train on."""
    test: Count
    """Samples to test on."""
    shape: list[Count]
    """Of a sample: height, width and channels of an image."""
    classes: Count
    """Of a label."""


class Plan(Section):
    """What `make plan` assumes. No result depends on it."""

    gpu: Rate = Rate(peak_tflops=989.0, utilisation=0.4)
    """One GPU in bf16: 312 (A100), 989 (H100, H200) TFLOP/s."""
    cpu: Rate = Rate(peak_tflops=0.06, utilisation=0.4)
    """One CPU core of a server or laptop in float32: 0.05 to 0.15 TFLOP/s."""
    datasets: dict[Name, Images] = {}
    """Datasets that are not packed yet, by name."""


class Study(Section):
    """A study: what to run, what to draw, and under which name."""

    study: Name
    """Name of the study: results go to results/<study>/."""
    extensions: list[Path] = []
    """Python files that register more models, sources, losses, optimizers, measures, claims or figures
    (docs/extending.md), by paths from the folder of the config file."""
    data_dir: Path | None = None
    """Folder of the packed datasets; null: results/<study>/datasets. Studies may share it, and it may be read-only."""
    scratch_dir: Path | None = None
    """Folder for the state of runs while they train; null: results/<study>/scratch. "~" and variables are those of the
    machine that trains. All machines should see it: a run resumes only where it does."""
    checkpoint_minutes: Positive = 5.0
    """Minutes between two checkpoints of a run."""
    toy: Toy | None = None
    """The toy model."""
    assumptions: Assumptions | None = None
    """Perturbation runs of the toy model."""
    datasets: dict[Name, dict] = {}
    """Datasets by name, each with its `source` and that source's options."""
    networks: dict[Name, Network] = {}
    """Networks by name."""
    plan: Plan = Plan()
    """What `make plan` assumes."""
    figures: dict = {}
    """Figures: `dpi`, those to leave out, and options of each by its name."""


def choice(kind, key, extensions):
    """A type for one of what is registered as `kind`: a mapping with its name under `key`, and its options."""
    types = [
        create_model(name, __base__=entry.options(), **{key: (Literal[name], Field(description=entry.summary))})
        for name, entry in registered(kind, extensions).items()
    ]
    if len(types) == 1:
        types *= 2  # a union of one has no discriminator
    spelled = BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)
    return Annotated[Union[tuple(types)], Field(discriminator=key), spelled]  # noqa: UP007 - of a list


@cache
def study_type(extensions=()):
    """The type `Study`, with what is registered in the library and in the files `extensions`."""
    recipe = create_model(
        "Recipe",
        __base__=Recipe,
        __doc__=Recipe.__doc__,
        **{
            name: (
                choice(name, "name", extensions),
                Field(
                    Recipe.model_fields[name].default,
                    validate_default=True,
                    description=Recipe.model_fields[name].description,
                ),
            )
            for name in ("loss", "optimizer")
        },
    )
    network = create_model(
        "Network",
        __base__=Network,
        __doc__=Network.__doc__,
        model=(choice("model", "family", extensions), Field(description="The model, by `family` and its options.")),
        recipe=(recipe, Field(description="How it is trained.")),
    )
    figures = create_model(
        "Figures",
        __base__=Section,
        dpi=(Dpi, Field(150, description="Resolution of the PNG files, in dots per inch.")),
        without=(list[Name], Field([], description="Figures that are not to be drawn.")),
        **{
            name: (entry.options() | None, Field(None, description=entry.summary))
            for name, entry in registered("figure", extensions).items()
        },
    )
    return create_model(
        "Study",
        __base__=Study,
        __doc__=Study.__doc__,
        datasets=(dict[Name, choice("source", "source", extensions)], Field({}, description="Datasets by name.")),
        networks=(dict[Name, network], Field({}, description="Networks by name.")),
        figures=(
            figures,
            Field(figures(), description="Figures: resolution, those to leave out, and options of each by its name."),
        ),
    )


def check_demo(config):
    """Raise a `ConfigError` if a configuration would write other results to the folder of the demo.

    Parameters
    ----------
    config : dict
        What the user gave by --configfile and --config.
    """
    demo = read_config(DEMO)
    if str(config.get("study")).casefold() == demo["study"].casefold() and config != demo:
        raise ConfigError(
            f"config: the study {demo['study']!r} is what config/config.yaml says and nothing else: give yours a name,"
            " `study: NAME` in the file that --configfile names, or --config study=NAME."
        )


def located_extensions(config, files):
    """The key `extensions` of a configuration, with paths from the working directory; a dict, empty without the key.

    In a config file, paths are relative to the folder of that file, wherever Snakemake runs. Elsewhere, as in --config
    or in the `config` of a module, they are relative to the working directory.

    Parameters
    ----------
    config : dict
    files : list of str
        The config files, each laid over those before.

    Raises
    ------
    ConfigError
        As of `read_config`.
    """
    paths = _extensions(config)
    if list(paths) != config.get("extensions"):  # there are none, or a mistake, which `read_study` describes
        return {}
    stating = [file for file in files if _extensions(read_config(file)) == paths]
    folder = FilePath(stating[-1]).parent if stating else FilePath()
    return {"extensions": [os.path.relpath(folder / FilePath(path).expanduser()) for path in paths]}


def read_study(config):
    """The configuration as a checked object of type `study_type`, defaults filled in.

    Parameters
    ----------
    config : dict

    Raises
    ------
    ConfigError
        With a sentence for every mistake.
    """
    try:
        checked = study_type(_extensions(config)).model_validate(config)
    except RegistryError as error:
        raise ConfigError(f"config: {error}") from error
    except ValidationError as error:
        raise ConfigError("\n".join(_sentences(error, config))) from error
    if mistakes := list(_inconsistencies(checked)):
        raise ConfigError("\n".join(f"config: {mistake}" for mistake in mistakes))
    return checked


def _extensions(config):
    """Extension files of a configuration that has not been checked yet; a tuple of str."""
    named = config.get("extensions")
    return tuple(path for path in named if isinstance(path, str)) if isinstance(named, list) else ()


def _sentences(error, config):
    """A sentence for every mistake that pydantic has found."""
    known, schema = [], None
    for mistake in error.errors():
        schema = schema or study_type(_extensions(config)).model_json_schema()
        place, node = _locate(schema, mistake["loc"], config)
        where = f"`{place}`" if place else "the configuration"
        match mistake["type"]:
            case "extra_forbidden":
                above, _, key = place.rpartition(".")
                known = list(_locate(schema, mistake["loc"][:-1], config)[1].get("properties", ()))
                yield f"config: unknown key `{place}`; {_hint(key, known)}"
            case "missing":
                yield f"config: the key {where} is missing."
            case "union_tag_not_found":
                yield f"config: the key `{place}.{mistake['ctx']['discriminator'].strip(chr(39))}` is missing."
            case "union_tag_invalid":
                key, tag = mistake["ctx"]["discriminator"].strip("'"), mistake["ctx"]["tag"]
                names = [name.strip(" '") for name in mistake["ctx"]["expected_tags"].split(",")]
                yield f"config: `{place}.{key}` is {tag!r}; {_hint(tag, list(dict.fromkeys(names)))}"
            case "string_pattern_mismatch" if mistake["loc"][-1:] == ("[key]",):
                yield f"config: the name {_shortened(mistake['input'])} in {where} must be {_words(node)}."
            case _:
                said = mistake["msg"][0].lower() + mistake["msg"][1:]
                words = _words(node) or said.removeprefix("input should be ")
                yield f"config: {where} is {_shortened(mistake['input'])}, but must be {words}."


def _shortened(value):
    """A value as Python writes it, cut where it is longer than a sentence bears."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"


def _words(node):
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    return node.get("must_be") or ("a section with keys of its own" if "properties" in node else "")


def _hint(key, known):
    likeness = {name: SequenceMatcher(None, name, str(key)).ratio() for name in known}
    guess = max(likeness, key=likeness.get, default=None)
    if guess and likeness[guess] > 0.6:
        return f"did you mean `{guess}`?"
    return f"known here: {', '.join(known) or 'none'}."


def _locate(schema, location, config):
    """Where a mistake is, as the config file has it, and the part of the JSON schema that it violates."""
    node, place, value, above = schema, "", config, (schema, "")
    for step in location:
        node = _resolved(schema, node)
        name = step if str(step).isprintable() else repr(step)[1:-1]
        if isinstance(step, int):
            place, node, value = f"{place}[{step}]", node.get("items", {}), _part(value, step)
        elif step == "[key]":
            node, place = above[0].get("propertyNames", {}), above[1]
        elif step in node.get("properties", {}) or isinstance(value, dict) and step in value:
            above = node, place
            of_any = next(iter(node.get("patternProperties", {}).values()), {})
            node = node.get("properties", {}).get(step, of_any)
            place, value = f"{place}.{name}" if place else str(name), _part(value, step)
        elif value == step or isinstance(value, dict) and step in value.values():  # the name that was chosen
            node = {"$ref": node["discriminator"]["mapping"][step]} if "discriminator" in node else node
        else:
            place = f"{place}.{name}" if place else str(name)
    return place, _resolved(schema, node)


def _resolved(schema, node):
    """A part of the schema with what it refers to in its place; of "this or null", this."""
    while True:
        if reference := node.get("$ref"):
            node = {**schema["$defs"][reference.rpartition("/")[2]], **{k: v for k, v in node.items() if k != "$ref"}}
        elif others := [part for part in node.get("anyOf", ()) if part.get("type") != "null"]:
            node = others[0]
        else:
            return node


def _part(value, step):
    try:
        return value[step]
    except (KeyError, IndexError, TypeError):
        return None


def _inconsistencies(study):
    """Mistakes that no single key shows, as sentences without "config: "."""
    if study.study.casefold() in RESERVED:
        yield f"`study` is {study.study!r}, but results/{study.study} is no study's: choose another name."
    yield from _repeated_runs(study)
    if study.toy:
        yield from _toy_mistakes(study)
    if study.assumptions:
        yield from _assumption_mistakes(study)
    for name, network in study.networks.items():
        yield from _network_mistakes(study, name, network)
    yield from _figure_mistakes(study)


def _repeated_runs(study):
    """Init scales in two spellings, which would be two runs, among the lines of the toy model or of a network."""
    of_toy = [line for line in study.toy.runs] if study.toy else []
    for where, lines in {
        "toy": of_toy,
        **{f"networks.{name}": one.runs for name, one in study.networks.items()},
    }.items():
        spellings = {}
        for alpha in (alpha for line in lines for alpha in line.alphas):
            first = spellings.setdefault(Decimal(alpha), alpha)
            if first != alpha:
                yield f"`{where}.runs` has {first!r} and {alpha!r}, one number: write it in one way."
        for number, line in enumerate(lines):
            for key, values in (("alphas", line.alphas), ("seeds", line.seeds)):
                if len(set(values)) < len(values):
                    yield f"`{where}.runs[{number}].{key}` has a value twice: write it once."


def _toy_mistakes(study):
    toy = study.toy
    for number, line in enumerate(toy.runs):
        where = f"toy.runs[{number}]"
        if line.variant not in toy.variants:
            yield f"`{where}.variant` is {line.variant!r}; {_hint(line.variant, list(toy.variants))}"
            continue
        variant = toy.variants[line.variant]
        in_weights = variant.method != "flow" or variant.weights == "full"
        for alpha in line.alphas:
            if log_alpha(alpha) >= 0:
                yield f"`{where}.alphas` has {alpha!r}, but must be below 1: times are in units of ln(1/alpha)."
            if in_weights and log_alpha(alpha) < MIN_LOG_ALPHA:
                yield (
                    f"`{where}` has alpha {alpha!r}, too small for variant {line.variant!r}: products of its weights"
                    " would be zero; only the flow of diagonal weights goes below 1e-150."
                )
    seeds = {run["seed"] for run in toy_runs(study)}
    if headline_seed(study) not in seeds:
        yield (
            f"`toy.headline_seed` is {toy.headline_seed}, which no line of `toy.runs` has: add it there, or show"
            " another."
        )
    if toy.batch_size > toy.samples:
        yield "`toy.batch_size` must not be larger than `toy.samples`."
    size = _toy_bytes(study)
    if size > MAX_TOY_BYTES:
        yield (
            f"a run of `toy` would take {_gigabytes(size)} of memory or more, of which no node has above"
            f" {_gigabytes(MAX_TOY_BYTES)}: lower `samples`, `tokens`, `dim` or `points`."
        )


def _toy_bytes(study):
    """What a run of the toy model takes at least; sizes of large nodes are left to the user."""
    toy = study.toy
    used = [toy.variants[line.variant] for line in toy.runs if line.variant in toy.variants]
    matrices = any(variant.weights == "full" or variant.teacher == "dense" for variant in used)
    data = 2 * toy.samples * toy.tokens * toy.dim  # X and Y
    weights = 8 * toy.dim ** (2 if matrices else 1)  # the student's and the teacher's
    points = max(toy.points, study.assumptions.points if study.assumptions else 0)
    return 8 * (data + weights + 6 * 2 * toy.dim * points)  # a table's columns for both products


def _gigabytes(size):
    return f"{Decimal(size) / 10**9:,.1f} GB"  # a Decimal, as sizes may pass what a float holds


def _assumption_mistakes(study):
    if not study.toy:
        yield "`assumptions` perturbs the toy model: it needs a section `toy`."
        return
    if log_alpha(study.assumptions.alpha) >= 0:
        yield f"`assumptions.alpha` is {study.assumptions.alpha!r}, but must be below 1."
    if headline_seed(study) not in study.assumptions.seeds:
        yield f"`assumptions.seeds` must contain the seed that figures show, {headline_seed(study)}."


def _network_mistakes(study, name, network):
    where = f"networks.{name}"
    if network.dataset not in study.datasets:
        yield f"`{where}.dataset` is {network.dataset!r}; {_hint(network.dataset, list(study.datasets))}"
    if network.recipe.warmup_epochs >= network.recipe.epochs:
        yield f"`{where}.recipe.warmup_epochs` must be less than its `epochs`."
    largest = max((value for value in network.model.model_dump().values() if isinstance(value, int)), default=0)
    size, memory = 4 * 4 * largest, network.hardware.mem_mb * 10**6  # a vector, its gradient and two moments, float32
    if size > memory:
        yield (
            f"`{where}.model` has a size of {largest:,}: one vector of weights takes {_gigabytes(size)} to train, and"
            f" `hardware.mem_mb` asks for {_gigabytes(memory)}; make the one smaller or the other larger."
        )
    for number, line in enumerate(network.runs):
        for alpha in line.alphas:
            if not LOG_SCALES[0] <= log_alpha(alpha) <= LOG_SCALES[1]:
                yield f"`{where}.runs[{number}].alphas` has {alpha!r}, but must stay within 1e-15 and 1e15."


def _figure_mistakes(study):
    """Figures that are not there, or show what the study does not run."""
    figures = registered("figure", tuple(study.extensions))
    for name in study.figures.without:
        if name not in figures:
            yield f"`figures.without` has {name!r}; {_hint(name, list(figures))}"
    for name, entry in figures.items():
        options = getattr(study.figures, name)
        if options is None:
            continue
        of_toy = not set(entry.details["tables"]) & set(NETWORK_TABLES)
        runs = toy_runs(study) if of_toy else network_runs(study)
        for key, values in options.model_dump().items():
            if key not in _SHOWN or values is None:
                continue
            found = {run.get(_SHOWN[key]) for run in runs}
            for value in values if isinstance(values, list) else [values]:
                if value not in found:
                    where = "toy.runs" if of_toy else "networks"
                    yield (
                        f"`figures.{name}.{key}` shows {value!r}, which `{where}` does not have: add it there, or show"
                        " another."
                    )


_SHOWN = {  # options of figures that name runs -> what of a run they name
    "alpha": "alpha",
    "alphas": "alpha",
    "seed": "seed",
    "seeds": "seed",
    "variant": "variant",
    "network": "network",
    "networks": "network",
}


def toy_runs(study):
    """The toy runs of a study, each a dict with `variant`, `alpha`, `seed`; none twice."""
    lines = study.toy.runs if study.toy else ()
    runs = {(line.variant, alpha, seed): None for line in lines for alpha in line.alphas for seed in line.seeds}
    return [dict(zip(("variant", "alpha", "seed"), run, strict=True)) for run in runs]


def network_runs(study):
    """The runs of networks of a study, each a dict with `network`, `alpha`, `seed`; none twice."""
    runs = {
        (name, alpha, seed): None
        for name, network in study.networks.items()
        for line in network.runs
        for alpha in line.alphas
        for seed in line.seeds
    }
    return [dict(zip(("network", "alpha", "seed"), run, strict=True)) for run in runs]


def headline_seed(study):
    """The problem of the toy model that figures show."""
    seed = study.toy.headline_seed
    return study.toy.runs[0].seeds[0] if seed is None else seed


def made_tables(study):
    """Names of the tables that a study makes, in their order."""
    diagonal = any(run["variant"] == "diagonal" for run in toy_runs(study))
    made = {
        **dict.fromkeys(("trajectory", "losses", "events", "conservation"), study.toy is not None),
        **dict.fromkeys(("stages", "theorem"), diagonal),
        "perturbations": study.assumptions is not None,
        **dict.fromkeys(NETWORK_TABLES, bool(study.networks)),
    }
    return [name for name, is_made in made.items() if is_made]


def drawn_figures(study, extensions=()):
    """Figures that a study draws: a dict id -> registry.Entry.

    These are all whose tables it makes, but for those of `figures.without`, and for those registered as `optional` that
    the configuration does not name.
    """
    tables = set(made_tables(study))
    return {
        name: entry
        for name, entry in registered("figure", extensions).items()
        if tables.issuperset(entry.details["tables"])
        and name not in study.figures.without
        and not (entry.details.get("optional") and getattr(study.figures, name) is None)
    }


def figure_options(study, entry):
    """Options of a figure that the configuration states, and those that its registration fixes; a dict.

    Those that are left out follow from what the study runs: `seed` of the toy model is the headline seed, `network` the
    first.
    """
    chosen = getattr(study.figures, entry.name)
    options = {} if chosen is None else chosen.model_dump(exclude_none=True)
    implied = {}
    if set(entry.details["tables"]) & set(NETWORK_TABLES):
        implied = {"network": next(iter(study.networks)), "networks": list(study.networks)}
    elif study.toy:
        implied = {"seed": headline_seed(study)}
    return {**{key: value for key, value in implied.items() if key in entry.parameters}, **options, **entry.fixed}


def shown_networks(study, entry):
    """Names of the networks whose tables a figure reads; all of them if it does not choose."""
    options = figure_options(study, entry)
    return options.get("networks") or ([options["network"]] if "network" in options else list(study.networks))


def explorer_start(study):
    """What the explorer shows first: a dict with `scale`, `seed` of a network, `alpha`, `problem` of the toy model."""
    toy = [run for run in toy_runs(study) if run["seed"] == headline_seed(study) and run["variant"] == "diagonal"]
    paper = [run["alpha"] for run in toy if log_alpha(run["alpha"]) >= log_alpha("1e-32")]  # stages are seen best there
    start = {"scale": "1", "seed": next((run["seed"] for run in network_runs(study)), 0)}
    if study.toy:
        start |= {"problem": headline_seed(study), "alpha": min(paper, key=log_alpha) if paper else None}
    return start


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
    folder = FilePath(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


if __name__ == "__main__":
    # For make: Snakemake reads config files before any code of ours, and answers some mistakes with a traceback.
    try:
        read_config(sys.argv[1])
    except ConfigError as error:
        sys.exit(str(error))
