"""The checked study, and functions of wildcards that rules share."""

import os
import re
import sys
from functools import cache
from pathlib import Path

WORKFLOW = os.path.abspath(str(workflow.current_basedir.join("..")))
sys.path.insert(0, WORKFLOW)
from rank_increase.data.fingerprints import source_exists, source_fingerprint
from rank_increase.data.series import checkpoint_files
from rank_increase.registry import find, registered
from rank_increase.study.configuration import (
    all_networks,
    all_variant_settings,
    LINEAR_ATTENTION_TABLES,
    NETWORK_TABLES,
    TOY_TABLES,
    ConfigError,
    check_data_dir,
    check_demo,
    check_folder,
    drawn_figures,
    explorer_start,
    figure_options,
    limit_problems,
    located_extensions,
    made_tables,
    network_runs,
    networks_with,
    plain_problems,
    read_config,
    read_study,
    shown_networks,
    toy_runs,
    variant_settings,
)
from rank_increase.study.digest import folder_digest, library_digest
from rank_increase.study.failures import describe_failures, explain_full_disk
from rank_increase.study.scheduling import pass_once_at_a_time
from rank_increase.study.slurm import prefer_commands
from rank_increase.study.status import outcome

pass_once_at_a_time()
if full := explain_full_disk():
    sys.exit(full)
try:
    for configfile in workflow.overwrite_configfiles:
        read_config(configfile)  # Snakemake has read it too, but silently takes the last of two equal keys
    check_demo(config)
    config.update(located_extensions(config, workflow.configfiles))
    STUDY = read_study(config)
    check_folder(f"results/{STUDY.study}")
    if STUDY.data_dir:
        check_data_dir(os.path.expanduser(STUDY.data_dir))
except ConfigError as error:
    sys.exit(str(error))  # only the sentences: an exception would add lines of this file

RULES = os.path.realpath(str(workflow.current_basedir))
RESULTS = f"results/{STUDY.study}"
DATASETS = os.path.expanduser(STUDY.data_dir or f"{RESULTS}/datasets")
SCRATCH = f"{STUDY.scratch_dir}/{STUDY.study}" if STUDY.scratch_dir else f"{RESULTS}/scratch"
PACKED_ARRAYS = [f"{split}_{part}.npy" for split in ("train", "test") for part in ("samples", "labels")]
# Before a rule runs, Snakemake deletes its declared outputs, even if another study has just packed them. So in a folder
# that studies share, only the manifest is declared, as a file that is updated, which Snakemake leaves in place.
DECLARED_ARRAYS = [] if STUDY.data_dir else PACKED_ARRAYS
shared = update if STUDY.data_dir else str
EXTENSIONS = tuple(STUDY.extensions)  # scripts read snakemake.config; as params, moved files would trigger reruns
TOY_RUNS, NETWORK_RUNS = toy_runs(STUDY), network_runs(STUDY)
TABLES = made_tables(STUDY)
FIGURES = drawn_figures(STUDY, EXTENSIONS)
NETWORK_LABELS = {name: network.label or name for name, network in all_networks(STUDY).items()}
FOLDERS = {"results": RESULTS, "scratch": SCRATCH, "datasets": DATASETS}
# Modules that cannot affect the results of a run: an edit must not trigger days of training.
NOT_TRAINING = ["disk", "jobs", "options", "registry", "tables", "study.slurm", "study.status", "ownership"]


def prefer_own_squeue():
    """Put our squeue and its Python first on the PATH if this Snakemake submits to SLURM."""
    if workflow.executor_plugin.name == "slurm":
        prefer_commands(f"{WORKFLOW}/profiles/slurm/bin")


def table_files(table, networks=None):
    """Files of a table of the study: one, or one for each (named) network; an empty list if the study lacks it."""
    if table in NETWORK_TABLES:
        made = networks_with(STUDY, [table])
        return [f"{RESULTS}/tables/{table}/{name}.parquet" for name in networks or made if name in made]
    return [f"{RESULTS}/tables/{table}.parquet"] if table in TABLES else []


