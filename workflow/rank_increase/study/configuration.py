"""The configuration of a study: its sections as types, the check of a file, and the runs that a study asks for.

The defaults, the JSON schema and config/README.md are generated from the types below and from the registry.
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
    Decay,
    Dpi,
    Flag,
    Name,
    NotNegative,
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
from rank_increase.registry import RegistryError, find, registered
from rank_increase.training.recipe import Recipe

MIN_LOG_ALPHA = log_alpha("1e-150")  # below this, alpha^2 is zero in float64
MIN_LOG_LINEAR = log_alpha("1e-10")  # below this, float64 cannot tell times of order 1 apart at 1 / alpha
LOG_SCALES = log_alpha("1e-15"), log_alpha("1e15")  # of a network: float32 must hold squares of its weights, and more
TOY_TABLES = (
    "trajectory",
    "losses",
    "events",
    "conservation",
    "stages",
    "theorem",
    "orbits",
    "perturbations",
    "returns",
)
LINEAR_ATTENTION_TABLES = ("linear_attention", "linear_attention_losses")
MODEL_TABLES = ("cosines", "key_query", "ablations", "gradients")  # of networks whose model registers them
NETWORK_TABLES = ("metrics", "spectra", "measures", "matrices", *MODEL_TABLES)
RESERVED = ("published", "benchmarks")  # folders of results/ that belong to no study
MAX_TOY_BYTES = 10**12  # the most that a toy run may take: the memory of a large node
Tolerance = Annotated[float, Field(gt=0, le=0.1, json_schema_extra={"must_be": "a positive number up to 0.1"})]
GPU_MODEL = Field(pattern=r"^[A-Za-z0-9_.]*$", json_schema_extra={"must_be": 'letters, digits, "_" and ".", or empty'})
ONE_LINE = Field(min_length=1, json_schema_extra={"must_be": "a list of at least one line of runs"})
DEMO = FilePath(__file__).resolve().parents[3] / "config" / "config.yaml"


class ConfigError(ValueError):
    """The user's mistakes; the message has one sentence for each, which says what to change."""


def read_config(path):
    """Read a config file, YAML in UTF-8.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or has a key twice, where YAML would silently take the last.
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
    """Raise a `ConfigError` if a mapping has a key twice, at any depth below a YAML node."""
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
    """Form of the student's weights: diagonal or full."""
    teacher: Literal["diagonal", "dense"] = "diagonal"
    """Form of the teacher's weights: diagonal (spread-out singular values) or dense (close ones)."""
    method: Literal["flow", "gd", "sgd", "adam", "sign", "muon"] = "flow"
    """How it is trained: flow (gradient flow), gd (gradient descent), sgd, adam, sign (sign descent) or muon; all but
    sgd on all samples."""
    samples: Count | None = None
    """Number of random sequences; null: as under `toy`, here and below."""
    tokens: Count | None = None
    """Tokens in a sequence."""
    dim: Count | None = None
    """Dimension of a token."""
    teacher_std_KQ: Positive | None = None
    """Standard deviation of the teacher's W_K and W_Q entries."""
    teacher_std_VO: Positive | None = None
    """Standard deviation of the teacher's W_V and W_O entries."""
    max_time: Positive | None = None
    """Training time, in units of ln(1/alpha)."""
    dim_head: Count | None = None
    """Columns of full weights, which bound the rank of the products; null: as many as rows."""
    block: Count | None = None
    """Size of the blocks of block-diagonal weights, which divides `dim`: blocks of 1 are diagonal weights, one block is
    full ones; null: full weights have no blocks."""
    full_flow_tolerance: Tolerance | None = None
    """Error bound of a step of the flow of full weights."""
    step: Positive | None = None
    """Learning rate; adam, sign and muon need one of their own: the size of their steps does not depend on the
    gradient's."""
    batch_size: Count | None = None
    """Minibatch size of SGD, in samples."""
    layers: Size = 0
    """Layers of a transformer with diagonal attention weights and fixed feed-forward weights (paper, Example 3.2); 0:
    a single attention head (eq. 1)."""
    heads: Count = 1
    """Attention heads of a layer."""
    bias_std: NotNegative = 0.0
    """Standard deviation of a fixed attention bias of each head, which tells heads apart; 0: heads are identical."""
    loss: Literal["squared", "cross_entropy"] = "squared"
    """The loss: squared error, or cross-entropy with an output's entries as logits of `dim` classes."""
    labels: Literal["soft", "hard"] = "soft"
    """Labels for cross-entropy, from the teacher's logits: soft (their softmax) or hard (the class of the largest)."""
    decay: NotNegative = 0.0
    """Weight decay lambda: the loss has the penalty lambda/2 times the sum of squared weights."""
    beta1: Decay = 0.9
    """Decay of Adam's running mean of the gradient."""
    beta2: Decay = 0.999
    """Decay of Adam's running mean of its square."""
    eps: Positive = 1.0e-8
    """Added to the root of that mean; for Muon, the least norm by which a gradient is divided."""
    momentum: Decay = 0.95
    """Decay of Muon's running mean of the gradient."""

    @property
    def has_limit(self):
        """Whether Algorithm 1 predicts the stages of its runs as alpha goes to zero."""
        return self.method == "flow" and self.has_stages

    @property
    def has_stages(self):
        """Whether Algorithm 1 predicts stages for its problems, which it does for gradient flow.

        Identical heads become active together, which it excludes; with hard labels the loss has no minimum.
        """
        identical = self.heads > 1 and not self.bias_std
        return not identical and self.labels == "soft"

    @property
    def is_plain(self):
        """Whether it is a single head with diagonal weights, the squared error and no weight decay."""
        return self.weights == "diagonal" and not self.layers and self.loss == "squared" and not self.decay


