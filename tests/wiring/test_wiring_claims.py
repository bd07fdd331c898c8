"""Every claim, computed again from the tables in plain loops: of the study, and of tables that may say anything."""

import math
import operator
import re
from itertools import pairwise
from itertools import product as product_of

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from scripts.evidence import check_claims
from wired import LINEAR_ATTENTION_TABLES, NETWORK_TABLES, TOY_TABLES

# As the claims are declared, and tests/data/wired.yaml says.
SLOW, EXPONENT, DELAY, ZERO, RETURN, FLOW_DRIFT = 0.1, 0.5, 0.1, 1e-6, 0.1, 0.01
DESCENT_DRIFT, ONE_AT_A_TIME, RANK_RATIO, CORRELATION = 0.1, 0.5, 0.5, 0.5
MAX_TIME, ACTIVE, MOVEMENT, SPEED, SCALE = 120, 0.2**2, 0.05, 0.05 / 5.0, "1"
CRITERIA = {
    "toy.loss_plateaus": (">", 0),
    "toy.weight_plateaus": (">", 0),
    "toy.neighbours": ("<", 1),
    "toy.one_limit": ("<", 1),
    "theorem.stage_times": ("<", EXPONENT),
    "theorem.constant_delay": ("<", DELAY),
    "theorem.order": (">=", 1),
    "theorem.distance": ("<", 1),
    "theorem.one_coordinate": ("<=", 1),
    "assumption_4_2.unique": (">", ZERO),
    "assumption_4_2.support": ("==", 0),
    "assumption_4_3.minima": (">", ZERO),
    "assumption_4_3.support": ("<=", RETURN),
    "assumption_4_3.paper_test": ("<=", RETURN),
    "assumption_4_4.support": ("<=", RETURN),
    "assumption_4_4.paper_test": ("<=", RETURN),
    "lemma_4_1.flow": ("<", FLOW_DRIFT),
    "lemma_4_1.descent": ("<", DESCENT_DRIFT),
    "toy.diagonal.one_at_a_time": (">", ONE_AT_A_TIME),
    "toy.full.one_at_a_time": (">", ONE_AT_A_TIME),
    "toy.full_dense.one_at_a_time": (">", ONE_AT_A_TIME),
    "linear_attention.levels": ("<", 0.01),
    "linear_attention.one_rank": (">=", 1),
    "linear_attention.jump_times": ("<", 0.01),
    "linear_attention.times_within_a_head": ("<", 0.1),
    "linear_attention.low_rank": (">", 10),
    "linear_attention.merged_at_once": ("<", 0.1),
    "linear_attention.merged_time": ("<", 0.01),
}
OF_MANY_PROBLEMS = {  # the study has too few for them
    "trainings.gd.first_stage": (">=", 0.8),
    "trainings.gd.limit": (">=", 0.8),
    "trainings.sgd.order": (">=", 0.5),
    "trainings.sgd.stages": (">=", 0.5),
    "trainings.adam.together": (">=", 0.5),
    "trainings.sign.together": (">=", 0.5),
    "trainings.muon.together": (">=", 0.5),
    "trainings.muon.full_together": (">=", 0.5),
    "trainings.muon.stable_rank": (">=", 0.5),
}
OF_HEADS = {
    "vit.delta_low_rank": ("<", RANK_RATIO),
    "vit.delta_not_random": ("<", RANK_RATIO),
    "vit.rank_grows": (">", CORRELATION),
    "vit.rank_grows_with_scale": (">", CORRELATION),
}
PLACES = [(network, product) for network in ("wide", "narrow") for product in ("KQ", "VO")]
CRITERIA |= OF_MANY_PROBLEMS
CRITERIA |= {f"{name}.{network}.{product}": OF_HEADS[name] for network, product in PLACES for name in OF_HEADS}
RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


def log(alpha):
    return math.log(float(alpha))


def falling(alphas):
    return sorted(set(alphas), key=float, reverse=True)


def runs(rows):
    """{seed: {alpha: rows}}, alphas falling."""
    return {
        seed: {alpha: of_seed[of_seed["alpha"] == alpha] for alpha in falling(of_seed["alpha"])}
        for seed, of_seed in rows.groupby("seed")
    }


def curve(run):
    points = sorted(set(zip(run["rescaled_time"], run["loss"], strict=True)))
    return np.array(points).T


def entries(run):
    """Times, and values of all entries at each."""
    table = run.pivot(index="rescaled_time", columns=["product", "index"], values="value")
    return table.index.to_numpy(), table.to_numpy()


