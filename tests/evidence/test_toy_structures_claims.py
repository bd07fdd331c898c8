import numpy as np
import pandas as pd
import pytest

from rank_increase.evidence.claim import declared_claims, evaluate
from rank_increase.evidence.toy_structures import BLOCKS
from rank_increase.notation import log_alpha
from rank_increase.tables import SCHEMAS

DECLARED = {entry.name: entry for entry in declared_claims() if entry.module == "rank_increase.evidence.toy_structures"}
TABLES = ("trajectory", "losses", "events", "stages", "theorem")
KEYS = {"stages": ["variant", "seed"], "theorem": ["variant", "seed"]}
NOTHING = {
    name: pd.DataFrame(columns=[*KEYS.get(name, ["variant", "alpha", "seed"]), *SCHEMAS[name].names]) for name in TABLES
}
NAMES = ("heads", "layers", "identical_heads", "soft_labels", "hard_labels", "no_decay", "decay")
SETTINGS = {"variants": {name: {"max_time": 40.0, "decay": 0.01} for name in NAMES}}
SEEDS = range(20)
TIME = np.linspace(0, 40, 81)
ENTRIES = [(head, product, index) for head in range(2) for product in ("KQ", "VO") for index in range(2)]


def frame(table, rows):
    return pd.DataFrame(rows).reindex(columns=NOTHING[table].columns)


def stages(variant, seeds=SEEDS):
    """VO 0 of head 0 from 10, KQ 1 of head 1 from 20, VO 1 of head 1 from 30, at which VO 0 of head 0 leaves."""
    KQ = [[0.0] * 4, [0, 0, 0, -0.3], [0, 0, 0, -0.3]]
    VO = [[0.5, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 0.7]]
    place = [(0, "VO", 0), (1, "KQ", 1), (1, "VO", 1)]
    return frame(
        "stages",
        [
            {"variant": variant, "seed": seed, "stage": k + 1, "layer": 0, "head": head, "product": product,
             "index": index, "predicted_time": 10.0 * (k + 1), "KQ": KQ[k], "VO": VO[k]}
            for seed in seeds
            for k, (head, product, index) in enumerate(place)
        ],
    )  # fmt: skip


def trajectory(variant, rises, seeds=SEEDS, alpha="1e-8"):
    """Entries that are nonzero between two times: `rises` is a dict (head, product, index) -> (value, from, to)."""
    rows = []
    for head, product, index in ENTRIES:
        value, start, end = rises.get((head, product, index), (0.0, 0.0, 0.0))
        values = np.where((start <= TIME) & (end > TIME), value, 1e-9)
        rows.append(
            pd.DataFrame({"rescaled_time": TIME, "value": values, "head": head, "product": product, "index": index})
        )
    run = pd.concat(rows).assign(variant=variant, alpha=alpha, layer=0)
    return pd.concat([run.assign(seed=seed) for seed in seeds])


RIGHT = {(0, "VO", 0): (0.5, 10, 30), (1, "KQ", 1): (-0.3, 20, 99), (1, "VO", 1): (0.7, 30, 99)}
TWO_AT_ONCE = RIGHT | {(1, "KQ", 1): (-0.3, 12, 99)}
STAYS = RIGHT | {(0, "VO", 0): (0.5, 10, 99)}


def against_limit(variant, rises, seeds=SEEDS):
    return {"stages": stages(variant), "trajectory": trajectory(variant, rises, seeds)}


def events(variant, *places, seeds=SEEDS):
    rows = [
        {"variant": variant, "alpha": "1e-8", "seed": seed, "order": number, "layer": 0, "head": head,
         "product": product, "index": index, "direction": 1}
        for seed in seeds
        for number, (head, product, index) in enumerate(places)
    ]  # fmt: skip
    return frame("events", rows)


def losses(variant, alpha, curve):
    return pd.concat(
        pd.DataFrame({"variant": variant, "alpha": alpha, "seed": seed, "rescaled_time": TIME, "loss": curve})
        for seed in SEEDS
    )


def hard_losses(larger, smaller):
    """Losses at the larger and at the smaller of two init scales."""
    runs = [losses("hard_labels", "0.1", larger), losses("hard_labels", "1e-8", smaller)]
    return {"losses": pd.concat(runs)}


def growth(variant, curve):
    run = pd.DataFrame({"rescaled_time": TIME, "value": -curve, "head": 0, "layer": 0, "product": "VO", "index": 0})
    return pd.concat([run.assign(variant=variant, alpha="1e-8", seed=seed) for seed in SEEDS])