class ToyRuns(Section):
    """Runs of the toy model: every alpha with every seed."""

    variant: Name = "diagonal"
    """A name under `toy.variants`."""
    alphas: Alphas
    """Init scales, below 1. Paper: 0.1 to 1e-32."""
    seeds: Seeds = [0]
    """Seeds of the problems: each draws data, teacher and initial weights."""


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
    """Number of random sequences (paper: 1000)."""
    tokens: Count = 10
    """Tokens in a sequence (paper: 10)."""
    dim: Count = 50
    """Dimension of a token (paper: 50)."""
    teacher_std_KQ: Positive = 0.6
    """Standard deviation of the teacher's W_K and W_Q entries. The paper does not say."""
    teacher_std_VO: Positive = 0.8
    """Standard deviation of the teacher's W_V and W_O entries. The paper does not say."""
    headline_seed: Seed | None = None
    """Seed of the problem that figures show; null: the first seed of the first line of `runs`."""
    max_time: Positive = 1000
    """Training time, in units of ln(1/alpha) (paper: 1000)."""
    points: Points = 501
    """Times at which a run is recorded."""
    activation_weight: Positive = 0.1
    """A coordinate, or singular value, is active once the larger of its two weights is above this. Where Algorithm 1
    has stages for a problem, it is active once its product is above half of that in the stage that activates it."""
    orbits: Flag = True
    """Whether to follow the orbits between stages of Algorithm 1, which predict the constants C_k of Theorem 4.5. Takes
    about as long as Algorithm 1."""
    flow_rtol: Positive = 1.0e-10
    """Relative error bound of the solver for the flow of diagonal weights, on the state s."""
    flow_atol: Annotated[
        float,
        Field(gt=0, le=1e-5, json_schema_extra={"must_be": "a positive number up to 1.0e-5: above, stages are missed"}),
    ] = 1.0e-6
    """Absolute error bound of that solver, on s."""
    full_flow_tolerance: Tolerance = 1.0e-2
    """Error bound of a step of the flow of full weights, in coordinates of order one."""
    step: Positive = 0.45
    """Learning rate of GD and SGD. The paper does not say; the ticks of its Figure 9 imply about 0.45."""
    batch_size: Count = 100
    """Minibatch size of SGD, in samples."""
    variants: dict[Name, Variant] = VARIANTS
    """Named variants of the experiment."""
    runs: Annotated[list[ToyRuns], ONE_LINE]
    """The runs: lines of variant, init scales and seeds."""


