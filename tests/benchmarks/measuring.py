"""What all benchmarks share: one clock, one form of a row, the limits of the machine, and slopes."""

import json
import os
import platform
import resource
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

ROOT = Path(__file__).parents[2]
PACKAGES = ["numpy", "scipy", "torch", "numba", "snakemake", "vit-pytorch", "timm", "torchdiffeq", "weightwatcher"]


@dataclass(frozen=True)
class Timing:
    """CPU and wall seconds of each call, and what the last one returned."""

    cpu: list
    wall: list
    result: object


def cpu_seconds():
    """CPU seconds so far of this process and of its children that have ended: what else runs hardly counts."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def interleaved(methods, repeats, warm_up=True):
    """Time functions in turn, so that a slow spell of the machine meets all of them.

    Parameters
    ----------
    methods : dict of str to callable
    repeats : int
    warm_up : bool
        Call each once before, as for what is compiled or cached at its first call.

    Returns
    -------
    dict of str to Timing
    """
    timings = {name: Timing([], [], None) for name in methods}
    for number in range(-warm_up, repeats):
        for name, method in methods.items():
            wall, cpu = perf_counter(), cpu_seconds()
            result = method()
            spent = cpu_seconds() - cpu, perf_counter() - wall
            before = timings[name]
            if number >= 0:
                timings[name] = Timing([*before.cpu, spent[0]], [*before.wall, spent[1]], result)
    return timings


def row(case, x, method, timing, *, scale=1, extrapolated=False, error=np.nan, flops=np.nan, traffic=np.nan):
    """A row of a benchmark's table, a dict.

    Parameters
    ----------
    case : str
        What is done. Rows of the same case and x are compared.
    x : float
        Its size.
    method : str
        Ours are those that begin with "ours".
    timing : Timing
    scale : float
        How many times what was timed makes what is meant.
    extrapolated : bool
        Whether what was timed is only a part of it.
    error : float
    flops, traffic : float
        Operations, and bytes between memory and processor, that cannot be avoided; of all that is meant.
    """
    return {
        "case": case,
        "x": x,
        "method": method,
        "seconds": scale * median(timing.cpu),
        "lowest": scale * min(timing.cpu),
        "highest": scale * max(timing.cpu),
        "wall": scale * median(timing.wall),
        "n": len(timing.cpu),
        "extrapolated": extrapolated,
        "error": error,
        "flops": flops,
        "traffic": traffic,
    }


def slope(x, seconds):
    """The power of x with which seconds grow: the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(seconds), 1)[0])


def add_ratios(rows, limits):
    """Columns `to_best_peer`, `to_limit`: time of the fastest peer, and the least possible, over that of each row.

    Parameters
    ----------
    rows : pandas.DataFrame
        From `row`, with a column `dtype` if there are flops.
    limits : dict
        From `machine_limits`.
    """
    is_ours = rows["method"].str.startswith("ours")
    peers = rows[~is_ours & rows["case"].isin(rows.loc[is_ours, "case"])]
    best = peers.groupby(["case", "x"])["seconds"].min().rename("best")
    rate = rows["dtype"].map({name: limits[name] for name in ("float32", "float64")})
    least = np.fmax(rows["flops"] / rate, rows["traffic"] / limits["bandwidth"])
    joined = rows.join(best, on=["case", "x"])
    return rows.assign(to_best_peer=joined["best"] / rows["seconds"], to_limit=least / rows["seconds"])


def machine_limits(repeats=7, size=1500, megabytes=256):
    """The best FLOP/s of products in `float32` and `float64`, and bytes/s of a copy, `bandwidth`, on one core."""
    matrices = {name: np.ones((size, size), name) for name in ("float32", "float64")}
    source = np.ones(megabytes << 17)
    target = np.empty_like(source)
    methods = {name: lambda matrix=matrix: matrix @ matrix for name, matrix in matrices.items()}
    timings = interleaved(methods | {"bandwidth": lambda: np.copyto(target, source)}, repeats)
    amounts = {"float32": 2 * size**3, "float64": 2 * size**3, "bandwidth": 2 * source.nbytes}
    return {name: amounts[name] / min(timing.cpu) for name, timing in timings.items()}


def fastest_limits():
    """`machine_limits` by the kernels that OpenBLAS finds best for the processor, whatever OPENBLAS_CORETYPE says."""
    code = "import json, measuring; print(json.dumps(measuring.machine_limits()))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def hardware():
    """Processor, cores and memory, in words."""
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def versions():
    """Versions of Python and of all packages that are timed, in words."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])