def growths(hard, soft):
    return {"trajectory": pd.concat([growth("hard_labels", hard), growth("soft_labels", soft)])}


def staircase(steps):
    """A loss that falls from 1 to 0 in sharp steps."""
    return 1 - (TIME[:, None] > np.linspace(0, 40, steps + 2)[1:-1]).mean(axis=1)


def first_stages(measured):
    rows = [
        {
            "variant": "decay",
            "alpha": "1e-8",
            "seed": seed,
            "stage": 1,
            "predicted_time": 100.0,
            "measured_time": measured,
        }
        for seed in SEEDS
    ]
    return {"theorem": frame("theorem", rows)}


def decayed(*places):
    """Runs in which three coordinates start without decay, and `places` with it."""
    first, second = (0, "VO", 0), (1, "KQ", 1)
    return {
        "events": pd.concat([events("no_decay", first, second, (0, "KQ", 0)), events("decay", *places)]),
        "stages": stages("decay"),
        "losses": pd.concat([losses(name, "1e-8", 0 * TIME) for name in ("no_decay", "decay")]),
    }


def of_blocks(delay, seeds=SEEDS, alphas=("1e-8", "1e-300")):
    """Three stages of problems with blocks of all sizes; `delay` is a function of ln(1/alpha) and the stage."""
    rows = [
        {"variant": BLOCKS[seed % 4], "alpha": alpha, "seed": seed, "stage": stage, "predicted_time": 2.0 * stage,
         "measured_time": 2.0 * stage + delay(size, stage), "scaled_delay": size * delay(size, stage)}
        for seed in seeds
        for alpha, size in ((alpha, -log_alpha(alpha)) for alpha in alphas)
        for stage in (1, 2, 3)
    ]  # fmt: skip
    return {"theorem": frame("theorem", rows)}


def late(stages, by):
    """Delays that are no longer at one alpha than at another, for some stages."""
    return lambda size, stage: by * (stage in stages)


CASES = {  # for each claim, tables that support it and tables that refute it
    "heads.one_rank": (against_limit("heads", STAYS), against_limit("heads", TWO_AT_ONCE)),
    "layers.one_rank": (against_limit("layers", STAYS), against_limit("layers", TWO_AT_ONCE)),
    **{
        f"{name}.support": (against_limit(variant, RIGHT), against_limit(variant, STAYS))
        for name, variant in {
            "heads": "heads", "layers": "layers", "losses.soft_labels": "soft_labels", "losses.decay": "decay"
        }.items()
    },
    "heads.identical_together": (
        {"events": events("identical_heads", (1, "VO", 0), (0, "VO", 0), (0, "KQ", 1))},
        {"events": events("identical_heads", (1, "VO", 0), (1, "VO", 1), (0, "VO", 0))},
    ),
    "losses.hard_labels.diverge": (
        growths(20 * np.log(1 + TIME), 1 - np.exp(-TIME)),
        growths(20 * (1 - np.exp(-TIME)), 1 - np.exp(-TIME)),
    ),
    "losses.hard_labels.plateaus": (
        hard_losses(1 - TIME / 40, staircase(3)),
        hard_losses(staircase(3), staircase(3)),
    ),
    # At 1 / (|g| - 0.01) = 100, |g| is 0.02: without decay 50, so that 5 is a tenth of the delay.
    "losses.decay.first_stage": (first_stages(104.0), first_stages(106.0)),
    "blocks.first_stage": (
        of_blocks(lambda size, stage: 3 / size if stage == 1 else 1.0),
        of_blocks(late([1], 0.1)),
    ),
    "blocks.order": (of_blocks(late([1], 1.9)), of_blocks(late([1], 2.1))),
    "losses.decay.never": (decayed((0, "VO", 0)), decayed((0, "VO", 0), (0, "KQ", 0))),
}  # fmt: skip


def outcome(tables, name):
    (claim,) = evaluate([DECLARED[name]], NOTHING | tables, SETTINGS, {})
    return claim


def test_every_claim_has_a_case():
    assert set(CASES) == set(DECLARED)


@pytest.mark.parametrize("name", CASES)
def test_a_claim_is_supported_by_tables_that_support_it_and_refuted_by_others(name):
    supported, refuted = (outcome(tables, name) for tables in CASES[name])
    assert (supported.verdict, refuted.verdict) == ("supported", "not supported"), (supported, refuted)
    assert "20 problems" in supported.n


