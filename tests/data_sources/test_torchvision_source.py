"""The source `torchvision`: what is packed is what the authors' files hold, and nothing else is ever read."""

import gzip
import http.server
import io
import os
import pickle
import tarfile
import threading
import urllib.error
import urllib.request
from hashlib import sha256
from typing import get_args

import numpy as np
import pytest
import scipy.io
from pydantic import ValidationError
from torchvision import datasets

from rank_increase.data import download
from rank_increase.data.packed import DatasetError, open_dataset, pack
from rank_increase.data.sources.torchvision import DATASETS
from rank_increase.registry import find

ENTRY = find("source", "torchvision")
urlopen = urllib.request.urlopen


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No request leaves this machine, and no test waits between two rounds of mirrors."""

    def opened(request, **options):
        if request.type != "file" and request.host.split(":")[0] != "127.0.0.1":
            raise urllib.error.URLError("no network")
        return urlopen(request, **options)

    monkeypatch.setattr(urllib.request, "urlopen", opened)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)


def packed(tmp_path, name, **options):
    """The dataset that the source packs, with files from tmp_path/downloads."""
    source = ENTRY.load()(tmp_path / "downloads", 1, name=name, **options)
    pack(tmp_path / "set", source, {"source": "torchvision", "name": name})
    return open_dataset(tmp_path / "set")


def publish(monkeypatch, name, folder, files):
    """Write the files, and have the source take them for those of the authors."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    monkeypatch.setitem(DATASETS[name], "sha256", {file: sha256(files[file]).hexdigest() for file in files})


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# CIFAR


