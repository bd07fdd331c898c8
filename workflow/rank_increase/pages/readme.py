"""Numbers of README.md, of pages in docs/ and of the page on the laptop study, from the published tables.

Each block stands between `<!-- name -->` and `<!-- /name -->`. `make readme` fills them, and a test compares.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from rank_increase.evidence.full_weights import passages
from rank_increase.notation import PRODUCT_NAMES, sort_alphas
from rank_increase.pages.claims import MARKS

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "results" / "published"
STUDIES = ("theory", "demo", "laptop")
HEADLINE_SEED = 99
# Sentences of the README, and the claims that each rests on: study, claim, and the verdict that the text assumes. Their
# names stand for their values in the text.
FINDINGS = [
    (
        "**The theorem's limit law holds, with its constants.** As α falls, the loss converges to the staircase"
        " of Algorithm 1, and stage times to its T_k, with constants that follow from the orbits between stages"
        " without a fit (share of problems at least {loss} and {constants}, lower ends of 95 % intervals). It"
        " needs α far below the paper's: at 1e-32 the stages cannot be told apart yet in most problems.",
        {
            "loss": ("theory", "theorem.limit_of_the_loss", "supported"),
            "constants": ("theory", "theorem.constants", "supported"),
            "paper": ("theory", "theorem.paper_scale", "not supported"),
        },
    ),
    (
        "**Full weights, which no theorem covers, do the same.** In exact coordinates they can be followed to α ="
        " 1e-300, where singular values become active one at a time in {full} of all passages ({dense} under a"
        " dense teacher), in the order of a greedy limit (share {order}); at 1e-4 hardly any do, with diagonal"
        " weights neither.",
        {
            "full": ("theory", "full_weights.one_at_a_time", "supported"),
            "dense": ("theory", "full_weights.dense.one_at_a_time", "supported"),
            "order": ("theory", "full_weights.order", "supported"),
        },
    ),
    (
        "**Assumptions 4.3 and 4.4 hold in the limit** (shares at least {plateaus} and {activations}). The"
        " paper's own test of them does not show it ({own_plateaus} and {own_activations}): it disturbs weights"
        " that are still growing.",
        {
            "plateaus": ("theory", "assumption_4_3.limit", "supported"),
            "activations": ("theory", "assumption_4_4.limit", "supported"),
            "own_plateaus": ("theory", "assumption_4_3.paper_test", "not supported"),
            "own_activations": ("theory", "assumption_4_4.paper_test", "not supported"),
        },
    ),
    (
        "**Stages are those of gradient flow and gradient descent.** Under Adam, sign descent and Muon entries"
        " rise together (shares at least {adam}, {sign} and {muon}).",
        {
            "adam": ("theory", "trainings.adam.together", "supported"),
            "sign": ("theory", "trainings.sign.together", "supported"),
            "muon": ("theory", "trainings.muon.together", "supported"),
        },
    ),
    (
        "**In vision transformers, the stable rank of the change falls first and then grows**, for W_V W_Oᵀ by a"
        " factor of at least {VO} from its minimum (2,000 images of CIFAR-10, 3 layers, 5 seeds), for W_K W_Qᵀ"
        " hardly ({KQ}). From init scale 0.1, singular values of W_V W_Oᵀ leave zero one after the other; from 1"
        " they do not. A fairer comparison shows that most of the low rank lies in the changes of the single"
        " factors ([more](results/published/laptop/README.md)).",
        {
            "VO": ("laptop", "vit.rank_grows.small.VO", "supported"),
            "KQ": ("laptop", "vit.rank_grows.small.KQ", "not supported"),
            "small": ("laptop", "vit.values_in_turn_small_scale.small.VO", "supported"),
            "one": ("laptop", "vit.values_in_turn.small.VO", "not supported"),
        },
    ),
]
NETWORK_CLAIMS = {
    "delta_low_rank": "the change has a far lower stable rank than the initial product (ratio)",
    "delta_not_random": "... than a random change of the product or of its factors (ratio)",
    "delta_not_turned": "... than with turned factors (ratio)",
    "rank_grows": "its stable rank grows through training (last over minimum)",
    "values_in_turn": "its singular values leave one after the other (steps of the third over those of the first)",
    "values_in_turn_small_scale": "... from init scale 0.1",
    "rank_grows_with_scale": "its stable rank grows with the init scale (rank correlation)",
}


def table(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def short(value):
    """A number with three significant digits."""
    return f"{value:.3g}"


def claims(study):
    """Claims of a study, by id."""
    return pd.read_parquet(PUBLISHED / study / "claims.parquet").set_index("id")


def findings():
    """What was found, in sentences with their numbers."""
    lines = []
    for text, expected in FINDINGS:
        numbers = {}
        for name, (study, identity, verdict) in expected.items():
            claim = claims(study).loc[identity]
            if claim.verdict != verdict:
                raise ValueError(f"a finding says that {identity} of {study} is {verdict}, but it is {claim.verdict}")
            numbers[name] = short(claim.value)
        lines.append(f"- {text.format(**numbers)}")
    return "\n".join(lines)


def claim_counts():
    """How many claims of each study have which verdict."""
    lines = []
    for study in STUDIES:
        counts = claims(study)["verdict"].value_counts()
        said = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in MARKS)
        lines.append(f"- [{study}](../results/published/{study}/claims.md): {counts.sum()} claims, {said}")
    return "\n".join(lines)


def toy_claims():
    """Claims about the toy model and the theorem that the study `theory` tests."""
    rows = []
    for row in tested("theory"):
        measured = f"{short(row.value)} ({row.relation} {short(row.threshold)})"
        statement = row.statement.replace("|", "\\|")
        rows.append([f"{MARKS[row.verdict]} {row.verdict}", statement, row.source, measured, row.n])
    return table(["verdict", "claim", "paper", "measured (threshold)", "rests on"], rows)


def tested(study):
    """Tested claims of a study about the toy model, in order."""
    found = claims(study)
    return found[~found.index.str.startswith("vit.") & (found["verdict"] != "not tested")].itertuples()


def network_claims():
    """Claims about networks: a row for each network and product, a column for each claim."""
    found = pd.concat([claims("demo"), claims("laptop")])
    found = found[found.index.str.startswith("vit.")]
    places = list(dict.fromkeys(tuple(name.split(".")[2:]) for name in found.index if name.count(".") == 3))
    kinds = {f"{text} {cell.relation} {short(cell.threshold)}": kind
             for kind, text in NETWORK_CLAIMS.items()
             for cell in found[found.index.str.startswith(f"vit.{kind}.")][:1].itertuples()}  # fmt: skip
    rows = []
    for network, product in places:
        cells = [found.loc[f"vit.{kind}.{network}.{product}"] for kind in kinds.values()]
        if all(cell.verdict == "not tested" for cell in cells):
            continue
        name = ",".join(cells[0].statement.split(": ")[0].split(",")[:-1])
        rows.append([f"{name}, {PRODUCT_NAMES[product]}", *map(measured, cells)])
    return table(["", *kinds], rows)


def measured(cell):
    """The value of a claim with the mark of its verdict."""
    return "not tested" if cell.verdict == "not tested" else f"{MARKS[cell.verdict]} {short(cell.value)}"


def stage_times():
    """Theorem 4.5 on the headline problem: stages against those of Algorithm 1, by init scale."""
    stages = pd.read_parquet(PUBLISHED / "demo" / "tables" / "theorem.parquet")
    stages = stages[(stages["variant"] == "diagonal") & (stages["seed"] == HEADLINE_SEED)]
    rows = []
    for alpha in ("1e-4", "1e-8", "1e-16", "1e-32", "1e-300", "1e-3000"):
        run = stages[stages["alpha"] == alpha].sort_values("stage")
        error = (run["measured_time"] - run["predicted_time"]).abs()
        in_order = (run["measured_order"].fillna(0).to_numpy() == run["stage"].to_numpy()).cumprod().sum()
        delay = run["scaled_delay"].abs().median()
        distance = run["distance"].median()
        errors = f"{short(error.median())}, {short(error.max())}"
        rows.append([alpha, errors, f"{delay:.0f}", f"{in_order} of {len(run)}", short(distance)])
    header = ["α", "median, largest \\|T − T_k\\|", "median of \\|C_k\\|", "in the predicted order", "distance to θ_k"]
    return table(header, rows)


def full_weights():
    """Full weights in the study `theory`, by init scale: passages one at a time, and stages against their limit."""
    tables = (pd.read_parquet(PUBLISHED / "theory" / "tables" / f"{name}.parquet") for name in ("events", "theorem"))
    events, stages = tables
    variants = {"paper_size": "diagonal weights", "full": "full weights", "full_dense": "full weights, dense teacher"}
    shares = passages(events, variants)["share"]
    rows = []
    for alpha in sort_alphas(shares["full"].index):
        cells = [f"{shares[variant, alpha]:.2f}" for variant in variants]
        for variant in list(variants)[1:]:
            run = stages[(stages["variant"] == variant) & (stages["alpha"] == alpha)]
            late = (run["measured_time"] - run["predicted_time"]).abs()
            cells.append(f"{short(late.median())}, {short(late.max())}")
        rows.append([alpha, *cells])
    named = list(variants.values())
    header = ["α", *(f"one at a time, {name}" for name in named)]
    return table([*header, *(f"median, largest \\|T − T_k\\|, {name}" for name in named[1:])], rows)


def origin():
    """Where the published results come from."""
    lines = []
    for study in STUDIES:
        published = json.loads((PUBLISHED / study / "published.json").read_text())
        machine = published["machine"]
        lines.append(
            f"- {study}: commit {published['commit'][:12]}, {published['date']}, {machine['cores']} cores,"
            f" {machine['memory_gb']} GB, {machine['system']}"
        )
    return "\n".join(lines)


def laptop(name):
    """A table of all networks of the laptop study, with their labels as `network`."""
    paths = sorted((PUBLISHED / "laptop" / "tables" / name).glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in paths]).astype({"network": str, "alpha": str})


def accuracies():
    """Accuracies of the laptop study's runs in the last epoch: means over seeds."""
    metrics, rows = laptop("metrics"), []
    for (network, alpha), runs in metrics.groupby(["network", "alpha"]):
        last = runs[runs["epoch"] == runs["epoch"].max()]
        train, test = (f"{100 * last[f'{split}_accuracy'].mean():.0f} %" for split in ("train", "test"))
        rows.append([network, alpha, last["seed"].nunique(), last["step"].max(), train, test])
    return table(["network", "init scale", "seeds", "steps", "accuracy in training", "on test images"], rows)


