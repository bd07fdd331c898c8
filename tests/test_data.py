"""Datasets: what is packed is what was given, and every mistake is one sentence that names the file."""

import errno
import http.server
import io
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import struct
import tarfile
import threading
import time
import zlib
from collections import namedtuple
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rank_increase import ownership, sources
from rank_increase.data import FILES, DatasetError, Source, Split, check_arrays, map_in_order, open_dataset, pack


def made_up(rng, train=5, test=3, shape=(4, 4, 2), classes=3, **change):
    """A source of random pixels, and its arrays."""
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, classes, count)
    arrays |= change
    splits = {
        split: Split(f"{split} pixels", len(arrays[f"{split}_labels"]), chunks_of(arrays, split))
        for split in ("train", "test")
    }
    return Source([f"class {label}" for label in range(classes)], shape, splits, {"file": "digest"}), arrays


def chunks_of(arrays, split):
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    return [(images[start : start + 2], labels[start : start + 2]) for start in range(0, len(labels), 2)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_packed_is_what_was_given(tmp_path, rng):
    source, arrays = made_up(rng)
    seen = []
    pack(tmp_path / "set", source, {"source": "made up"}, seen.append)
    dataset = open_dataset(tmp_path / "set")
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(dataset, name), array)
    assert dataset.train_images.dtype == np.uint8 and dataset.train_labels.dtype == np.int64
    assert isinstance(dataset.train_images, np.memmap) and not dataset.train_images.flags.writeable
    np.testing.assert_allclose(dataset.manifest["mean"], arrays["train_images"].mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(dataset.manifest["std"], arrays["train_images"].std(axis=(0, 1, 2)))
    assert dataset.manifest["counts"] == {"train": 5, "test": 3}
    assert dataset.manifest["source"] == {"source": "made up", "sha256": {"file": "digest"}}
    packed = (tmp_path / "set" / "train_images.npy").read_bytes()
    assert dataset.manifest["sha256"]["train_images.npy"] == sha256(packed).hexdigest()
    assert seen[-1] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize("wrong", [-1, 3])
def test_label_out_of_range_is_a_sentence_and_leaves_nothing(tmp_path, rng, wrong):
    source, _ = made_up(rng, test_labels=np.array([0, 1, wrong]))
    with pytest.raises(DatasetError, match=rf"test pixels: image 2 has label {wrong}, but .* 0 to 2"):
        pack(tmp_path / "set", source, {})
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_dataset_that_was_there(tmp_path, rng):
    source, arrays = made_up(rng)
    pack(tmp_path / "set", source, {})
    broken, _ = made_up(rng, test_labels=np.array([0, 1, 9]))
    with pytest.raises(DatasetError):
        pack(tmp_path / "set", broken, {})
    np.testing.assert_array_equal(open_dataset(tmp_path / "set").test_labels, arrays["test_labels"])


def test_too_little_disk_is_known_before_anything_is_written(tmp_path, rng, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 0, 100))
    with pytest.raises(DatasetError, match="too little disk"):
        pack(tmp_path / "set", made_up(rng)[0], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "sentence"), [(errno.ENOSPC, "is full"), (errno.EROFS, "no permission"), (errno.EACCES, "no permission")]
)
def test_disk_errors_are_sentences(tmp_path, rng, code, sentence):
    def chunks(arrays):
        yield from chunks_of(arrays, "train")[:1]
        raise OSError(code, "as the system says it")

    source, arrays = made_up(rng)
    source.splits["train"] = Split("pixels", 5, chunks(arrays))
    with pytest.raises(DatasetError, match=sentence):
        pack(tmp_path / "set", source, {})
    assert list(tmp_path.iterdir()) == []


def test_constant_channel_is_refused(tmp_path, rng):
    source, _ = made_up(rng, train_images=np.full((5, 4, 4, 2), 7, dtype=np.uint8))
    with pytest.raises(DatasetError, match="same in all pixels"):
        pack(tmp_path / "set", source, {})


@pytest.mark.parametrize("name", FILES)
def test_missing_and_cut_files_are_sentences(tmp_path, rng, name):
    pack(tmp_path / "set", made_up(rng)[0], {})
    path = tmp_path / "set" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=name):
        open_dataset(tmp_path / "set")
    path.unlink()
    with pytest.raises(DatasetError, match=name):
        open_dataset(tmp_path / "set")