class Plateaus(Section):
    """Assumption 4.3: perturbations at random times."""

    runs: Count = 5
    """Number of perturbed runs (paper: 5)."""
    std: Positive = 0.05
    """Standard deviation of the noise (paper: 0.05)."""
    follow: Positive = 6.1
    """The longest time to follow, in units of ln(1/alpha): 1000 epochs of the paper, at a step of 0.45 and 1e-32."""


class Activations(Section):
    """Assumption 4.4: perturbations where a weight becomes nonnegligible, followed halfway until the next one does."""

    runs: Count = 5
    """Number of perturbed runs (paper: 5)."""
    std: Positive = 0.01
    """Standard deviation of the noise (paper: 0.01)."""


class Limit(Section):
    """Both assumptions in the limit: balanced noise around every stage, all other coordinates zero."""

    stds: Annotated[
        list[Positive], Field(min_length=1, json_schema_extra={"must_be": "a list of positive numbers"})
    ] = [
        0.01,
        0.05,
        0.2,
    ]
    """Standard deviations of the noise."""
    draws: Count = 3
    """Draws for each of them, stage and assumption."""
    stages: Count | None = None
    """Number of stages to test, evenly from the first to the last; null: all."""


class Assumptions(Section):
    """Tests of Assumptions 4.3 and 4.4 on diagonal weights (paper, Appendix A, Figures 9 and 10)."""

    alpha: Alpha = "1e-32"
    """Init scale of the perturbed trajectory (paper: 1e-32)."""
    seeds: Seeds
    """Problems whose trajectory is perturbed."""
    threshold: Positive = 1.0e-5
    """Weights above this are perturbed; an activation is a weight that passes it (paper: tau = 1e-5)."""
    points: Points = 201
    """Times at which each run is recorded."""
    plateaus: Plateaus = Plateaus()
    """Assumption 4.3."""
    activations: Activations = Activations()
    """Assumption 4.4."""
    limit: Limit = Limit()
    """Both in the limit alpha -> 0, for every problem of a variant with a limit."""


class LinearAttention(Section):
    """Linear attention on in-context linear regression, whose loss levels are known (arXiv 2501.16265)."""

    dim: Points = 4
    """Dimension D of a token, at least 2."""
    eigenvalues: list[Positive] | None = None
    """Eigenvalues of the covariance of the tokens, `dim` different ones; null: drawn for each seed, with sum 1."""
    context: Count = 32
    """Number N of pairs in a context (that paper: 32)."""
    ranks: list[Count] = [1, 2, 4]
    """Key-query ranks of heads with separate key and query; `dim` is a head of full rank. A merged one always runs."""
    alphas: Alphas = ["1e-2", "1e-4", "1e-6"]
    """Init scales, from 1e-10 to below 1."""
    seeds: Seeds = list(range(20))
    """Seeds of the problems: each draws eigenvalues and initial weights. If 17 or more agree, more than four in five of
    all problems do, with 95 % confidence."""
    points: Points = 201
    """Times at which a loss curve is recorded."""


class Hardware(Section):
    """Resources of a run. Results do not depend on them, except for rounding."""

    gpu: Size = 0
    """GPUs to request from SLURM, on all nodes together, each with its own process; 0 for a run on the CPU."""
    gpu_model: Annotated[str, GPU_MODEL] = ""
    """Kind of GPU, as the cluster names it, such as h100; empty: any. `sinfo -o %G` lists them."""
    nodes: Count = 1
    """Nodes of a SLURM job, with the same number of GPUs each; `threads` and `mem_mb` are of each."""
    processes: Count = 1
    """Processes of a run on the CPU; they share its threads."""
    threads: Count = 1
    """CPU cores. Small models are fastest with 1 and as many parallel runs as there are cores."""
    mem_mb: Count = 3000
    """Memory, in MB."""
    runtime: Count = 240
    """Minutes after which SLURM ends the job; the next attempt gets more time and resumes the run."""
    pass_size: Size = 0
    """Samples that a device processes at once; a larger batch takes several passes. 0: no limit."""


class NetworkRuns(Section):
    """Runs of a network: every init scale with every seed."""

    alphas: Alphas
    """Init scales: factors on the initial values of all layers but the token embedding; "1" is the default."""
    seeds: Seeds = [0]
    """Seeds of the initial weights and of the order of the samples."""


