"""Claims about patterns on made-up tables: they hold of tables as theory has them, and fail of others."""

import numpy as np
import pandas as pd
import pytest

from rank_increase.evidence.claim import declared_claims, evaluate

DECLARED = [entry for entry in declared_claims() if entry.name.startswith("patterns.")]
SEEDS = (0, 1)


def values(rank, rest=0.01):
    return np.array([1.0] * rank + [rest] * (8 - rank))


def matrices(inner=4, outer=4, rest=0.01):
    rows = [
        (seed, 0, 0, weight, matrix, step, values(inner if weight in ("W_K", "W_Q") else outer, rest))
        for seed in SEEDS
        for weight in ("W_K", "W_Q", "W_V", "W_O")
        for matrix in ("trained", "delta")
        for step in (0, 9)
    ]
    columns = ["seed", "layer", "head", "weight", "matrix", "step", "singular_values"]
    return pd.DataFrame(rows, columns=columns).assign(network="x", alpha="1")


def gradients(rank=4):
    rows = [
        (seed, step, samples, 0, 0, weight, values(rank if step == 0 and samples else 7))
        for seed in SEEDS
        for step in (0, 9)
        for samples in (50, 0)
        for weight in ("W_K", "W_Q", "W_V", "W_O")
    ]
    columns = ["seed", "step", "samples", "layer", "head", "weight", "singular_values"]
    return pd.DataFrame(rows, columns=columns).assign(network="x", alpha="1")


def ablations(two=1.0, three=1.0, smallest=1.0, random=0.97, largest=0.5, patterns=4):
    accuracies = {("whole", 0.0): 1.0, ("truncated", 2.0): two, ("truncated", 3.0): three}
    accuracies |= {("smallest", 0.4): smallest, ("random", 0.4): random, ("largest", 0.4): largest}
    rows = [(seed, *key, 0.99 * one) for seed in SEEDS for key, one in accuracies.items()]
    frame = pd.DataFrame(rows, columns=["seed", "ablation", "amount", "accuracy"])
    return frame.assign(network="x", alpha="1", classes=4, patterns=pd.array([patterns] * len(frame), dtype="Int32"))


GOOD = {"ablations": ablations(), "matrices": matrices(), "gradients": gradients()}
CASES = {
    f"patterns.{name}": (GOOD, GOOD | worse)
    for name, worse in {
        "rank": {"matrices": matrices(outer=2)},
        "key_query_rank": {"matrices": matrices(inner=5)},
        "value_rank": {"matrices": matrices(outer=3)},
        "gap": {"matrices": matrices(rest=0.2)},
        "gradient_rank": {"gradients": gradients(rank=6)},
        "rank_two": {"ablations": ablations(two=0.7)},
        "rank_less_one": {"ablations": ablations(three=0.9)},
        "prune_small": {"ablations": ablations(smallest=0.9)},
        "prune_large": {"ablations": ablations(largest=1.0)},
        "small_before_random": {"ablations": ablations(smallest=0.9, random=1.0)},
    }.items()
}


def outcome(tables, name):
    [claim] = evaluate([entry for entry in DECLARED if entry.name == name], tables, {}, {"x": "Four"})
    return claim


@pytest.mark.parametrize("name", CASES)
def test_claims_hold_and_fail_of_made_up_tables(name):
    supported, refuted = (outcome(tables, name) for tables in CASES[name])
    assert (supported.verdict, refuted.verdict) == ("supported", "not supported")
    assert supported.id == f"{name}.x" and supported.statement.startswith("Four: ") and supported.n == "2 seeds"


def test_values_by_hand():
    assert outcome(GOOD, "patterns.gap").value == pytest.approx(100)
    assert outcome(GOOD, "patterns.prune_large").value == pytest.approx(0.5)
    assert outcome(GOOD, "patterns.small_before_random").value == pytest.approx(0.03 * 0.99)
    assert outcome(CASES["patterns.rank"][1], "patterns.rank").value == 2


@pytest.mark.parametrize("name", ["patterns.rank", "patterns.gap", "patterns.gradient_rank"])
def test_data_without_patterns_is_not_tested(name):
    claim = outcome(GOOD | {"ablations": ablations(patterns=None)}, name)
    assert claim.verdict == "not tested" and claim.details == "data that is made of patterns"
