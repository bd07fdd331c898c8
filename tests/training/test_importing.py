"""Checkpoints of others: what becomes of them, and the mistakes of published series."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rank_increase.data.packed import DatasetError
from rank_increase.data.series import checkpoint_files
from rank_increase.networks.adapters import gpt2
from rank_increase.tables import SCHEMAS
from rank_increase.training.importing import import_checkpoints
from rank_increase.training.snapshots import Snapshots

DIM, LAYERS = 6, 2


def draw(seed):
    """A GPT-2 of a kind."""
    rng = torch.Generator().manual_seed(seed)
    found = {"wte.weight": torch.randn(9, DIM, generator=rng)}
    for layer in range(LAYERS):
        found[f"h.{layer}.attn.c_attn.weight"] = torch.randn(DIM, 3 * DIM, generator=rng)
        found[f"h.{layer}.attn.c_proj.weight"] = torch.randn(DIM, DIM, generator=rng)
    return found


def moved(tensors, size, seed=9):
    return {name: value + size * draw(seed)[name] for name, value in tensors.items()}


@pytest.fixture
def series(tmp_path):
    """Writes checkpoints, a dict of step to tensors, and imports them."""

    def run(checkpoints, **options):
        for step, tensors in checkpoints.items():
            save_file(tensors, tmp_path / f"step{step}.safetensors")
        files = checkpoint_files(str(tmp_path / "step{step}*.safetensors"), 0)
        return import_checkpoints(files, partial(gpt2, heads=3), tmp_path / "snapshots", **options)

    run.folder = tmp_path
    return run


START = draw(0)
RUN = {0: START, 1: moved(START, 0.01), 8: moved(START, 0.3), 64: moved(START, 3.0)}


def test_snapshots_hold_the_weights_by_head(series):
    done = []
    rows = series(RUN, steps_per_epoch=16, advance=done.append)
    snapshots = Snapshots(series.folder / "snapshots")
    assert snapshots.steps == [0, 1, 8, 64] and done == [1, 2, 3, 4]
    assert snapshots.epochs == {0: 0, 1: 1 / 16, 8: 0.5, 64: 4}
    assert [product[:2] for product in snapshots.products] == [("KQ", 0), ("VO", 0), ("KQ", 1), ("VO", 1)]
    for step, tensors in RUN.items():
        for name, layer, *factors in snapshots.products:
            fused = tensors[f"h.{layer}.attn.c_attn.weight"].numpy()
            output = tensors[f"h.{layer}.attn.c_proj.weight"].numpy()
            A, B = snapshots.factors(step, (name, layer, *factors))
            for head in range(3):
                part = slice(2 * head, 2 * head + 2)
                query, key, value = (fused[:, begin * DIM :][:, part] for begin in range(3))
                expected = (key, query) if name == "KQ" else (value, output[part].T)
                np.testing.assert_array_equal(A[head], expected[0])
                np.testing.assert_array_equal(B[head], expected[1])
    assert list(rows) == SCHEMAS["checkpoints"].names and rows["step"].tolist() == [0, 1, 8, 64]
    assert rows["files"].tolist() == [f"{series.folder}/step{step}.safetensors" for step in RUN]


def test_the_cosine_with_the_start_is_that_of_all_attention_weights(series):
    rows = series(RUN)
    vectors = [torch.cat([t.ravel() for name, t in one.items() if "attn" in name]) for one in RUN.values()]
    expected = [torch.cosine_similarity(vectors[0], vector, dim=0) for vector in vectors]
    np.testing.assert_allclose(rows["cosine"], expected, rtol=1e-5)
    assert rows["sha256"].nunique() == 4


def test_without_an_epoch_epochs_are_shares_of_the_training(series):
    assert series(RUN)["epoch"].tolist() == [0, 1 / 64, 8 / 64, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_lose_nothing(series, dtype):
    stored = {step: {name: value.to(dtype) for name, value in tensors.items()} for step, tensors in RUN.items()}
    series(stored)
    snapshots = Snapshots(series.folder / "snapshots")
    A, _ = snapshots.factors(8, snapshots.products[0])
    expected = stored[8]["h.0.attn.c_attn.weight"][:, DIM : DIM + 2].double().numpy()
    np.testing.assert_array_equal(A[0], expected)


def test_a_checkpoint_may_be_several_files(series):
    series(RUN)
    whole = Snapshots(series.folder / "snapshots")
    names = sorted(RUN[8])
    for part, chosen in enumerate((names[:2], names[2:])):
        save_file({name: RUN[8][name] for name in chosen}, series.folder / f"step8-{part}.safetensors")
    (series.folder / "step8.safetensors").unlink()
    series({})
    parts = Snapshots(series.folder / "snapshots")
    for product in whole.products:
        np.testing.assert_array_equal(whole.factors(8, product), parts.factors(8, product))


def refused(series, checkpoints, sentence):
    with pytest.raises(DatasetError, match=sentence) as raised:
        series(checkpoints)
    assert "\n" not in str(raised.value)
    assert not (series.folder / "snapshots").exists()


def test_without_step_0_there_is_nothing_to_measure_from(series):
    refused(series, {1: RUN[1], 8: RUN[8]}, "there is no checkpoint of step 0, .*: the first is of step 1")
    with pytest.raises(DatasetError, match="no file has such a name"):
        import_checkpoints({}, gpt2, series.folder / "snapshots")


def test_a_start_that_is_another_runs_is_refused(series):
    """As of pythia-160m-weight-seed1, whose later checkpoints begin with other weights (EleutherAI/pythia #203)."""
    refused(
        series, {**RUN, 0: draw(1)}, r"step1\.safetensors does not come from the checkpoint of step 0: .*\(cosine -?0\."
    )


@pytest.mark.parametrize("seed", range(1, 31))
def test_independent_draws_are_told_from_a_run_far_from_its_start(series, seed):
    """Of thirty, by the normal distribution, one in 10^5 would be wrong; a run may have moved twice its own length."""
    refused(series, {0: START, 5: draw(seed)}, "does not come from the checkpoint of step 0")
    assert series({0: START, 5: moved(START, 1.5, seed)})["cosine"].iloc[1] < 0.75


def test_a_start_may_last_for_some_steps(series):
    """As of Pythia, whose learning rate is zero in the first step (EleutherAI/pythia #83)."""
    rows = series({0: START, 1: START, 2: START, 8: RUN[8]})
    assert rows["cosine"].iloc[:3].tolist() == pytest.approx([1, 1, 1]) and rows["sha256"].nunique() == 2
    refused_later = {0: START, 1: START, 2: START, 8: draw(1)}
    with pytest.raises(DatasetError, match=r"step8\.safetensors does not come from"):
        series(refused_later)


@pytest.mark.parametrize(("wrong", "before"), [(64, 8), (64, 1), (8, 0)])
def test_weights_under_two_steps_are_refused(series, wrong, before):
    """As of pythia-12b and 2.8b, where the last checkpoint stands under many steps (EleutherAI/pythia #205, #206)."""
    steps = {0: RUN[0], 1: RUN[1], 8: RUN[8], 64: RUN[64]}
    steps[wrong] = steps[before]
    refused(series, steps, rf"step{wrong}\.safetensors has the weights of step {before}, and others came between")


def test_files_that_are_no_such_checkpoint_are_refused(series):
    refused(series, {**RUN, 8: {"wte.weight": torch.ones(2)}}, r"step8\.safetensors is no checkpoint of this kind")
    broken = {**RUN[8], "h.1.attn.c_proj.weight": torch.full((DIM, DIM), torch.nan)}
    refused(series, {**RUN, 8: broken}, r"step8\.safetensors: layer_1\.W_O is not finite")
    small = {name: value for name, value in RUN[8].items() if ".1." not in name}
    refused(series, {**RUN, 8: small}, r"step8\.safetensors has other layers")
    for step, tensors in RUN.items():
        save_file(tensors, series.folder / f"step{step}.safetensors")
    (series.folder / "step64.safetensors").write_bytes((series.folder / "step8.safetensors").read_bytes()[:900])
    refused(series, {}, r"step64\.safetensors is no whole safetensors file")
    save_file(RUN[64], series.folder / "step64.safetensors")
    save_file(RUN[8], series.folder / "step8-copy.safetensors")
    refused(series, {}, re.escape("step8.safetensors: h.0.attn.c_attn.weight is in two of them"))


def test_snapshots_of_before_stay_where_a_new_import_fails(series):
    series(RUN)
    with pytest.raises(DatasetError):
        series({**RUN, 64: RUN[1]})
    assert Snapshots(series.folder / "snapshots").steps == [0, 1, 8, 64]
    series(RUN)
    assert [path.name for path in series.folder.iterdir() if path.name.startswith(".")] == []
