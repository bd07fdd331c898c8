"""Training in a process of its own, for a check: prints whether it was compiled, and its log, as JSON."""

import json
import logging
import sys

import torch

from rank_increase.gpu_check.trials import trial
from rank_increase.training import loop


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def main(device, dataset, scratch, model, batch_size):
    """Train an epoch on a device, also on a CPU after an attempt to compile."""
    handler = _Lines()
    logging.getLogger("rank_increase").addHandler(handler)
    loop.COMPILED = {"cuda", "cpu"}
    run = trial(dataset, scratch, json.loads(model), torch.device(device), batch_size=int(batch_size))
    run.fit()
    print(json.dumps({"compiled": run.is_compiled, "log": handler.lines}))


if __name__ == "__main__":
    main(*sys.argv[1:])
