import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.vit_claims import COLUMNS, spearman, vit_claims
from test_configuration import ROOT

THRESHOLDS = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["claims"]
KINDS = ["delta_low_rank", "delta_not_random", "rank_grows", "rank_grows_with_scale"]
EPOCHS, LAYERS, HEADS = (0, 1, 5, 10), 2, 3


def tables(
    rank, initial=lambda seed, head: 10.0, random=lambda seed, head: 10.0, alphas=("0.1", "0.5", "1"), seeds=(0,)
):
    """Spectra and baselines whose stable ranks are functions of seed, scale, epoch, layer and head."""
    spectra, baselines = [], []
    for alpha in alphas:
        for seed in seeds:
            for epoch in EPOCHS:
                for layer in range(LAYERS):
                    for head in range(HEADS):
                        for product in ("KQ", "VO"):
                            place = {"dataset": "x", "alpha": alpha, "seed": seed, "epoch": epoch, "layer": layer,
                                     "head": head, "product": product}  # fmt: skip
                            value = rank(seed, float(alpha), epoch, layer, head) if epoch else None
                            spectra.append({**place, "matrix": "delta", "stable_rank": value})
                            if epoch == 0:
                                start = initial(seed, head)
                                spectra.append({**place, "matrix": "initial", "stable_rank": start})
                            for factor, baseline in enumerate(("noisy_factors", "random_product"), start=1):
                                chance = factor * random(seed, head) if epoch else None
                                baselines.append({**place, "baseline": baseline, "stable_rank": chance})
    return pd.DataFrame(spectra), pd.DataFrame(baselines)


def outcomes(spectra, baselines, product="KQ"):
    claims = vit_claims(spectra, baselines, THRESHOLDS, alpha="1", names={"x": "Dataset"})
    return {kind: next(claim for claim in claims if claim.id == f"vit.{kind}.x.{product}") for kind in KINDS}


def growing(seed, alpha, epoch, layer, head):
    return 1 + alpha * epoch / 10 + 0.01 * head


def shrinking(seed, alpha, epoch, layer, head):
    return 3 - alpha * epoch / 10 + 0.01 * head


def test_all_are_supported_by_low_ranks_that_grow_with_epoch_and_scale():
    for product in ("KQ", "VO"):
        found = outcomes(*tables(growing), product)
        assert {claim.verdict for claim in found.values()} == {"supported"}
        assert found["delta_low_rank"].value == pytest.approx(0.201)  # of the middle head, of rank 2.01 after 10 epochs
        assert found["delta_low_rank"].n == "1 seed, 6 heads each"
        assert found["rank_grows"].value == found["rank_grows_with_scale"].value == pytest.approx(1)
        assert "1, 1 in layers 1 to 2, monotone in 2 of 2" in found["rank_grows_with_scale"].details


def test_none_is_supported_by_ranks_that_are_no_lower_and_do_not_grow():
    found = outcomes(*tables(shrinking, initial=lambda seed, head: 2.0, random=lambda seed, head: 2.0))
    assert {claim.verdict for claim in found.values()} == {"not supported"}
    assert found["rank_grows"].value == pytest.approx(-1)
    assert "monotone in 0 of 2" in found["rank_grows_with_scale"].details


@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_seed_counts(kind):
    def mixed(seed, *place):
        return (growing if seed == 0 else shrinking)(seed, *place)

    both = tables(mixed, lambda seed, head: [10.0, 2.0][seed], lambda seed, head: [10.0, 2.0][seed], seeds=(0, 1))
    claim = outcomes(*both)[kind]
    assert claim.verdict == "not supported"
    assert claim.n.startswith("2 seeds")
    alone = outcomes(*(table[table["seed"] == 0] for table in both))[kind]
    assert alone.verdict == "supported"


def test_within_a_seed_the_median_head_counts():
    # One head of three, in every layer, whose initial product has as low a rank as the change.
    found = outcomes(*tables(growing, lambda seed, head: 1.0 if head == 0 else 10.0))["delta_low_rank"]
    assert found.verdict == "supported"
    assert "67% of them below the initial product" in found.details
    most = outcomes(*tables(growing, lambda seed, head: 10.0 if head == 0 else 1.0))["delta_low_rank"]
    assert most.verdict == "not supported"


@pytest.mark.parametrize("lower", ["random_product", "noisy_factors"])
def test_the_lower_of_the_two_random_changes_counts(lower):
    spectra, baselines = tables(growing)
    baselines.loc[baselines["epoch"] > 0, "stable_rank"] = 20.0
    at_last = baselines["epoch"] == EPOCHS[-1]
    baselines.loc[at_last & (baselines["baseline"] == lower), "stable_rank"] = 4.0
    claim = outcomes(spectra, baselines)["delta_not_random"]
    assert claim.value == pytest.approx(2.01 / 4)
    assert claim.verdict == "not supported"
    assert "100% of them below both random changes" in claim.details
    alone = outcomes(spectra, baselines[baselines["baseline"] != lower])["delta_not_random"]
    assert alone.value == pytest.approx(2.01 / 20)


def test_only_the_default_scale_and_the_last_epoch_count_for_the_rank():
    def rank(seed, alpha, epoch, layer, head):
        return 1.0 if alpha == 1 and epoch == 10 else 100.0

    assert outcomes(*tables(rank))["delta_low_rank"].value == pytest.approx(0.1)


def test_claims_without_their_runs_say_what_is_missing():
    other = outcomes(*tables(growing, alphas=("0.1", "0.5")))
    assert {claim.verdict for claim in other.values()} == {"not tested"}
    assert other["delta_low_rank"].details == "a run with init scale 1"
    assert other["rank_grows_with_scale"].details == "3 init scales with the same seed"
    nothing = outcomes(pd.DataFrame(columns=[*COLUMNS, "matrix"]), pd.DataFrame(columns=[*COLUMNS, "baseline"]))
    assert {claim.verdict for claim in nothing.values()} == {"not tested"}
    short = tables(growing)
    first = outcomes(*(table[table["epoch"] <= 1] for table in short))
    assert first["rank_grows"].verdict == "not tested"
    assert first["delta_low_rank"].verdict == "supported"
    unstarted = outcomes(*(table[table["epoch"] == 0] for table in short))
    assert {claim.verdict for claim in unstarted.values()} == {"not tested"}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, unique=True))
def test_rank_correlation_knows_only_order(values):
    x = pd.Series(values)
    assert spearman(x, x**3 if x.abs().max() > 1e-3 and x.abs().min() > 1e-3 else x) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    assert spearman(x, 0 * x) == 0


def test_rank_correlation_is_that_of_scipy():
    from scipy.stats import spearmanr

    x, y = pd.Series([1, 2, 2, 5, 9, 3]), pd.Series([0.3, 0.1, 0.5, 0.5, 0.9, 0.2])
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
