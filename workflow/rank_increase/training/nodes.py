"""Training on several nodes of a SLURM job: srun starts a launcher on each, which starts the processes of its node."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from rank_increase.ownership import Owner, Ownership
from rank_increase.tables import atomic
from rank_increase.training.checkpoints import SIGNALS
from rank_increase.training.loop import Job
from rank_increase.training.processes import EXPECTED, launch
from rank_increase.training.recipe import Recipe


def srun(nodes, cores, arguments):
    """The command that runs `arguments` once on each node of this SLURM job, with so many cores."""
    geometry = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cores}"]
    return ["srun", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit=0", *geometry, *arguments]


def train_on_nodes(job, ownership, processes, nodes):
    """Train with `processes` on each of several nodes that see the scratch folder; raises as `processes.train` does.

    Results are those of as many processes on one node. This function has not been run on a SLURM of several nodes; the
    tests start its launchers side by side on one.
    """
    folder = Path(job.scratch)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    description = {
        "job": {**vars(job), "recipe": {name: getattr(job.recipe, name) for name in Recipe.__annotations__}},
        "ownership": asdict(ownership),
        "processes": processes,
        "nodes": nodes,
        "endpoint": f"{socket.gethostname()}:{port}",
    }
    path, failure = folder / "launch.json", folder / "failure.json"
    failure.unlink(missing_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(description))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = srun(nodes, job.threads * processes, [sys.executable, "-m", "rank_increase.training.nodes", str(path)])
    with subprocess.Popen(command, env=environment) as started:
        # SLURM sends its warning to every launcher itself; other signals reach them through srun.
        ignored = {signal.SIGURG}
        before = {
            number: signal.signal(number, lambda number, _: number in ignored or started.send_signal(number))
            for number in SIGNALS
        }
        try:
            status = started.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    path.unlink(missing_ok=True)
    if failure.exists():
        kind, text = json.loads(failure.read_text())
        failure.unlink()
        raise {exception.__name__: exception for exception in EXPECTED}.get(kind, RuntimeError)(text)
    if status:
        raise RuntimeError(f"{job.label}: a launcher ended with status {status}; the log of the SLURM job says more.")


def main(path):
    """The launcher of this node: start its processes, and leave the reason in a file if they fail."""
    description = json.loads(Path(path).read_text())
    settings = description["job"]
    settings |= {"recipe": Recipe(**settings["recipe"]), "extensions": tuple(settings["extensions"])}
    owner = description["ownership"]
    ownership = Ownership(**{**owner, "owner": Owner(**owner["owner"])})
    try:
        launch(Job(**settings), ownership, description["processes"], description["nodes"], description["endpoint"])
    except (RuntimeError, *EXPECTED) as error:
        # Several launchers fail for one reason. A node that has only lost the others says nothing if one of them knew.
        failure = Path(path).with_name("failure.json")
        if not isinstance(error, RuntimeError) or not failure.exists():
            with atomic(failure) as temporary:
                temporary.write_text(json.dumps([type(error).__name__, str(error)]))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