class Network(Section):
    """A model on a dataset with a recipe."""

    label: Text | None = None
    """Label in figures and pages; null: its name."""
    dataset: Name
    """Its dataset, a name under `datasets`."""
    model: dict
    """The model, by `family` and its options."""
    recipe: Recipe
    """How it is trained."""
    hardware: Hardware = Hardware()
    """Resources of a run."""
    runs: Annotated[list[NetworkRuns], ONE_LINE]
    """The runs: lines of init scales and seeds."""


class Checkpoints(Section):
    """A network that was trained elsewhere, given by checkpoints of its runs (docs/checkpoints.md)."""

    label: Text | None = None
    """Label in figures and pages; null: its name."""
    model: dict
    """Whose checkpoints they are, by `family` and its options."""
    files: Path
    """Paths of safetensors files. {step} stands for the step, {seed} for the seed, and * for any part of a name, such
    as the number of one of several files."""
    steps_per_epoch: Count | None = None
    """Steps in an epoch; null: all steps, so that epochs are shares of the training."""
    seeds: Seeds = [0]
    """Seeds of the runs, by which they are told apart."""


class Rate(Section):
    """Speed of a device."""

    peak_tflops: Positive
    """Rate of matrix products, in 10^12 floating point operations per second; gpu_check measures it (docs/gpu.md)."""
    utilisation: Share
    """Share of this rate that training reaches; gpu_check measures it, too."""


class Samples(Section):
    """Size of a dataset that is not packed yet."""

    train: Count
    """Training samples."""
    test: Count
    """Test samples."""
    kind: Literal["pixels", "tokens", "features"] = "pixels"
    """What a sample consists of."""
    shape: list[Count]
    """Shape of a sample: height, width and channels of an image, length of a sequence of tokens."""
    label_shape: list[Count] = []
    """Shape of a label: none, or the length if each position has one."""
    classes: Count
    """Number of classes; of tokens, the size of the vocabulary."""


class Plan(Section):
    """Assumptions of `make plan`. No result depends on them."""

    gpu: Rate = Rate(peak_tflops=989.0, utilisation=0.4)
    """One GPU in bf16: 312 (A100), 989 (H100, H200) TFLOP/s."""
    cpu: Rate = Rate(peak_tflops=0.06, utilisation=0.4)
    """One CPU core of a server or laptop in float32: 0.05 to 0.15 TFLOP/s."""
    datasets: dict[Name, Samples] = {}
    """Sizes of datasets that are not packed yet, by name."""


class Study(Section):
    """A study: its name, what to run, and what to draw."""

    study: Name
    """Name of the study: results go to results/<study>/."""
    extensions: list[Path] = []
    """Python files that register further models, sources, losses, optimizers, measures, claims or figures
    (docs/extending.md); paths are relative to the config file."""
    data_dir: Path | None = None
    """Folder of the packed datasets; null: results/<study>/datasets. Studies can share it, and it may be read-only."""
    scratch_dir: Path | None = None
    """Folder for the state of runs during training; null: results/<study>/scratch. "~" and environment variables are
    expanded on the machine that trains. All machines should see this folder: a run resumes only where it is visible."""
    checkpoint_minutes: Positive = 5.0
    """Minutes between two checkpoints of a run."""
    toy: Toy | None = None
    """The toy model."""
    assumptions: Assumptions | None = None
    """Perturbation runs of the toy model."""
    linear_attention: LinearAttention | None = None
    """Linear attention as a known answer."""
    datasets: dict[Name, dict] = {}
    """Datasets by name, each with its `source` and that source's options."""
    networks: dict[Name, Network] = {}
    """Networks by name."""
    checkpoints: dict[Name, Checkpoints] = {}
    """Networks that were trained elsewhere, by name."""
    plan: Plan = Plan()
    """Assumptions of `make plan`."""
    figures: dict = {}
    """Figures: resolution, those to leave out, and options of each, by its name."""


