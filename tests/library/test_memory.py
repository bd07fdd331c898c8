"""Memory: data that is mapped is not copied as a whole, and snapshots are not held all at once.

Linux limits what a process allocates for itself and leaves out files that it only reads through a memory map.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rank_increase.data.packed import Source, Split, pack
from rank_increase.training.snapshots import snapshot_path, write_snapshot

MB = 2**20
# MB: factors of both products of a layer, before and after, in float64, and random changes of one; 150 are enough.
ONE_LAYER = 170
LIMITED = """
import resource, sys
sys.path.insert(0, {library!r})
{imports}

def allow(mb):
    used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + mb * 2**20,) * 2)

{body}
"""
TRAINING = """
torch.set_num_threads(1)
recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e-3, snapshots=2)
model = dict(family="vit", patch_size=80, dim=8, depth=1, heads=1, dim_head=8, mlp_dim=8)
job = Job({folder!r}, {folder!r} + "/scratch", model, recipe, 1.0, 0, "code", 60, 0, 1, "run", device="cpu")
with owned(job.scratch, "run") as ownership:
    allow({mb})
    train(job, ownership)
"""
SPECTRA_IMPORTS = """from rank_increase.probes.spectra import spectra_frame
from rank_increase.training.snapshots import Snapshots
"""
SPECTRA = """
allow({mb})
spectra_frame(Snapshots({folder!r}), 0)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this limit")


def limited(folder, mb, imports, body):
    """The call of a process that may allocate this much beside what it has after its imports."""
    library = str(Path(__file__).parents[2] / "workflow")
    code = LIMITED.format(library=library, imports=imports, body=body.format(folder=str(folder), mb=mb))
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


IMPORTS = """import torch
from rank_increase.networks import vit
from rank_increase.ownership import owned
from rank_increase.training import losses, optimizers
from rank_increase.training.loop import Job
from rank_increase.training.processes import train
from rank_increase.training.recipe import Recipe
"""
A_COPY = """import numpy as np
load = np.load
np.load = lambda path, **_: load(path)
"""


@pytest.fixture(scope="module")
def large_dataset(tmp_path_factory):
    """Folder of a dataset of 206 MB."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (320, 320, 1), dtype=np.uint8)

    def chunks(count):
        for start in range(count):
            yield np.roll(image, start, axis=0)[None], np.array([start % 2])

    splits = {name: Split(name, count, chunks(count)) for name, count in (("train", 2000), ("test", 16))}
    folder = tmp_path_factory.mktemp("data") / "large"
    pack(folder, Source(["one", "other"], (320, 320, 1), splits, {}), {})
    assert (folder / "train_samples.npy").stat().st_size > 195 * MB
    return folder


def test_training_never_holds_a_second_copy_of_the_dataset(large_dataset):
    run = limited(large_dataset, 130, IMPORTS, TRAINING)
    assert run.returncode == 0, run.stderr


def test_the_limit_would_notice_a_copy(large_dataset):
    run = limited(large_dataset, 130, IMPORTS + A_COPY, TRAINING)
    assert run.returncode == 1
    assert "Unable to allocate 195. MiB" in run.stderr


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """Folder of ten snapshots of 32 MB, each of four layers."""
    folder = tmp_path_factory.mktemp("snapshots")
    rng = np.random.default_rng(0)
    products = [(name, n, *(f"layer_{n}.W_{letter}" for letter in name)) for n in range(4) for name in ("KQ", "VO")]
    for step in range(10):
        weights = rng.standard_normal((4, 4, 8, 8192, 8), dtype=np.float32)
        tensors = {
            f"layer_{n}.W_{name}": w for n, layer in enumerate(weights) for name, w in zip("KQVO", layer, strict=True)
        }
        write_snapshot(snapshot_path(folder, step), tensors, products, step=step, epoch=step / 2)
    assert snapshot_path(folder, 0).stat().st_size >= 32 * MB
    return folder


def test_spectra_hold_a_layer_of_a_snapshot_at_a_time(snapshots):
    run = limited(snapshots, ONE_LAYER, SPECTRA_IMPORTS, SPECTRA)
    assert run.returncode == 0, run.stderr


def test_the_limit_would_notice_all_snapshots(snapshots):
    hoard = (
        SPECTRA_IMPORTS
        + """
factors, hoarded = Snapshots.factors, []
Snapshots.factors = lambda *args: hoarded.append(factors(*args)) or hoarded[-1]
"""
    )
    run = limited(snapshots, ONE_LAYER, hoard, SPECTRA)
    assert run.returncode == 1
    assert "Unable to allocate" in run.stderr