def toy_parts(table):
    """Tables of single toy runs, or problems, that are collected into a table of the study."""
    if table == "perturbations":
        places = [(name, seed) for name in ("plateaus", "activations") for seed in STUDY.assumptions.seeds]
        return [f"{RESULTS}/assumptions/{name}/seed_{seed}/perturbations.parquet" for name, seed in places]
    if table in LINEAR_ATTENTION_TABLES:
        return [f"{RESULTS}/linear_attention/seed_{seed}/{table}.parquet" for seed in STUDY.linear_attention.seeds]
    if table in ("orbits", "returns"):
        return [f"{RESULTS}/toy/{variant}/seed_{seed}/{table}.parquet" for variant, seed in plain_problems(STUDY)]
    if table in ("stages", "theorem"):
        return [f"{RESULTS}/toy/{variant}/seed_{seed}/{table}.parquet" for variant, seed in limit_problems(STUDY)]
    pattern = f"{RESULTS}/toy/{{variant}}/alpha_{{alpha}}/seed_{{seed}}/{table}.parquet"
    return sorted(pattern.format(**run) for run in TOY_RUNS)


def toy_settings(*keys):
    """These keys of `toy`, for use as params."""
    return STUDY.toy.model_dump(include=set(keys)) if STUDY.toy else {}


def linear_attention_settings(*keys):
    """These keys of `linear_attention`, for use as params."""
    return STUDY.linear_attention.model_dump(include=set(keys)) if STUDY.linear_attention else {}


def of_variant(*keys):
    """These settings of a toy variant, for use as params."""
    return {key: lambda wildcards, key=key: variant_settings(STUDY, wildcards.variant)[key] for key in keys}


def stages_to_record(wildcards):
    """The stages in whose middle a run is recorded too, and which say what is active; an empty list without any."""
    predicted = STUDY.toy.variants[wildcards.variant].has_stages
    return [f"{RESULTS}/toy/{wildcards.variant}/seed_{wildcards.seed}/stages.parquet"] if predicted else []


def problem_alphas(wildcards):
    """Init scales from which the problem of this variant and seed is trained."""
    problem = wildcards.variant, int(wildcards.seed)
    return [run["alpha"] for run in TOY_RUNS if (run["variant"], run["seed"]) == problem]


def problem_files(table):
    """A function of the wildcards that returns the tables of the runs with `problem_alphas`."""
    return lambda wildcards: [
        f"{RESULTS}/toy/{wildcards.variant}/alpha_{alpha}/seed_{wildcards.seed}/{table}.parquet"
        for alpha in problem_alphas(wildcards)
    ]


def packed_files(wildcards):
    """The files of a network's packed dataset that Snakemake knows."""
    folder = f"{DATASETS}/{STUDY.networks[wildcards.network].dataset}"
    return [f"{folder}/manifest.json", *(f"{folder}/{name}" for name in DECLARED_ARRAYS)]


def source_entry(dataset):
    """The registered source of a dataset."""
    return find("source", STUDY.datasets[dataset].source, EXTENSIONS)


def source_files(dataset):
    """Files and folders from which a dataset is made: the options of its source that are paths, or folders in them."""
    entry = source_entry(dataset)
    paths = [key for key, (annotation, *_) in entry.parameters.items() if annotation == "Path"]
    folders = entry.details.get("folders", [""])
    return [str(Path(getattr(STUDY.datasets[dataset], key), folder)) for key in paths for folder in folders]


def datasets_to_pack():
    """A regular expression for the names of datasets, except packed ones whose source is gone: those are used as is."""
    files = ["manifest.json", *PACKED_ARRAYS]
    packed = {name for name in STUDY.datasets if all(os.path.exists(f"{DATASETS}/{name}/{file}") for file in files)}
    names = [name for name in STUDY.datasets if name not in packed or source_exists(source_files(name))]
    return one_of(names)