def choice(kind, key, extensions):
    """A type for a choice among everything registered as `kind`: a mapping with a name under `key`, and its options."""
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
    """The type `Study`, completed by what is registered in the library and in the files `extensions`."""
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
    checkpoints = create_model(
        "Checkpoints",
        __base__=Checkpoints,
        __doc__=Checkpoints.__doc__,
        model=(
            choice("adapter", "family", extensions),
            Field(description=Checkpoints.model_fields["model"].description),
        ),
    )
    figures = create_model(
        "Figures",
        __base__=Section,
        dpi=(Dpi, Field(150, description="Resolution of the PNG files, in dots per inch.")),
        without=(list[Name], Field([], description="Figures to leave out.")),
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
        checkpoints=(
            dict[Name, checkpoints],
            Field({}, description="Networks that were trained elsewhere, by name."),
        ),
        figures=(
            figures,
            Field(figures(), description="Figures: resolution, those to leave out, and options of each, by its name."),
        ),
    )


def check_demo(config):
    """Raise a `ConfigError` if another study would write its results to the folder of the demo.

    Parameters
    ----------
    config : dict
        The user's configuration, from --configfile and --config.
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
        The config files, later ones overriding earlier ones.

    Raises
    ------
    ConfigError
        As `read_config`.
    """
    paths = _extensions(config)
    if list(paths) != config.get("extensions"):  # no extensions, or a mistake that `read_study` describes
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
    """Extension files of an unchecked configuration; a tuple of str."""
    named = config.get("extensions")
    named = named if isinstance(named, list) else ()
    return tuple(path for path in named if isinstance(path, str) and path.isprintable())


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
    """The repr of a value, shortened if it is too long for a sentence."""
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
    """The place of a mistake, as the config file spells it, and the part of the JSON schema that it violates."""
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
        elif value == step or isinstance(value, dict) and step in value.values():  # the chosen name
            node = {"$ref": node["discriminator"]["mapping"][step]} if "discriminator" in node else node
        else:
            place = f"{place}.{name}" if place else str(name)
    return place, _resolved(schema, node)


def _resolved(schema, node):
    """A part of the schema with its reference resolved; for "this or null", this."""
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
    """Mistakes that involve several keys, as sentences without "config: "."""
    if study.study.casefold() in RESERVED:
        yield f"`study` is {study.study!r}, but results/{study.study} is no study's: choose another name."
    yield from _repeated_runs(study)
    if study.toy:
        yield from _toy_mistakes(study)
    if study.assumptions:
        yield from _assumption_mistakes(study)
    if study.linear_attention:
        yield from _linear_attention_mistakes(study.linear_attention)
    for name, network in study.networks.items():
        yield from _network_mistakes(study, name, network)
    for name, series in study.checkpoints.items():
        yield from _checkpoints_mistakes(study, name, series)
    yield from _figure_mistakes(study)


def _repeated_runs(study):
    """Init scales in two spellings, which would become two runs, in the lines of the toy model or of a network."""
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
        logarithmic = variant.method == "flow" or (variant.method in ("gd", "sgd") and variant.weights == "diagonal")
        for alpha in line.alphas:
            if log_alpha(alpha) >= 0:
                yield f"`{where}.alphas` has {alpha!r}, but must be below 1: times are in units of ln(1/alpha)."
            if not logarithmic and log_alpha(alpha) < MIN_LOG_ALPHA:
                yield (
                    f"`{where}` has alpha {alpha!r}, too small for variant {line.variant!r}: products of its weights"
                    " would be zero; only flow, and gd and sgd of diagonal weights, go below 1e-150."
                )
    seeds = {run["seed"] for run in toy_runs(study)}
    if headline_seed(study) not in seeds:
        yield (
            f"`toy.headline_seed` is {toy.headline_seed}, which no line of `toy.runs` has: add it there, or show"
            " another."
        )
    if toy.batch_size > toy.samples:
        yield "`toy.batch_size` must not be larger than `toy.samples`."
    for name, variant in toy.variants.items():
        if variant.method in ("adam", "sign", "muon") and not variant.step:
            yield f"`toy.variants.{name}` needs a `step`, such as 1.0e-3: `toy.step` is that of gd and sgd."
        settings = variant_settings(study, name)
        yield from _variant_mistakes(name, variant)
        of_its_own = variant.method == "sgd" and (variant.batch_size or variant.samples)
        if of_its_own and settings["batch_size"] > settings["samples"]:
            yield f"`toy.variants.{name}` has a `batch_size` of {settings['batch_size']}, larger than its `samples`."
        if variant.dim_head and variant.weights == "diagonal":
            yield f"`toy.variants.{name}` has a `dim_head`, which only full weights have: remove it."
        elif variant.dim_head and variant.dim_head > settings["dim"]:
            yield f"`toy.variants.{name}` has a `dim_head` of {variant.dim_head}, larger than its `dim`."
        if variant.block and settings["dim"] % variant.block:
            of_dim = f"which does not divide its `dim`, {settings['dim']}."
            yield f"`toy.variants.{name}` has a `block` of {variant.block}, {of_dim}"
    size = _toy_bytes(study)
    if size > MAX_TOY_BYTES:
        yield (
            f"a run of `toy` would take {_gigabytes(size)} of memory or more, of which no node has above"
            f" {_gigabytes(MAX_TOY_BYTES)}: lower `samples`, `tokens`, `dim` or `points`."
        )


