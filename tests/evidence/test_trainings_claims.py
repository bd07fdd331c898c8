import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.evidence.trainings import share_alone
from rank_increase.tables import SCHEMAS

DECLARED = {entry.name: entry for entry in declared_claims() if entry.module == "rank_increase.evidence.trainings"}
ADDED = {"stages": ["variant", "seed"]}
NOTHING = {
    name: pd.DataFrame(columns=[*ADDED.get(name, ["variant", "alpha", "seed"]), *SCHEMAS[name].names])
    for name in ("trajectory", "losses", "events", "stages")
}
VARIANTS = {
    name: {"weights": "full" if "full" in name else "diagonal", "dim": 5, "method": method, "step": step} | options
    for name, method, step, options in (
        ("flow", "flow", 0.45, {}),
        ("other", "flow", 0.45, {"dim": 6}),  # other problems
        ("gd", "gd", 0.5, {}),
        ("gd_long", "gd", 2.0, {}),
        ("sgd", "sgd", 0.5, {"batch_size": 20}),
        ("sgd_small", "sgd", 0.5, {"batch_size": 2}),
        ("adam", "adam", 0.1, {"eps": 1e-8}),
        ("sign", "sign", 0.1, {}),
        ("muon", "muon", 0.1, {}),
        ("full", "flow", 0.45, {}),
        ("full_muon", "muon", 0.1, {}),
    )
}
SETTINGS = {"active": 0.01, "variants": VARIANTS}
SEEDS = range(17)
TIME = np.linspace(0, 40, 81)


def table(name, rows, seeds=SEEDS):
    """The rows, dicts, for each seed; the first problems may have others, by a function of the seed."""
    rows = rows if callable(rows) else lambda seed, rows=rows: rows
    found = pd.DataFrame([{"seed": seed, **row} for seed in seeds for row in rows(seed)])
    return {name: found.reindex(columns=NOTHING[name].columns)}


STAGES = table(
    "stages", [{"variant": v, "stage": k, "predicted_time": 10.0 * k, "loss": 1 - k / 3}
               for v in ("flow", "other") for k in (1, 2, 3)]
)  # fmt: skip


def first_events(delay, wrong=()):
    """First activations; `delay` is a function of alpha and the step, `wrong` are seeds of runs without a delay."""

    def rows(seed):
        for alpha, of_flow in (("1e-8", 8.0), ("1e-300", 9.9)):
            yield {"variant": "flow", "alpha": alpha, "rescaled_time": of_flow, "direction": 1}
            yield {"variant": "other", "alpha": alpha, "rescaled_time": 1.0, "direction": 1}
            for variant in ("gd", "gd_long"):
                late = 0.0 if seed in wrong else delay(alpha, VARIANTS[variant]["step"], of_flow)
                yield {"variant": variant, "alpha": alpha, "rescaled_time": of_flow + late, "direction": 1}
                yield {"variant": variant, "alpha": alpha, "rescaled_time": 0.1, "direction": -1}

    return STAGES | table("events", lambda seed: list(rows(seed)))


def law(alpha, step, of_flow):
    """Growth by 1 + step / 10 a step, where the flow grows by exp(step / 10)."""
    return of_flow * (step / 10 / np.log(1 + step / 10) - 1)


def vanishing(alpha, step, of_flow):
    return step / {"1e-8": 1, "1e-300": 300 / 8}[alpha]


def ordered(of_sgd, of_small):
    orders = {"flow": [0, 1, 2, 3, 4], "sgd": of_sgd, "sgd_small": of_small}
    return table(
        "events",
        [{"variant": variant, "alpha": "1e-8", "order": place, "product": "KQ", "index": index, "direction": 1,
          "rescaled_time": float(place)} for variant, order in orders.items() for place, index in enumerate(order)],
    )  # fmt: skip


def curves(**heights):
    """Losses that lie above the staircase 1, 2/3, 1/3, 0 by these amounts."""
    staircase = 1 - np.searchsorted([10, 20, 30], TIME, side="right") / 3
    return STAGES | table(
        "losses",
        [{"variant": variant, "alpha": "1e-8", "rescaled_time": t, "loss": loss + height * (t > 0)}
         for variant, height in heights.items() for t, loss in zip(TIME, staircase, strict=True)],
    )  # fmt: skip


def growing(**rates):
    """Entries of W_V W_O^T that grow at these rates from 1e-16 until they are 1."""
    return table(
        "trajectory",
        [{"variant": variant, "alpha": "1e-8", "product": "VO", "index": index, "rescaled_time": t,
          "value": -min(1.0, 1e-16 * np.exp(rate * t))}
         for variant, of_variant in rates.items() for index, rate in enumerate(of_variant) for t in TIME],
    )  # fmt: skip


APART, CLOSE = [4.0, 2.0, 1.0], [4.0, 3.9, 3.8]


def falling(**starts):
    """Losses that fall linearly from 1 to 0 from these times on, over ten units."""
    return table(
        "losses",
        [{"variant": variant, "alpha": "1e-8", "rescaled_time": t, "loss": min(1.0, max(0.0, 1 - (t - start) / 10))}
         for variant, start in starts.items() for t in TIME],
    )  # fmt: skip