def ranks():
    """Stable ranks of the change in the laptop study at the end, by network, init scale and product."""
    measures, rows = laptop("measures"), []
    for (network, alpha), run in measures[measures["matrix"] == "delta"].groupby(["network", "alpha"]):
        run = run[run["step"] > 0].astype({"product": str})
        heads = run.groupby(["seed", "layer", "head", "product", "step"])["stable_rank"].first().unstack("step")
        cells = []
        for product in PRODUCT_NAMES:
            found = heads.xs(product, level="product")
            first, lowest, last = (part.median() for part in (found.iloc[:, 0], found.min(axis=1), found.iloc[:, -1]))
            cells += [f"{first:.2f}", f"{lowest:.2f}", f"{last:.2f}"]
        rows.append([network, alpha, *cells])
    named = [f"{name}, {what}" for name in PRODUCT_NAMES.values() for what in ("step 1", "minimum", "end")]
    return table(["network", "init scale", *named], rows)


def ratio(benchmark, case, method, peer, x=None):
    """How many times as long as `method` the `peer` takes: medians of a published benchmark."""
    rows = benchmark[(benchmark["case"] == case) & (benchmark["x"].eq(x) if x is not None else True)]
    seconds = rows.set_index("method")["seconds"]
    return seconds[peer] / seconds[method]


