"""Checks of the configuration and the functions that rules use; the only Python of the workflow's rules."""

import os
import re
import sys
from functools import cache
from glob import glob

sys.path.insert(0, f"{workflow.basedir}/workflow/scripts")
from rank_increase.configuration import (
    ConfigError,
    check_config,
    check_data_dir,
    check_demo,
    check_folder,
    read_config,
    toy_runs,
    vit_runs,
)
from rank_increase.digest import folder_digest, library_digest
from rank_increase.failures import describe_failures, explain_full_disk
from rank_increase.fingerprints import source_exists, source_fingerprint

if full := explain_full_disk():
    sys.exit(full)
try:
    check_demo(config, read_config(f"{workflow.basedir}/config/config.yaml"))
    for configfile in workflow.overwrite_configfiles:
        read_config(configfile)  # Snakemake has read it, and takes the last of two equal keys
    check_config(config)
    check_folder(f"results/{config['study']}")
    if config["data_dir"]:
        check_data_dir(os.path.expanduser(config["data_dir"]))
except ConfigError as error:
    sys.exit(str(error))  # one sentence, where an exception would come with places in this file

TOY_TABLES = ["trajectory", "events", "conservation", "stages", "theorem", "perturbations"]
VIT_TABLES = ["metrics", "spectra", "baselines"]
RESULTS = f"results/{config['study']}"
DATASETS = os.path.expanduser(config["data_dir"] or f"{RESULTS}/datasets")
PACKED_ARRAYS = [f"{split}_{kind}.npy" for split in ("train", "test") for kind in ("images", "labels")]
# Snakemake deletes what a rule declares before it runs, also what another study has just packed. So of a folder that
# studies share, only the manifest is declared, and as a file that is updated, which Snakemake leaves in place.
DECLARED_ARRAYS = [] if config["data_dir"] else PACKED_ARRAYS
shared = update if config["data_dir"] else str
SCRATCH = f"{config['scratch_dir']}/{config['study']}" if config["scratch_dir"] else f"{RESULTS}/scratch"
STUDY = {"config": config, "results": RESULTS, "scratch": SCRATCH, "datasets": DATASETS}
TOY_RUNS = toy_runs(config)
VIT_RUNS = vit_runs(config)


def prefer_own_squeue():
    """Put slurm/bin, and the Python that runs it, first on the PATH of a controller that submits to SLURM."""
    if workflow.executor_plugin.name == "slurm":
        folders = [f"{workflow.basedir}/slurm/bin", os.path.dirname(sys.executable), os.environ["PATH"]]
        os.environ["PATH"] = os.pathsep.join(folders)


def toy_files(pattern, structure=None):
    """Paths of `pattern`, with {structure}, {alpha}, {seed}, for every toy run, or for those of one structure."""
    runs = [run for run in TOY_RUNS if structure in (None, run["structure"])]
    return sorted({pattern.format(**run) for run in runs})


def run_stages(wildcards):
    """Stages of Algorithm 1, in the middle of which a flow with diagonal weights is recorded too; none for others."""
    structure = config["toy"]["structures"][wildcards.structure]
    compared = wildcards.structure == "diagonal" and structure["method"] == "flow"
    return [f"{RESULTS}/toy/diagonal/seed_{wildcards.seed}/stages.parquet"] if compared else []


def run_alphas(wildcards):
    """Init scales of the diagonal structure with this seed."""
    return [run["alpha"] for run in TOY_RUNS if run["structure"] == "diagonal" and run["seed"] == int(wildcards.seed)]


def run_trajectories(wildcards):
    """Trajectories of the diagonal structure with this seed, in the order of `run_alphas`."""
    return [
        f"{RESULTS}/toy/diagonal/alpha_{alpha}/seed_{wildcards.seed}/trajectory.parquet"
        for alpha in run_alphas(wildcards)
    ]


def run_events(wildcards):
    """Activations of the diagonal structure with this seed, in the order of `run_alphas`."""
    return [path.replace("trajectory.parquet", "events.parquet") for path in run_trajectories(wildcards)]


def run_method(wildcards):
    """How this structure is trained: flow, gd or sgd."""
    return config["toy"]["structures"][wildcards.structure]["method"]


def run_structure(wildcards):
    """Form of the student and of the teacher of this structure."""
    structure = config["toy"]["structures"][wildcards.structure]
    return {"weights": structure["weights"], "teacher": structure["teacher"]}


def vit_files(pattern, dataset=None):
    """Paths of `pattern`, with {dataset}, {alpha}, {seed}, for runs of vision transformers: all, or on one dataset."""
    return sorted({pattern.format(**run) for run in VIT_RUNS if dataset in (None, run["dataset"])})


def packed_files(wildcards):
    """Arrays of a packed dataset that Snakemake knows of."""
    return [f"{DATASETS}/{wildcards.dataset}/{name}" for name in DECLARED_ARRAYS]


