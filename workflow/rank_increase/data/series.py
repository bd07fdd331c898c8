"""Files of the checkpoints of a run, found by a pattern of their paths."""

import glob
import os
import re


def checkpoint_files(pattern, seed):
    """Files of every checkpoint of a run: a dict of step to sorted paths, by step; empty if there are none.

    Parameters
    ----------
    pattern : str
        Path in which {step} stands for a step, {seed} for the seed, and * for any part of a file's or folder's name.
    seed : int
    """
    parts = re.split(r"(\{step\}|\*)", os.path.expanduser(pattern).replace("{seed}", str(seed)))
    wild = {"{step}": "([0-9]+)", "*": "[^/]*"}
    matching = re.compile("".join(wild.get(part) or re.escape(part) for part in parts))
    found = {}
    for path in sorted(glob.glob("".join("*" if part in wild else glob.escape(part) for part in parts))):
        match = matching.fullmatch(path)
        if match and len({int(step) for step in match.groups()}) == 1:
            found.setdefault(int(match[1]), []).append(path)
    return dict(sorted(found.items()))
