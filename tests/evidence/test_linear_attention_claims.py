"""Claims about linear attention on made-up tables: what they say of tables as they should be, and of others."""

import numpy as np
import pandas as pd
import pytest

from rank_increase.evidence.claim import declared_claims, evaluate

LEVELS = np.array([1.0, 0.6, 0.3, 0.2, 0.18])
ALPHAS, SEEDS = ("1e-2", "1e-4", "1e-6"), (3, 8)
EXPECTED = {"separate-1": [1, 4, 9, 20], "separate-2": [2, 2, 7, 7], "separate-4": [3, 3, 3, 3], "merged-4": [0] * 4}
GAPS = {"separate-1": [0] * 4, "separate-2": [0, 2, 0, 5], "separate-4": [0, 1, 4, 9], "merged-4": [2] * 4}


def table():
    """What theory says, with times of order 1 late and losses a little off."""
    frames = []
    for seed in SEEDS:
        for kind in EXPECTED:
            key_query, rank = kind.split("-")
            for alpha in ALPHAS:
                size = -np.log(float(alpha))
                predicted = np.array(EXPECTED[kind]) / float(alpha) + size * np.array(GAPS[kind])
                frames.append(
                    pd.DataFrame(
                        {
                            "seed": seed,
                            "key_query": key_query,
                            "rank": int(rank),
                            "alpha": alpha,
                            "stage": range(5),
                            "level": LEVELS,
                            "loss": LEVELS + 1e-4 * np.array([-1, 1, 1, 1, 1]),
                            "predicted_time": np.append(np.nan, predicted),
                            "measured_time": np.append(np.nan, predicted + [3, 4, 6, 9]),
                            "directions": range(5),
                            "heads": [-(-k // int(rank)) for k in range(5)],
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True)


def where(rows, kind, **wanted):
    key_query, rank = kind.split("-")
    chosen = (rows["key_query"] == key_query) & (rows["rank"] == int(rank))
    for column, value in wanted.items():
        chosen &= rows[column] == value
    return chosen


def changed(kind, column, change, **wanted):
    """The table with one column changed in one problem, and in some of its rows."""
    rows = table()
    chosen = where(rows, kind, seed=8, **wanted)
    assert chosen.any()
    dtype = float if rows[column].dtype.kind == "f" else int
    rows.loc[chosen, column] = change(rows.loc[chosen, column].astype(dtype))
    return rows


def evaluated(rows, name):
    [entry] = [entry for entry in declared_claims() if entry.name == name]
    [claim] = evaluate([entry], {"linear_attention": rows.sample(frac=1, random_state=0)}, {}, {})
    return claim


LAST, FIRST = {"alpha": "1e-6"}, {"alpha": "1e-4"}
# For each claim: what refutes it, in one problem of the two.
CASES = {
    "linear_attention.levels": [
        ("separate-1", "loss", lambda loss: loss + 0.0003, {**LAST, "stage": 4}),  # of a fall of 0.02
        ("separate-1", "loss", lambda loss: loss * np.nan, {**LAST, "stage": 3}),
    ],
    "linear_attention.one_rank": [
        ("separate-1", "directions", lambda k: k + 1, {**LAST, "stage": 2}),
        ("separate-1", "heads", lambda k: k - 1, {**LAST, "stage": 4}),
    ],
    "linear_attention.jump_times": [
        ("separate-1", "measured_time", lambda time: 1.02 * time, {**LAST, "stage": 3}),
        ("separate-1", "measured_time", lambda time: time * np.nan, {**LAST, "stage": 4}),
    ],
    "linear_attention.times_within_a_head": [
        ("separate-4", "measured_time", lambda time: time - 0.6, {**FIRST, "stage": 1}),
        ("separate-4", "measured_time", lambda time: time * np.nan, {**LAST, "stage": 4}),
    ],
    "linear_attention.low_rank": [
        ("separate-2", "measured_time", lambda time: 2.6e6 + 0 * time, {**LAST, "stage": 2}),
        ("separate-2", "measured_time", lambda time: time * np.nan, {**LAST, "stage": 2}),
    ],
    "linear_attention.merged_at_once": [
        ("merged-4", "measured_time", lambda time: time + 1.0, {**LAST, "stage": 4}),
        ("merged-4", "measured_time", lambda time: time * np.nan, {**LAST, "stage": 4}),
    ],
    "linear_attention.merged_time": [
        ("merged-4", "measured_time", lambda time: time + 0.1, {**LAST, "stage": 1}),
        ("merged-4", "measured_time", lambda time: time * np.nan, {**LAST, "stage": 1}),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_what_theory_says_is_supported(name):
    claim = evaluated(table(), name)
    assert claim.verdict == "supported"
    assert claim.n.startswith("2 problems, α = 1e-")


@pytest.mark.parametrize(
    ("name", "kind", "column", "change", "wanted"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_one_problem_that_differs_refutes_a_claim(name, kind, column, change, wanted):
    assert evaluated(changed(kind, column, change, **wanted), name).verdict == "not supported"


@pytest.mark.parametrize("name", CASES)
def test_a_table_without_the_parametrisation_does_not_test_a_claim(name):
    rows = table()
    kind = CASES[name][0][0]
    claim = evaluated(rows[~where(rows, kind)], name)
    assert claim.verdict == "not tested" and "linear attention of this parametrisation" in claim.details


@pytest.mark.parametrize("name", [name for name in CASES if "within" in name or "merged" in name])
def test_growth_needs_two_init_scales(name):
    rows = table()
    assert evaluated(rows[rows["alpha"] == "1e-6"], name).verdict == "not tested"


@pytest.mark.parametrize("name", [name for name in CASES if "within" not in name and "merged" not in name])
def test_larger_init_scales_are_details_alone(name):
    kind, column, change, wanted = CASES[name][0]
    claim = evaluated(changed(kind, column, change, **{**wanted, "alpha": "1e-2"}), name)
    assert claim.verdict == "supported"
    assert [part.split(" ")[1] for part in claim.details.split(", ")] == ["(1e-2)", "(1e-4)", "(1e-6)"]