def speed():
    """What the benchmarks found."""
    toy, spectra, vit = (pd.read_csv(PUBLISHED / "benchmarks" / f"{name}.csv") for name in ("toy", "spectra", "vit"))
    step = "an image, forward, backward and Adam"
    steps = ", ".join(
        f"{ratio(vit, step, 'ours', 'vit-pytorch', width):.2f} at width {width}" for width in sorted(set(vit["x"]))
    )
    with_timm = ", ".join(f"{ratio(vit, step, 'ours', 'timm', width):.2f}" for width in sorted(set(vit["x"])))
    large, small = "ViT-B/16", "ViT of the paper for CIFAR"
    lines = [
        f"- one gradient of the toy loss: {ratio(toy, 'one gradient', 'ours', 'torch autograd'):.1f} times as fast as"
        " torch's autograd;",
    ]
    run = "run to rescaled time 1000"
    for alpha in ("0.01", "1e-32"):
        x = min(toy.loc[toy["case"] == run, "x"], key=lambda value, alpha=alpha: abs(value + np.log(float(alpha))))
        rows = toy[(toy["case"] == run) & (toy["x"] == x)].set_index("method")
        seconds = rows["seconds"] / rows.loc["ours", "seconds"]
        best = seconds[[name for name in rows.index if name.startswith(("scipy", "torchdiffeq"))]].idxmin()
        how = ", extrapolated" * bool(rows.loc[best, "extrapolated"])
        lines.append(
            f"- the flow at α = {alpha}: {seconds['gradient descent, autograd']:.0f} times as fast as gradient descent"
            f" with torch's autograd (extrapolated), {seconds[best]:.2f} times as fast as the best other solver"
            f" ({best}{how});"
        )
    for name in (large, small):
        whole, delta = (f"{name}: {part} of a snapshot" for part in ("trained and delta", "delta"))
        lines.append(
            f"- singular values of a snapshot of the {name}: {ratio(spectra, whole, 'ours', 'numpy, dense'):.0f} times"
            f" as fast as numpy on dense matrices, {ratio(spectra, delta, 'ours', 'numpy, dense'):.1f} times for the"
            " change alone;"
        )
    lines.append(
        f"- images per second of training on one core over those of vit-pytorch: {steps}; of timm: {with_timm}."
    )
    return "\n".join(lines)


PAGES = {
    ROOT / "README.md": {"findings": findings},
    ROOT / "docs" / "results.md": {
        "claim counts": claim_counts,
        "toy claims": toy_claims,
        "stage times": stage_times,
        "full weights": full_weights,
        "network claims": network_claims,
        "origin": origin,
    },
    ROOT / "docs" / "speed.md": {"speed": speed},
    ROOT / "docs" / "full-weights.md": {"full weights by alpha": full_weights},
    PUBLISHED / "laptop" / "README.md": {"accuracies": accuracies, "ranks": ranks},
}


def filled(page, text):
    """`text` with each block of a page as the published tables have it.

    Raises
    ------
    ValueError
        If a block is missing.
    """
    for name, block in PAGES[page].items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda match, block=block: f"{match[1]}{block()}\n{match[2]}", text, flags=re.S)
        if count != 1:
            raise ValueError(f"{page} has {count} blocks {name!r}")
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page, page.read_text()))