def test_arrays_of_another_type_or_shape_are_refused(tmp_path, rng):
    source, arrays = made_up(rng)
    pack(tmp_path / "set", source, {})
    np.save(tmp_path / "set" / "test_labels.npy", arrays["test_labels"].astype(float))
    with pytest.raises(DatasetError, match=r"test_labels.npy holds float64 of shape \(3,\), not int64"):
        open_dataset(tmp_path / "set")
    np.save(tmp_path / "set" / "test_labels.npy", np.array([0, 1, 99]))
    with pytest.raises(DatasetError, match="label 99"):
        open_dataset(tmp_path / "set")


# Several processes


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rank_increase.sources"])


def start_together(function, *arguments):
    """Exit codes of two processes that call a function, with a barrier that they can meet at, at the same time."""
    barrier = CONTEXT.Barrier(2, timeout=120)
    processes = [CONTEXT.Process(target=function, args=(barrier, *arguments)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]


def pack_digits(barrier, folders, again):
    ownership.POLL = 0.01  # this process waits, and the test with it
    description = {"source": "digits"}
    source = sources.open_source(description, "")
    for folder in folders:
        counted = []
        barrier.wait()
        pack(folder, source, description, counted.append, again=again)
        if counted:
            (folder.parent / f"packed by {os.getpid()}").touch()


@pytest.mark.parametrize("again", [True, False])
def test_two_processes_that_pack_one_dataset_both_finish_and_it_is_whole(tmp_path, again):
    folders = [tmp_path / str(attempt) / "digits" for attempt in range(20)]
    assert start_together(pack_digits, folders, again) == [0, 0]
    for folder in folders:
        check_arrays(folder)
        assert open_dataset(folder).train_images.shape == (1438, 8, 8, 1)
        assert sorted(os.listdir(folder)) == sorted(FILES)
        beside = sorted(os.listdir(folder.parent))
        assert beside[0] == "digits" and len(beside) == (3 if again else 2)  # else the second has nothing to do


def pack_for_ever(folder, begun):
    def chunks():
        while True:
            begun.set()
            yield np.zeros((1, 2, 2, 1), dtype=np.uint8), np.array([0])

    splits = {split: Split(split, 10**6, chunks()) for split in ("train", "test")}
    pack(folder, Source(["one"], (2, 2, 1), splits, {}), {})


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path, rng):
    begun = CONTEXT.Event()
    process = CONTEXT.Process(target=pack_for_ever, args=(tmp_path / "set", begun))
    process.start()
    assert begun.wait(60)
    process.kill()
    process.join()
    assert os.listdir(tmp_path) == [".set.packing"]
    pack(tmp_path / "set", made_up(rng)[0], {})
    assert os.listdir(tmp_path) == ["set"]
    check_arrays(tmp_path / "set")


def test_dataset_of_another_description_is_replaced_and_readers_of_the_old_one_keep_it(tmp_path, rng):
    source, arrays = made_up(rng)
    pack(tmp_path / "set", source, {"size": 4})
    before = open_dataset(tmp_path / "set")
    source, others = made_up(rng)
    pack(tmp_path / "set", source, {"size": 4}, again=False)
    np.testing.assert_array_equal(open_dataset(tmp_path / "set").train_images, arrays["train_images"])
    pack(tmp_path / "set", source, {"size": 5}, again=False)
    np.testing.assert_array_equal(open_dataset(tmp_path / "set").train_images, others["train_images"])
    np.testing.assert_array_equal(before.train_images, arrays["train_images"])


def test_folder_with_other_files_is_not_replaced(tmp_path, rng):
    (tmp_path / "set" / "train").mkdir(parents=True)  # `data_dir` is where the source lies
    with pytest.raises(DatasetError, match="set, where the dataset is to go, holds other files, such as train: move"):
        pack(tmp_path / "set", made_up(rng)[0], {})
    assert os.listdir(tmp_path) == ["set"] and os.listdir(tmp_path / "set") == ["train"]


