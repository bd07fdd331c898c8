import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.evidence.networks import half_times, spearman

DECLARED = [entry for entry in declared_claims() if entry.details.get("each") == ["network", "product"]]
OF_RANKS = ["delta_low_rank", "delta_not_random", "delta_not_turned", "rank_grows", "rank_grows_with_scale"]
IN_TURN = ["values_in_turn", "values_in_turn_small_scale"]
KINDS = [entry.name.removeprefix("vit.") for entry in DECLARED]
EPOCHS, LAYERS, HEADS, SEEDS = (0, 1, 5, 10), 2, 3, (0, 1, 2)
RANDOM = {"random_product": 1, "noisy_factors": 2, "turned_factors": 1}


def places(alphas, seeds, epochs=EPOCHS):
    for alpha, seed, epoch, layer, head, product in itertools.product(
        alphas, seeds, epochs, range(LAYERS), range(HEADS), ("KQ", "VO")
    ):
        place = {"network": "x", "alpha": alpha, "seed": seed, "epoch": float(epoch), "step": 10 * epoch,
                 "layer": layer, "head": head, "product": product}  # fmt: skip
        yield place, (seed, float(alpha), epoch, layer, head)


def measures(
    rank, initial=lambda seed, head: 10.0, random=lambda seed, head: 10.0, alphas=("0.1", "0.5", "1"), seeds=SEEDS
):
    """A table whose stable ranks are functions of seed, scale, epoch, layer and head."""
    rows = []
    for place, (seed, alpha, epoch, layer, head) in places(alphas, seeds):
        ranks = {"delta": rank(seed, alpha, epoch, layer, head) if epoch else None}
        if epoch == 0:
            ranks["initial"] = initial(seed, head)
        for matrix, factor in RANDOM.items():
            ranks[matrix] = factor * random(seed, head) if epoch else None
        rows += [{**place, "matrix": matrix, "stable_rank": value} for matrix, value in ranks.items()]
    return pd.DataFrame(rows)


def spectra(times, alphas=("0.1", "1"), seeds=SEEDS):
    """A table whose singular values grow as t^8 / (t^8 + T^8), with T = `times(seed, number)`."""
    steps = np.unique(np.geomspace(1, 4096, 90).round().astype(int))
    rows = []
    for place, (seed, _, step, _, head) in places(alphas, seeds, [0, *steps.tolist()]):
        values = [size / (1 + (times(seed, n) * (1 + 0.01 * head) / step) ** 8) if step else 0.0
                  for n, size in enumerate((3.0, 2.0, 1.0, 0.2))]  # fmt: skip
        rows.append({**place, "step": step, "matrix": "delta", "singular_values": values})
    return pd.DataFrame(rows)


def evaluated(tables, labels=None, warmups=None):
    settings = {"warmups": warmups or {}}
    return {claim.id: claim for claim in evaluate(DECLARED, tables, settings, labels or {"x": "Dataset"})}


def outcomes(table, product="KQ", **options):
    tables = {"spectra" if "singular_values" in table else "measures": table}
    claims = evaluated(tables, **options)
    kinds = IN_TURN if "spectra" in tables else OF_RANKS
    return {kind: claims[f"vit.{kind}.x.{product}"] for kind in kinds}


def growing(seed, alpha, epoch, layer, head):
    return 1 + alpha * epoch / 10 + 0.01 * head + 0.001 * seed


def shrinking(seed, alpha, epoch, layer, head):
    return 3 - alpha * epoch / 10 + 0.01 * head + 0.001 * seed


def one_by_one(seed, number):
    return 100 * 2.0**number * (1 + 0.02 * seed)


def together(seed, number):
    return 200.0 * (1 + 0.02 * seed)


GOOD = measures(growing)
BAD = measures(shrinking, initial=lambda seed, head: 2.0, random=lambda seed, head: 2.0)
CASES = {f"vit.{kind}": ({"measures": GOOD}, {"measures": BAD}) for kind in OF_RANKS}  # support and refute
CASES |= {f"vit.{kind}": ({"spectra": spectra(one_by_one)}, {"spectra": spectra(together)}) for kind in IN_TURN}


