"""The paper's CIFAR-10 runs, one after the other until the time is up, and their tables."""

import logging
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from rank_increase.data.packed import DatasetError, open_dataset, pack
from rank_increase.data.sources.parquet import parquet
from rank_increase.jobs import environment
from rank_increase.ownership import owned
from rank_increase.pages.publishing import round_mantissa
from rank_increase.probes.spectra import spectra_frame
from rank_increase.registry import find
from rank_increase.study.digest import library_digest
from rank_increase.tables import write_table
from rank_increase.training.checkpoints import Stopped, StopRequest
from rank_increase.training.loop import Job, Run
from rank_increase.training.processes import device_name
from rank_increase.training.recipe import Recipe
from rank_increase.training.results import finished_metrics, prune_checkpoints
from rank_increase.training.snapshots import Snapshots

NETWORK = "cifar10"  # of the study "paper", whose tables these are
CLASSES = 10
PIXELS = 32
logger = logging.getLogger("rank_increase")


class Until(StopRequest):
    """A request to stop at a time, in seconds of `time.monotonic`, if no signal comes before."""

    def __init__(self, end):
        super().__init__()
        self._end = end

    @property
    def reason(self):
        """Why to stop, or None."""
        return super().reason or ("the time is up" if time.monotonic() > self._end else None)


def packed_images(folder, train, test, pixels=PIXELS):
    """Pack two Parquet files of images, unless that is done already, and return the folder as a str."""
    try:
        open_dataset(folder)
    except DatasetError:
        source = parquet(None, os.cpu_count(), train=str(train), test=str(test), classes=CLASSES, size=pixels)
        pack(folder, source, {"train": str(train), "test": str(test)})
    return str(folder)


def train_until(end, dataset, scratch, out, device, size, seeds, compiled):
    """Train every init scale with every seed until `end`; write the tables of each run that has come anywhere.

    Parameters
    ----------
    end : float
        In seconds of `time.monotonic`. A run that is not finished then resumes at the next call.
    dataset : str
        Folder of the packed images.
    scratch, out : pathlib.Path
        Folders for the state of runs, and for tables as in the results of the study.
    device : torch.device
    size : sizes.Size
    seeds : int
        How many.
    compiled : str
        Folder for compiled code.

    Returns
    -------
    list of dict
        Of each run in turn: `alpha`, `seed`, `epochs` trained, `seconds` of this call.
    """
    found = []
    for seed in range(seeds):
        for alpha in size.alphas:
            if time.monotonic() > end:
                return found
            place = Path("networks", NETWORK, f"alpha_{alpha}", f"seed_{seed}")
            job = _job(dataset, scratch / place, device, size, alpha, seed, compiled)
            start, before = time.monotonic(), _epochs(job)
            _train(job, device, end)
            if _epochs(job) > before or not (out / place / "spectra.parquet").exists():
                _write_tables(job, out / place, device)
            spent = time.monotonic() - start
            found.append({"alpha": alpha, "seed": seed, "epochs": _epochs(job), "seconds": round(spent, 1)})
    return found


def _job(dataset, scratch, device, size, alpha, seed, compiled):
    chosen = [("model", size.model["family"]), ("loss", "cross_entropy"), ("optimizer", "adam")]
    return Job(
        dataset=dataset,
        scratch=str(scratch),
        model=size.model,
        recipe=Recipe(**size.recipe),
        alpha=float(alpha),
        seed=seed,
        code=library_digest(Path(__file__), also=[find(*choice) for choice in chosen]),
        checkpoint_minutes=1.0,
        pass_size=0,
        threads=os.cpu_count(),
        label=f"{NETWORK}, alpha = {alpha}, seed {seed}",
        device=str(device),
        compiled=compiled,
    )


def _train(job, device, end):
    """Train until the last epoch or the end of the time."""
    with owned(job.scratch, job.label) as ownership, Until(end) as stop:
        try:
            Run(job, ownership, device, 0, 1, stop).fit()
            prune_checkpoints(job)
        except Stopped as stopped:
            if stop.received:
                raise
            logger.info("%s", stopped)


def _epochs(job):
    """Epochs trained so far."""
    path = Path(job.scratch) / "metrics.csv"
    return len(pd.read_csv(path)) if path.exists() else 0


def _write_tables(job, folder, device):
    """Write metrics and spectra so far; singular values are rounded as for publishing."""
    wildcards = {
        "network": NETWORK,
        "alpha": Path(job.scratch).parent.name.removeprefix("alpha_"),
        "seed": str(job.seed),
    }
    provenance = {
        "study": "paper",
        "rule": "gpu_check",
        "wildcards": wildcards,
        "params": {"model": job.model, "recipe": vars(job.recipe)},
        "code": job.code,
        "seed": wildcards["seed"],
        "device": device_name() if device.type == "cuda" else device.type,
        **environment(),
    }
    write_table(folder / "metrics.parquet", finished_metrics(job), "metrics", provenance)
    spectra = parallel_spectra(Path(job.scratch) / "snapshots", job.seed)
    spectra["singular_values"] = [round_mantissa(values) for values in spectra["singular_values"]]
    write_table(folder / "spectra.parquet", spectra, "spectra", provenance)


def parallel_spectra(folder, seed):
    """`spectra_frame` of the snapshots in a folder, computed by a process for each layer."""
    layers = sorted({layer for _, layer, *_ in Snapshots(folder).products})
    processes = min(len(layers), os.cpu_count())
    if processes == 1:
        return spectra_frame(Snapshots(folder), seed)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // processes))  # read when a process starts
    try:
        with ProcessPoolExecutor(processes, get_context("forkserver")) as pool:
            parts = list(pool.map(_layer_spectra, layers, [folder] * len(layers), [seed] * len(layers)))
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    return pd.concat(parts, ignore_index=True)


def _layer_spectra(layer, folder, seed):
    snapshots = Snapshots(folder)
    snapshots.products = [product for product in snapshots.products if product[1] == layer]
    return spectra_frame(snapshots, seed)