def test_dataset_behind_a_link_is_replaced_where_it_lies(tmp_path, rng):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "large disk" / "set")
    for _ in range(2):
        pack(tmp_path / "set", made_up(rng)[0], {})
    assert (tmp_path / "set").is_symlink()
    assert os.listdir(tmp_path / "large disk") == ["set"]


def test_map_in_order_keeps_order_and_looks_only_a_little_ahead():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    mapped = map_in_order(lambda number: -number, items(), 3)
    assert [next(mapped) for _ in range(10)] == [-n for n in range(10)]
    assert len(taken) <= 16
    assert list(mapped) == [-n for n in range(10, 50)]


def test_digits_are_split_and_complete(tmp_path):
    source = sources.open_source({"source": "digits"}, tmp_path)
    pack(tmp_path / "digits", source, {"source": "digits"})
    dataset = open_dataset(tmp_path / "digits")
    assert dataset.train_images.shape == (1438, 8, 8, 1) and dataset.test_images.shape == (359, 8, 8, 1)
    assert dataset.train_images.max() == 16
    every = {image.tobytes() for image in np.concatenate([dataset.train_images, dataset.test_images])}
    assert len(every) == 1797


# image folder


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
    pack(tmp_path / "set", sources.open_source(description, tmp_path, threads), description)
    return open_dataset(tmp_path / "set")


def test_image_folder_is_packed_in_alphabetical_order(folder, tmp_path, monkeypatch):
    (folder / "train" / "ant" / "notes.txt").write_text("no image")
    dataset = pack_folder(folder, tmp_path)
    assert dataset.manifest["classes"] == ["ant", "bee"]
    assert dataset.train_labels.tolist() == dataset.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    colors = [[0, 0, 0], [0, 10, 1], [0, 20, 2], [100, 0, 0], [100, 10, 1], [100, 20, 2]]
    assert dataset.train_images[:, 1, 2].tolist() == colors
    monkeypatch.setattr(sources, "SHARD", 2)  # shards and threads change nothing, digests included
    assert pack_folder(folder, tmp_path, threads=5).manifest == dataset.manifest


def test_shorter_side_is_resized_and_the_middle_kept(folder, tmp_path):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255
    Image.fromarray(wide).save(folder / "train" / "ant" / "0.png")
    Image.fromarray(wide.transpose(1, 0, 2)).convert("L").save(folder / "val" / "ant" / "0.png")
    dataset = pack_folder(folder, tmp_path, size=8)
    assert dataset.train_images.shape[1:] == (8, 8, 3)
    assert (dataset.train_images[0] == 255).all() and (dataset.test_images[0] == 255).all()
    small = pack_folder(folder, tmp_path, size=4).train_images[0]
    assert (small[:, 1:3] == 255).all()


@pytest.mark.parametrize("contents", [b"no image at all", b"", "half"])
def test_unreadable_image_is_named(folder, tmp_path, contents):
    bad = folder / "val" / "bee" / "1.png"
    bad.write_bytes(bad.read_bytes()[:45] if contents == "half" else contents)
    with pytest.raises(DatasetError, match="val/bee/1.png is no readable image"):
        pack_folder(folder, tmp_path)
    assert not (tmp_path / "set").exists()


def test_truncated_jpeg_is_named(folder, tmp_path, rng):
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


# Images that are not 8-bit RGB


COLORS = np.array([[[250, 10, 20], [0, 90, 200]], [[30, 140, 50], [255, 255, 0]]], dtype=np.uint8)  # (2, 2, 3)
GRAY = np.array([[0, 40], [170, 255]], dtype=np.uint8)
WHITE = 255


