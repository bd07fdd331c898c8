"""What a study will cost, from its configuration alone: jobs, floating point operations, hours, disk.

A FLOP is a floating point operation; a product of matrices (m, k) and (k, n) has 2 m k n.
"""

import csv
import json
from pathlib import Path

from rank_increase.configuration import toy_runs, vit_runs

MEASURES = 60  # bytes of a spectrum's row beside its singular values, compressed


def forward_flops(*, image_size, channels, classes, patch_size, dim, depth, heads, dim_head, mlp_dim):
    """FLOPs of the matrix products when vit.VisionTransformer classifies an image.

    With P = (image_size / patch_size)^2 patches, T = P + 1 tokens and h = heads * dim_head features of all heads:

        patch embedding   2 P channels patch_size^2 dim
        a layer           2 T dim 3 h  (Q, K, V)  +  4 T^2 h  (logits, and values by weight)  +  2 T h dim  (O)
                          +  4 T dim mlp_dim  (MLP)
        the last layer    2 dim h + 2 T dim 2 h  +  4 T h  +  2 h dim  +  4 dim mlp_dim,  as only the class token asks
        classifier        2 dim classes

    Softmax, GELU, LayerNorm and sums are left out: less than 1 % of the whole at the paper's sizes.
    """
    patches, features = (image_size // patch_size) ** 2, heads * dim_head
    tokens = patches + 1
    layer = 8 * tokens * dim * features + 4 * tokens**2 * features + 4 * tokens * dim * mlp_dim
    last_layer = 4 * dim * features + 4 * tokens * dim * features + 4 * tokens * features + 4 * dim * mlp_dim
    embedding = 2 * patches * channels * patch_size**2 * dim
    return embedding + (depth - 1) * layer + last_layer + 2 * dim * classes


def parameter_count(*, image_size, channels, classes, patch_size, dim, depth, heads, dim_head, mlp_dim):
    """Parameters of vit.VisionTransformer."""
    tokens = (image_size // patch_size) ** 2 + 1
    embedding = (channels * patch_size**2 + 1) * dim + (tokens + 1) * dim
    layer = 4 * dim * heads * dim_head + (2 * dim + 1) * mlp_dim + dim + 4 * dim
    return embedding + depth * layer + 2 * dim + (dim + 1) * classes


def job_counts(config):
    """Jobs of every rule that takes more than seconds, for all runs of a study: a dict of rule to number."""
    toy = toy_runs(config)
    runs = vit_runs(config)
    diagonal = {run["seed"] for run in toy if run["structure"] == "diagonal"}
    perturbed = config["assumptions"]["seeds"]
    problems = {(run["structure"], run["seed"]) for run in toy} | {("diagonal", seed) for seed in perturbed}
    return {
        "make_problem": len(problems),
        "run_algorithm1": len(diagonal),
        "train_toy": len(toy),
        "compare_theorem": len(diagonal),
        "perturb_toy": 2 * len(perturbed),
        "prepare_dataset": len({run["dataset"] for run in runs}),
        "train_vit": len(runs),
        "compute_spectra": len(runs),
        "compute_baselines": len(runs),
    }


def slurm_job_counts(counts):
    """Of these jobs (`job_counts`), the SLURM jobs that they make up with the groups of the profile `slurm`: a dict."""
    return {
        "toy (a problem each)": counts["make_problem"],
        "prepare_dataset": counts["prepare_dataset"],
        "train_vit": counts["train_vit"],
        "spectra (a run each)": counts["compute_spectra"],
    }


def known_images(config, name, folder):
    """Of a dataset, its `train` and `test` images, `shape` and `classes`: as packed, else as under `plan.images`.

    None if it is neither packed in `folder` nor there.
    """
    manifest = Path(folder) / "manifest.json"
    if not manifest.exists():
        return config["plan"]["images"].get(name)
    manifest = json.loads(manifest.read_text())
    return {**manifest["counts"], "shape": manifest["shape"], "classes": len(manifest["classes"])}


def run_cost(config, name, images):
    """What a run on a dataset takes.

    Parameters
    ----------
    config : dict
    name : str
        Of the dataset.
    images : dict
        From `known_images`.

    Returns
    -------
    dict
        parameters
            Of the model.
        flops
            Of a run: three forward passes for every image trained on, since the backward pass has two products for each
            one of the forward pass, and one forward pass for every test image after each epoch.
        devices, device
            How many GPUs or CPU cores it has, and which of these.
        hours
            Wall time at the rate in `plan.gpu` or `plan.cpu`, on all devices.
        packed
            Bytes of the dataset: pixels of one byte and labels of eight.
        snapshots
            Bytes of W_K, W_Q, W_V, W_O in float32 at all snapshots.
        checkpoints
            Bytes while it runs: weights and Adam's two moments of each; the last two states and the one being written.
        spectra
            Bytes of spectra and baselines: 8 a singular value, and three times, because they are in a table of the run,
            of the dataset and of the study.
    """
    model, training = config["vit"]["models"][name], config["vit"]["training"][name]
    hardware = config["vit"]["hardware"][name]
    sizes = {**model, "image_size": images["shape"][0], "channels": images["shape"][2], "classes": images["classes"]}
    parameters, forward = parameter_count(**sizes), forward_flops(**sizes)
    trained = images["train"] // training["batch_size"] * training["batch_size"]
    flops = training["epochs"] * (3 * trained + images["test"]) * forward
    device, devices = ("GPU", hardware["gpu"]) if hardware["gpu"] else ("core", hardware["threads"])
    rate = config["plan"]["gpu" if hardware["gpu"] else "cpu"]
    epochs = min(training["snapshots"], training["epochs"] + 1)
    heads, dim, dim_head = model["depth"] * model["heads"], model["dim"], model["dim_head"]
    of_trained, of_delta = min(dim, dim_head), min(dim, 2 * dim_head)
    rows = [of_trained] * (epochs + 1) + [of_delta] * epochs * 3  # initial, trained; delta, two baselines
    height, width, channels = images["shape"]
    return {
        "parameters": parameters,
        "flops": flops,
        "device": device,
        "devices": devices,
        "hours": flops / (rate["peak_tflops"] * 1e12 * rate["utilisation"] * devices) / 3600,
        "packed": (images["train"] + images["test"]) * (height * width * channels + 8),
        "snapshots": epochs * heads * 4 * dim * dim_head * 4,
        "checkpoints": 3 * 3 * parameters * 4,
        "spectra": 3 * 2 * heads * sum(8 * values + MEASURES for values in rows),
    }


def measured_hours(path):
    """Wall time in a Snakemake benchmark file, in hours; None if there is no such file."""
    try:
        with open(path, newline="") as file:
            return float(next(csv.DictReader(file, delimiter="\t"))["s"]) / 3600
    except FileNotFoundError:
        return None


def describe(config, datasets, benchmarks):
    """The plan of a study as text, at most 120 columns wide.

    Parameters
    ----------
    config : dict
    datasets : str
        Folder of the packed datasets.
    benchmarks : str
        Folder of the study's benchmark files.
    """
    runs, costs, notes = vit_runs(config), {}, []
    for name in dict.fromkeys(run["dataset"] for run in runs):
        images = known_images(config, name, Path(datasets) / name)
        if images:
            costs[name] = run_cost(config, name, images)
        else:
            notes.append(
                f"{name} is left out: how many images it has is not known before it is packed; `plan.images` can say."
            )
    counts = {name: sum(run["dataset"] == name for run in runs) for name in costs}
    jobs = job_counts(config)
    parts = [
        f'Plan of the study "{config["study"]}"',
        "Jobs (tables and figures, seconds each, not counted)",
        _count_table(jobs),
        "SLURM jobs that these are with `--profile slurm`; tables and figures are made beside the controller",
        _count_table(slurm_job_counts(jobs)),
        "Training of vision transformers, at " + _rates(config, costs),
        text_table(_time_rows(costs, counts)),
        "Disk (checkpoints are deleted at the end of a run)",
        text_table(_disk_rows(costs, counts)),
        *notes,
    ]
    measured = _measured_rows(runs, costs, benchmarks)
    if len(measured) > 1:
        parts += [
            "Hours predicted and measured (by the last attempt, of a run that was interrupted)",
            text_table(measured),
        ]
    return "\n\n".join(parts)


def _rates(config, costs):
    names = {"GPU": "gpu", "core": "cpu"}
    used = {cost["device"]: config["plan"][names[cost["device"]]] for cost in costs.values()}
    return ", ".join(f"{rate['utilisation']:.0%} of {rate['peak_tflops']:g} TFLOP/s a {d}" for d, rate in used.items())


def _count_table(counts):
    return text_table([*([name, str(number)] for name, number in counts.items()), ["total", str(sum(counts.values()))]])


def _time_rows(costs, counts):
    rows = [["dataset", "runs", "parameters", "FLOPs a run", "on", "hours a run", "device-hours"]]
    totals = {}
    for name, cost in costs.items():
        hours = counts[name] * cost["hours"] * cost["devices"]
        totals[cost["device"]] = totals.get(cost["device"], 0) + hours
        on = f"{cost['devices']} {cost['device']}{'s' * (cost['devices'] > 1)}"
        amount = [str(counts[name]), f"{cost['parameters'] / 1e6:.2f} M", f"{cost['flops']:.2e}"]
        rows.append([name, *amount, on, f"{cost['hours']:.3g}", f"{hours:.3g}"])
    for device, hours in totals.items():
        rows.append(["total", "", "", "", f"{device}s", "", f"{hours:.3g}"])
    return rows


def _disk_rows(costs, counts):
    rows = [["dataset", "packed", "snapshots", "spectra", "total", "checkpoints, a run"]]
    total = 0
    for name, cost in costs.items():
        sizes = [cost["packed"], counts[name] * cost["snapshots"], counts[name] * cost["spectra"]]
        total += sum(sizes)
        rows.append([name, *map(size_text, (*sizes, sum(sizes), cost["checkpoints"]))])
    return [*rows, ["total", "", "", "", size_text(total), ""]]


def _measured_rows(runs, costs, benchmarks):
    rows = [["dataset", "alpha", "seed", "predicted", "measured", "measured / predicted"]]
    for run in runs:
        path = Path(benchmarks) / "train_vit" / "{dataset}_alpha_{alpha}_seed_{seed}.tsv".format(**run)
        hours = measured_hours(path)
        if hours is not None and run["dataset"] in costs:
            predicted = costs[run["dataset"]]["hours"]
            which = [run["dataset"], run["alpha"], str(run["seed"])]
            rows.append([*which, f"{predicted:.3g}", f"{hours:.3g}", f"{hours / predicted:.2f}"])
    return rows


def size_text(size):
    """Bytes as GB, or as MB if they are fewer than 1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def text_table(rows):
    """Rows as lines with aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )
