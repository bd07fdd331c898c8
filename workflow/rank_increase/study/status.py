"""The progress of a study, from its files alone, and which files can be deleted.

Files suffice, so jobs can run on any machine that shares the folder, under any batch system or none.
"""

import csv
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rank_increase.ownership import SILENCE, Owner, current_owner
from rank_increase.study.configuration import ConfigError, Study, network_runs, toy_runs, trained_runs
from rank_increase.study.plan import known_samples
from rank_increase.study.text import size_text, text_table

SHOWN_SILENCE = 2 * SILENCE  # clocks of two machines may differ a little
STATES = ("finished", "running", "stopped", "waiting")
LAST_WORDS = 200  # characters


@dataclass(frozen=True)
class Place:
    """A study and its folders: its checked configuration, and the folders of results, scratch and packed datasets."""

    study: Study
    results: str
    scratch: str
    datasets: str


@dataclass(frozen=True)
class Progress:
    """The progress of a network's run.

    `state` is one of `STATES`. `metrics` is the last row of its metrics so far, a dict of numbers, or None.
    `seconds_left` is the remaining time at the speed of the last epoch, or None. `owner` is the process that trains it
    and `heard` the seconds since its last heartbeat; both may be None.
    """

    run: dict
    state: str
    epochs: int
    metrics: dict | None
    seconds_left: float | None
    owner: Owner | None
    heard: float | None
    log: Path


def scratch_folder(scratch, network, alpha, seed):
    """The folder of a run's state, a Path; `~` and environment variables are expanded on this machine.

    Raises
    ------
    ConfigError
        If a variable is not set on this machine.
    """
    return Path(_expanded(scratch), "networks", network, f"alpha_{alpha}", f"seed_{seed}")


def compiled_folder(scratch):
    """The folder for compiled code that all runs of a study share, a Path; raises as `scratch_folder` does."""
    return Path(_expanded(scratch), "compiled")


def _expanded(scratch):
    folder = os.path.expanduser(os.path.expandvars(scratch))
    if "$" in folder:
        raise ConfigError(f"config: `scratch_dir` is {scratch!r}, and not every variable in it is set on this machine.")
    return folder


def run_progress(place, run, now):
    """`Progress` of a run of a network, at a time in seconds since 1970."""
    scratch = scratch_folder(place.scratch, **run)
    log = Path(place.results, "logs/train_network", "{network}_alpha_{alpha}_seed_{seed}.log".format(**run))
    epochs = place.study.networks[run["network"]].recipe.epochs
    found = current_owner(scratch)
    owner, heard = (found[1], max(0.0, now - found[2])) if found else (None, None)
    row, since = _last_metrics(scratch / "metrics.csv", now)
    if _is_trained(place, run):
        return Progress(run, "finished", epochs, None, None, None, None, log)
    if owner and heard < SHOWN_SILENCE and not owner.is_dead():
        remaining = _seconds_left(place, run, row, since) if row else None
        return Progress(run, "running", epochs, row, remaining, owner, heard, log)
    state = "stopped" if scratch.exists() or log.exists() else "waiting"
    return Progress(run, state, epochs, row, None, None, None, log)


def _run_folder(place, run):
    return Path(place.results, "networks", run["network"], f"alpha_{run['alpha']}", f"seed_{run['seed']}")


def _is_trained(place, run):
    folder = _run_folder(place, run)
    return (folder / "metrics.parquet").exists()


def _is_measured(place, run):
    folder = _run_folder(place, run)
    whole = run["network"] in place.study.checkpoints or _is_trained(place, run)
    return whole and (folder / "spectra.parquet").exists()


def _last_metrics(path, now):
    """The last row of metrics.csv, a dict of numbers, and its age in seconds; (None, None) if there is no row."""
    try:
        with open(path, newline="") as file:
            rows, written = list(csv.DictReader(file)), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None, None
    return ({name: float(value) for name, value in rows[-1].items()}, now - written) if rows else (None, None)


def _seconds_left(place, run, row, since):
    """Remaining seconds at the speed of the last epoch; a test sample, forward only, counts as a third."""
    network = place.study.networks[run["network"]]
    samples = known_samples(place.study, network.dataset, Path(place.datasets) / network.dataset)
    of_epoch = row["step"] / row["epoch"] * network.recipe.batch_size + (samples["test"] / 3 if samples else 0)
    epochs = network.recipe.epochs - row["epoch"]
    return max(0.0, epochs * of_epoch / row["images_per_second"] - max(0.0, since))


