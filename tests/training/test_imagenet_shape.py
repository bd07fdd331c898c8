"""ImageNet at a size that a CPU manages: ViT-B/16 on a folder of 1000 classes, from files to spectra."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rank_increase.data.packed import open_dataset, pack
from rank_increase.data.sources.folder import image_folder
from rank_increase.gpu_check.sizes import VIT_B
from rank_increase.probes.spectra import spectra_frame
from rank_increase.training.checkpoints import Stopped, StopRequest
from rank_increase.training.costs import model_cost
from rank_increase.training.snapshots import Snapshots
from runs import job_of, recipe, train


@pytest.mark.slow
def test_vit_b_takes_two_steps_on_a_thousand_classes_and_has_spectra(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(1000):
        place = tmp_path / "images/train" / f"n{number:08d}"
        place.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)).save(place / "0.JPEG")
    shutil.copytree(tmp_path / "images/train", tmp_path / "images/val")
    pack(tmp_path / "set", image_folder(None, 2, path=str(tmp_path / "images"), size=224), {})
    opened = open_dataset(tmp_path / "set")
    assert opened.train_samples.shape == (1000, 224, 224, 3) and len(opened.manifest["classes"]) == 1000
    settings = recipe(batch_size=2, epochs=1, warmup_epochs=0, augment=False, snapshots=2, snapshots_per_doubling=1)
    job = replace(job_of(str(tmp_path / "set"), tmp_path / "scratch", settings), model=VIT_B, alpha=1.0)
    asked = iter([None, "enough"])
    monkeypatch.setattr(StopRequest, "reason", property(lambda _: next(asked)))
    with pytest.raises(Stopped, match="the state after step 2 of 500 is saved"):
        train(job)
    snapshots = Snapshots(tmp_path / "scratch/snapshots")
    assert snapshots.steps == [0, 1, 2]
    cost = model_cost(VIT_B, {"kind": "pixels", "shape": (224, 224, 3), "classes": 1000})
    assert len(snapshots.products) == len(cost["products"]) == 2 * 12
    snapshots.products = snapshots.products[:2]  # of the first layer; the others are alike
    spectra = spectra_frame(snapshots, 0)
    deltas = spectra[(spectra["matrix"] == "delta") & (spectra["step"] == 2)]
    assert len(deltas) == 2 * 12 and {len(values) for values in deltas["singular_values"]} == {128}
    assert all(values[0] > 0 for values in deltas["singular_values"])