def _variant_mistakes(name, variant):
    where = f"`toy.variants.{name}`"
    special = variant.layers or variant.loss != "squared" or variant.decay
    if special and (variant.method != "flow" or variant.weights == "full"):
        yield (
            f"{where} has layers, another loss or weight decay, which only the flow of diagonal weights can have: set"
            " `method: flow` and `weights: diagonal`."
        )
    if variant.block and (variant.weights == "diagonal" or variant.method != "flow" or variant.dim_head):
        yield f"{where} has a `block`: set `weights: full` and `method: flow`, and remove a `dim_head`."
    if variant.layers and variant.teacher == "dense":
        yield f"{where} has `layers`, whose teacher is such a transformer too: set `teacher: diagonal`."
    if not variant.layers and (variant.heads > 1 or variant.bias_std):
        yield f"{where} has `heads` or `bias_std` without layers: set `layers` to 1 or more."
    if variant.labels == "hard" and variant.loss == "squared":
        yield f"{where} has hard labels, which need `loss: cross_entropy`."


def _toy_bytes(study):
    """The least memory that a run of the toy model takes; up to the size of large nodes, the user decides."""
    used = {line.variant for line in study.toy.runs if line.variant in study.toy.variants}
    points = max(study.toy.points, study.assumptions.points if study.assumptions else 0)
    return max((_variant_bytes(variant_settings(study, name), points) for name in used), default=0)


def _variant_bytes(settings, points):
    dim, matrices = settings["dim"], settings["weights"] == "full" or settings["teacher"] == "dense"
    heads = max(1, settings["layers"]) * settings["heads"]
    data = 2 * settings["samples"] * settings["tokens"] * dim  # X and Y
    weights = 8 * heads * dim ** (2 if matrices else 1)  # the student's and the teacher's
    return 8 * (data + weights + 8 * 2 * heads * dim * points)  # the columns of a table, for both products


def _gigabytes(size):
    return f"{Decimal(size) / 10**9:,.1f} GB"  # a Decimal, as sizes may exceed the range of a float


def _assumption_mistakes(study):
    if not study.toy:
        yield "`assumptions` perturbs the toy model: it needs a section `toy`."
        return
    if log_alpha(study.assumptions.alpha) >= 0:
        yield f"`assumptions.alpha` is {study.assumptions.alpha!r}, but must be below 1."
    if headline_seed(study) not in study.assumptions.seeds:
        yield f"`assumptions.seeds` must contain the seed that figures show, {headline_seed(study)}."


def _linear_attention_mistakes(section):
    for key in ("alphas", "ranks", "seeds"):
        values = getattr(section, key)
        if len({Decimal(value) for value in values}) < len(values):
            yield f"`linear_attention.{key}` has a value twice: write it once."
    for rank in section.ranks:
        if rank > section.dim:
            yield f"`linear_attention.ranks` has {rank}, but heads have no rank above `dim`, {section.dim}."
    if section.eigenvalues is not None and len(set(section.eigenvalues)) != section.dim:
        yield f"`linear_attention.eigenvalues` must be {section.dim} different numbers, as `dim` is."
    for alpha in section.alphas:
        if not MIN_LOG_LINEAR <= log_alpha(alpha) < 0:
            yield (
                f"`linear_attention.alphas` has {alpha!r}, but must be from 1e-10 to below 1: double precision does not"
                " resolve a jump at times of order 1/alpha below."
            )


