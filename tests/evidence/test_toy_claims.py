import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.evidence.toy import next_largest
from rank_increase.notation import log_alpha
from rank_increase.tables import SCHEMAS

TABLES = ("trajectory", "losses", "events", "stages", "theorem", "perturbations", "conservation")
SETTINGS = {"active": 0.01, "max_time": 100.0, "movement": 0.05, "speed": 0.01}
TIME = np.linspace(0, 100, 201)
ADDED = {"stages": ["variant", "seed"], "theorem": ["variant", "seed"], "perturbations": ["assumption", "seed"]}
RUN = ["variant", "alpha", "seed"]
NOTHING = {name: pd.DataFrame(columns=[*ADDED.get(name, RUN), *SCHEMAS[name].names]) for name in TABLES}
DECLARED = {entry.name: entry for entry in declared_claims() if entry.module == "rank_increase.evidence.toy"}


def rows(table, *dictionaries):
    """A table of these rows, with nothing in the columns that they do not mention."""
    frame = pd.DataFrame(list(dictionaries))
    return {table: frame.reindex(columns=NOTHING[table].columns)}


def run(alpha, values, variant="diagonal", seed=0):
    """A run with the given entries of W_K W_Q^T, shape (records, entries), over TIME."""
    values = np.asarray(values, float).reshape(len(TIME), -1)
    return pd.concat(
        pd.DataFrame(
            {"variant": variant, "alpha": alpha, "seed": seed, "rescaled_time": TIME,
             "product": "KQ", "index": index, "value": column}
        )
        for index, column in enumerate(values.T)
    )  # fmt: skip


def trajectory(*runs):
    return {"trajectory": pd.concat(runs)}


def drop(width, low=0.0, high=1.0, center=50):
    """A curve that goes from `high` to `low` around `center`, the faster the narrower."""
    return high - (high - low) / (1 + np.exp(-np.clip((TIME - center) / width, -500, 500)))


def losses(*pairs, seed=0):
    runs = [
        {"variant": "diagonal", "alpha": alpha, "seed": seed, "rescaled_time": TIME, "loss": loss}
        for alpha, loss in pairs
    ]
    return {"losses": pd.concat(pd.DataFrame(run) for run in runs)}


def rises(*widths):
    return trajectory(*(run(alpha, drop(width, 1, 0)) for alpha, width in zip(("0.1", "0.01"), widths, strict=True)))


def theorem(delay, distance=0.1, order=None, alphas=("0.01", "1e-4", "1e-8"), seed=0):
    """Three stages at each alpha; `delay`, `distance` and `order` are functions of ln(1/alpha) and the stage."""
    found = []
    for alpha in alphas:
        size = -log_alpha(alpha)
        for stage in (1, 2, 3):
            late = delay(size, stage)
            found.append(
                {"variant": "diagonal", "seed": seed, "alpha": alpha, "stage": stage, "predicted_time": 20.0 * stage,
                 "measured_time": 20.0 * stage + late, "measured_order": order(size, stage) if order else stage,
                 "scaled_delay": late * size, "distance": distance(size) if callable(distance) else distance}
            )  # fmt: skip
    return rows("theorem", *found)


def stages(**columns):
    base = {"variant": "diagonal", "seed": 0, "deactivated": 0, "curvature": 0.1, "gap_to_next": 1.0}
    return rows("stages", *({**base, "stage": k, "predicted_time": 20.0 * k, **columns} for k in (1, 2, 3)))


def events(times, alpha="1e-8"):
    return rows("events", *({"variant": "diagonal", "alpha": alpha, "seed": 0, "rescaled_time": time, "direction": 1}
                            for time in times))  # fmt: skip


def window(assumption, noise_on, end, movement=0.0, number=0, seed=0):
    """A window of 11 moments whose distance goes from 1 to `end`, and whose reference moves at a constant speed."""
    time = np.linspace(0, 10, 11)
    reference = movement * time / 10
    return [
        {"assumption": assumption, "seed": seed, "run": number, "noise_on": noise_on, "perturbed_at": 0.0,
         "rescaled_time": t, "product": "KQ", "index": 0, "value": r + 1 + (end - 1) * t / 10, "reference": r}
        for t, r in zip(time, reference, strict=True)
    ]  # fmt: skip


def windows(assumption, noise_on, *ends, crowded=1.0):
    """Windows that end at these distances, and one that does not count."""
    speed = 5.0  # beyond what counts for either assumption
    lines = [line for number, end in enumerate(ends) for line in window(assumption, noise_on, end, 0.0, number)]
    return rows("perturbations", *lines, *window(assumption, noise_on, crowded, speed, len(ends)))


