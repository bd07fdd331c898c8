"""Claims about heads, layers, blocks, other losses and weight decay, beyond the paper's head with squared error.

A problem is a seed: its data, teacher, theta_0 and fixed weights. Problems are independent, stages of one are not, so a
problem counts as one trial. A share of problems is claimed if the lower end of its 95 % Clopper-Pearson interval is
above a half: in most problems, beyond what the draw of seeds could do. Theorem 4.5 gives each stage an alpha_0 of its
own, so at no alpha can all problems be expected to agree. Runs are those at the smallest init scale of a variant.
"""

import numpy as np

from rank_increase.evidence.claim import NotTested, lower_end
from rank_increase.notation import COORDINATE, alpha_label, sort_alphas
from rank_increase.options import Name, Positive
from rank_increase.registry import register
from rank_increase.toy.theorem import mid_stage_products, ordered_pairs

BLOCKS = ("block_1", "block_2", "block_4", "block_8")


@register.claim(
    "heads.one_rank",
    source="Example 4.6",
    statement="With two heads, in each stage at most one head gains one rank.",
    measure="share of problems in which between the middles of any two successive stages at most one diagonal entry of"
    " the products of all heads grows above {zero}; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely: each stage has an α of its own below which the theorem holds. An entry above {zero}"
    " is counted as nonzero: far below what matters, far above what has not begun to rise.",
    tables=["trajectory", "stages"],
    data="trajectory and stages, variant heads",
    variant="heads",
)
@register.claim(
    "layers.one_rank",
    source="Example 4.6",
    statement="With two layers of two heads, in each stage at most one head of one layer gains one rank.",
    measure="share of problems in which between the middles of any two successive stages at most one diagonal entry of"
    " the products of all heads grows above {zero}; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely: each stage has an α of its own below which the theorem holds. An entry above {zero}"
    " is counted as nonzero: far below what matters, far above what has not begun to rise.",
    tables=["trajectory", "stages"],
    data="trajectory and stages, variant layers",
    variant="layers",
)
def one_rank(trajectory, stages, *, variant: Name, variants: dict, zero: Positive = 1e-6):
    """In each stage at most one coordinate of all heads and layers joins the support."""

    def right(predicted, measured):
        before = np.vstack([np.zeros_like(measured[:1]), measured[:-1]])
        return (measured & ~before).sum(axis=1) <= 1

    return _share_of_problems(trajectory, stages, variant, variants, zero, right)


@register.claim(
    "heads.support",
    source="Theorem 4.5, Example 4.6",
    statement="With two heads, the entries that have risen in each stage are those of Algorithm 1.",
    measure="share of problems in which in the middle of every stage the entries of all products above {zero} are those"
    " of θ_k; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely: each stage has an α of its own below which the theorem holds.",
    tables=["trajectory", "stages"],
    data="trajectory and stages, variant heads",
    variant="heads",
)
@register.claim(
    "layers.support",
    source="Theorem 4.5, Example 4.6",
    statement="With two layers of two heads, the entries that have risen in each stage are those of Algorithm 1.",
    measure="share of problems in which in the middle of every stage the entries of all products above {zero} are those"
    " of θ_k; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely: each stage has an α of its own below which the theorem holds.",
    tables=["trajectory", "stages"],
    data="trajectory and stages, variant layers",
    variant="layers",
)
@register.claim(
    "losses.soft_labels.support",
    source="Theorem 4.5, Assumption 2.1",
    statement="With cross-entropy and soft labels, the entries that have risen in each stage are those of Algorithm 1,"
    " so that stages come in its order.",
    measure="share of problems in which in the middle of every stage the entries of both products above {zero} are"
    " those of θ_k; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely: each stage has an α of its own below which the theorem holds.",
    tables=["trajectory", "stages"],
    data="trajectory and stages, variant soft_labels",
    variant="soft_labels",
)
@register.claim(
    "losses.decay.support",
    source="not in the paper",
    statement="With weight decay λ, the entries that have risen in each stage are those of Algorithm 1 with growth"
    " rates |g| - λ.",
    measure="share of problems in which in the middle of every stage the entries of both products above {zero} are"
    " those of θ_k; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely: each stage has an α of its own below which the stages are those of the limit.",
    tables=["trajectory", "stages"],
    data="trajectory and stages, variant decay",
    variant="decay",
)
def support(trajectory, stages, *, variant: Name, variants: dict, zero: Positive = 1e-6):
    """In the middle of each stage the support is that of theta_k."""
    return _share_of_problems(
        trajectory, stages, variant, variants, zero, lambda predicted, measured: (predicted == measured).all(axis=1)
    )


