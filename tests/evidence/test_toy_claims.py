import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.notation import log_alpha
from rank_increase.tables import SCHEMAS

TABLES = ("trajectory", "losses", "events", "stages", "theorem", "orbits", "perturbations", "returns", "conservation")
FLOW = {"weights": "diagonal", "method": "flow"}
VARIANTS = {
    "diagonal": FLOW | {"dim": 20, "step": 0.45},
    "large": FLOW | {"dim": 50, "step": 0.45},
    "full": FLOW | {"weights": "full", "step": 0.45},
    "gd": FLOW | {"method": "gd", "step": 0.4},
    "gd_half": FLOW | {"method": "gd", "step": 0.2},
    "gd_large": FLOW | {"method": "gd", "dim": 50, "step": 0.2},
}
SETTINGS = {"active": 0.01, "movement": 0.05, "speed": 0.01, "variants": VARIANTS}
TIME = np.linspace(0, 100, 201)
RUN, PROBLEM = ["variant", "alpha", "seed"], ["variant", "seed"]
ADDED = {"perturbations": ["assumption", "seed"]} | dict.fromkeys(("stages", "theorem", "orbits", "returns"), PROBLEM)
NOTHING = {name: pd.DataFrame(columns=[*ADDED.get(name, RUN), *SCHEMAS[name].names]) for name in TABLES}
DECLARED = {entry.name: entry for entry in declared_claims() if entry.module == "rank_increase.evidence.toy"}
SEEDS = range(17)


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


def problems(tables, seeds=SEEDS, variant=None):
    """The tables of one problem as those of several, which differ in nothing but their seed and maybe variant."""
    wanted = {} if variant is None else {"variant": variant}
    return {
        name: pd.concat([frame.assign(seed=seed, **wanted) for seed in seeds], ignore_index=True)
        for name, frame in tables.items()
    }


def joined(*several):
    return {name: pd.concat([tables[name] for tables in several], ignore_index=True) for name in several[0]}


def trajectory(*runs):
    return {"trajectory": pd.concat(runs)}


def drop(width, low=0.0, high=1.0, center=50):
    """A curve that goes from `high` to `low` around `center`, the faster the narrower."""
    return high - (high - low) / (1 + np.exp(-np.clip((TIME - center) / width, -500, 500)))


def losses(*pairs):
    runs = [
        {"variant": "diagonal", "alpha": alpha, "seed": 0, "rescaled_time": TIME, "loss": loss} for alpha, loss in pairs
    ]
    return {"losses": pd.concat(pd.DataFrame(run) for run in runs)}


def rises(*widths):
    return trajectory(*(run(alpha, drop(width, 1, 0)) for alpha, width in zip(("0.1", "0.01"), widths, strict=True)))


def late(constant, power=1.0):
    """Losses that fall from 1 to 0 at time 50 + constant / ln(1/alpha)^power, where Algorithm 1 says 50."""
    alphas, fine = ("1e-4", "1e-8", "1e-32"), np.linspace(0, 100, 20001)
    runs = [
        {"variant": "diagonal", "alpha": alpha, "seed": 0, "rescaled_time": fine,
         "loss": np.where(fine < 50 + constant / (-log_alpha(alpha)) ** power, 1.0, 0.0)}
        for alpha in alphas
    ]  # fmt: skip
    stage = {"variant": "diagonal", "seed": 0, "stage": 1, "predicted_time": 50.0, "loss": 0.0}
    return (
        {"losses": pd.concat(pd.DataFrame(run) for run in runs)}
        | rows("stages", stage)
        | rows("orbits", {"variant": "diagonal", "seed": 0, "stage": 1, "area": 90.0, "delay": 90.0})
    )


def theorem(alphas=("0.01", "1e-8", "1e-32"), seed=0, **columns):
    """Three stages at each alpha; `columns` are functions of ln(1/alpha) and the stage."""
    found = []
    for alpha in alphas:
        for stage in (1, 2, 3):
            base = {"measured_order": stage, "scaled_delay": 100.0 * stage, "distance": 0.0, "missing": 0, "extra": 0}
            changed = {name: column(-log_alpha(alpha), stage) for name, column in columns.items()}
            found.append({"variant": "diagonal", "seed": seed, "alpha": alpha, "stage": stage} | base | changed)
    return rows("theorem", *found)


def orbits(resolved_from=0.0):
    lines = ({"stage": k, "delay": 100.0 * k, "area": 1.0, "resolved_from": resolved_from} for k in (1, 2, 3))
    return rows("orbits", *({"variant": "diagonal", "seed": 0, **line} for line in lines))


def stages(**columns):
    base = {"variant": "diagonal", "seed": 0, "deactivated": 0}
    return rows("stages", *({**base, "stage": k, "predicted_time": 20.0 * k, **columns} for k in (1, 2, 3)))


def returns(assumption, distance, other=0.0):
    """Paths of both assumptions that end at these distances, the first of a few at `distance`."""
    lines = [
        {"variant": "diagonal", "seed": 0, "assumption": name, "stage": 1, "std": 0.05, "draw": draw,
         "end_distance": distance if name == assumption and not draw else other}
        for name in ("4.3", "4.4") for draw in range(3)
    ]  # fmt: skip
    return rows("returns", *lines)