# For each claim: tables that support it, tables that refute it.
CASES = {
    "trainings.gd.first_stage": (first_events(law), first_events(law, wrong=[3])),
    "trainings.gd.limit": (first_events(lambda a, step, t: step / 2), first_events(vanishing)),
    "trainings.sgd.order": (ordered([4, 3, 2, 1, 0], [0, 1, 2, 4, 3]), ordered([0, 1, 2, 3, 4], [1, 0, 2, 4, 3])),
    "trainings.sgd.stages": (
        curves(flow=0.1, sgd=1.0, sgd_small=0.19), curves(flow=0.1, sgd=0.1, sgd_small=0.21)
    ),
    **{
        f"trainings.{method}.together": (
            growing(flow=APART, **{method: CLOSE}), growing(flow=APART, **{method: APART})
        )
        for method in ("adam", "sign", "muon")
    },
    "trainings.muon.full_together": (
        growing(full=APART, full_muon=CLOSE, flow=CLOSE, muon=APART),
        growing(full=APART, full_muon=APART, flow=APART, muon=CLOSE),
    ),
    # Halfway down, at times 15 and 30, one value is large under the flow (stable rank 1), and three under Muon.
    "trainings.muon.stable_rank": (
        growing(full=[4.0, 2.0, 1.0], full_muon=[4.0, 4.0, 4.0]) | falling(full=5, full_muon=25),
        growing(full=[4.0, 3.9, 3.8], full_muon=[4.0, 4.0, 4.0]) | falling(full=5, full_muon=25),
    ),
}  # fmt: skip


def outcome(tables, name, settings=SETTINGS):
    (claim,) = evaluate([DECLARED[name]], NOTHING | tables, settings, {})
    return claim


def test_every_claim_has_a_case():
    assert list(CASES) == list(DECLARED)


@pytest.mark.parametrize("name", CASES)
def test_a_claim_is_supported_by_tables_that_support_it_and_refuted_by_others(name):
    supporting, refuting = CASES[name]
    supported, refuted = outcome(supporting, name), outcome(refuting, name)
    assert (supported.verdict, refuted.verdict) == ("supported", "not supported"), (supported, refuted)
    assert supported.n == "17 of 17 problems"
    assert supported.value == pytest.approx(binomtest(17, 17).proportion_ci(0.95, "exact").low)


@pytest.mark.parametrize("name", CASES)
def test_a_claim_without_its_runs_or_with_too_few_problems_is_not_tested_and_says_what_is_missing(name):
    assert outcome({}, name).verdict == "not tested"
    assert "of the same problems" in outcome({}, name).details or "two init scales" in outcome({}, name).details
    few = {table: rows[rows["seed"] < 16] for table, rows in CASES[name][0].items()}
    assert (outcome(few, name).verdict, outcome(few, name).details) == ("not tested", "17 problems (16 here)")


@pytest.mark.parametrize("name", CASES)
def test_runs_of_other_problems_are_not_compared(name):
    others = {
        variant: settings | ({"dim": 7} if settings["method"] == "flow" else {})
        for variant, settings in VARIANTS.items()
    }
    assert outcome(CASES[name][0], name, SETTINGS | {"variants": others}).verdict == "not tested"


@given(st.one_of(st.floats(1.1, 9.9), st.floats(10.1, 1e6)), st.integers(2, 6))
def test_entries_pass_alone_if_those_after_them_are_ten_times_smaller(ratio, entries):
    values = 1e-6 * np.outer(np.exp(TIME), ratio ** -np.arange(entries))
    passed = (values[-1] > 1).sum()
    alone = (np.arange(passed) == entries - 1) | (ratio > 10)
    assert share_alone(values, 1.0) == pytest.approx(alone.mean())


def test_no_entry_that_passes_has_no_share():
    assert np.isnan(share_alone(np.full((5, 2), 1e-3), 1.0))


@pytest.mark.parametrize("name", ["trainings.gd.first_stage", "trainings.gd.limit"])
def test_a_run_of_gradient_descent_without_a_stage_counts_against_the_claim(name):
    tables = CASES[name][0]
    events = tables["events"]
    stays = (events["variant"] == "gd_long") & (events["alpha"] == "1e-300") & (events["seed"] == 5)
    claim = outcome(tables | {"events": events[~stays]}, name)
    assert (claim.verdict, claim.n) == ("not supported", "16 of 17 problems")


@pytest.mark.parametrize("name", [name for name, (tables, _) in CASES.items() if "trajectory" in tables])
def test_runs_with_layers_and_heads_stand_beside_those_of_a_claim(name):
    """Their entries have the same product and index in each head."""
    tables = CASES[name][0]
    rows = tables["trajectory"].assign(layer=0, head=0)
    first = rows[(rows["variant"] == rows["variant"].iloc[0]) & (rows["seed"] == 0)]
    heads = pd.concat([first.assign(variant="heads", head=head) for head in (0, 1)])
    found = outcome(tables | {"trajectory": pd.concat([rows, heads], ignore_index=True)}, name)
    assert found == outcome(tables, name)