def _network_mistakes(study, name, network):
    where = f"networks.{name}"
    if network.dataset not in study.datasets:
        yield f"`{where}.dataset` is {network.dataset!r}; {_hint(network.dataset, list(study.datasets))}"
    if network.hardware.nodes > 1 and (not network.hardware.gpu or network.hardware.gpu % network.hardware.nodes):
        yield f"`{where}.hardware.gpu` must be a multiple of its `nodes`, as each has the same number of GPUs."
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


def _checkpoints_mistakes(study, name, series):
    where = f"checkpoints.{name}"
    if name in study.networks:
        yield f"`{where}` has the name of one of the `networks`: choose another."
    if "{step}" not in series.files:
        yield f"`{where}.files` lacks {{step}}, which stands for the number of a checkpoint's step."
    if not series.files.endswith(".safetensors"):
        yield f"`{where}.files` must end with .safetensors; docs/checkpoints.md shows how to convert other files."
    if len(set(series.seeds)) < len(series.seeds):
        yield f"`{where}.seeds` has a value twice: write it once."
    elif len(series.seeds) > 1 and "{seed}" not in series.files:
        yield f"`{where}.files` lacks {{seed}}, which tells the {len(series.seeds)} runs apart."


def _figure_mistakes(study):
    """Figures that do not exist, or that show runs which the study lacks."""
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
    """The toy runs of a study, each a dict with `variant`, `alpha`, `seed`; no duplicates."""
    lines = study.toy.runs if study.toy else ()
    runs = {(line.variant, alpha, seed): None for line in lines for alpha in line.alphas for seed in line.seeds}
    return [dict(zip(("variant", "alpha", "seed"), run, strict=True)) for run in runs]


def variant_settings(study, name):
    """Settings of the runs of a toy variant, a dict: what the variant leaves out is as under `toy`."""
    general = study.toy.model_dump(exclude={"variants", "runs"})
    variant = study.toy.variants[name]
    return {**general, "dim_head": None, "block": None, **variant.model_dump(exclude_none=True)}


def all_variant_settings(study):
    """`variant_settings` of every variant: a dict by name, empty without a toy model."""
    return {name: variant_settings(study, name) for name in study.toy.variants} if study.toy else {}


def limit_problems(study):
    """Problems of variants with a limit: a sorted list of pairs of variant and seed."""
    return sorted(
        {(run["variant"], run["seed"]) for run in toy_runs(study) if study.toy.variants[run["variant"]].has_limit}
    )


def plain_problems(study):
    """Those of `limit_problems` that are the paper's: diagonal weights of a single head, squared error, no decay."""
    return [(name, seed) for name, seed in limit_problems(study) if study.toy.variants[name].is_plain]


def all_networks(study):
    """All networks of a study, trained here or elsewhere: a dict of name to `Network` or `Checkpoints`."""
    return {**study.networks, **study.checkpoints}


def network_runs(study):
    """The runs of all networks of a study, each a dict with `network`, `alpha`, `seed`; no duplicates."""
    elsewhere = [(name, series.seeds) for name, series in study.checkpoints.items()]
    own_start = [{"network": name, "alpha": "1", "seed": seed} for name, seeds in elsewhere for seed in seeds]
    return trained_runs(study) + own_start


def trained_runs(study):
    """Those of `network_runs` that the study trains itself."""
    runs = {
        (name, alpha, seed): None
        for name, network in study.networks.items()
        for line in network.runs
        for alpha in line.alphas
        for seed in line.seeds
    }
    return [dict(zip(("network", "alpha", "seed"), run, strict=True)) for run in runs]


def headline_seed(study):
    """Seed of the toy problem that figures show."""
    seed = study.toy.headline_seed
    return study.toy.runs[0].seeds[0] if seed is None else seed


