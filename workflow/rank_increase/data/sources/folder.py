"""Folders of image files, such as ImageNet."""

import os
from pathlib import Path as FilePath

from rank_increase.data.decoding import SUFFIXES, decoded
from rank_increase.data.packed import DatasetError, Source, Split
from rank_increase.options import Count, Path
from rank_increase.registry import register


@register.source("image_folder", folders=["train", "val"])
def image_folder(downloads, threads, *, path: Path, size: Count):
    """Images in `path`/train/<class>/ and `path`/val/<class>/; labels number the class folders in alphabetical order.

    Parameters
    ----------
    path : str
        The folder that contains train/ and val/.
    size : int
        Side of the packed images, in pixels: the shorter side is resized to it, and the center cropped.
    threads : int
    """
    path, sha = FilePath(path).expanduser(), {}
    folders = {"train": path / "train", "test": path / "val"}
    classes = {}
    for split, folder in folders.items():
        if not folder.is_dir():
            raise DatasetError(f"{folder} is no folder: an image folder has train/ and val/, each with class folders.")
        classes[split] = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes["train"]:
        raise DatasetError(f"{folders['train']} has no class folders.")
    for name in sorted(set(classes["train"]) ^ set(classes["test"])):
        has, lacks = ("train", "test") if name in classes["train"] else ("test", "train")
        raise DatasetError(f"class folder {folders[has] / name} has no counterpart in {folders[lacks]}.")
    splits = {}
    for split, folder in folders.items():
        files, labels = [], []
        for label, name in enumerate(classes[split]):
            found = sorted(
                entry.path for entry in os.scandir(folder / name) if FilePath(entry.name).suffix.lower() in SUFFIXES
            )
            if not found:
                raise DatasetError(f"class folder {folder / name} has no images.")
            files += found
            labels += [label] * len(found)
        encoded = ((file, file, label) for file, label in zip(files, labels, strict=True))
        splits[split] = Split(str(folder), len(files), decoded(encoded, size, threads, sha, split))
    return Source(classes["train"], (size, size, 3), splits, sha)