def window(assumption, noise_on, end, movement=0.0, number=0, seed=0):
    """A window of 11 moments whose distance goes from 1 to `end`, and whose reference moves at a constant speed."""
    time = np.linspace(0, 10, 11)
    reference = movement * time / 10
    return [
        {"assumption": assumption, "seed": seed, "run": number, "noise_on": noise_on, "perturbed_at": 0.0,
         "relaxation": 0.7 if number else np.nan,
         "rescaled_time": t, "product": "KQ", "index": 0, "value": r + 1 + (end - 1) * t / 10, "reference": r}
        for t, r in zip(time, reference, strict=True)
    ]  # fmt: skip


def windows(assumption, returning, straying, crowded=3):
    """So many windows that return and that do not, and some that do not count, each for both choices of weights."""
    ends = [0.09] * returning + [0.2] * straying
    lines = []
    for number in range(len(ends) + crowded):
        end, movement = (ends[number], 0.0) if number < len(ends) else (1.0, 5.0)
        lines += window(assumption, "nonnegligible", end, movement, number)
        lines += window(assumption, "support", 0.01, movement, number)
    return rows("perturbations", *lines)


def drift(method, change, variant, seed=0, alpha="0.01"):
    line = {"variant": variant, "alpha": alpha, "seed": seed, "method": method, "product": "KQ"}
    return rows("conservation", {**line, "rescaled_time": 1.0, "change": change, "initial": 1.0})


def steps(change, half_change):
    return joined(drift("gd", change, "gd"), drift("gd", half_change, "gd_half"), drift("gd", 0.7, "gd_large"))


# For each claim: tables that support it, tables that refute it; those of one problem, or of all windows.
CASES = {
    "toy.loss_plateaus": (
        losses(("0.1", drop(20)), ("0.01", drop(5)), ("1e-4", drop(1))),
        losses(("0.1", drop(20)), ("0.01", drop(1)), ("1e-4", drop(5))),
    ),
    "toy.weight_plateaus": (rises(10, 1), rises(1, 10)),
    "theorem.limit_of_the_loss": (late(90.0), late(110.0)),
    "theorem.constants": (
        theorem(scaled_delay=lambda size, k: 100 * k + 50 / size) | orbits(),
        theorem(scaled_delay=lambda size, k: 100 * k + 200 / size) | orbits(),
    ),
    "theorem.order": (
        theorem(measured_order=lambda size, k: k if size > 20 else 4 - k),
        theorem(measured_order=lambda size, k: 4 - k if size > 20 else k),
    ),
    "theorem.distance": (
        theorem(distance=lambda size, k: 0.5 / size),
        theorem(distance=lambda size, k: 0.02 * (k == 2)),
    ),
    "theorem.one_coordinate": (
        theorem(missing=lambda size, k: int(size < 20)),
        theorem(extra=lambda size, k: int(size > 20 and k == 3)),
    ),
    "theorem.paper_scale": (
        theorem(("1e-32", "1e-300"), missing=lambda size, k: int(size > 100)),
        theorem(("1e-32", "1e-300"), missing=lambda size, k: int(size < 100)),
    ),
    "theorem.alpha_0": (
        theorem(missing=lambda size, k: int(size < 30)) | orbits(30.0),
        theorem(missing=lambda size, k: int(size < 30)) | orbits(10.0),
    ),
    "assumption_4_2.support": (stages(), stages(deactivated=1)),
    "assumption_4_3.limit": (returns("4.3", 1e-9), returns("4.3", 1e-3)),
    "assumption_4_4.limit": (returns("4.4", 1e-9), returns("4.4", np.inf)),
    "assumption_4_3.paper_test": (windows("plateaus", 17, 0), windows("plateaus", 17, 2)),
    "assumption_4_4.paper_test": (windows("activations", 30, 1), windows("activations", 16, 1)),
    "lemma_4_1.flow": (drift("flow", 0.005, "full"), drift("flow", 0.05, "full")),
    "lemma_4_1.descent": (steps(0.2, 0.1), steps(0.2, 0.05)),
}
WINDOWS = ("assumption_4_3.paper_test", "assumption_4_4.paper_test")
CASES = {name: tables if name in WINDOWS else tuple(map(problems, tables)) for name, tables in CASES.items()}
SHARES = [name for name in CASES if name not in WINDOWS]
OF_THE_LIMIT = ["toy.loss_plateaus", "toy.weight_plateaus", "theorem.limit_of_the_loss", "theorem.order"]
OF_THE_LIMIT += ["theorem.distance", "theorem.one_coordinate", "theorem.paper_scale", "assumption_4_2.support"]


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
    assert "problem" in supported.n


@pytest.mark.parametrize("name", CASES)
def test_a_claim_without_its_runs_is_not_tested_and_says_what_is_missing(name):
    claim = outcome({}, name)
    assert (claim.verdict, claim.n) == ("not tested", "none")
    assert claim.details


