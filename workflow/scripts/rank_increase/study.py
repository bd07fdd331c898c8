"""How far a study has come, from its files alone, and what of them can be deleted.

Files are enough: jobs may run on any machine that shares the folder, under any batch system or none.
"""

import csv
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rank_increase.configuration import ConfigError, toy_runs, vit_runs
from rank_increase.ownership import SILENCE, Owner, current_owner
from rank_increase.plan import known_images, size_text, text_table

SHOWN_SILENCE = 2 * SILENCE  # clocks of two machines may differ a little
STATES = ("finished", "running", "stopped", "waiting")
LAST_WORDS = 200  # characters


@dataclass(frozen=True)
class Study:
    """A study and where it lies: its configuration, and the folders of results, scratch and packed datasets."""

    config: dict
    results: str
    scratch: str
    datasets: str


@dataclass(frozen=True)
class Progress:
    """How far a run of a vision transformer has come.

    state is one of `STATES`; metrics the last row of its metrics so far, a dict of numbers, or None; seconds_left what
    is left of it by the speed of its last epoch, or None; owner the process at work on it and heard the seconds since
    that was heard of, or None.
    """

    run: dict
    state: str
    epochs: int
    metrics: dict | None
    seconds_left: float | None
    owner: Owner | None
    heard: float | None
    log: Path


def scratch_folder(scratch, dataset, alpha, seed):
    """Where a run keeps its state, a Path; `~` and variables of the environment mean what they do on this machine.

    Raises
    ------
    ConfigError
        If a variable is not set here.
    """
    folder = os.path.expanduser(os.path.expandvars(scratch))
    if "$" in folder:
        raise ConfigError(f"config: `scratch_dir` is {scratch!r}, and not every variable in it is set on this machine.")
    return Path(folder, "vit", dataset, f"alpha_{alpha}", f"seed_{seed}")


def run_progress(study, run, now):
    """`Progress` of a run of a vision transformer, at a time in seconds since 1970."""
    scratch = scratch_folder(study.scratch, **run)
    log = Path(study.results, "logs/train_vit", "{dataset}_alpha_{alpha}_seed_{seed}.log".format(**run))
    epochs = study.config["vit"]["training"][run["dataset"]]["epochs"]
    found = current_owner(scratch)
    owner, heard = (found[1], max(0.0, now - found[2])) if found else (None, None)
    row, since = _last_metrics(scratch / "metrics.csv", now)
    if _is_trained(study, run):
        return Progress(run, "finished", epochs, None, None, None, None, log)
    if owner and heard < SHOWN_SILENCE and not owner.is_dead():
        left = _seconds_left(study, run, row, since) if row else None
        return Progress(run, "running", epochs, row, left, owner, heard, log)
    state = "stopped" if scratch.exists() or log.exists() else "waiting"
    return Progress(run, state, epochs, row, None, None, None, log)


def _run_folder(study, run):
    return Path(study.results, "vit", run["dataset"], f"alpha_{run['alpha']}", f"seed_{run['seed']}")


def _is_trained(study, run):
    folder = _run_folder(study, run)
    return (folder / "metrics.parquet").exists()


def _is_measured(study, run):
    folder = _run_folder(study, run)
    return _is_trained(study, run) and all((folder / f"{name}.parquet").exists() for name in ("spectra", "baselines"))


def _last_metrics(path, now):
    """The last row of metrics.csv, numbers by column, and the seconds since it was written; (None, None) without."""
    try:
        with open(path, newline="") as file:
            rows, written = list(csv.DictReader(file)), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None, None
    return ({name: float(value) for name, value in rows[-1].items()}, now - written) if rows else (None, None)


def _seconds_left(study, run, row, since):
    """Seconds to the end at the speed of the last epoch; a test image, seen forward only, counts as a third."""
    name = run["dataset"]
    training = study.config["vit"]["training"][name]
    images = known_images(study.config, name, Path(study.datasets) / name)
    of_epoch = row["step"] / row["epoch"] * training["batch_size"] + (images["test"] / 3 if images else 0)
    epochs = training["epochs"] - row["epoch"]
    return max(0.0, epochs * of_epoch / row["images_per_second"] - max(0.0, since))


