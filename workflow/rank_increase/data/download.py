"""Downloads that resume, from the first mirror that has a file with the right SHA-256."""

import logging
import math
import os
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException

from rank_increase.data.packed import DatasetError, file_sha256
from rank_increase.ownership import owned

TIMEOUT = 60  # seconds without data after which a download counts as interrupted
logger = logging.getLogger("rank_increase")


def download(mirrors, path, digest, rounds=3, pause=5.0):
    """Make sure that `path` is a file with this SHA-256; download it from the first mirror that has it.

    An interrupted download leaves a partial file beside `path`, and the next attempt resumes from it. A process waits
    for a file that another process is downloading.

    Parameters
    ----------
    mirrors : list of str
        Addresses of the same file.
    path : pathlib.Path
    digest : str
        SHA-256, hexadecimal.
    rounds : int
        Number of attempts at each mirror.
    pause : float
        Seconds between the first two rounds; doubled after each.

    Raises
    ------
    DatasetError
        If no mirror has the file.
    """
    if path.exists() and file_sha256(path) == digest:
        return path
    turn = path.with_name(f".{path.name}.download")
    try:
        with owned(turn, f"download of {path}", patience=math.inf) as ownership:
            if not path.exists() or file_sha256(path) != digest:  # else another process has just downloaded it
                _download(mirrors, path, digest, rounds, pause, ownership)
    finally:
        with suppress(OSError):  # another process is using the folder
            turn.rmdir()
    return path


def _download(mirrors, path, digest, rounds, pause, ownership):
    part, problems = path.with_name(f"{path.name}.part"), {}
    for attempt in range(rounds):
        for address in mirrors:
            logger.info("downloading %s", address)
            begun = part.stat().st_size if part.exists() else 0
            try:
                _fetch(address, part, begun)
            except (OSError, HTTPException) as error:
                problems[address] = str(error) or type(error).__name__
                continue
            if file_sha256(part) == digest:
                ownership.check()
                os.replace(part, path)
                return
            # The partial file may be from another mirror and this one right: its next attempt starts afresh.
            part.unlink()
            problems[address] = "another SHA-256 than expected"
            logger.info("%s: %s", address, problems[address])
        if attempt + 1 < rounds:
            time.sleep(pause * 2**attempt)
    reasons = "; ".join(f"{address}: {problem}" for address, problem in problems.items())
    raise DatasetError(
        f"cannot download {path.name} ({reasons}): put the file with SHA-256 {digest} at {path} by hand, or name"
        " another address under `mirrors` of this dataset."
    )


def _fetch(address, part, begun):
    request = urllib.request.Request(address, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if begun and error.code == 416:  # the partial file is already complete
            return
        raise
    with response:
        resumes = begun and getattr(response, "status", None) == 206
        expected = response.headers.get("Content-Length")
        received = 0
        with open(part, "ab" if resumes else "wb") as file:
            while block := response.read(1 << 18):
                file.write(block)
                received += len(block)
    if expected and received < int(expected):
        raise OSError(f"interrupted after {received} of {expected} bytes")
