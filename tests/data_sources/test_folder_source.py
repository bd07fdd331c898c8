"""The source `image_folder`: its order, its sizes, and mistakes in folders."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from rank_increase.data import decoding
from rank_increase.data.packed import DatasetError, open_dataset, pack
from rank_increase.data.sources.folder import image_folder


def save_image(path, size=(8, 8), color=(200, 100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["ant", "bee"]):
        for split in ("train", "val"):
            for image in range(3):
                save_image(tmp_path / "images" / split / name / f"{image}.png", color=(100 * number, 10 * image, image))
    return tmp_path / "images"


def pack_folder(folder, tmp_path, threads=2, size=4):
    description = {"source": "image_folder", "path": str(folder), "size": size}
    pack(tmp_path / "set", image_folder(tmp_path, threads, path=str(folder), size=size), description)
    return open_dataset(tmp_path / "set")


def test_image_folder_is_packed_in_alphabetical_order(folder, tmp_path, monkeypatch):
    (folder / "train" / "ant" / "notes.txt").write_text("no image")
    dataset = pack_folder(folder, tmp_path)
    assert dataset.manifest["classes"] == ["ant", "bee"]
    assert dataset.train_labels.tolist() == dataset.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    colors = [[0, 0, 0], [0, 10, 1], [0, 20, 2], [100, 0, 0], [100, 10, 1], [100, 20, 2]]
    assert dataset.train_samples[:, 1, 2].tolist() == colors
    monkeypatch.setattr(decoding, "SHARD", 2)  # shards and threads change nothing, digests included
    assert pack_folder(folder, tmp_path, threads=5).manifest == dataset.manifest


def test_shorter_side_is_resized_and_the_middle_kept(folder, tmp_path):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255
    Image.fromarray(wide).save(folder / "train" / "ant" / "0.png")
    Image.fromarray(wide.transpose(1, 0, 2)).convert("L").save(folder / "val" / "ant" / "0.png")
    dataset = pack_folder(folder, tmp_path, size=8)
    assert dataset.train_samples.shape[1:] == (8, 8, 3)
    assert (dataset.train_samples[0] == 255).all() and (dataset.test_samples[0] == 255).all()
    small = pack_folder(folder, tmp_path, size=4).train_samples[0]
    assert (small[:, 1:3] == 255).all()


@pytest.mark.parametrize("contents", [b"no image at all", b"", "half"])
def test_unreadable_image_is_named(folder, tmp_path, contents):
    bad = folder / "val" / "bee" / "1.png"
    bad.write_bytes(bad.read_bytes()[:45] if contents == "half" else contents)
    with pytest.raises(DatasetError, match="val/bee/1.png is no readable image"):
        pack_folder(folder, tmp_path)
    assert not (tmp_path / "set").exists()


def test_truncated_jpeg_is_named(folder, tmp_path):
    rng = np.random.default_rng(0)
    bad = folder / "train" / "ant" / "3.jpeg"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(bad)
    bad.write_bytes(bad.read_bytes()[:-500])
    with pytest.raises(DatasetError, match="train/ant/3.jpeg is no readable image: image file is truncated"):
        pack_folder(folder, tmp_path)


def test_mistakes_in_folders_are_sentences(folder, tmp_path):
    save_image(folder / "train" / "cat" / "0.png")
    with pytest.raises(DatasetError, match="class folder .*train/cat has no counterpart in .*val"):
        pack_folder(folder, tmp_path)
    (folder / "val" / "cat").mkdir()
    with pytest.raises(DatasetError, match="class folder .*val/cat has no images"):
        pack_folder(folder, tmp_path)
    shutil.rmtree(folder / "val")
    with pytest.raises(DatasetError, match="images/val is no folder"):
        pack_folder(folder, tmp_path)


def test_conversions_are_said_once_with_a_count(folder, tmp_path, monkeypatch, caplog):
    for number in range(3):
        Image.new("L", (8, 8), 60 * number).save(folder / "train/ant" / f"gray{number}.png")
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "val/bee/turned.png", exif=turned)
    monkeypatch.setattr(decoding, "SHARD", 2)
    with caplog.at_level(logging.INFO, "rank_increase"):
        pack_folder(folder, tmp_path)
    assert caplog.messages == [
        "train: images that are grayscale, and converted to three equal channels: 3",
        "test: images that are stored turned or mirrored, and set upright by their EXIF orientation: 1",
    ]