def share_of_slow_loss(run):
    time, loss = curve(run)
    mean_rate, slow = (loss[0] - loss[-1]) / (time[-1] - time[0]), 0
    for (t, a), (u, b) in pairwise(zip(time, loss, strict=True)):
        slow += (u - t) * ((a - b) / (u - t) < SLOW * mean_rate)
    return slow / (time[-1] - time[0])


def share_of_slow_products(run):
    (time, values), slow = entries(run), 0
    for n in range(len(time) - 1):
        gap = time[n + 1] - time[n]
        slow += gap * (max(abs(values[n + 1] - values[n])) / gap <= SPEED)
    return slow / (time[-1] - time[0])


def smallest_increase(flows, share):
    return min(share(of_seed[b]) - share(of_seed[a]) for of_seed in runs(flows).values() for a, b in pairwise(of_seed))


def largest_ratio_of_gaps(flows, to_last):
    ratios = []
    for of_seed in runs(flows).values():
        curves, gaps = [curve(run) for run in of_seed.values()], []
        for n, one in enumerate(curves[:-1]):
            other = curves[-1] if to_last else curves[n + 1]
            time = np.unique(np.r_[one[0], other[0]])
            gap = abs(np.interp(time, *one) - np.interp(time, *other))
            gaps.append(((gap[1:] + gap[:-1]) / 2 * np.diff(time)).sum() / np.ptp(time))
        ratios += [b / a for a, b in pairwise(gaps)]
    return max(ratios)


def worst_exponent(theorem):
    errors = []
    for of_seed in runs(theorem).values():
        points = []
        for alpha, rows in of_seed.items():
            delays = abs(rows["measured_time"] - rows["predicted_time"])
            if 2 * delays.notna().sum() >= len(delays):
                points.append((math.log(-log(alpha)), math.log(delays.median())))
        x, y = np.array(points).T
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        errors.append(abs(slope + 1))
    return max(errors)


def largest_change_of_delay(theorem):
    last_two, spreads = falling(theorem.dropna(subset="scaled_delay")["alpha"])[-2:], []
    for of_seed in runs(theorem).values():
        before, after = (of_seed[alpha].set_index("stage")["scaled_delay"] for alpha in last_two)
        both = [k for k in before.index if not math.isnan(before[k] + after[k])]
        spreads.append(np.median([abs(before[k] - after[k]) for k in both]) / np.median([abs(after[k]) for k in both]))
    return max(spreads)


def smallest_share_in_order(theorem):
    alpha, shares = falling(theorem["alpha"])[-1], []
    for of_seed in runs(theorem).values():
        rows = of_seed[alpha].sort_values("stage").to_dict("records")
        exchanged = [n for n, row in enumerate(rows) if row["measured_order"] != row["stage"]]
        shares.append((exchanged[0] if exchanged else len(rows)) / len(rows))
    return min(shares)


def largest_ratio_of_distances(theorem):
    medians = [[rows["distance"].median() for rows in of_seed.values()] for of_seed in runs(theorem).values()]
    return max(b / a for of_seed in medians for a, b in pairwise(of_seed))


def most_in_a_stage(events, stages):
    """Rises after the middle of the stage before and no later than the middle of this one, at the smallest alpha."""
    rises = events[(events["variant"] == "diagonal") & (events["direction"] == 1)]
    alpha, most = falling(rises["alpha"])[-1], 0
    for seed, of_seed in stages.groupby("seed"):
        starts = [*of_seed.sort_values("stage")["predicted_time"], MAX_TIME]
        middles = [-math.inf, *((a + b) / 2 for a, b in pairwise(starts))]
        times = rises[(rises["seed"] == seed) & (rises["alpha"] == alpha)]["rescaled_time"]
        most = max(most, *(sum(a <= time < b for time in times) for a, b in pairwise(middles)))
    return most


def largest_return_ratio(perturbations, assumption, noise_on):
    rows = perturbations[(perturbations["assumption"] == assumption) & (perturbations["noise_on"] == noise_on)]
    ratios = []
    for _, run in rows.groupby(["seed", "run"]):
        (time, values), (_, reference) = entries(run), entries(run.assign(value=run["reference"]))
        end, start = max(abs(values[-1] - reference[-1])), max(abs(values[0] - reference[0]))
        late = np.flatnonzero(time <= time[-1] - np.ptp(time) / 10)[-1]
        speed = max(abs(reference[-1] - reference[late])) / (time[-1] - time[late])
        counts = abs(reference - reference[0]).max() <= MOVEMENT if assumption == "plateaus" else speed <= SPEED
        if counts and start > 0:
            ratios.append(end / start)
    return max(ratios, default=math.nan)