def test_every_claim_has_a_case():
    assert set(CASES) == {entry.name for entry in DECLARED}


def interval(values):
    """Both ends of the 95 % interval of the geometric mean."""
    logs = np.log(values)
    half = t.ppf(0.975, len(logs) - 1) * np.std(logs, ddof=1) / math.sqrt(len(logs))
    return math.exp(np.mean(logs) - half), math.exp(np.mean(logs) + half)


def test_all_are_supported_by_low_ranks_that_grow_with_epoch_and_scale():
    for product in ("KQ", "VO"):
        found = outcomes(GOOD, product)
        assert {claim.verdict for claim in found.values()} == {"supported"}
        # of the middle head, of rank 2.01 after 10 epochs
        low = interval([0.201, 0.2011, 0.2012])[1]
        assert found["delta_low_rank"].value == found["delta_not_random"].value == pytest.approx(low)
        assert found["delta_not_turned"].value == pytest.approx(low)
        assert found["delta_low_rank"].n == "3 seeds, 6 heads each"
        assert found["delta_low_rank"].details.endswith("; after step 10: 0.11")
        heads = [
            np.median([growing(seed, 1, 10, 0, h) / growing(seed, 1, 1, 0, h) for h in range(3)]) for seed in SEEDS
        ]
        assert found["rank_grows"].value == pytest.approx(interval(heads)[0])
        assert "100% of the heads grow by a quarter" in found["rank_grows"].details
        assert "by layer 1.81, 1.81; minimum at step 10; rank correlation with the step from there on 1.00" in (
            found["rank_grows"].details
        )
        assert "random product 1.00, noisy factors 1.00, turned factors 1.00" in (
            found["rank_grows"].details.replace(";", ",")
        )
        assert found["rank_grows_with_scale"].value == pytest.approx(1)
        assert "monotone in 6 of 6 layers; stable rank at the largest scale over that at the smallest 1.81" in (
            found["rank_grows_with_scale"].details
        )


def test_none_is_supported_by_ranks_that_are_no_lower_and_do_not_grow():
    found = outcomes(BAD)
    assert {claim.verdict for claim in found.values()} == {"not supported"}
    assert found["rank_grows"].value == pytest.approx(1)
    assert found["rank_grows_with_scale"].value == pytest.approx(-1)


def test_growth_is_from_the_minimum_after_the_warm_up():
    ranks = {1: 1.0, 5: 2.0, 10: 3.0}  # lowest in the first epoch, which is in the warm-up
    table = measures(lambda seed, alpha, epoch, layer, head: ranks[epoch])
    assert outcomes(table)["rank_grows"].value == pytest.approx(3)
    later = outcomes(table, warmups={"x": 1})["rank_grows"]
    assert later.value == pytest.approx(3)  # the snapshot at the end of the warm-up counts
    assert later.details.endswith("; from the minimum over all steps, at step 10: 3.00")
    assert outcomes(table, warmups={"x": 2})["rank_grows"].details == "3 snapshots after the warm-up"
    ranks[5] = 0.5
    found = outcomes(measures(lambda seed, alpha, epoch, layer, head: ranks[epoch]))["rank_grows"]
    assert found.value == pytest.approx(6) and "minimum at step 50" in found.details


def test_half_times_are_those_of_the_curves():
    steps = np.array([0, 1, 2, 4, 8])
    values = np.array([[0, 0, 0, 1], [1, 0, 0, 1], [2, 0, 0, 1], [3, 1, 0, 1], [4, 4, 0, 1]], float)
    found = half_times(steps, values)
    assert found[0] == pytest.approx(2)
    assert found[1] == pytest.approx(4 * 2 ** (1 / 3))
    assert np.isnan(found[2:]).all()  # zero at the end; there from the start