def archive(members):
    """A tar.gz of pickles."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def cifar(rng, name):
    """The file of a small CIFAR in the layout of its authors, and its pixels, (members, 2, 3, 32, 32)."""
    if name == "CIFAR10":
        file, folder, meta, labels, names = (
            "cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            "batches.meta",
            "labels",
            "label",
        )
        members = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    else:
        file, folder, meta, labels, names = (
            "cifar-100-python.tar.gz",
            "cifar-100-python",
            "meta",
            "fine_labels",
            "fine_label",
        )
        members = ["train", "test"]
    pixels = rng.integers(0, 256, (len(members), 2, 3, 32, 32), dtype=np.uint8)
    content = {
        f"{folder}/{member}": {"data": part.reshape(2, -1), labels: [number, 9]}
        for number, (member, part) in enumerate(zip(members, pixels, strict=True))
    }
    content[f"{folder}/{meta}"] = {f"{names}_names": ["plane", *["other"] * 9]}
    return {file: archive(content)}, pixels


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Have torchvision accept any MD5, as it knows those of the real files: what refuses a file here is our SHA-256."""
    for dataset in (datasets.CIFAR10, datasets.CIFAR100):
        for attribute in ("train_list", "test_list"):
            monkeypatch.setattr(dataset, attribute, [[file, None] for file, _ in getattr(dataset, attribute)])
        monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})
    files = {split: [*found[:2], None] for split, found in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", files)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_is_packed_as_its_authors_wrote_it(tmp_path, rng, monkeypatch, name):
    files, pixels = cifar(rng, name)
    folder = tmp_path / "downloads" / name
    publish(monkeypatch, name, folder, files)
    dataset = packed(tmp_path, name)
    images = pixels.transpose(0, 1, 3, 4, 2)
    np.testing.assert_array_equal(dataset.train_samples, np.concatenate(images[:-1]))
    np.testing.assert_array_equal(dataset.test_samples, images[-1])
    assert dataset.train_labels.tolist() == [label for number in range(len(pixels) - 1) for label in (number, 9)]
    assert dataset.test_labels.tolist() == [len(pixels) - 1, 9]
    assert dataset.manifest["classes"] == ["plane", *["other"] * 9]
    assert dataset.manifest["source"] == {"source": "torchvision", "name": name, "sha256": DATASETS[name]["sha256"]}
    assert files_in(folder) == sorted(files)  # nothing extracted is left


# MNIST, FashionMNIST, SVHN


def idx(array):
    """An array of bytes in the format of MNIST's files, compressed."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_is_packed_as_its_authors_wrote_it(tmp_path, rng, monkeypatch, name):
    arrays = {
        f"{split}-{kind}-ubyte.gz": rng.integers(0, high, shape, dtype=np.uint8)
        for split, count in (("train", 5), ("t10k", 3))
        for kind, high, shape in (("images-idx3", 256, (count, 28, 28)), ("labels-idx1", 10, (count,)))
    }
    publish(monkeypatch, name, tmp_path / "downloads" / name, {file: idx(array) for file, array in arrays.items()})
    dataset = packed(tmp_path, name)
    np.testing.assert_array_equal(dataset.train_samples[..., 0], arrays["train-images-idx3-ubyte.gz"])
    np.testing.assert_array_equal(dataset.test_samples[..., 0], arrays["t10k-images-idx3-ubyte.gz"])
    np.testing.assert_array_equal(dataset.train_labels, arrays["train-labels-idx1-ubyte.gz"])
    np.testing.assert_array_equal(dataset.test_labels, arrays["t10k-labels-idx1-ubyte.gz"])
    assert dataset.train_samples.shape == (5, 28, 28, 1) and dataset.train_labels.dtype == np.int64
    assert dataset.manifest["classes"] == getattr(datasets, name).classes


def test_svhn_is_packed_with_label_0_for_the_digit_0(tmp_path, rng, monkeypatch):
    files, pixels = {}, {}
    for split, digits in (("train", [10, 1, 9, 10]), ("test", [5, 10])):
        pixels[split] = rng.integers(0, 256, (len(digits), 32, 32, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        matrices = {"X": pixels[split].transpose(1, 2, 3, 0), "y": np.array(digits, dtype=np.uint8)[:, None]}
        scipy.io.savemat(buffer, matrices)
        files[f"{split}_32x32.mat"] = buffer.getvalue()
    publish(monkeypatch, "SVHN", tmp_path / "downloads" / "SVHN", files)
    dataset = packed(tmp_path, "SVHN")
    np.testing.assert_array_equal(dataset.train_samples, pixels["train"])
    np.testing.assert_array_equal(dataset.test_samples, pixels["test"])
    assert dataset.train_labels.tolist() == [0, 1, 9, 0] and dataset.test_labels.tolist() == [5, 0]
    assert dataset.manifest["classes"] == list("0123456789")


# what is not the authors' is never read


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)  # unpickling makes this folder


def malicious_cifar(path):
    """Files of a CIFAR-10 each of whose pickles runs code."""
    members = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    return {"cifar-10-python.tar.gz": archive({f"cifar-10-batches-py/{name}": Malicious(path) for name in members})}


def test_the_malicious_archive_would_run_code(tmp_path, monkeypatch):
    publish(monkeypatch, "CIFAR10", tmp_path / "downloads" / "CIFAR10", malicious_cifar(tmp_path / "ran"))
    with pytest.raises(TypeError, match="not subscriptable"):
        packed(tmp_path, "CIFAR10")
    assert (tmp_path / "ran").exists()
    assert files_in(tmp_path / "downloads" / "CIFAR10") == ["cifar-10-python.tar.gz"]


def test_tampered_archive_is_never_unpickled(tmp_path, rng, monkeypatch):
    files, _ = cifar(rng, "CIFAR10")
    publish(monkeypatch, "CIFAR10", tmp_path / "authors", files)
    for folder in (tmp_path / "downloads" / "CIFAR10", tmp_path / "mirror"):
        folder.mkdir(parents=True)
        for name, content in malicious_cifar(tmp_path / "ran").items():
            (folder / name).write_bytes(content)
    with pytest.raises(DatasetError, match="mirror/cifar-10-python.tar.gz: another SHA-256 than expected"):
        packed(tmp_path, "CIFAR10", mirrors=[f"file://{tmp_path}/mirror"])
    assert not (tmp_path / "ran").exists() and not (tmp_path / "set").exists()


def test_what_lies_extracted_in_the_downloads_is_never_unpickled(tmp_path, rng, monkeypatch):
    files, pixels = cifar(rng, "CIFAR10")
    folder = tmp_path / "downloads" / "CIFAR10"
    publish(monkeypatch, "CIFAR10", folder, files)
    (content,) = malicious_cifar(tmp_path / "ran").values()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(folder, filter="data")
    dataset = packed(tmp_path, "CIFAR10")
    np.testing.assert_array_equal(dataset.test_samples, pixels[-1].transpose(0, 2, 3, 1))
    assert not (tmp_path / "ran").exists()


# downloads


def test_offline_is_a_sentence_that_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError) as error:
        packed(tmp_path, "SVHN")
    path, digest = tmp_path / "downloads" / "SVHN" / "train_32x32.mat", DATASETS["SVHN"]["sha256"]["train_32x32.mat"]
    assert "cannot download train_32x32.mat (http://ufldl.stanford.edu/housenumbers/train_32x32.mat: " in str(
        error.value
    )
    assert "no network" in str(error.value)
    assert f"put the file with SHA-256 {digest} at {path} by hand" in str(error.value)


def test_mirror_of_the_user_is_asked_first(tmp_path, rng, monkeypatch):
    files, pixels = cifar(rng, "CIFAR10")
    publish(monkeypatch, "CIFAR10", tmp_path / "mirror", files)
    monkeypatch.setitem(DATASETS["CIFAR10"], "mirrors", [])
    dataset = packed(tmp_path, "CIFAR10", mirrors=[f"file://{tmp_path}/mirror/"])
    np.testing.assert_array_equal(dataset.test_samples, pixels[-1].transpose(0, 2, 3, 1))


def test_interrupted_download_resumes(tmp_path, rng, monkeypatch):
    (file, content), *_ = cifar(rng, "CIFAR10")[0].items()
    publish(monkeypatch, "CIFAR10", tmp_path / "authors", {file: content})
    third, requests = len(content) // 3 + 1, []

    class Handler(http.server.BaseHTTPRequestHandler):
        """Breaks off after a third of the file."""

        def do_GET(self):
            begun = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            requests.append((self.path, begun))
            self.send_response(206 if begun else 200)
            self.send_header("Content-Length", str(len(content) - begun))
            self.end_headers()
            self.wfile.write(content[begun : begun + third])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        dataset = packed(tmp_path, "CIFAR10", mirrors=[f"http://127.0.0.1:{httpd.server_port}/data"])
        packed(tmp_path, "CIFAR10", mirrors=[f"http://127.0.0.1:{httpd.server_port}/data"])
        httpd.shutdown()
    assert requests == [(f"/data/{file}", begun) for begun in (0, third, 2 * third)]  # and none for the second time
    assert dataset.manifest["counts"] == {"train": 10, "test": 2}


# names, here and there


def test_every_name_of_the_configuration_has_its_files_and_torchvision_reads_them():
    assert get_args(ENTRY.load().__annotations__["name"]) == tuple(DATASETS)
    for name in ("CIFAR10", "CIFAR100"):
        assert list(DATASETS[name]["sha256"]) == [getattr(datasets, name).filename]
    for name in ("MNIST", "FashionMNIST"):
        assert list(DATASETS[name]["sha256"]) == [file for file, _ in getattr(datasets, name).resources]
    assert list(DATASETS["SVHN"]["sha256"]) == [datasets.SVHN.split_list[split][1] for split in ("train", "test")]
    for parts in DATASETS.values():
        assert all(len(digest) == 64 and int(digest, 16) for digest in parts["sha256"].values())
        assert parts["mirrors"]


def test_mistakes_in_the_configuration_are_found_without_torchvision():
    options = ENTRY.options()
    assert options(name="MNIST").mirrors is None
    assert options(name="SVHN", mirrors=["file:///data/svhn"]).mirrors == ["file:///data/svhn"]
    for wrong in (
        {"name": "MNST"},
        {"name": "MNIST", "mirrors": ["example.org/mnist"]},
        {"name": "MNIST", "mirrors": "x"},
    ):
        with pytest.raises(ValidationError):
            options(**wrong)