@pytest.mark.parametrize("name", CASES)
def test_a_claim_without_its_runs_is_not_tested_and_says_what_is_missing(name):
    claim = outcome({}, name)
    assert (claim.verdict, claim.n) == ("not tested", "none")
    assert claim.details


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_rows_and_types_of_columns_do_not_matter(name):
    mixed = {table: rows.sample(frac=1, random_state=0) for table, rows in CASES[name][0].items()}
    for rows in mixed.values():
        for column in {"alpha", "variant", "product"} & set(rows):
            rows[column] = rows[column].astype("category")
    assert outcome(mixed, name).value == pytest.approx(outcome(CASES[name][0], name).value)


@pytest.mark.parametrize(("wrong", "verdict"), [(5, "supported"), (6, "not supported")])
def test_a_share_of_problems_is_claimed_if_it_is_surely_above_a_half(wrong, verdict):
    # The 95 % interval of 15 of 20 begins at 0.509, that of 14 of 20 at 0.457.
    runs = [trajectory("heads", STAYS, range(wrong)), trajectory("heads", RIGHT, range(wrong, 20))]
    claim = outcome({"stages": stages("heads"), "trajectory": pd.concat(runs)}, "heads.support")
    assert claim.verdict == verdict
    assert claim.value == pytest.approx({5: 0.50895, 6: 0.45721}[wrong], abs=1e-4)
    assert claim.n == f"{20 - wrong} of 20 problems, α = 1e-8"
    assert claim.details == f"α = 1e-8: {20 - wrong} of 20 problems, {60 - wrong} of 60 stages"


def test_only_the_smallest_alpha_counts_and_the_others_are_told():
    runs = [trajectory("heads", STAYS, alpha="0.01"), trajectory("heads", RIGHT)]
    claim = outcome({"stages": stages("heads"), "trajectory": pd.concat(runs)}, "heads.support")
    assert claim.verdict == "supported"
    assert claim.details == (
        "α = 0.01: 0 of 20 problems, 40 of 60 stages; α = 1e-8: 20 of 20 problems, 60 of 60 stages"
    )


def test_a_problem_without_a_stage_is_told():
    tables = {"stages": stages("decay", range(18)), "trajectory": trajectory("decay", RIGHT)}
    claim = outcome(tables, "losses.decay.support")
    assert claim.n.startswith("18 of 18 problems")
    assert claim.details.endswith("; 2 problems have no stage")


def test_heads_that_are_told_apart_are_compared_with_identical_ones():
    apart = events("heads", (1, "VO", 0), (1, "VO", 1))
    tables = {"events": pd.concat([CASES["heads.identical_together"][0]["events"], apart])}
    claim = outcome(tables, "heads.identical_together")
    assert claim.details == "with heads told apart by fixed biases: 0 of 20 problems, α = 1e-8"


def test_products_that_grow_like_those_with_soft_labels_do_not_diverge():
    curve = np.log(1 + TIME)
    assert outcome(growths(curve, curve / 9), "losses.hard_labels.diverge").verdict == "not supported"
    assert outcome(growths(curve, curve / 11), "losses.hard_labels.diverge").verdict == "supported"


def test_a_first_stage_that_is_never_measured_refutes_its_time():
    claim = outcome(first_stages(np.nan), "losses.decay.first_stage")
    assert (claim.verdict, claim.value) == ("not supported", 0)


@pytest.mark.parametrize(("change", "right"), [(0.09, 20), (0.12, 0)])
def test_the_constant_of_the_first_stage_may_change_by_a_tenth(change, right):
    claim = outcome(of_blocks(lambda size, stage: (3 - 3 * change * (size < 20)) / size), "blocks.first_stage")
    assert claim.n == f"{right} of 20 problems"
    sizes = ", ".join(f"{name}: {right // 4} of 5" for name in BLOCKS)
    assert claim.details == f"change of C, median {change}; {sizes}"


def test_a_first_stage_of_blocks_at_one_alpha_is_not_tested():
    assert outcome(of_blocks(late([1], 0.1), alphas=["1e-8"]), "blocks.first_stage").verdict == "not tested"


def test_the_order_of_blocks_is_that_at_the_smallest_alpha_of_stages_well_apart():
    swapped = of_blocks(lambda size, stage: 5.0 * (stage == 1) * (size < 20))
    assert outcome(swapped, "blocks.order").n == "20 of 20 problems"
    table = of_blocks(late([1], 5.0))["theorem"]
    close = {"theorem": table.assign(predicted_time=table["predicted_time"] / 2.1)}
    assert outcome(close, "blocks.order").details.startswith("20 pairs of stages")
    missing = {"theorem": table.assign(measured_time=table["measured_time"].where(table["stage"] > 1))}
    assert outcome(missing, "blocks.order").n == "0 of 20 problems"