def as_file(image, kind="png", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(pixels, alpha):
    return np.dstack([pixels, np.array(alpha, dtype=np.uint8)])


def on_white(pixels, alpha):
    """What a viewer shows of pixels (..., channels) with an alpha of 0 to 255 on a white page."""
    share = np.array(alpha)[..., None] / 255
    return np.rint(pixels * share + WHITE * (1 - share)).astype(int)


def exif(orientation):
    data = Image.Exif()
    data[274] = orientation
    return data


def decoded(encoded, size=2):
    pixels, kinds = sources._decode("an image", encoded, size)
    return pixels.tolist(), kinds


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bit_gray_is_scaled(kind):
    deep = np.array([[0, 255], [0x1234, 0xFFFF]], dtype=np.uint16)
    pixels, kinds = decoded(as_file(deep, kind))
    assert pixels == np.repeat(np.array([[0, 0], [0x12, 0xFF]])[..., None], 3, axis=2).tolist()
    assert kinds == ["deep", "gray"]


def png_of_16_bit_color(pixels):
    """A PNG with 16 bits per channel, which Pillow cannot write: header, filtered and compressed rows, end."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_16_bit_color_is_scaled_like_gray():
    assert decoded(png_of_16_bit_color(COLORS.astype(int) * 256 + 77)) == (COLORS.tolist(), ["deep"])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused_because_their_range_is_unknown(mode):
    with pytest.raises(DatasetError, match="an image is no readable image: its pixels are 32-bit .* of no known range"):
        decoded(as_file(Image.new(mode, (2, 2), 3), "tiff"))


def test_alpha_is_put_on_white():
    alpha = [[0, 255], [128, 51]]
    assert decoded(as_file(with_alpha(COLORS, alpha))) == (on_white(COLORS, alpha).tolist(), ["transparent"])
    gray = on_white(np.repeat(GRAY[..., None], 3, axis=2), alpha).tolist()
    assert decoded(as_file(with_alpha(GRAY, alpha))) == (gray, ["transparent", "gray"])
    keyed = np.where((COLORS[0, 0] == COLORS).all(axis=2, keepdims=True), WHITE, COLORS).tolist()
    assert decoded(as_file(COLORS, transparency=tuple(COLORS[0, 0].tolist()))) == (keyed, ["transparent"])


def test_palette_gives_its_colors_and_its_transparent_color_is_white():
    image = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8), "L").copy()
    image.putpalette(COLORS.reshape(-1).tolist())
    for kind in ("png", "gif"):
        assert decoded(as_file(image, kind)) == (COLORS.tolist(), ["palette"])
    on_page = COLORS.copy()
    on_page[1, 0] = WHITE
    for kind in ("png", "gif"):
        assert decoded(as_file(image, kind, transparency=2)) == (on_page.tolist(), ["transparent", "palette"])


def test_gray_gives_three_equal_channels():
    assert decoded(as_file(GRAY)) == (np.repeat(GRAY[..., None], 3, axis=2).tolist(), ["gray"])
    bits = np.repeat((GRAY > 100)[..., None] * 255, 3, axis=2).tolist()
    assert decoded(as_file(GRAY > 100)) == (bits, ["gray"])


def test_cmyk_is_converted():
    ink = Image.fromarray(with_alpha(255 - COLORS, np.zeros((2, 2))), "CMYK")
    assert decoded(as_file(ink, "tiff")) == (COLORS.tolist(), ["cmyk"])


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_first_frame_of_several_is_taken(kind):
    first, other = Image.fromarray(COLORS), Image.fromarray(255 - COLORS)
    options = {"lossless": True} if kind == "webp" else {}
    pixels, kinds = decoded(as_file(first, kind, save_all=True, append_images=[other], **options))
    assert pixels == COLORS.tolist()
    assert "frames" in kinds


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_sets_an_image_upright(kind, orientation):
    # As the EXIF standard says what row 0 and column 0 of the stored image are.
    upright = {
        1: COLORS,
        2: COLORS[:, ::-1],
        3: COLORS[::-1, ::-1],
        4: COLORS[::-1],
        5: COLORS.transpose(1, 0, 2),
        6: np.rot90(COLORS, -1),
        7: np.rot90(COLORS, 2).transpose(1, 0, 2),
        8: np.rot90(COLORS),
    }[orientation]
    options = {"lossless": True} if kind == "webp" else {}
    pixels, kinds = decoded(as_file(COLORS, kind, exif=exif(orientation), **options))
    assert pixels == upright.tolist()
    assert kinds == ["rotated"] * (orientation > 1)


def test_damaged_exif_is_no_reason_to_refuse_an_image():
    assert decoded(as_file(COLORS, exif=b"Exif\0\0MM\0*\0\0")) == (COLORS.tolist(), [])


def test_one_pixel_becomes_an_image_of_its_color():
    pixels, kinds = decoded(as_file(COLORS[:1, :1]), size=5)
    assert pixels == np.full((5, 5, 3), COLORS[0, 0]).tolist()
    assert kinds == ["small"]


def test_conversions_are_said_once_with_a_count(folder, tmp_path, monkeypatch, caplog):
    for number in range(3):
        (folder / "train/ant" / f"gray{number}.png").write_bytes(as_file(np.full((8, 8), 60 * number, np.uint8)))
    (folder / "val/bee/turned.png").write_bytes(as_file(np.full((8, 8, 3), 9, np.uint8), exif=exif(6)))
    monkeypatch.setattr(sources, "SHARD", 2)
    with caplog.at_level(logging.INFO, "rank_increase"):
        pack_folder(folder, tmp_path)
    assert caplog.messages == [
        "train: images that are grayscale, and get three equal channels: 3",
        "test: images that are stored turned or mirrored, and set upright by their EXIF orientation: 1",
    ]


# Parquet


def encoded(color, size=(4, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(path, images, labels, struct=True):
    images = [{"bytes": image, "path": None} for image in images] if struct else images
    metadata = {"class_names": "ant,bee"}
    pq.write_table(pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata), path)


def pack_parquet(tmp_path, classes=2):
    names = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    description = {"source": "parquet", **names, "classes": classes, "size": 4}
    pack(tmp_path / "set", sources.open_source(description, tmp_path, 2), description)
    return open_dataset(tmp_path / "set")


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_is_packed_in_order(tmp_path, monkeypatch, struct):
    monkeypatch.setattr(sources, "SHARD", 2)
    colors = [(10 * n, 250 - n, n) for n in range(7)]
    write_parquet(tmp_path / "train.parquet", map(encoded, colors), [0, 1, 0, 1, 0, 1, 1], struct)
    write_parquet(tmp_path / "test.parquet", map(encoded, colors[:2]), [1, 0], struct)
    dataset = pack_parquet(tmp_path)
    assert [tuple(color) for color in dataset.train_images[:, 0, 0].tolist()] == colors
    assert dataset.train_labels.tolist() == [0, 1, 0, 1, 0, 1, 1] and dataset.test_labels.tolist() == [1, 0]
    assert dataset.manifest["classes"] == ["ant", "bee"]


def test_mistakes_in_parquet_are_sentences(tmp_path):
    good = [encoded((n, n, 9 * n)) for n in range(3)]
    write_parquet(tmp_path / "train.parquet", good, [0, 1, 0])
    with pytest.raises(DatasetError, match=r"test.parquet does not exist"):
        pack_parquet(tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DatasetError, match=r"test.parquet is no readable Parquet file"):
        pack_parquet(tmp_path)
    write_parquet(tmp_path / "test.parquet", good, [0, 5, 0])
    with pytest.raises(DatasetError, match=r"test.parquet: image 1 has label 5"):
        pack_parquet(tmp_path)
    write_parquet(tmp_path / "test.parquet", [good[0], good[1][:50], good[2]], [0, 1, 0])
    with pytest.raises(DatasetError, match=r"test.parquet, row 1 is no readable image"):
        pack_parquet(tmp_path)
    write_parquet(tmp_path / "test.parquet", good, [0, None, 1])
    with pytest.raises(DatasetError, match=r"test.parquet: rows 0 to 2 lack"):
        pack_parquet(tmp_path)
    pq.write_table(pa.table({"picture": [1], "label": [0]}), tmp_path / "test.parquet")
    with pytest.raises(DatasetError, match=r"test.parquet has columns picture, label"):
        pack_parquet(tmp_path)


# CIFAR and downloads


def cifar_archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=4)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(tmp_path, rng, monkeypatch):
    """Downloads folder with a small archive in CIFAR-10's format, and the pixels in it."""
    pixels = rng.integers(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    members = {
        f"cifar-10-batches-py/{name}": {b"data": part.reshape(2, -1), b"labels": [number, 9]}
        for number, (name, part) in enumerate(zip(names, pixels, strict=True))
    }
    members["cifar-10-batches-py/batches.meta"] = {b"label_names": [b"plane", *[b"other"] * 9]}
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    digest = cifar_archive(downloads / "cifar-10-python.tar.gz", members)
    monkeypatch.setitem(sources.ARCHIVES["cifar10"], "sha256", digest)
    return downloads, pixels


def test_cifar_archive_is_read(tmp_path, cifar10):
    downloads, pixels = cifar10
    pack(tmp_path / "set", sources.open_source({"source": "cifar10"}, downloads), {})
    dataset = open_dataset(tmp_path / "set")
    assert dataset.train_labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and dataset.test_labels.tolist() == [5, 9]
    np.testing.assert_array_equal(dataset.train_images[3], pixels[1, 1].transpose(1, 2, 0))
    assert dataset.manifest["classes"][0] == "plane"


class Malicious:
    def __reduce__(self):
        return print, ("code has run",)


def test_archive_cannot_run_code(tmp_path, cifar10, monkeypatch, capsys):
    downloads, _ = cifar10
    members = {"cifar-10-batches-py/batches.meta": pickle.dumps({b"label_names": Malicious()})}
    digest = cifar_archive(downloads / "cifar-10-python.tar.gz", members)
    monkeypatch.setitem(sources.ARCHIVES["cifar10"], "sha256", digest)
    with pytest.raises(pickle.UnpicklingError, match="print has no place"):
        sources.open_source({"source": "cifar10"}, downloads)
    assert "code has run" not in capsys.readouterr().out


CONTENT = np.random.default_rng(1).bytes(300_000)


@pytest.fixture
def server():
    """Address of a server with /good, /slow, /wrong, and /flaky, which breaks off after a third of the file."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            begun = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            requests.append((self.path, begun))
            if self.path == "/missing":
                self.send_error(404)
                return
            if begun >= len(CONTENT):
                self.send_error(416)
                return
            content = (b"x" * len(CONTENT) if self.path == "/wrong" else CONTENT)[begun:]
            self.send_response(206 if begun else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.path == "/slow":
                time.sleep(0.5)
            self.wfile.write(content[: len(CONTENT) // 3] if self.path == "/flaky" else content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", requests
        httpd.shutdown()


def fetch(server, path, *names):
    return sources.download([f"{server}/{name}" for name in names], path, sha256(CONTENT).hexdigest(), pause=0)


def test_broken_download_goes_on_where_it_was(tmp_path, server):
    address, requests = server
    fetch(address, tmp_path / "file", "flaky")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [begun for _, begun in requests] == [0, 100_000, 200_000]
    fetch(address, tmp_path / "file", "flaky")
    assert len(requests) == 3  # what is there is not asked for again
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def download_slowly(barrier, address, path):
    ownership.POLL = 0.01
    barrier.wait()
    fetch(address, path, "slow")


def test_two_processes_download_a_file_once(tmp_path, server):
    address, requests = server
    assert start_together(download_slowly, address, tmp_path / "file") == [0, 0]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(requests) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_mirror_with_another_file_is_passed_over(tmp_path, server):
    address, requests = server
    fetch(address, tmp_path / "file", "missing", "wrong", "good")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path for path, _ in requests] == ["/missing", "/wrong", "/good"]


def test_rest_of_another_file_spoils_no_mirror(tmp_path, server):
    (tmp_path / "file.part").write_bytes(b"z" * 1000)
    fetch(server[0], tmp_path / "file", "good")
    (tmp_path / "file").unlink()
    (tmp_path / "file.part").write_bytes(b"z" * (len(CONTENT) + 1))
    fetch(server[0], tmp_path / "file", "good")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_no_mirror_is_a_sentence_that_says_what_to_do(tmp_path, server):
    with pytest.raises(DatasetError, match=r"cannot download file .*missing: .*404.*wrong: another SHA-256.*by hand"):
        fetch(server[0], tmp_path / "file", "missing", "wrong")
    assert list(tmp_path.iterdir()) == []


def test_local_file_is_a_mirror(tmp_path):
    (tmp_path / "here").write_bytes(CONTENT)
    fetch(f"file://{tmp_path}", tmp_path / "file", "here")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_manifest_is_readable_text(tmp_path, rng):
    pack(tmp_path / "set", made_up(rng)[0], {"source": "made up"})
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["classes"] == ["class 0", "class 1", "class 2"]
