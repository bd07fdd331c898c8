"""What the precision of activations changes: loss curves a little, ranks within 2 %."""

from dataclasses import replace

import numpy as np
import pytest

from rank_increase.data.packed import pack
from rank_increase.data.sources.digits import digits
from rank_increase.probes.measures import stable_rank
from rank_increase.probes.spectra import spectra_frame
from rank_increase.training.results import finished_metrics
from rank_increase.training.snapshots import Snapshots
from runs import job_of, job_path, recipe, train

MODEL = {"family": "vit", "patch_size": 2, "dim": 32, "depth": 2, "heads": 4, "dim_head": 8, "mlp_dim": 32}


@pytest.mark.slow
def test_bfloat16_gives_the_ranks_of_float32_within_two_percent(tmp_path):
    pack(tmp_path / "digits", digits(None, 1), {})
    ranks, losses = {}, {}
    for precision in ("float32", "bfloat16"):
        settings = recipe(precision=precision, epochs=30, batch_size=64, learning_rate=1e-3, augment=False, snapshots=6)
        job = replace(job_of(str(tmp_path / "digits"), tmp_path / precision, settings), model=MODEL, alpha=1.0)
        train(job)
        spectra = spectra_frame(Snapshots(job_path(job) / "snapshots"), 0)
        deltas = spectra[(spectra["matrix"] == "delta") & (spectra["step"] > 0)]
        of_head = deltas.assign(rank=[stable_rank(values) for values in deltas["singular_values"]])
        ranks[precision] = of_head.groupby(["product", "step"])["rank"].median()
        losses[precision] = finished_metrics(job)["train_loss"].to_numpy()
    assert not np.array_equal(losses["float32"], losses["bfloat16"])  # bfloat16 was in use
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05, atol=0.01)
    np.testing.assert_allclose(ranks["bfloat16"], ranks["float32"], rtol=0.02)