def drift(method, change, variant="s", seed=0):
    line = {"variant": variant, "alpha": "0.01", "seed": seed, "method": method, "product": "KQ"}
    return rows("conservation", {**line, "rescaled_time": 1.0, "change": change, "initial": 1.0, "size": 10.0})


def exponential(rates, alpha, variant):
    """Entries that grow from alpha at these rates until they are 1."""
    return run(alpha, np.minimum(1, float(alpha) * np.exp(np.outer(TIME, rates))), variant=variant)


# For each claim: tables that support it, tables that refute it.
CASES = {
    "toy.loss_plateaus": (
        losses(("0.1", drop(20)), ("0.01", drop(5)), ("1e-4", drop(1))),
        losses(("0.1", drop(20)), ("0.01", drop(1)), ("1e-4", drop(5))),
    ),
    "toy.weight_plateaus": (rises(10, 1), rises(1, 10)),
    "toy.neighbours": (
        losses(("0.1", 0 * TIME), ("0.01", 0 * TIME + 1), ("1e-4", 0 * TIME + 1.5)),
        losses(("0.1", 0 * TIME), ("0.01", 0 * TIME + 1), ("1e-4", 0 * TIME + 2.5)),
    ),
    "toy.one_limit": (
        losses(("0.1", 0 * TIME), ("0.01", 0 * TIME + 1), ("1e-4", 0 * TIME + 1.5)),
        losses(("0.1", 0 * TIME), ("0.01", 0 * TIME - 1), ("1e-4", 0 * TIME + 1.5)),
    ),
    "theorem.stage_times": (
        theorem(lambda size, stage: stage / size),
        theorem(lambda size, stage: stage / size**2),
    ),
    "theorem.constant_delay": (
        theorem(lambda size, stage: stage / size + stage / size**4),
        theorem(lambda size, stage: stage / size**0.5),
    ),
    "theorem.order": (
        theorem(lambda size, stage: 0, order=lambda size, stage: stage if size > 10 else 4 - stage),
        theorem(lambda size, stage: 0, order=lambda size, stage: 4 - stage if size > 10 else stage),
    ),
    "theorem.distance": (
        theorem(lambda size, stage: 0, lambda size: 1 / size),
        theorem(lambda size, stage: 0, lambda size: 1 / size if size < 10 else 1),
    ),
    "theorem.one_coordinate": (stages() | events([21, 39, 62]), stages() | events([21, 28, 62])),
    "assumption_4_2.unique": (stages(gap_to_next=0.01), stages(gap_to_next=0.0)),
    "assumption_4_2.support": (stages() | events([1]), stages(deactivated=1) | events([1])),
    "assumption_4_3.minima": (stages(curvature=0.01), stages(curvature=-0.01)),
    **{
        f"assumption_4_{number}.{suffix}": (
            windows(assumption, noise_on, 0.01, 0.09),
            windows(assumption, noise_on, 0.01, 0.2, crowded=0.01),
        )
        for number, assumption in ((3, "plateaus"), (4, "activations"))
        for suffix, noise_on in (("support", "support"), ("paper_test", "nonnegligible"))
    },
    "lemma_4_1.flow": (drift("flow", 0.05), drift("flow", 0.5)),
    "lemma_4_1.descent": (drift("sgd", 0.05), drift("gd", 0.5)),
    **{
        f"toy.{variant}.one_at_a_time": (
            trajectory(exponential([0.5, 0.2, 0.05], "1e-4", variant)),
            trajectory(exponential([0.5, 0.4, 0.3], "1e-4", variant)),
        )
        for variant in ("diagonal", "full", "full_dense")
    },
}


def outcome(tables, name):
    (claim,) = evaluate([DECLARED[name]], NOTHING | tables, SETTINGS, {})
    return claim


def test_every_claim_has_a_case():
    assert list(CASES) == list(DECLARED)


@pytest.mark.parametrize("name", CASES)
def test_a_claim_is_supported_by_tables_that_support_it_and_refuted_by_others(name):
    supporting, refuting = CASES[name]
    supported, refuted = outcome(supporting, name), outcome(refuting, name)
    assert (supported.verdict, refuted.verdict) == ("supported", "not supported"), (supported, refuted)
    assert "1 problem" in supported.n


@pytest.mark.parametrize("name", CASES)
def test_a_claim_without_its_runs_is_not_tested_and_says_what_is_missing(name):
    claim = outcome({}, name)
    assert (claim.verdict, claim.n) == ("not tested", "none")
    assert claim.details


def test_the_worst_problem_counts():
    good, bad = CASES["theorem.distance"]
    both = pd.concat([good["theorem"], bad["theorem"].assign(seed=1)])
    assert outcome({"theorem": both}, "theorem.distance").verdict == "not supported"
    assert outcome({"theorem": both}, "theorem.distance").n.startswith("2 problems")