@pytest.mark.parametrize("name", SHARES)
def test_a_share_of_problems_is_the_lower_end_of_its_interval_and_names_the_others(name):
    good, bad = CASES[name]
    few = {key: frame[frame["seed"] < 16] for key, frame in good.items()}
    assert outcome(few, name).verdict == "not tested"
    assert outcome(few, name).details.endswith("it holds in 16 of the 16 of this study")
    mixed = joined(good, problems({key: frame[frame["seed"] == 0] for key, frame in bad.items()}, [30]))
    claim = outcome(mixed, name)
    expected = binomtest(17, 18).proportion_ci(0.95, "exact").low
    assert claim.value == pytest.approx(expected, rel=1e-6)
    variant = claim.details.split("not in ")[1].split(" seed")[0]
    assert claim.details.startswith(f"17 of 18, not in {variant} seed 30; ")
    assert outcome(good, name).value == pytest.approx(0.025 ** (1 / 17), rel=1e-6)
    assert outcome(bad, name).value == 0


@pytest.mark.parametrize("name", [name for name in SHARES if not name.startswith("lemma")])
def test_problems_of_all_variants_with_a_limit_count(name):
    good, _ = CASES[name]
    parts = [
        {key: frame[frame["seed"].isin(seeds)] for key, frame in good.items()} for seeds in (range(9), range(9, 17))
    ]
    claim = outcome(joined(parts[0], {key: frame.assign(variant="large") for key, frame in parts[1].items()}), name)
    assert claim.verdict == "supported"
    assert claim.n.startswith("17 problems (9 diagonal, 8 large)")


@pytest.mark.parametrize("variant", ["gd", "full"])
@pytest.mark.parametrize("name", OF_THE_LIMIT)
def test_runs_that_the_paper_gives_no_limit_do_not_count(name, variant):
    good, bad = CASES[name]
    both = {key: pd.concat([frame, bad[key].assign(variant=variant)]) for key, frame in good.items()}
    assert outcome(both, name).n.removesuffix(", α = 1e-32") == "17 problems (17 diagonal)"


def test_a_claim_about_the_limit_asks_the_smallest_alpha_that_enough_problems_share():
    wrong = theorem(("1e-300",), measured_order=lambda size, k: 4 - k)
    tables = joined(problems(theorem()), problems(wrong, range(5)))
    claim = outcome(tables, "theorem.order")
    assert (claim.verdict, claim.n) == ("supported", "17 problems (17 diagonal), α = 1e-32")
    assert "0 of 15 (1e-300)" not in claim.details and "5 of 15 (1e-300)" in claim.details
    assert outcome(joined(tables, problems(wrong, range(5, 17))), "theorem.order").verdict == "not supported"


def test_a_stage_that_does_not_come_is_not_in_order():
    missing = problems(theorem(measured_order=lambda size, k: None if k == 3 else k))
    assert outcome(missing, "theorem.order").value == 0


def test_plateaus_are_measured_in_true_time():
    """A curve that is the same over rescaled time moves 32 times as slowly in true time, at 1e-32 as at 0.1."""
    claim = outcome(problems(losses(("0.1", drop(5)), ("1e-32", drop(5)))), "toy.loss_plateaus")
    rate = np.abs(np.diff(drop(5)))
    shares = [(rate * unit < 0.01 * rate.max()).mean() for unit in (32, 1)]
    assert claim.verdict == "supported"
    assert claim.details.endswith(f"median share of time: {shares[0]:.3g} (0.1), {shares[1]:.3g} (1e-32)")


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_that_do_not_count_are_counted(name):
    claim = outcome(CASES[name][0], name)
    good, every = (17, 20) if "4_3" in name else (31, 34)
    assert claim.n == f"{good} of {every} windows in 1 problem (seed 0)"
    assert f"{good} of {good} with the noise on active weights alone; 3 more do not count" in claim.details
    # exp(-0.7 * 10) is below a tenth, and the first is before any stage.
    assert claim.details.endswith("1 are before the first stage, and in 0 the slowest mode keeps more than a tenth")
    tables = {"perturbations": CASES[name][0]["perturbations"].assign(relaxation=0.2)}
    assert f"and in {every} the slowest mode" in outcome(tables, name).details
    few = windows("plateaus" if "4_3" in name else "activations", 16, 0)
    assert outcome(few, name).verdict == "not tested"


def test_a_slope_needs_the_same_problem_at_two_steps():
    assert outcome(problems(drift("gd", 0.1, "gd")), "lemma_4_1.descent").verdict == "not tested"
    other = joined(drift("gd", 0.1, "gd"), drift("gd", 0.05, "gd_large"))  # of another dimension
    assert outcome(problems(other), "lemma_4_1.descent").verdict == "not tested"


def test_the_order_of_rows_and_types_of_columns_do_not_matter():
    for name, (supporting, _) in CASES.items():
        mixed = {table: frame.sample(frac=1, random_state=0) for table, frame in supporting.items()}
        for frame in mixed.values():
            for column in {"alpha", "variant", "product"} & set(frame):
                frame[column] = frame[column].astype("category")
        assert outcome(mixed, name).value == pytest.approx(outcome(supporting, name).value), name