def networks_with(study, tables):
    """Names of the networks that have all of these `NETWORK_TABLES`; those trained elsewhere have spectra alone."""
    wanted, extensions = set(tables) & set(NETWORK_TABLES), tuple(study.extensions)
    models = {name: find("model", network.model.family, extensions) for name, network in study.networks.items()}
    of_models = wanted & set(MODEL_TABLES)
    trained = [name for name, model in models.items() if of_models.issubset(model.details.get("tables", ()))]
    return trained + (list(study.checkpoints) if wanted <= {"spectra", "measures"} else [])


def made_tables(study):
    """Names of the tables that a study makes, in order."""
    made = {
        **dict.fromkeys(("trajectory", "losses", "events", "conservation"), study.toy is not None),
        **dict.fromkeys(("stages", "theorem"), bool(limit_problems(study))),
        "orbits": bool(plain_problems(study)) and study.toy.orbits,
        "perturbations": study.assumptions is not None,
        "returns": study.assumptions is not None and bool(plain_problems(study)),
        **dict.fromkeys(LINEAR_ATTENTION_TABLES, study.linear_attention is not None),
        **{table: bool(networks_with(study, [table])) for table in NETWORK_TABLES},
    }
    return [name for name, is_made in made.items() if is_made]


def drawn_figures(study, extensions=()):
    """Figures that a study draws: a dict id -> registry.Entry.

    These are all figures whose tables it makes, except those in `figures.without`, and those registered as `optional`
    that the configuration does not name.
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
    """Options of a figure that the configuration states or its registration fixes; a dict.

    Options left out follow from the runs of the study: `seed` of the toy model is the headline seed, `network` is the
    first network, and its `seed` that of its first run.
    """
    chosen = getattr(study.figures, entry.name)
    options = {} if chosen is None else chosen.model_dump(exclude_none=True, exclude_unset=True)
    implied = {}
    if set(entry.details["tables"]) & set(NETWORK_TABLES):
        networks = networks_with(study, entry.details["tables"])
        network = (options.get("networks") or [options.get("network", networks[0])])[0]
        seeds = [run["seed"] for run in network_runs(study) if run["network"] == network]
        implied = {"network": network, "networks": networks, "seed": seeds[0]}
    elif study.toy:
        implied = {"seed": headline_seed(study)}
    return {**{key: value for key, value in implied.items() if key in entry.parameters}, **options, **entry.fixed}


def shown_networks(study, entry):
    """Names of the networks whose tables a figure reads; all networks if it does not choose."""
    options = figure_options(study, entry)
    shown = options.get("networks") or ([options["network"]] if "network" in options else None)
    return shown or networks_with(study, entry.details["tables"])


def explorer_start(study):
    """What the explorer shows first: a dict with `scale`, `seed` of a network, `alpha`, `problem` of the toy model."""
    toy = [run for run in toy_runs(study) if run["seed"] == headline_seed(study) and run["variant"] == "diagonal"]
    paper = [run["alpha"] for run in toy if log_alpha(run["alpha"]) >= log_alpha("1e-32")]  # stages are clearest there
    start = {"scale": "1", "seed": next((run["seed"] for run in network_runs(study)), 0)}
    if study.toy:
        start |= {"problem": headline_seed(study), "alpha": min(paper, key=log_alpha) if paper else None}
    return start


def check_folder(folder):
    """Raise a `ConfigError` if results cannot be written to `folder`, which need not exist."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise ConfigError(f"{nearest} is a file where the folder of results should be: move it away.")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"no permission to write to {nearest}: choose another folder with --directory.")


def check_data_dir(folder):
    """Raise a `ConfigError` if `folder` cannot be a folder; it may be read-only, or not exist yet."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise ConfigError(f"config: `data_dir` is {str(folder)!r}, but {nearest} is a file: name a folder.")


def _nearest(folder):
    """The folder if it exists, else its nearest existing parent."""
    folder = FilePath(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


if __name__ == "__main__":
    # For make: Snakemake reads config files before our code runs, and answers some mistakes with a traceback.
    try:
        read_config(sys.argv[1])
    except ConfigError as error:
        sys.exit(str(error))
