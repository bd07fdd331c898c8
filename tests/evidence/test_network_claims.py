import itertools

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.evidence.networks import spearman

DECLARED = [entry for entry in declared_claims() if "each" in entry.details]
KINDS = ["delta_low_rank", "delta_not_random", "rank_grows", "rank_grows_with_scale"]
EPOCHS, LAYERS, HEADS = (0, 1, 5, 10), 2, 3


def measures(
    rank, initial=lambda seed, head: 10.0, random=lambda seed, head: 10.0, alphas=("0.1", "0.5", "1"), seeds=(0,)
):
    """A table whose stable ranks are functions of seed, scale, epoch, layer and head."""
    rows = []
    for alpha, seed, epoch, layer, head, product in itertools.product(
        alphas, seeds, EPOCHS, range(LAYERS), range(HEADS), ("KQ", "VO")
    ):
        ranks = {"delta": rank(seed, float(alpha), epoch, layer, head) if epoch else None}
        if epoch == 0:
            ranks["initial"] = initial(seed, head)
        for factor, matrix in enumerate(("random_product", "noisy_factors"), start=1):
            ranks[matrix] = factor * random(seed, head) if epoch else None
        place = {"network": "x", "alpha": alpha, "seed": seed, "epoch": float(epoch), "layer": layer, "head": head,
                 "product": product}  # fmt: skip
        rows += [{**place, "matrix": matrix, "stable_rank": value} for matrix, value in ranks.items()]
    return pd.DataFrame(rows)


def evaluated(table, labels=None):
    return {claim.id: claim for claim in evaluate(DECLARED, {"measures": table}, {}, labels or {"x": "Dataset"})}


def outcomes(table, product="KQ"):
    claims = evaluated(table)
    return {kind: claims[f"vit.{kind}.x.{product}"] for kind in KINDS}


def growing(seed, alpha, epoch, layer, head):
    return 1 + alpha * epoch / 10 + 0.01 * head


def shrinking(seed, alpha, epoch, layer, head):
    return 3 - alpha * epoch / 10 + 0.01 * head


GOOD = measures(growing)
BAD = measures(shrinking, initial=lambda seed, head: 2.0, random=lambda seed, head: 2.0)
CASES = {f"vit.{kind}": ({"measures": GOOD}, {"measures": BAD}) for kind in KINDS}  # support and refute


def test_every_claim_has_a_case():
    assert list(CASES) == [entry.name for entry in DECLARED]


def test_all_are_supported_by_low_ranks_that_grow_with_epoch_and_scale():
    for product in ("KQ", "VO"):
        found = outcomes(GOOD, product)
        assert {claim.verdict for claim in found.values()} == {"supported"}
        assert found["delta_low_rank"].value == pytest.approx(0.201)  # of the middle head, of rank 2.01 after 10 epochs
        assert found["delta_low_rank"].n == "1 seed, 6 heads each"
        assert found["rank_grows"].value == found["rank_grows_with_scale"].value == pytest.approx(1)
        assert "1, 1 in layers 1 to 2, monotone in 2 of 2" in found["rank_grows_with_scale"].details


def test_none_is_supported_by_ranks_that_are_no_lower_and_do_not_grow():
    found = outcomes(BAD)
    assert {claim.verdict for claim in found.values()} == {"not supported"}
    assert found["rank_grows"].value == pytest.approx(-1)
    assert "monotone in 0 of 2" in found["rank_grows_with_scale"].details


@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_seed_counts(kind):
    def mixed(seed, *place):
        return (growing if seed == 0 else shrinking)(seed, *place)

    both = measures(mixed, lambda seed, head: [10.0, 2.0][seed], lambda seed, head: [10.0, 2.0][seed], seeds=(0, 1))
    claim = outcomes(both)[kind]
    assert claim.verdict == "not supported"
    assert claim.n.startswith("2 seeds")
    alone = outcomes(both[both["seed"] == 0])[kind]
    assert alone.verdict == "supported"


def test_within_a_seed_the_median_head_counts():
    # One head of three, in every layer, whose initial product has as low a rank as the change.
    found = outcomes(measures(growing, lambda seed, head: 1.0 if head == 0 else 10.0))["delta_low_rank"]
    assert found.verdict == "supported"
    assert "67% of them below the initial product" in found.details
    most = outcomes(measures(growing, lambda seed, head: 10.0 if head == 0 else 1.0))["delta_low_rank"]
    assert most.verdict == "not supported"


def test_the_lower_of_the_two_random_changes_counts():
    table = GOOD.copy()
    table.loc[table["matrix"] == "random_product", "stable_rank"] /= 5
    assert outcomes(table)["delta_not_random"].verdict == "not supported"
    assert outcomes(table[table["matrix"] != "random_product"])["delta_not_random"].verdict == "supported"


def test_only_the_default_scale_and_the_last_epoch_count_for_the_rank():
    def rank(seed, alpha, epoch, layer, head):
        return 1.0 if alpha == 1 and epoch == 10 else 100.0

    assert outcomes(measures(rank))["delta_low_rank"].value == pytest.approx(0.1)


def test_claims_without_their_runs_say_what_is_missing():
    other = outcomes(measures(growing, alphas=("0.1", "0.5")))
    assert {claim.verdict for claim in other.values()} == {"not tested"}
    assert other["delta_low_rank"].details == "a run with init scale 1"
    assert other["rank_grows_with_scale"].details == "3 init scales with the same seed"
    first = outcomes(GOOD[GOOD["epoch"] <= 1])
    assert first["rank_grows"].verdict == "not tested"
    assert first["delta_low_rank"].verdict == "supported"
    unstarted = outcomes(GOOD[GOOD["epoch"] == 0])
    assert {claim.verdict for claim in unstarted.values()} == {"not tested"}
    untrained = outcomes(GOOD[GOOD["matrix"] == "initial"])
    assert {claim.verdict for claim in untrained.values()} == {"not tested"}


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_rows_a_claim_is_not_tested_once(kind):
    claim = evaluated(GOOD[:0])[f"vit.{kind}"]
    assert claim.verdict == "not tested"
    assert claim.statement.startswith("every network, every product: ")


def test_each_network_and_product_is_tested_on_its_own_rows():
    products = pd.concat([GOOD, BAD.assign(network="y"), GOOD.assign(product="AB", network="y")])
    found = evaluated(products.astype({"network": "category", "product": "category"}), {"x": "Dataset", "y": "Other"})
    places = ["x.KQ", "x.VO", "y.KQ", "y.VO", "y.AB"]
    assert list(found) == [f"vit.{kind}.{place}" for place in places for kind in KINDS]
    for name, claim in found.items():
        refuted = name.endswith(("y.KQ", "y.VO"))
        assert claim.verdict == ("not supported" if refuted else "supported"), name
    assert found["vit.rank_grows.x.KQ"].statement.startswith("Dataset, W_K W_Qᵀ: the stable rank")
    assert found["vit.rank_grows.y.AB"].statement.startswith("Other, AB: the stable rank")


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
