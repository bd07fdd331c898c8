"""Whether the source of a dataset has changed, from names, sizes and times of its files: no image is read."""

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

READERS = 16  # threads that ask for sizes and times: a network file system answers each question after a while


def source_exists(description):
    """Whether the files that an entry under `datasets` names are there; True if it names none."""
    return all(path.exists() for path in _roots(description))


def source_fingerprint(description):
    """Hash of the names, sizes and times of all files of a source; 12 hexadecimal digits.

    Parameters
    ----------
    description : dict
        An entry under `datasets` in the configuration.

    Returns
    -------
    str or None
        None if the source has no files of its own, or they are not there.
    """
    roots = _roots(description)
    if not roots or not source_exists(description):
        return None
    parts = [part for root in roots for part in ([root] if root.is_file() else _folders(root))]
    with ThreadPoolExecutor(READERS) as pool:
        return sha256("".join(pool.map(_digest, parts)).encode()).hexdigest()[:12]


def _roots(description):
    """Files and folders that must be there."""
    if description["source"] == "image_folder":
        path = Path(description["path"]).expanduser()
        return [path / "train", path / "val"]
    if description["source"] == "parquet":
        return [Path(description[split]).expanduser() for split in ("train", "test")]
    return []


def _folders(folder):
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())


def _digest(path):
    """Of a file, or of the files in a folder."""
    files = sorted(os.scandir(path), key=lambda entry: entry.name) if path.is_dir() else [path]
    lines = [f"{file.name} {state.st_size} {state.st_mtime_ns}\n" for file in files for state in [file.stat()]]
    return sha256("".join([f"{path}\n", *lines]).encode(errors="surrogateescape")).hexdigest()