def _share_of_problems(trajectory, stages, variant, variants, zero, right):
    """Value, n and details: problems in all of whose stages `right(predicted, measured)`, from supports, is true."""
    stages, runs = (rows[rows["variant"] == variant] for rows in (stages, trajectory))
    predictions = {seed: rows.sort_values("stage") for seed, rows in stages.groupby("seed")}
    counts = {}
    for (alpha, seed), run in runs.groupby(["alpha", "seed"], observed=True):
        if seed in predictions:
            products = mid_stage_products(predictions[seed], run, variants[variant]["max_time"])
            counts.setdefault(alpha, {})[seed] = right(*(abs(values) > zero for values in products))
    if not counts:
        raise NotTested(f"Algorithm 1 and a run of variant {variant}")
    alphas = sort_alphas(counts)
    whole = {alpha: {seed: found.all() for seed, found in counts[alpha].items()} for alpha in alphas}
    parts = []
    for alpha in alphas:
        of_stages = np.concatenate(list(counts[alpha].values()))
        of_problems = whole[alpha].values()
        true_in = f"{sum(of_problems)} of {len(of_problems)} problems, {of_stages.sum()} of {len(of_stages)} stages"
        parts.append(f"{alpha_label(alpha)}: {true_in}")
    details = "; ".join(parts)
    if without := runs["seed"].nunique() - len(predictions):
        details += f"; {without} problems have no stage"
    return lower_end(whole[alphas[-1]].values()), _count(whole[alphas[-1]], alphas[-1]), details


def _smallest_alpha(rows, variant):
    """Rows of the runs of a variant at its smallest init scale."""
    rows = rows[rows["variant"] == variant]
    if rows.empty:
        raise NotTested(f"a run of variant {variant}")
    return rows[rows["alpha"] == sort_alphas(rows["alpha"])[-1]]


def _count(outcomes, alpha):
    return f"{sum(outcomes.values())} of {len(outcomes)} problems, {alpha_label(alpha)}"


@register.claim(
    "heads.identical_together",
    source="Assumption 4.2",
    statement="Identical heads break Assumption 4.2: the same entry becomes active in both together.",
    measure="share of problems in which the first two activations are of the same entry of the same product in both"
    " heads; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely. The heads share the growth in the ratio of their initial weights, so one of them may"
    " stay below what counts as active.",
    tables=["events"],
    data="events, variant identical_heads; in the details variant heads, where fixed biases tell heads apart",
)
def identical_together(events):
    """The first entry to become active does so in both identical heads before any other."""

    def together(variant):
        runs = _smallest_alpha(events[events["direction"] > 0], variant)
        firsts = {seed: rows.sort_values("order").head(2) for seed, rows in runs.groupby("seed")}
        return {seed: _one_entry_in_two_heads(two) for seed, two in firsts.items()}, runs["alpha"].iloc[0]

    outcomes, alpha = together("identical_heads")
    try:
        apart = _count(*together("heads"))
    except NotTested:
        apart = "not run"
    return (
        lower_end(outcomes.values()),
        _count(outcomes, alpha),
        f"with heads told apart by fixed biases: {apart}",
    )


def _one_entry_in_two_heads(two):
    """Whether two events are of one entry of one product, in different heads of a layer."""
    entry = two[["layer", "product", "index"]].astype({"product": str})
    return len(two) == 2 and two["head"].nunique() == 2 and len(entry.drop_duplicates()) == 1


@register.claim(
    "losses.hard_labels.diverge",
    source="not in the paper",
    statement="With hard labels, which the teacher separates, the loss has no minimum and products grow without end.",
    measure="share of problems whose largest product ends ten times above that with soft labels and still grows like a"
    " logarithm of time or faster: over the last doubling of time by at least half of what it grew over the doubling"
    " before, and by more than a thousandth; lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely. Ten is an order of magnitude; half lies between 1, the ratio of growth as ln t, and"
    " 0, that of an approach to a limit. Growth alone would count stages that come late, which soft labels have too.",
    tables=["trajectory"],
    data="trajectory, variants hard_labels and soft_labels",
)
def products_diverge(trajectory):
    """With hard labels the largest product has no limit."""
    hard, soft = (_smallest_alpha(trajectory, variant) for variant in ("hard_labels", "soft_labels"))
    ends = {seed: _largest(rows, [1])[0] for seed, rows in soft.groupby("seed")}
    outcomes, ratios = {}, []
    for seed, rows in hard[hard["seed"].isin(ends)].groupby("seed"):
        early, late, last = _largest(rows, [0.25, 0.5, 1])
        ratios.append(last / ends[seed])
        grows = last - late >= (late - early) / 2 and last - late > 1e-3 * late
        outcomes[seed] = ratios[-1] > 10 and grows
    if not outcomes:
        raise NotTested("a problem with hard and with soft labels")
    details = f"largest product over that with soft labels: {min(ratios):.3g} to {max(ratios):.3g}"
    return lower_end(outcomes.values()), _count(outcomes, hard["alpha"].iloc[0]), details


