"""All benchmarks, or those named, with their tables, picture and page: `make bench`.

Peers are looked for in .venv-benchmark, behind the packages of the product.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import datetime
from importlib import import_module
from pathlib import Path

import pandas as pd
import torch

from measuring import ROOT, add_ratios, fastest_limits, hardware, versions
from page import NAMES, write_page
from rank_increase.tables import atomic


def main(folder, names, quick):
    """Measure, and write to `folder`; the tables of benchmarks that are not among `names` stay."""
    folder = Path(folder)
    torch.set_num_threads(1)
    machine = {
        "hardware": hardware(),
        "load": round(os.getloadavg()[1], 1),
        "versions": versions(),
        "limits": fastest_limits(),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
        "date": datetime.now().date().isoformat(),
        "quick": quick,
    }
    with atomic(folder / "machine.json") as temporary:
        temporary.write_text(json.dumps(machine, indent=2) + "\n")
    for name in names:
        print(f"{name} ...", flush=True)
        rows = add_ratios(pd.DataFrame(import_module(f"bench_{name}").measure(quick)), machine["limits"])
        with atomic(folder / f"{name}.csv") as temporary:
            rows.assign(hardware=machine["hardware"], versions=machine["versions"]).to_csv(temporary, index=False)
    write_page(folder)
    print(f"{folder / 'README.md'}")


if __name__ == "__main__":
    sys.path.append(str(ROOT / ".venv-benchmark"))
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--output", default=ROOT / "results" / "benchmarks", help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="one repeat and few sizes, to see that all works")
    options = parser.parse_args()
    if not (ROOT / ".venv-benchmark").exists():
        parser.error("the peers are not installed: run `make bench`, which installs them into .venv-benchmark.")
    main(options.output, options.names or NAMES, options.quick)