def smallest_share_alone(trajectory, variant):
    """Passages of ACTIVE at which the others that have not passed it are ten times smaller, at the smallest alpha."""
    shares = {}
    for seed, of_seed in runs(trajectory[trajectory["variant"] == variant]).items():
        for alpha, run in of_seed.items():
            values, alone = np.maximum(abs(entries(run)[1]), 1e-300), []
            for i in range(values.shape[1]):
                passages = [n for n in range(len(values) - 1) if values[n, i] <= ACTIVE < values[n + 1, i]]
                if passages:
                    before, after = np.log(values[passages[0]]), np.log(values[passages[0] + 1])
                    part = (math.log(ACTIVE) - before[i]) / (after[i] - before[i])
                    at = np.exp(before + part * (after - before))
                    others = [x for j, x in enumerate(at) if j != i and x <= ACTIVE]
                    alone.append(max(others, default=0) <= ACTIVE / 10)
            if alone:
                shares[alpha, seed] = np.mean(alone)
    smallest = falling(alpha for alpha, _ in shares)[-1]
    return min(share for (alpha, _), share in shares.items() if alpha == smallest)


def heads(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def of_network(measures, network, product):
    rows = heads(measures, network=network, product=product)
    deltas, keys, last = heads(rows, matrix="delta"), ["layer", "head"], max(rows["epoch"])
    low, not_random, grows = [], [], []
    for seed in deltas[deltas["alpha"] == SCALE]["seed"].unique():
        run = {"alpha": SCALE, "seed": seed}
        end = heads(deltas, **run, epoch=last).set_index(keys)["stable_rank"]
        initial = heads(rows, **run, matrix="initial").set_index(keys)["stable_rank"]
        random = [heads(rows, **run, matrix=matrix, epoch=last) for matrix in ("random_product", "noisy_factors")]
        low.append(np.median([end[head] / initial[head] for head in end.index]))
        random = [of_matrix.set_index(keys)["stable_rank"] for of_matrix in random]
        not_random.append(np.median([end[head] / min(random[0][head], random[1][head]) for head in end.index]))
        trained = heads(deltas, **run)
        trained = trained[trained["epoch"] > 0]
        grows.append(np.median([correlation(rows["epoch"], rows["stable_rank"]) for _, rows in trained.groupby(keys)]))
    by_scale = []
    for _, of_seed in heads(deltas, epoch=last).groupby("seed"):
        if of_seed["alpha"].nunique() >= 3:
            means = [of_layer.groupby("alpha")["stable_rank"].mean() for _, of_layer in of_seed.groupby("layer")]
            by_scale.append(np.median([correlation(ranks.index.astype(float), ranks) for ranks in means]))
    return {
        f"vit.delta_low_rank.{network}.{product}": max(low),
        f"vit.delta_not_random.{network}.{product}": max(not_random),
        f"vit.rank_grows.{network}.{product}": min(grows),
        f"vit.rank_grows_with_scale.{network}.{product}": min(by_scale, default=math.nan),
    }


def correlation(x, y):
    return spearmanr(x, y).statistic


def drift(conservation, methods, scale):
    rows = conservation[conservation["method"].isin(methods)]
    return max(rows["change"] / rows[scale])


def of_linear_attention(rows):
    """Claims about linear attention, problem by problem, at the two init scales of the study."""
    worst = {name: [] for name in CRITERIA if name.startswith("linear_attention.")}

    def column(name, kind, seed, alpha):
        key_query, rank = kind
        run = heads(rows, key_query=key_query, rank=rank, seed=seed, alpha=alpha).sort_values("stage")
        values = run[name].to_numpy(float)
        return values[1:] if name.endswith("time") else values

    def times(kind, seed):
        """Growth of measured and predicted times from the larger to the smaller scale."""
        return [
            column(name, kind, seed, "1e-3") - column(name, kind, seed, "1e-2")
            for name in ("measured_time", "predicted_time")
        ]

    for seed in rows["seed"].unique():
        one, full, merged = ("separate", 1), ("separate", 3), ("merged", 3)
        level, loss = (column(name, one, seed, "1e-3") for name in ("level", "loss"))
        fall = [level[0] - level[1], *(min(level[k - 1] - level[k], level[k] - level[k + 1]) for k in (1, 2))]
        worst["linear_attention.levels"] += list(abs(loss - level) / [*fall, level[2] - level[3]])
        right = [column(name, one, seed, "1e-3") == range(4) for name in ("directions", "heads")]
        worst["linear_attention.one_rank"].append(-np.mean(right[0] & right[1]))
        measured, predicted = (column(name, one, seed, "1e-3") for name in ("measured_time", "predicted_time"))
        worst["linear_attention.jump_times"] += list(abs(measured - predicted) / predicted)
        measured, predicted = times(full, seed)
        gaps = [(b - a, d - c) for (a, b), (c, d) in zip(pairwise(measured), pairwise(predicted), strict=True)]
        worst["linear_attention.times_within_a_head"] += [abs(a - b) / abs(b) for a, b in gaps]
        at = column("measured_time", ("separate", 2), seed, "1e-3")
        worst["linear_attention.low_rank"].append(-(at[2] - at[1]) / (at[1] - at[0]))
        measured, predicted = times(merged, seed)
        worst["linear_attention.merged_at_once"].append(abs(measured[-1] - measured[0]) / abs(measured[0]))
        worst["linear_attention.merged_time"].append(abs(measured[0] - predicted[0]) / predicted[0])
    least = ("linear_attention.one_rank", "linear_attention.low_rank")
    return {name: -max(values) if name in least else max(values) for name, values in worst.items()}


def expected_values(tables):
    trajectory, theorem, stages = tables["trajectory"], tables["theorem"], tables["stages"]
    flows, losses = (rows[rows["variant"] == "diagonal"] for rows in (trajectory, tables["losses"]))
    values = {
        "toy.loss_plateaus": smallest_increase(losses, share_of_slow_loss),
        "toy.weight_plateaus": smallest_increase(flows, share_of_slow_products),
        "toy.neighbours": largest_ratio_of_gaps(losses, to_last=False),
        "toy.one_limit": largest_ratio_of_gaps(losses, to_last=True),
        "theorem.stage_times": worst_exponent(theorem),
        "theorem.constant_delay": largest_change_of_delay(theorem),
        "theorem.order": smallest_share_in_order(theorem),
        "theorem.distance": largest_ratio_of_distances(theorem),
        "theorem.one_coordinate": most_in_a_stage(tables["events"], stages),
        "assumption_4_2.unique": min(stages["gap_to_next"]),
        "assumption_4_2.support": sum(stages["deactivated"]),
        "assumption_4_3.minima": min(stages["curvature"]),
        "lemma_4_1.flow": drift(tables["conservation"], ["flow"], "size"),
        "lemma_4_1.descent": drift(tables["conservation"], ["gd", "sgd"], "initial"),
    }
    for number, assumption in (("4_3", "plateaus"), ("4_4", "activations")):
        for name, noise_on in (("support", "support"), ("paper_test", "nonnegligible")):
            ratio = largest_return_ratio(tables["perturbations"], assumption, noise_on)
            values[f"assumption_{number}.{name}"] = ratio
    for variant in ("diagonal", "full", "full_dense"):
        values[f"toy.{variant}.one_at_a_time"] = smallest_share_alone(trajectory, variant)
    values |= of_linear_attention(tables["linear_attention"])
    values |= dict.fromkeys(OF_MANY_PROBLEMS, math.nan)
    for network, product in PLACES:
        values |= of_network(tables["measures"], network, product)
    return values


def check_table(claims, tables):
    claims, values = claims.set_index("id"), expected_values(tables)
    assert len(claims) == len(CRITERIA)
    assert set(claims.index) == set(CRITERIA) == set(values)
    for name, (relation, threshold) in CRITERIA.items():
        row, value = claims.loc[name], values[name]
        assert row["relation"] == relation, name
        np.testing.assert_allclose(row["threshold"], threshold, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(row["value"], value, rtol=1e-6, atol=1e-12, err_msg=name)
        right = RELATIONS[relation](row["value"], threshold)
        verdict = "not tested" if math.isnan(value) else "supported" if right else "not supported"
        assert row["verdict"] == verdict, name
        assert row["reason"].endswith("."), name


def tables_of(wired):
    names = (*TOY_TABLES, *LINEAR_ATTENTION_TABLES, *NETWORK_TABLES)
    return {name: wired.table(f"tables/{name}") for name in names}


def test_claims_of_the_study_are_what_its_tables_say(wired):
    check_table(wired.table("claims"), tables_of(wired))


def test_claims_speak_of_networks_by_their_labels(wired):
    claims = wired.table("claims").set_index("id")
    names = {"wide": "Wide tokens", "narrow": "Narrow tokens", "KQ": "W_K W_Qᵀ", "VO": "W_V W_Oᵀ"}
    for (network, product), claim in product_of(PLACES, OF_HEADS):
        statement = claims.loc[f"{claim}.{network}.{product}", "statement"]
        assert statement.startswith(f"{names[network]}, {names[product]}: ")


def test_pages_have_the_verdict_of_every_claim(wired):
    claims = wired.table("claims")
    markdown = (wired.results / "claims.md").read_text()
    page = (wired.results / "claims.html").read_text()
    lines = [line for line in markdown.splitlines() if line.endswith(" |")][1:]
    rows = re.findall(r"<tr>\s*(<td>.*?)</tr>", page, re.DOTALL)
    assert len(lines) == len(claims) == len(rows) / 2
    assert '"wired"' in markdown.splitlines()[0]
    for claim, line, row in zip(claims.to_dict("records"), lines, rows, strict=False):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        shown = re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
        assert (cells[0], cells[-1]) == (claim["verdict"], claim["id"])
        assert (shown[0].split(" ", 1)[1], shown[-1]) == (claim["verdict"], claim["id"])
        relation, threshold = cells[4].split(" ")
        assert relation == claim["relation"]
        np.testing.assert_allclose(float(threshold), claim["threshold"], rtol=0.005)
        if not math.isnan(claim["value"]):
            np.testing.assert_allclose(float(cells[3]), claim["value"], rtol=0.005)


def disturbed(tables, rng):
    """The tables with every number that claims rest on moved at random, and more seeds: nothing holds in them."""

    def noise(rows, size=0.5):
        return np.exp(size * rng.standard_normal(len(rows)))

    def falling_losses(rows):
        """Losses that fall from record to record, by far more at some than at others."""
        times = np.unique(rows["time"])
        falls = np.exp(2.5 * rng.standard_normal(len(times)))
        losses = np.cumsum(falls[::-1])[::-1] / falls.sum()
        return pd.Series(losses[np.searchsorted(times, rows["time"])], rows.index)

    moved = {name: rows.reset_index(drop=True).copy() for name, rows in tables.items()}
    rows = moved["losses"]
    for _, run in rows.groupby(["variant", "alpha", "seed"]):
        rows.loc[run.index, "loss"] = falling_losses(run)
    moved["trajectory"]["value"] *= noise(moved["trajectory"], 2)
    rows = moved["theorem"]
    rows["measured_time"] *= noise(rows)
    rows["scaled_delay"] *= noise(rows)
    rows["distance"] *= noise(rows)
    swapped = rng.random(len(rows)) < 0.2
    rows["measured_order"] = rows["measured_order"].astype(float) + swapped
    moved["events"]["rescaled_time"] *= noise(moved["events"])
    moved["events"]["direction"] = rng.choice([1, -1], len(moved["events"])).astype(np.int8)
    rows = moved["stages"]
    rows["gap_to_next"] *= noise(rows) * rng.choice([1, 1e-7], len(rows))
    rows["curvature"] *= noise(rows)
    rows["deactivated"] = rng.integers(0, 3, len(rows))
    for column in ("change", "initial", "size"):
        moved["conservation"][column] *= noise(moved["conservation"])
    moved["perturbations"]["value"] *= noise(moved["perturbations"], 0.1)
    rows = moved["linear_attention"]
    for column in ("loss", "predicted_time", "measured_time"):
        rows[column] *= noise(rows)
    for column in ("directions", "heads"):
        rows[column] += rng.integers(0, 2, len(rows))
    rows = moved["measures"]
    rows = pd.concat([rows, rows[rows["seed"] == 2].assign(seed=5)], ignore_index=True)
    moved["measures"] = rows.assign(stable_rank=rows["stable_rank"] * noise(rows))
    return moved


@pytest.mark.parametrize("draw", range(3))
def test_claims_of_other_tables_are_what_these_say(wired, tmp_path, draw):
    tables = disturbed(tables_of(wired), np.random.default_rng(draw))
    files = {name: [tmp_path / f"{name}.parquet"] for name in tables}
    for name, rows in tables.items():
        rows.to_parquet(files[name][0])
    params = wired.provenance("claims.parquet")["params"]
    check_claims.main(
        files,
        *(tmp_path / name for name in ("claims.parquet", "claims.md", "claims.html")),
        study=params["study"],
        labels=params["labels"],
        extensions=[],
        provenance={},
    )
    check_table(pd.read_parquet(tmp_path / "claims.parquet"), tables)
