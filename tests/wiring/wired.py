"""The study "wired", run once by Snakemake as a user would run it, and what the tests of its wiring ask of it."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "tests/data/wired.yaml"
TOY_TABLES = [
    "trajectory",
    "losses",
    "events",
    "conservation",
    "stages",
    "theorem",
    "orbits",
    "perturbations",
    "returns",
]
LINEAR_ATTENTION_TABLES = ["linear_attention", "linear_attention_losses"]
NETWORK_TABLES = ["metrics", "spectra", "measures", "matrices"]
# PNG and PDF hold no data, so the jobs keep each figure for the tests as well.
KEEP_FIGURES = """

def _keeping(save):
    def save_and_keep(figure, pdf, png, **options):
        import pickle
        from pathlib import Path

        save(figure, pdf, png, **options)
        Path("kept", f"{Path(pdf).stem}.pickle").write_bytes(pickle.dumps(figure))

    return save_and_keep


save_figure = _keeping(save_figure)
"""


@dataclass(frozen=True, eq=False)
class Wired:
    """A finished study: a copy of the repository, the folder it was run in, and its configuration file."""

    tree: Path
    folder: Path
    config: dict

    @property
    def results(self):
        return self.folder / "results/wired"

    @cache  # noqa: B019 - there is one of these, and it lives as long as the tests
    def table(self, name):
        """A table of the study or of a run, with plain strings where it has categories; not to be changed.

        For a table with a file for each network, all of them if `name` is its folder.
        """
        path = self.results / name
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [self.results / f"{name}.parquet"]
        frame = pd.concat([plain_table(file) for file in files], ignore_index=True)
        return frame

    def figure(self, name):
        """The matplotlib.figure.Figure `name` as it was drawn."""
        return pickle.loads((self.folder / f"kept/{name}.pickle").read_bytes())

    def provenance(self, path):
        """Where a table comes from."""
        return json.loads(pq.read_schema(self.results / path).metadata[b"provenance"])

    def snakemake(self, *arguments):
        """What Snakemake prints."""
        return snakemake(self.tree, self.folder, *arguments)


def plain_table(path):
    frame = pd.read_parquet(path)
    return frame.astype({key: str for key in frame if frame[key].dtype == "category"})


def snakemake(tree, folder, *arguments):
    line = [sys.executable, "-m", "snakemake", "--snakefile", tree / "Snakefile", "--directory", folder, "--cores", "2"]
    line = [*map(str, line), *arguments, "--configfile", str(STUDY)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def run_study(folder):
    """Run every rule of the study in a new folder; a `Wired`."""
    tree, work = folder / "tree", folder / "work"
    tree.mkdir()
    for name in ("Snakefile", "config", "envs", "workflow"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tree / name)
    (tree / "profiles").symlink_to("workflow/profiles")
    style = tree / "workflow/rank_increase/figures/style.py"
    style.write_text(style.read_text() + KEEP_FIGURES)
    (work / "kept").mkdir(parents=True)
    snakemake(tree, work, "all", "publish")
    return Wired(tree, work, yaml.safe_load(STUDY.read_text()))
