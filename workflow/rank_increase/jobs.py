"""What every job does besides its work: keep a log, show progress, record the provenance of its results."""

import logging
import platform
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rank_increase.disk import DiskError, writing

try:
    from tqdm import tqdm
except ModuleNotFoundError:  # gpu_check needs little more than torch; progress is in the log then
    tqdm = None

PACKAGES = ("numpy", "scipy", "numba", "torch", "pandas", "pyarrow", "matplotlib", "snakemake")
logger = logging.getLogger("rank_increase")


def start_job(snakemake):
    """Send log and tracebacks of this job to the rule's log file; return the provenance of its results, a dict.

    Parameters
    ----------
    snakemake : object
        The object that Snakemake passes to a script.
    """
    sys.excepthook = _log_exception
    signal.signal(signal.SIGTERM, _interrupt)
    with writing(snakemake.log[0]):
        Path(snakemake.log[0]).write_text("")  # drops the log of an earlier attempt
    append_log(snakemake.log[0])
    wildcards = dict(snakemake.wildcards.items())
    logger.info("%s %s", snakemake.rule, wildcards)
    return {
        "study": _study(snakemake.log[0]),
        "rule": snakemake.rule,
        "wildcards": wildcards,
        "params": {key: value for key, value in snakemake.params.items() if key != "code"},
        "code": snakemake.params.get("code"),
        "seed": wildcards.get("seed"),
        "device": "cpu",
        **environment(),
    }


def environment():
    """Commit of the code, platform, and versions of installed packages: what provenance says of every job; a dict."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "commit": _git_commit(Path(__file__).parent),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions,
    }


def append_log(path):
    """Append the log of this process to a file."""
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _LogFile(logging.FileHandler):
    """A log file on a disk that may fill up: a log line that is lost must not cause error messages elsewhere."""

    def handleError(self, record):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _study(log):
    """Name of the study, from the path of the log, results/{study}/logs; None for any other path."""
    folder, *rest = Path(log).parts
    return rest[0] if folder == "results" else None


def _interrupt(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def _log_exception(kind, error, traceback):
    if isinstance(error, KeyboardInterrupt):
        message, places = f"interrupted by {error or 'SIGINT'}", None
    elif isinstance(error, DiskError):  # a traceback may not fit on the disk
        message, places = f"failed: {error}", None
    else:
        message, places = "failed", (kind, error, traceback)
    logger.error(message, exc_info=places)
    print(f"{kind.__name__}: {error}" if places else message, file=sys.stderr)


def _git_commit(folder):
    """Commit of the code, with "+" if files have changed since; None outside a repository."""
    try:
        run = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


@contextmanager
def progress(label, total, done=0, interval=10.0):
    """Show the progress of a job: a bar on a terminal, and a line in the log every `interval` seconds.

    Parameters
    ----------
    label : str
    total : float
        Value at which the work is done.
    done : float
        Value reached before this job.

    Yields
    ------
    callable
        To be called with the value reached so far and, optionally, a function that returns a further note as a string.
        That function is called about once a second.
    """
    start = said = shown = time.monotonic()
    first = 100 * done / total
    bar_format = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left{postfix}"
    bar = None
    if tqdm and sys.stderr.isatty():
        bar = tqdm(desc=label, initial=first, total=100, leave=False, bar_format=bar_format)

    def advance(value, note=None):
        nonlocal said, shown
        percent, now = 100 * value / total, time.monotonic()
        if bar is not None:
            if note and now - shown > 1:
                bar.set_postfix_str(note(), refresh=False)
                shown = now
            bar.update(percent - bar.n)
        if now - said > interval and percent > first:
            remaining = (now - start) * (100 - percent) / (percent - first)
            remark = f", {note()}" if note else ""
            logger.info("%s: %.0f %% done, about %.0f s left%s", label, percent, remaining, remark)
            said = now

    with nullcontext() if bar is None else bar:
        yield advance
    logger.info("%s: done in %.1f s", label, time.monotonic() - start)