def _largest(run, shares):
    """The largest product of a run at these shares of its time."""
    largest = run["value"].abs().groupby(run["rescaled_time"]).max()
    return np.interp(np.multiply(shares, largest.index[-1]), largest.index, largest)


@register.claim(
    "losses.hard_labels.plateaus",
    source="not in the paper",
    statement="With hard labels, plateaus of the loss take up a larger share of rescaled time at smaller α.",
    measure="share of problems in which the share of rescaled time with the loss falling at less than a tenth of its"
    " mean rate is larger at the smallest α than at the largest; lower end of its 95 % interval",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely. A loss that falls smoothly in rescaled time has the same share at every α.",
    tables=["losses"],
    data="losses, variant hard_labels",
)
def plateaus_stay(losses):
    """The share of plateaus grows as alpha falls, with hard labels too."""
    runs = losses[losses["variant"] == "hard_labels"]
    alphas = sort_alphas(runs["alpha"])
    if len(alphas) < 2:
        raise NotTested("two init scales of variant hard_labels")
    shares = {
        alpha: {seed: _flat(rows) for seed, rows in runs[runs["alpha"] == alpha].groupby("seed")}
        for alpha in (alphas[0], alphas[-1])
    }
    first, last = shares.values()
    outcomes = {seed: last[seed] > first[seed] for seed in first.keys() & last.keys()}
    medians = ", ".join(f"{np.median(list(each.values())):.3g} ({alpha})" for alpha, each in shares.items())
    n = f"{sum(outcomes.values())} of {len(outcomes)} problems, {alpha_label(alphas[0])} and {alphas[-1]}"
    return lower_end(outcomes.values()), n, f"median share of plateaus: {medians}"


def _flat(run):
    """Share of rescaled time in which the loss falls at less than a tenth of its mean rate."""
    run = run.sort_values("rescaled_time")
    time, loss = run["rescaled_time"].to_numpy(), run["loss"].to_numpy()
    slow = -np.diff(loss) / np.diff(time) < 0.1 * (loss[0] - loss[-1]) / (time[-1] - time[0])
    return np.diff(time)[slow].sum() / (time[-1] - time[0])


@register.claim(
    "losses.decay.first_stage",
    source="not in the paper",
    statement="Weight decay λ delays the first stage from 1 / |g| to 1 / (|g| - λ).",
    measure="share of problems in which the first stage is measured within a tenth of this delay of 1 / (|g| - λ);"
    " lower end of its 95 % interval, at the smallest α",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely; a tenth is an order of magnitude.",
    tables=["theorem"],
    data="theorem, variant decay, first stage",
)
def first_stage(theorem, *, variants: dict):
    """The first stage comes at 1 / (|g| - lambda)."""
    rows = _smallest_alpha(theorem, "decay")
    rows = rows[rows["stage"] == 1].set_index("seed")
    predicted, rate = rows["predicted_time"], variants["decay"]["decay"]
    shift = predicted - predicted / (1 + rate * predicted)  # 1 / (|g| - lambda) - 1 / |g|
    error = (rows["measured_time"] - predicted).abs() / shift
    outcomes = (error < 0.1).to_dict()
    return (
        lower_end(outcomes.values()),
        _count(outcomes, rows["alpha"].iloc[0]),
        f"error over the delay, median {error.median():.2g}",
    )