def datasets_to_pack():
    """Names of datasets, as a regular expression; one that is packed and whose source is gone is used as it is."""
    files = ["manifest.json", *PACKED_ARRAYS]
    packed = {name for name in config["datasets"] if all(os.path.exists(f"{DATASETS}/{name}/{file}") for file in files)}
    names = [name for name, source in config["datasets"].items() if name not in packed or source_exists(source)]
    return "|".join(map(re.escape, names)) or "(?!)"


def dataset_source(wildcards):
    """What the configuration says of where a dataset comes from."""
    return config["datasets"][wildcards.dataset]


@cache
def fingerprint(dataset):
    """What changes with any file of the source of a dataset; looked at once per start."""
    return source_fingerprint(config["datasets"][dataset])


def dataset_fingerprint(wildcards):
    """The fingerprint of the source of this dataset."""
    return fingerprint(wildcards.dataset)


def run_model(wildcards):
    """Sizes of the model that is trained on this dataset."""
    return config["vit"]["models"][wildcards.dataset]


def run_training(wildcards):
    """How a model is trained on this dataset, but for what its results do not depend on."""
    return config["vit"]["training"][wildcards.dataset]


def run_hardware(key):
    """A function of the wildcards: what a run on this dataset asks of the machine under this key."""
    return lambda wildcards: config["vit"]["hardware"][wildcards.dataset][key]


def run_minutes(wildcards, attempt):
    """Minutes that an attempt at a run on this dataset is given: each more than the one before."""
    return attempt * config["vit"]["hardware"][wildcards.dataset]["runtime"]


def outcome():
    """What to say at the end of a run: which figures there are, and the pages to read them with."""
    folder = os.path.abspath(RESULTS)
    figures = sorted(os.path.basename(path) for path in glob(f"{folder}/figures/*.png"))
    said = [f"Figures in {folder}/figures: {', '.join(figures)}"] if figures else [f"Results in {folder}"]
    pages = {"Claims": "claims.md", "Explorer, to be opened in a browser": "explorer.html"}
    said += [f"{name}: {folder}/{page}" for name, page in pages.items() if os.path.exists(f"{folder}/{page}")]
    return "\n".join(said)


def table_parts(wildcards):
    """Tables that make up a table of the study: of single toy runs, or of all runs on a dataset."""
    patterns = {
        "trajectory": "toy/{structure}/alpha_{alpha}/seed_{seed}/trajectory.parquet",
        "events": "toy/{structure}/alpha_{alpha}/seed_{seed}/events.parquet",
        "conservation": "toy/{structure}/alpha_{alpha}/seed_{seed}/conservation.parquet",
        "stages": "toy/diagonal/seed_{seed}/stages.parquet",
        "theorem": "toy/diagonal/seed_{seed}/theorem.parquet",
    }
    if wildcards.table == "perturbations":
        seeds, assumptions = config["assumptions"]["seeds"], ("plateaus", "activations")
        return [f"{RESULTS}/assumptions/{name}/seed_{s}/perturbations.parquet" for name in assumptions for s in seeds]
    if wildcards.table in VIT_TABLES:
        return [f"{RESULTS}/tables/{dataset}/{wildcards.table}.parquet" for dataset in trained_datasets()]
    structure = None if wildcards.table in ("trajectory", "events", "conservation") else "diagonal"
    return toy_files(f"{RESULTS}/{patterns[wildcards.table]}", structure)


def dataset_table_parts(wildcards):
    """Tables of single runs of vision transformers that make up a table of one dataset."""
    pattern = f"{RESULTS}/vit/{{dataset}}/alpha_{{alpha}}/seed_{{seed}}/{wildcards.table}.parquet"
    return vit_files(pattern, wildcards.dataset)


def published_tables():
    """Tables from which all else of a study can be made without training."""
    of_datasets = [f"{dataset}/{table}" for dataset in trained_datasets() for table in VIT_TABLES]
    return [f"{RESULTS}/tables/{table}.parquet" for table in [*TOY_TABLES, *of_datasets]]


def figure_tables(figure, table):
    """A function of the wildcards: tables of the datasets that a figure of vision transformers shows."""
    return lambda wildcards: [f"{RESULTS}/tables/{dataset}/{table}.parquet" for dataset in shown_datasets(figure)]


def figure_names(figure):
    """A function of the wildcards: what a figure calls the datasets that it shows."""
    names = config["figures"]["vit"]["names"]
    return lambda wildcards: [names.get(dataset, dataset) for dataset in shown_datasets(figure)]


def trained_datasets():
    """Datasets that vision transformers are trained on, and what figures call them."""
    names = config["figures"]["vit"]["names"]
    return {run["dataset"]: names.get(run["dataset"], run["dataset"]) for run in VIT_RUNS}


def shown_datasets(figure):
    """Datasets that a figure of vision transformers shows."""
    shown = config["figures"]["vit"]["datasets"]
    if figure not in shown:
        raise ConfigError(f"config: to draw {figure}, say under `figures.vit.datasets` which dataset it is to show.")
    return shown[figure]
