import numpy as np
import pandas as pd
import pytest

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.evidence.full_weights import passages
from rank_increase.notation import log_alpha
from test_toy_claims import NOTHING, rows

DECLARED = {entry.name: entry for entry in declared_claims() if entry.path.stem == "full_weights"}


SIZE = dict.fromkeys(("samples", "tokens", "dim", "teacher_std_KQ", "teacher_std_VO", "max_time"), 7)
OF_FLOW = {"method": "flow", "teacher": "diagonal", "layers": 0, "loss": "squared", "decay": 0.0, **SIZE}
VARIANTS = {
    "small": OF_FLOW | {"weights": "diagonal", "dim": 5},
    "diagonal_gd": OF_FLOW | {"weights": "diagonal", "method": "gd"},
    "diagonal": OF_FLOW | {"weights": "diagonal"},
    "full": OF_FLOW | {"weights": "full"},
    "full_dense": OF_FLOW | {"weights": "full", "teacher": "dense"},
}


def events(shares, variant, direction=1, seed=0):
    """Ten passages at each alpha, of which a share has all others ten times smaller, or nearly."""
    return [
        {"variant": variant, "alpha": alpha, "seed": seed, "direction": direction, "rescaled_time": number,
         "log_next": np.log(0.09 if number < 10 * share else 0.11), "log_next_own": -np.inf}
        for alpha, share in shares.items()
        for number in range(10)
    ]  # fmt: skip


def theorem(delay, variant="full", seed=0, alphas=("1e-4", "1e-8")):
    """Four stages at each alpha; `delay` is a function of ln(1/alpha) and the stage."""
    found = []
    for alpha in alphas:
        size = -log_alpha(alpha)
        for stage in (1, 2, 3, 4):
            late = delay(size, stage)
            found.append(
                {"variant": variant, "seed": seed, "alpha": alpha, "stage": stage, "predicted_time": 2.0 * stage,
                 "measured_time": 2.0 * stage + late, "scaled_delay": late * size}
            )  # fmt: skip
    return found


RISING, FLAT = {"0.01": 0.2, "1e-8": 1.0}, {"0.01": 0.9, "1e-8": 0.9}
CASES = {
    "full_weights.one_at_a_time": (rows("events", *events(RISING, "full")), rows("events", *events(FLAT, "full"))),
    "full_weights.dense.one_at_a_time": (
        rows("events", *events(RISING, "full_dense")),
        rows("events", *events(FLAT, "full_dense")),
    ),
    "full_weights.rises": (
        rows("events", *events(RISING, "full"), *events(RISING, "full_dense")),
        rows("events", *events(RISING, "full"), *events(FLAT, "full_dense")),
    ),
    "full_weights.as_diagonal": (
        rows("events", *events(RISING, "full"), *events({"1e-8": 1.0}, "diagonal")),
        rows("events", *events({"0.01": 0.8}, "full"), *events({"0.01": 1.0}, "diagonal")),
    ),
    "full_weights.stage_times": (
        rows("theorem", *theorem(lambda size, stage: stage / size)),
        rows("theorem", *theorem(lambda size, stage: stage)),
    ),
    "full_weights.order": (
        rows("theorem", *theorem(lambda size, stage: 0)),
        rows("theorem", *theorem(lambda size, stage: 5 * (stage == 1))),
    ),
}


def outcome(tables, name):
    (claim,) = evaluate([DECLARED[name]], NOTHING | tables, {"variants": VARIANTS}, {})
    return claim


def test_every_claim_has_a_case():
    assert list(CASES) == list(DECLARED)


@pytest.mark.parametrize("name", CASES)
def test_a_claim_is_supported_by_tables_that_support_it_and_refuted_by_others(name):
    supported, refuted = (outcome(tables, name) for tables in CASES[name])
    assert (supported.verdict, refuted.verdict) == ("supported", "not supported"), (supported, refuted)


@pytest.mark.parametrize("name", CASES)
def test_a_claim_without_its_runs_is_not_tested_and_says_what_is_missing(name):
    claim = outcome({}, name)
    assert (claim.verdict, claim.n) == ("not tested", "none")
    assert claim.details


def test_passages_are_counted_by_variant_and_scale_over_problems():
    found = passages(
        pd.DataFrame(
            [
                *events({"0.01": 0.2}, "full"),
                *events({"0.01": 0.4}, "full", seed=1),
                *events({"0.01": 1.0}, "full", direction=-1),
                *events({"0.01": 1.0}, "diagonal"),
            ]
        ),
        ["full"],
    )
    assert found.to_dict("index") == {("full", "0.01"): {"share": 0.3, "count": 20, "problems": 2}}


def test_the_smallest_scale_counts_and_all_are_told():
    claim = outcome(rows("events", *events({"1e-300": 1.0, "0.01": 0.0}, "full")), "full_weights.one_at_a_time")
    assert (claim.value, claim.n) == (1, "10 passages in 1 problems, α = 1e-300")
    assert claim.details == "full: 0 (0.01), 1 (1e-300)"


def test_diagonal_weights_of_another_size_or_training_are_no_measure():
    tables = [*events({"1e-8": 0.5}, "full"), *events({"1e-8": 1.0}, "small"), *events({"1e-8": 1.0}, "diagonal_gd")]
    assert outcome(rows("events", *tables), "full_weights.as_diagonal").verdict == "not tested"
    claim = outcome(rows("events", *tables, *events({"1e-8": 0.7}, "diagonal")), "full_weights.as_diagonal")
    assert claim.value == pytest.approx(-0.2)
    assert claim.details == "diagonal: 0.7 (1e-8); full: 0.5 (1e-8)"


def test_the_worst_problem_and_teacher_count():
    good, bad = (tables["theorem"] for tables in CASES["full_weights.stage_times"])
    for other in (bad.assign(seed=1), bad.assign(variant="full_dense")):
        assert outcome({"theorem": pd.concat([good, other])}, "full_weights.stage_times").verdict == "not supported"
        assert outcome({"theorem": pd.concat([other, good])}, "full_weights.stage_times").verdict == "not supported"
    assert outcome({"theorem": good.assign(variant="diagonal")}, "full_weights.stage_times").verdict == "not tested"


def test_the_delay_at_the_two_smallest_scales_is_compared():
    late = theorem(lambda size, stage: stage / size**0.5, alphas=("0.1", "1e-4", "1e-16"))
    assert outcome(rows("theorem", *late), "full_weights.stage_times").value == pytest.approx(2)


def test_a_stage_that_does_not_occur_comes_last_and_close_pairs_are_left_out():
    table = rows("theorem", *theorem(lambda size, stage: 0))["theorem"]
    table.loc[table["stage"] == 4, "measured_time"] = None
    assert outcome({"theorem": table}, "full_weights.order").value == 1
    table.loc[table["stage"] == 1, "measured_time"] = None
    assert outcome({"theorem": table}, "full_weights.order").value == pytest.approx(3 / 6)
    table.loc[table["stage"] == 2, "predicted_time"] = 2.5
    assert outcome({"theorem": table}, "full_weights.order").value == pytest.approx(3 / 5)
