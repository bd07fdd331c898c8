"""Try this code on a GPU: see docs/gpu.md.

PYTHONPATH=workflow python -m rank_increase.gpu_check --data train.parquet --out DIR --minutes 9
"""

import argparse
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from rank_increase.gpu_check.checks import CHECKS
from rank_increase.gpu_check.page import write_page
from rank_increase.gpu_check.runs import packed_images, train_until
from rank_increase.gpu_check.sizes import SIZES
from rank_increase.gpu_check.speed import matrix_product_rate, measure
from rank_increase.jobs import append_log, environment
from rank_increase.tables import atomic
from rank_increase.training import compiling, loop
from rank_increase.training.processes import choose_device

LARGEST = 16e6  # bytes of a file: what is easily carried
logger = logging.getLogger("rank_increase")


def main(arguments):
    """Check, measure, train until the time is up, and write a page; the exit status is 1 if a check is wrong."""
    options = _parse(arguments)
    end = time.monotonic() + 60 * options.minutes
    out, scratch, size = options.out.absolute(), options.scratch.absolute(), SIZES[options.size]
    device = torch.device(options.device) if options.device else choose_device()
    for folder in (out, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    append_log(out / "log.txt")
    logger.addHandler(logging.StreamHandler())
    if device.type == "cpu":  # a trial of the command: graphs are captured as on a GPU, and run as they are
        compiling.BACKEND, loop.COMPILED = "eager", {"cpu"}
    compiled = str(scratch / "compiled")
    _write(out / "machine.json", _machine(device))
    if not (out / "checks.json").exists():
        _write(out / "checks.json", run_checks(device, size))
        write_page(out)
    if not (out / "speed.json").exists():
        _write(out / "speed.json", measure_speed(device, size, compiled))
        write_page(out)
    if options.data:
        dataset = packed_images(scratch / "data", options.data, options.test, options.pixels)
        # The spectra of a run that is stopped come after the end, so the last of them have a share of the time.
        runs = train_until(
            end - 60 * options.spectra_minutes, dataset, scratch, out, device, size, options.seeds, compiled
        )
        _write(out / "runs.json", {"epochs": size.recipe["epochs"], "runs": runs})
    write_page(out)
    large = [str(path) for path in out.rglob("*") if path.is_file() and path.stat().st_size > LARGEST]
    if large:
        logger.warning("too large to carry, above %.0f MB: %s", LARGEST / 1e6, ", ".join(large))
    wrong = [check["check"] for check in json.loads((out / "checks.json").read_text()) if not check["right"]]
    logger.info("%s; %s", f"wrong: {', '.join(wrong)}" if wrong else "all checks are right", out / "index.html")
    return 1 if wrong or large else 0


def _parse(arguments):
    parser = argparse.ArgumentParser(prog="python -m rank_increase.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the results; finished parts found there are not repeated"
    )
    parser.add_argument(
        "--data", type=Path, help="CIFAR-10's train split as a Parquet file; without it, nothing is trained"
    )
    parser.add_argument("--test", type=Path, help="its test split; test.parquet beside the other, if not given")
    parser.add_argument("--minutes", type=float, default=9, help="time for everything (9); the same command continues")
    parser.add_argument(
        "--spectra-minutes", type=float, default=1, help="of which for the last spectra and the page (1)"
    )
    parser.add_argument("--scratch", type=Path, help="folder for the state of runs, large; OUT.scratch, if not given")
    parser.add_argument("--device", help="such as cuda or cpu; the best one, if not given")
    parser.add_argument("--size", choices=SIZES, default="paper", help="tiny: a trial of the command itself, on a CPU")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every init scale (3)")
    options = parser.parse_args(arguments)
    options.scratch = options.scratch or options.out.with_name(f"{options.out.name}.scratch")
    options.pixels = SIZES[options.size].cases[0].shape[0]
    if options.data:
        options.test = options.test or options.data.with_name("test.parquet")
        for path in (options.data, options.test):
            if not path.exists():
                parser.error(f"{path} does not exist")
    return options


def _machine(device):
    """Device, driver, versions and memory, for the page."""
    found = {"device": device.type, "cores": os.cpu_count(), **environment()}
    found["versions"] = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "memory": f"{properties.total_memory / 1e9:.0f} GB",
            "CUDA": torch.version.cuda,
        }
        found["compute capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    found["backend of torch.compile"] = compiling.BACKEND
    found["C compiler"] = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or "none"
    return {**found, "host system": platform.platform()}


def run_checks(device, size):
    """Every check and what it found: a list of dicts."""
    found = []
    for check in CHECKS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            torch._dynamo.reset()
            try:
                right, text = True, check(device, Path(folder), size)
            except Exception as error:  # one check that fails must not hide what the others find
                right, text = False, f"{type(error).__name__}: {error}"
        found.append(
            {
                "check": check.__name__,
                "says": check.__doc__.split("\n")[0],
                "right": right,
                "found": text,
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        logger.info("%s: %s (%s)", check.__name__, "right" if right else "WRONG", text)
    return found


def measure_speed(device, size, compiled):
    """The device's rate and the speed of every case, with its profile: a dict."""
    rate, cases = matrix_product_rate(device, size.product, size.interval), []
    for case in size.cases:
        with tempfile.TemporaryDirectory() as folder:
            torch._dynamo.reset()
            measured, profile = measure(case, device, Path(folder), size, rate, compiled)
        cases.append({**measured, "profile": profile})
        logger.info(
            "%s: %.0f samples/s, %.0f %%", case.label, measured["samples_per_second"], 100 * measured["utilisation"]
        )
    return {"matrix_product_flops_per_second": rate, "cases": cases}


def _write(path, value):
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