def one_of(names):
    """A regular expression for these names; one that nothing matches if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


@cache  # computed once per start
def fingerprint(dataset):
    """A hash that changes with any file of a dataset's source."""
    return source_fingerprint(source_files(dataset))


@cache
def checkpoints_fingerprint(network, seed):
    """A hash that changes with any file of the checkpoints of a run; None without any."""
    files = checkpoint_files(STUDY.checkpoints[network].files, seed)
    return source_fingerprint([path for paths in files.values() for path in paths])


def networks_to_import():
    """Names of networks that were trained elsewhere, except imported ones whose checkpoints are gone."""
    folder = f"{RESULTS}/networks/{{}}/alpha_1/seed_{{}}/checkpoints.parquet"
    return [
        name
        for name, series in STUDY.checkpoints.items()
        if any(checkpoints_fingerprint(name, seed) for seed in series.seeds)
        or not all(os.path.exists(folder.format(name, seed)) for seed in series.seeds)
    ]


def run_parts(wildcards):
    """Tables of single runs that are collected into a table of a network."""
    pattern = f"{RESULTS}/networks/{{network}}/alpha_{{alpha}}/seed_{{seed}}/{wildcards.table}.parquet"
    return [pattern.format(**run) for run in runs_of(wildcards.network)]


def runs_of(network):
    """The runs of a network, each a dict with `network`, `alpha`, `seed`."""
    return [run for run in NETWORK_RUNS if run["network"] == network]


def run_snapshots(wildcards):
    """The snapshots of all runs of a network, in the order of `runs_of`."""
    pattern = f"{RESULTS}/networks/{{network}}/alpha_{{alpha}}/seed_{{seed}}/snapshots"
    return [pattern.format(**run) for run in runs_of(wildcards.network)]


def hardware(key):
    """A function of the wildcards that returns this key of the network's `hardware`."""
    return lambda wildcards: getattr(STUDY.networks[wildcards.network].hardware, key)


def source_digest(wildcards):
    """Digest of the code that packs a dataset, including its source, which is chosen by name."""
    source = source_entry(wildcards.dataset)
    return library_digest("networks/prepare_dataset", also=[source], without=["jobs", "ownership", "registry"])


def training_digest(wildcards):
    """Digest of the code that trains a network, including model, loss and optimizer, which are chosen by name."""
    network = STUDY.networks[wildcards.network]
    names = {
        "model": network.model.family,
        "loss": network.recipe.loss.name,
        "optimizer": network.recipe.optimizer.name,
    }
    chosen = [find(kind, name, EXTENSIONS) for kind, name in names.items()]
    return library_digest("networks/train_network", also=chosen, without=NOT_TRAINING)


def model_digest(script):
    """A function of the wildcards: digest of a script that runs the network's model on the network's loss."""

    def digest(wildcards):
        network = STUDY.networks[wildcards.network]
        chosen = [
            find("model", network.model.family, EXTENSIONS),
            find("loss", network.recipe.loss.name, EXTENSIONS),
        ]
        return library_digest(script, also=chosen, without=NOT_TRAINING)

    return digest


def import_digest(wildcards):
    """Digest of the code that imports checkpoints, including the adapter, which is chosen by name."""
    chosen = find("adapter", STUDY.checkpoints[wildcards.network].model.family, EXTENSIONS)
    return library_digest("networks/import_checkpoints", also=[chosen], without=NOT_TRAINING)


def all_digest(script, kind):
    """Digest of a script that uses everything registered as `kind`."""
    return library_digest(script, also=list(registered(kind, EXTENSIONS).values()))


def figure_tables(wildcards):
    """Tables that a figure shows, by name."""
    entry = FIGURES[wildcards.figure]
    networks = shown_networks(STUDY, entry)
    return {table: table_files(table, networks) for table in entry.details["tables"]}
