"""Claims about condensation on made-up tables: they hold of tables as theory has them, and fail of others."""

import numpy as np
import pandas as pd
import pytest

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.evidence.condensation import crossing

DECLARED = [entry for entry in declared_claims() if entry.name.startswith("condensation.")]
STEPS = np.array([0, 100, 200, 300, 400])
SEEDS = (0, 1)


def matrices(inner=350.0, low=0.3, cosine=0.9, turn=2.0):
    """Outer weights double at step 200, inner ones at `inner`; ranks fall to `low` of the first, and rise by `turn`."""
    frames = []
    for seed in SEEDS:
        for weight in ("W_V", "W_1", "W_2", "W_K", "W_Q"):
            at = inner if weight in ("W_K", "W_Q") else 200.0
            ranks = 20 * np.array([1, 1, low, low, low * turn])
            for matrix in ("trained", "delta"):
                frames.append(
                    pd.DataFrame(
                        {
                            "seed": seed,
                            "layer": 0,
                            "head": 0,
                            "weight": weight,
                            "matrix": matrix,
                            "step": STEPS,
                            "relative_norm": 2.0 ** (STEPS / at),
                            "effective_rank": ranks,
                            "row_cosine": np.linspace(0.14, cosine, len(STEPS)),
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True).assign(network="x", alpha="1")


def key_query(rank=1.02, cosine=0.99, frozen=0.98, gap=5.0):
    rows = [
        (seed, step, weight, system, {"measured": cosine, "frozen": frozen}[system], 2.0, 2.1, at, at, gap)
        for seed in SEEDS
        for step, at in ((200, 3.0), (300, rank))
        for weight in ("W_K", "W_Q")
        for system in ("measured", "frozen")
    ]
    columns = ["seed", "step", "weight", "system", "cosine", "relative_norm", "predicted_norm", "stable_rank"]
    return pd.DataFrame(rows, columns=[*columns, "predicted_rank", "gap"]).assign(network="x", alpha="1")


COSINES = pd.DataFrame({"network": ["x"], "seed": [0]})
GOOD = {"cosines": COSINES, "matrices": matrices(), "key_query": key_query()}
CASES = {
    f"condensation.{name}": (GOOD, GOOD | worse)
    for name, worse in {
        "outer_first": {"matrices": matrices(inner=210)},
        "rank_falls": {"matrices": matrices(low=0.6)},
        "rows_align": {"matrices": matrices(cosine=0.3)},
        "both_ranks_turn": {"matrices": matrices(turn=1.1)},
        "rank_one": {"key_query": key_query(rank=1.3)},
        "linear_system": {"key_query": key_query(cosine=0.7)},
        "frozen_system": {"key_query": key_query(frozen=0.7)},
        "one_direction": {"key_query": key_query(gap=1.2)},
    }.items()
}


def outcome(tables, name):
    [claim] = evaluate([entry for entry in DECLARED if entry.name == name], tables, {}, {"x": "Decoder"})
    return claim


@pytest.mark.parametrize("name", CASES)
def test_claims_hold_and_fail_of_made_up_tables(name):
    supported, refuted = (outcome(tables, name) for tables in CASES[name])
    assert (supported.verdict, refuted.verdict) == ("supported", "not supported")
    assert supported.id == f"{name}.x" and supported.statement.startswith("Decoder: ") and supported.n == "2 seeds"


def test_values_by_hand():
    assert outcome(GOOD, "condensation.outer_first").value == pytest.approx(350 / 200)
    assert outcome(GOOD, "condensation.rank_falls").value == pytest.approx(0.3)
    assert outcome(GOOD, "condensation.both_ranks_turn").value == pytest.approx(2)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1]["key_query"] is not GOOD["key_query"]])
def test_one_bad_run_is_enough(name):
    good, bad = CASES[name]
    mixed = pd.concat([rows[rows["seed"] == seed] for seed, rows in enumerate(t["key_query"] for t in (good, bad))])
    assert outcome(GOOD | {"key_query": mixed}, name).verdict == "not supported"


def test_a_network_without_a_window_is_not_tested_against_the_linear_system():
    claim = outcome(GOOD | {"key_query": key_query().iloc[:0]}, "condensation.linear_system")
    assert claim.verdict == "not tested" and "by SGD at one learning rate" in claim.details


def test_crossing_is_interpolated_in_the_logarithm():
    steps = pd.Series([10, 0, 20])
    assert crossing(steps, pd.Series([1.0, 1.0, 4.0])) == 15
    assert crossing(steps, pd.Series([1.0, 1.0, 1.9])) == np.inf
    assert crossing(steps, pd.Series([3.0, 2.0, 4.0])) == 0
