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

TIMEOUT = 60  # seconds without a byte after which a download counts as broken off
logger = logging.getLogger("rank_increase")


def download(mirrors, path, digest, rounds=3, pause=5.0):
    """A file with this SHA-256, at `path`: from there, or from the first mirror that has it.

    What has come of a download that broke off stays beside it, and the next attempt resumes there. A process that
    needs a file which another is downloading waits for it.

    Parameters
    ----------
    mirrors : list of str
        Addresses of the same file.
    path : pathlib.Path
    digest : str
        SHA-256, hexadecimal.
    rounds : int
        How often each mirror is tried.
    pause : float
        Seconds between the first two rounds; twice as long each time.

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
            if not path.exists() or file_sha256(path) != digest:  # else another process has just got it
                _download(mirrors, path, digest, rounds, pause, ownership)
    finally:
        with suppress(OSError):  # another process has its turn
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
            # If the beginning was another mirror's, this one may be right: its next turn starts from nothing.
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
        if begun and error.code == 416:  # nothing comes after what is there
            return
        raise
    with response:
        goes_on = begun and getattr(response, "status", None) == 206
        expected = response.headers.get("Content-Length")
        came = 0
        with open(part, "ab" if goes_on else "wb") as file:
            while block := response.read(1 << 18):
                file.write(block)
                came += len(block)
    if expected and came < int(expected):
        raise OSError(f"broken off after {came} of {expected} bytes")