@register.claim(
    "losses.decay.never",
    source="not in the paper",
    statement="Coordinates for whose growth weight decay leaves nothing, |g| < λ, never become active.",
    measure="coordinates that become active without decay, have no stage in Algorithm 1 with decay, and become active"
    " all the same; sum over problems, at the smallest α",
    relation="==",
    threshold=0,
    reason='"Never": not one.',
    tables=["events", "stages", "losses"],
    data="events, variants decay and no_decay; stages, variant decay; losses for the list of runs",
)
def never_start(events, stages, losses):
    """Coordinates without a stage stay out although they start without decay."""
    runs = {variant: _smallest_alpha(losses, variant) for variant in ("no_decay", "decay")}
    seeds = set(runs["no_decay"]["seed"]) & set(runs["decay"]["seed"])
    active = {}
    for variant, of_variant in runs.items():
        started = (events["direction"] > 0) & (events["alpha"] == of_variant["alpha"].iloc[0])
        active[variant] = _coordinates(events[started & (events["variant"] == variant) & events["seed"].isin(seeds)])
    out = active["no_decay"] - _coordinates(stages[stages["variant"] == "decay"])
    if not out:
        raise NotTested("a coordinate that becomes active without decay and has no stage with it")
    n = f"{len(out)} coordinates of {len(seeds)} problems, {alpha_label(runs['decay']['alpha'].iloc[0])}"
    return len(out & active["decay"]), n


def _coordinates(rows):
    """The coordinates that rows are about, a set of (seed, layer, head, product, index)."""
    return set(rows[["seed", *COORDINATE]].astype({"product": str}).itertuples(index=False, name=None))


@register.claim(
    "blocks.first_stage",
    source="not in the paper",
    statement="With block-diagonal weights, the first stage comes at 1 / σ_1 + C / ln(1/α), where σ_1 is the largest"
    " singular value of all blocks of the gradient, and C does not depend on α.",
    measure="share of problems in which C = (T - 1 / σ_1) ln(1/α) at the largest and at the smallest α differ by less"
    " than a tenth of the larger; lower end of its 95 % interval, over problems of all sizes of blocks",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely; a tenth is an order of magnitude. If times tended to another limit, C would change"
    " like the logarithm. A problem is a size of blocks and a seed.",
    tables=["theorem"],
    data="theorem, variants block_1, block_2, block_4 and block_8, first stage",
)
def first_stage_of_blocks(theorem):
    """The first stage comes at 1 / sigma_1, but for C / ln(1/alpha)."""
    outcomes, changes = {}, []
    for problem, rows in _of_blocks(theorem[theorem["stage"] == 1]):
        delays = rows.set_index("alpha")["scaled_delay"]
        alphas = sort_alphas(delays.index)
        if len(alphas) > 1:
            first, last = delays[alphas[0]], delays[alphas[-1]]
            changes.append(abs(last - first) / max(abs(first), abs(last)))
            outcomes[problem] = changes[-1] < 0.1
    if not outcomes:
        raise NotTested("a problem with block-diagonal weights at two init scales")
    n = f"{sum(outcomes.values())} of {len(outcomes)} problems"
    return lower_end(outcomes.values()), n, f"change of C, median {np.median(changes):.2g}; {_by_size(outcomes)}"


@register.claim(
    "blocks.order",
    source="not in the paper",
    statement="With block-diagonal weights, singular values become active in the order of the greedy limit.",
    measure="share of problems in which all pairs of stages that are predicted at least {apart} apart come in the"
    " predicted order; lower end of its 95 % interval, at the smallest α, over problems of all sizes of blocks",
    relation=">",
    threshold=0.5,
    reason="Most problems, surely. Stages closer than that can change places at any α of a study. A problem is a size"
    " of blocks and a seed.",
    tables=["theorem"],
    data="theorem, variants block_1, block_2, block_4 and block_8, the smallest α of each",
)
def order_of_blocks(theorem, *, apart: Positive = 1.0):
    """Stages of block-diagonal weights come in the order of the greedy limit."""
    outcomes, count = {}, 0
    for problem, rows in _of_blocks(theorem):
        pairs = ordered_pairs(rows[rows["alpha"] == sort_alphas(rows["alpha"])[-1]], apart)
        if len(pairs):
            outcomes[problem], count = pairs.all(), count + len(pairs)
    if not outcomes:
        raise NotTested("two stages of block-diagonal weights that far apart")
    n = f"{sum(outcomes.values())} of {len(outcomes)} problems"
    return lower_end(outcomes.values()), n, f"{count} pairs of stages; {_by_size(outcomes)}"


def _of_blocks(theorem):
    """Rows of each problem with block-diagonal weights, by (variant, seed)."""
    rows = theorem.astype({"variant": str, "alpha": str})
    return rows[rows["variant"].isin(BLOCKS)].groupby(["variant", "seed"])


def _by_size(outcomes):
    """In words, the problems with each size of blocks: `outcomes` by (variant, seed)."""
    parts = []
    for name in BLOCKS:
        of_size = [outcome for (variant, _), outcome in outcomes.items() if variant == name]
        if of_size:
            parts.append(f"{name}: {sum(of_size)} of {len(of_size)}")
    return ", ".join(parts)