@pytest.mark.parametrize("kind", IN_TURN)
def test_singular_values_that_leave_one_after_the_other(kind):
    found = outcomes(spectra(one_by_one))[kind]
    assert found.value == pytest.approx(4, rel=0.01)  # the third at 400, the first at 100 steps
    times = found.details.split("median steps to half of the final size ")[1].split(";")[0].split(", ")
    np.testing.assert_allclose([float(time) for time in times], [103, 206, 412], rtol=0.03)
    assert "final sizes over the largest 1.00, 0.67, 0.33" in found.details
    assert "singular values above a tenth of the final largest: 0 at step 67, 2 at step 248" in found.details
    assert outcomes(spectra(together))[kind].value == pytest.approx(1, rel=0.01)


def test_singular_values_at_their_own_scale_count():
    mixed = pd.concat([spectra(one_by_one, alphas=("0.1",)), spectra(together, alphas=("1",))])
    found = outcomes(mixed)
    assert found["values_in_turn"].verdict == "not supported"
    assert found["values_in_turn_small_scale"].verdict == "supported"


@pytest.mark.parametrize("kind", OF_RANKS)
def test_one_seed_of_three_that_disagrees_refutes(kind):
    def mixed(seed, *place):
        return (growing if seed else shrinking)(seed, *place)

    both = measures(mixed, lambda seed, head: 10.0 if seed else 2.0, lambda seed, head: 10.0 if seed else 2.0)
    claim = outcomes(both)[kind]
    assert claim.verdict == "not supported"
    assert claim.n.startswith("3 seeds")


@pytest.mark.parametrize("kind", KINDS)
def test_two_seeds_are_not_enough(kind):
    table = CASES[f"vit.{kind}"][0]
    table = {name: rows[rows["seed"] < 2] for name, rows in table.items()}
    claim = evaluated(table)[f"vit.{kind}.x.KQ"]
    assert claim.verdict == "not tested" and claim.details.startswith("3 seeds with init scale")


def test_within_a_seed_the_median_head_counts():
    # One head of three, in every layer, whose initial product has as low a rank as the change.
    found = outcomes(measures(growing, lambda seed, head: 1.0 if head == 0 else 10.0))["delta_low_rank"]
    assert found.verdict == "supported"
    assert "67% of the heads are below the initial product" in found.details
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
    assert other["delta_low_rank"].details == "3 seeds with init scale 1"
    assert other["rank_grows_with_scale"].details == "3 init scales with the same seed"
    first = outcomes(GOOD[GOOD["epoch"] <= 1])
    assert first["rank_grows"].details == "3 snapshots after the warm-up"
    assert first["delta_low_rank"].verdict == "supported"
    unstarted = outcomes(GOOD[GOOD["epoch"] == 0])
    assert {claim.verdict for claim in unstarted.values()} == {"not tested"}
    untrained = outcomes(GOOD[GOOD["matrix"] == "initial"])
    assert {claim.verdict for claim in untrained.values()} == {"not tested"}


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_rows_a_claim_is_not_tested_once(kind):
    tables = {name: rows[:0] for name, rows in CASES[f"vit.{kind}"][0].items()}
    claim = evaluated(tables)[f"vit.{kind}"]
    assert claim.verdict == "not tested"
    assert claim.statement.startswith("every network, every product: ")


def test_each_network_and_product_is_tested_on_its_own_rows():
    products = pd.concat([GOOD, BAD.assign(network="y"), GOOD.assign(product="AB", network="y")])
    tables = {"measures": products.astype({"network": "category", "product": "category"})}
    found = evaluated(tables, {"x": "Dataset", "y": "Other"})
    found = {name: claim for name, claim in found.items() if "in_turn" not in name}
    expected = ["x.KQ", "x.VO", "y.KQ", "y.VO", "y.AB"]
    assert list(found) == [f"vit.{kind}.{place}" for place in expected for kind in OF_RANKS]
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