def describe_status(study, now=None):
    """What there is of a study, as text.

    Parameters
    ----------
    study : Study
    now : float, optional
        Seconds since 1970, instead of the present.
    """
    now = time.time() if now is None else now
    progress = [run_progress(study, run, now) for run in vit_runs(study.config)]
    by_state = {state: [one for one in progress if one.state == state] for state in STATES}
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    parts = [f'Study "{study.config["study"]}", {at}', text_table(_count_rows(study, by_state))]
    if by_state["running"]:
        parts += ["Running", text_table(_running_rows(by_state["running"]))]
    if by_state["stopped"]:
        lines = "\n".join(_stopped_lines(by_state["stopped"]))
        parts += ["Stopped or failed; the same command goes on with them", lines]
    return "\n\n".join(parts)


def _count_rows(study, by_state):
    toy, vit = toy_runs(study.config), vit_runs(study.config)
    pattern = "toy/{structure}/alpha_{alpha}/seed_{seed}/trajectory.parquet"
    trained = sum(Path(study.results, pattern.format(**run)).exists() for run in toy)
    measured = sum(_is_measured(study, run) for run in vit)
    return [
        ["", *STATES, "of"],
        ["toy runs", str(trained), "", "", str(len(toy) - trained), str(len(toy))],
        ["vision transformers", *(str(len(by_state[state])) for state in STATES), str(len(vit))],
        ["their spectra", str(measured), "", "", str(len(vit) - measured), str(len(vit))],
    ]


def _label(run):
    return "{dataset}, alpha {alpha}, seed {seed}".format(**run)


def _running_rows(progress):
    rows = [["", "epochs", "train loss", "test accuracy", "images/s", "time left", "heard of", "on", "Slurm job"]]
    for one in progress:
        row, owner = one.metrics, one.owner
        numbers = ["", "", ""]
        if row:
            numbers = [f"{row['train_loss']:.3f}", f"{row['test_accuracy']:.1%}", f"{row['images_per_second']:.0f}"]
        left = "" if one.seconds_left is None else _duration(one.seconds_left)
        epochs = f"{row['epoch'] if row else 0:.0f} of {one.epochs}"
        rows.append(
            [_label(one.run), epochs, *numbers, left, f"{one.heard:.0f} s ago", owner.host, owner.job or "none"]
        )
    return rows


def _stopped_lines(progress):
    for one in progress:
        done = one.metrics["epoch"] if one.metrics else 0
        yield f"  {_label(one.run)}: {done:.0f} of {one.epochs} epochs; {one.log}"
        if one.log.exists():
            said = one.log.read_text(errors="replace").split("\n")
            words = next((line for line in reversed(said) if line.strip()), "nothing was said")
            yield f"      {words[:LAST_WORDS]}"


def _duration(seconds):
    """Like "3 d 4 h", "2 h 5 min" or "1 min"."""
    minutes = round(seconds / 60)
    if not minutes:
        return "< 1 min"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def delete_scratch(study):
    """Delete the scratch folders of runs whose results are published and that nobody is at work on.

    Yields
    ------
    folder : Path
    freed : int
        Bytes that this has given back to the disk; a snapshot that is also among the results takes its room there.
    """
    for run in vit_runs(study.config):
        folder = scratch_folder(study.scratch, **run)
        snapshots = _run_folder(study, run) / "snapshots"
        published = _is_trained(study, run) and (snapshots.exists() or _is_measured(study, run))
        if folder.exists() and published and not current_owner(folder):
            yield folder, _delete(folder)


def delete_snapshots(study):
    """Delete the published snapshots of runs whose spectra and baselines are there; yields as `delete_scratch` does."""
    for run in vit_runs(study.config):
        folder = _run_folder(study, run) / "snapshots"
        scratch = scratch_folder(study.scratch, **run)
        if folder.exists() and _is_measured(study, run) and not current_owner(scratch):
            yield folder, _delete(folder)


def _delete(folder):
    """Delete a folder, at once so that a kill leaves no half of it; returns the bytes that this gives back."""
    leaving = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(leaving, ignore_errors=True)
    os.replace(folder, leaving)
    states = [path.stat() for path in leaving.rglob("*") if path.is_file()]
    shutil.rmtree(leaving)
    return sum(state.st_size for state in states if state.st_nlink == 1)


def describe_deleted(deleted):
    """What was deleted and how many bytes that was, as text; `deleted` as `delete_scratch` yields it."""
    rows = [[str(folder), size_text(freed)] for folder, freed in deleted]
    if not rows:
        return "Nothing to delete."
    total = size_text(sum(freed for _, freed in deleted))
    return "Deleted, and room that this has made\n\n" + text_table([*rows, ["total", total]])