def describe_status(place, now=None):
    """The status of a study, as text.

    Parameters
    ----------
    place : Place
    now : float, optional
        Seconds since 1970; the present if not given.
    """
    now = time.time() if now is None else now
    progress = [run_progress(place, run, now) for run in trained_runs(place.study)]
    by_state = {state: [one for one in progress if one.state == state] for state in STATES}
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    parts = [f'Study "{place.study.study}", {at}', text_table(_count_rows(place, by_state))]
    if by_state["running"]:
        parts += ["Running", text_table(_running_rows(by_state["running"]))]
    if by_state["stopped"]:
        lines = "\n".join(_stopped_lines(by_state["stopped"]))
        parts += ["Stopped or failed; the same command resumes them", lines]
    return "\n\n".join(parts)


def _count_rows(place, by_state):
    toy, networks = toy_runs(place.study), network_runs(place.study)
    pattern = "toy/{variant}/alpha_{alpha}/seed_{seed}/trajectory.parquet"
    toy_done = sum(Path(place.results, pattern.format(**run)).exists() for run in toy)
    in_states = [len(by_state[state]) for state in STATES]
    measured = sum(_is_measured(place, run) for run in networks)
    return [
        ["", *STATES, "of"],
        ["toy runs", str(toy_done), "", "", str(len(toy) - toy_done), str(len(toy))],
        ["networks", *map(str, in_states), str(sum(in_states))],
        ["their spectra", str(measured), "", "", str(len(networks) - measured), str(len(networks))],
    ]


def _label(run):
    return "{network}, alpha {alpha}, seed {seed}".format(**run)


def _running_rows(progress):
    rows = [["", "epochs", "train loss", "test accuracy", "samples/s", "time left", "heartbeat", "on", "Slurm job"]]
    for one in progress:
        row, owner = one.metrics, one.owner
        numbers = ["", "", ""]
        if row:
            numbers = [f"{row['train_loss']:.3f}", f"{row['test_accuracy']:.1%}", f"{row['images_per_second']:.0f}"]
        remaining = "" if one.seconds_left is None else _duration(one.seconds_left)
        epochs = f"{row['epoch'] if row else 0:.0f} of {one.epochs}"
        rows.append(
            [_label(one.run), epochs, *numbers, remaining, f"{one.heard:.0f} s ago", owner.host, owner.job or "none"]
        )
    return rows


def _stopped_lines(progress):
    for one in progress:
        done = one.metrics["epoch"] if one.metrics else 0
        yield f"  {_label(one.run)}: {done:.0f} of {one.epochs} epochs; {one.log}"
        if one.log.exists():
            said = one.log.read_text(errors="replace").split("\n")
            words = next((line for line in reversed(said) if line.strip()), "the log is empty")
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


def delete_scratch(place):
    """Delete the scratch folders of finished runs that no process owns, and compiled code if no run is left.

    Yields
    ------
    folder : Path
    freed : int
        Bytes freed on the disk; a snapshot that is also among the results still takes space there.
    """
    for run in trained_runs(place.study):
        folder = scratch_folder(place.scratch, **run)
        snapshots = _run_folder(place, run) / "snapshots"
        published = _is_trained(place, run) and (snapshots.exists() or _is_measured(place, run))
        if folder.exists() and published and not current_owner(folder):
            yield folder, _delete(folder)
    compiled = compiled_folder(place.scratch)
    if compiled.exists() and not any(
        scratch_folder(place.scratch, **run).exists() for run in network_runs(place.study)
    ):
        yield compiled, _delete(compiled)


def delete_snapshots(place):
    """Delete the published snapshots of runs whose spectra exist; yields the same as `delete_scratch`."""
    for run in network_runs(place.study):
        folder = _run_folder(place, run) / "snapshots"
        scratch = scratch_folder(place.scratch, **run)
        if folder.exists() and _is_measured(place, run) and not current_owner(scratch):
            yield folder, _delete(folder)


def _delete(folder):
    """Delete a folder and return the bytes freed; it is renamed first, so that a kill leaves no half of it."""
    trash = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(trash, ignore_errors=True)
    os.replace(folder, trash)
    states = [path.stat() for path in trash.rglob("*") if path.is_file()]
    shutil.rmtree(trash)
    return sum(state.st_size for state in states if state.st_nlink == 1)


def describe_deleted(deleted):
    """The deleted folders and the space freed, as text; `deleted` as yielded by `delete_scratch`."""
    rows = [[str(folder), size_text(freed)] for folder, freed in deleted]
    if not rows:
        return "Nothing to delete."
    total = size_text(sum(freed for _, freed in deleted))
    return "Deleted, and space freed\n\n" + text_table([*rows, ["total", total]])


def outcome(results):
    """The message at the end of a run: its figures and pages."""
    folder = Path(results).absolute()
    figures = sorted(path.name for path in (folder / "figures").glob("*.png"))
    said = [f"Figures in {folder}/figures: {', '.join(figures)}"] if figures else [f"Results in {folder}"]
    pages = {"Claims": "claims.md", "Explorer, to be opened in a browser": "explorer.html"}
    said += [f"{name}: {folder / page}" for name, page in pages.items() if (folder / page).exists()]
    return "\n".join(said)