@pytest.mark.parametrize("name", ["toy.loss_plateaus", "toy.neighbours", "toy.one_limit", "toy.weight_plateaus"])
def test_one_problem_that_refutes_is_enough(name):
    (table,) = DECLARED[name].details["tables"]
    good, bad = (tables[table] for tables in CASES[name])
    assert outcome({table: pd.concat([good, bad.assign(seed=1)])}, name).verdict == "not supported"
    assert outcome({table: pd.concat([bad, good.assign(seed=1)])}, name).verdict == "not supported"


def test_a_coordinate_that_leaves_is_none_that_becomes_active():
    tables = CASES["theorem.one_coordinate"][0]
    leaving = tables["events"].assign(direction=-1)
    found = outcome(tables | {"events": pd.concat([tables["events"], leaving])}, "theorem.one_coordinate")
    assert found.verdict == "supported"


def test_stages_after_the_first_exchange_are_in_no_order():
    exchanged = theorem(lambda size, stage: 0, order=lambda size, stage: {1: 2, 2: 1, 3: 3}[stage])
    assert outcome(exchanged, "theorem.order").value == 0
    late = theorem(lambda size, stage: 0, order=lambda size, stage: min(stage, 2))
    assert outcome(late, "theorem.order").value == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["assumption_4_3.support", "assumption_4_4.paper_test"])
def test_windows_that_do_not_count_are_counted_as_untested(name):
    claim = outcome(CASES[name][0], name)
    assert claim.n.startswith("2 of 3 windows") and claim.n.endswith("1 not tested")
    assert claim.value == pytest.approx(0.09)
    assert claim.details == "ratios of the windows that count: 0.01, 0.09; of those that do not: 1"
    assumption, noise_on = ("plateaus", "support") if "4_3" in name else ("activations", "nonnegligible")
    assert outcome(windows(assumption, noise_on), name).verdict == "not tested"


def test_a_claim_about_the_limit_asks_the_smallest_alpha_alone():
    early = theorem(lambda size, stage: 0, order=lambda size, stage: 4 - stage, alphas=["0.01"])
    late = theorem(lambda size, stage: 0, alphas=["1e-3000"], seed=1)
    claim = outcome({"theorem": pd.concat([early["theorem"], late["theorem"]])}, "theorem.order")
    assert (claim.verdict, claim.n) == ("supported", "3 stages of 1 problem (seed 1), α = 1e-3000")
    assert claim.details == "seed 0: 0 (0.01); seed 1: 1 (1e-3000)"


def test_distances_that_have_reached_zero_do_not_grow():
    zero_from = {size: theorem(lambda size, stage: 0, lambda s, size=size: float(s < size)) for size in (1, 10)}
    assert outcome(zero_from[1], "theorem.distance").value == 0
    assert outcome(zero_from[10], "theorem.distance").value == 1
    back = theorem(lambda size, stage: 0, lambda size: float(size > 10))
    assert outcome(back, "theorem.distance").value == np.inf


def test_stages_that_do_not_occur_have_no_delay():
    tables = theorem(lambda size, stage: stage / size)
    tables["theorem"].loc[tables["theorem"]["alpha"] == "0.01", "measured_time"] = None
    assert outcome(tables, "theorem.stage_times").details == "seed 0: slope -1.000"
    tables["theorem"]["measured_time"] = None
    assert outcome(tables, "theorem.stage_times").verdict == "not tested"


def test_crowded_stages_are_explained():
    claim = outcome(CASES["theorem.one_coordinate"][1], "theorem.one_coordinate")
    assert claim.value == 2
    assert claim.details.endswith("those with more have another predicted within 20")


@given(st.floats(1.1, 1e6), st.integers(2, 6))
def test_the_next_largest_is_found_at_the_moment_of_passage(ratio, entries):
    # Entries that grow at the same rate keep their ratios.
    values = np.outer(np.exp(TIME / 2), ratio ** -np.arange(entries))
    ratios = next_largest(run("0.1", 1e-6 * values), active=1.0)
    passed = (1e-6 * values[-1] > 1).sum()
    assert len(ratios) == passed
    expected = [1 / ratio] * (passed - 1) + [1 / ratio if passed < entries else 0.0]
    np.testing.assert_allclose(ratios[:passed], expected, rtol=1e-6)


def test_the_order_of_rows_and_types_of_columns_do_not_matter():
    for name, (supporting, _) in CASES.items():
        mixed = {table: frame.sample(frac=1, random_state=0) for table, frame in supporting.items()}
        for frame in mixed.values():
            for column in {"alpha", "variant", "product"} & set(frame):
                frame[column] = frame[column].astype("category")
        assert outcome(mixed, name).value == pytest.approx(outcome(supporting, name).value), name
