"""The cost of a study, from its configuration alone: jobs, floating point operations, hours, disk.

A FLOP is a floating point operation; the product of (m, k) and (k, n) matrices takes 2 m k n.
"""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

from rank_increase.data.packed import sample_dtype
from rank_increase.notation import log_alpha
from rank_increase.study.configuration import (
    limit_problems,
    network_runs,
    plain_problems,
    toy_runs,
    trained_runs,
    variant_settings,
)
from rank_increase.study.text import size_text, text_table

ROW_BYTES = 60  # of a row of spectra besides its singular values, compressed
TOY_SHARE = 0.1  # of a core's rate that a toy gradient reaches, with small products in float64


def model_cost(network, samples, extensions=()):
    """`training.costs.model_cost` of a network, for samples as from `known_samples`."""
    from rank_increase.training.costs import model_cost  # torch takes seconds to import; only networks need it

    return model_cost(network.model.model_dump(), samples, extensions)


def job_counts(study):
    """Number of jobs of each rule that takes more than seconds: a dict of rule to number."""
    toy, trained, measured = toy_runs(study), trained_runs(study), network_runs(study)
    plain = len(plain_problems(study))
    perturbed = study.assumptions.seeds if study.assumptions else []
    problems = {(run["variant"], run["seed"]) for run in toy} | {("diagonal", seed) for seed in perturbed}
    counts = {
        "make_problem": len(problems),
        "run_algorithm1": sum(study.toy.variants[name].has_stages for name, _ in problems),
        "train_toy": len(toy),
        "compare_theorem": len(limit_problems(study)),
        "follow_orbits": plain if plain and study.toy.orbits else 0,
        "perturb_toy": 2 * len(perturbed),
        "perturb_limit": plain if study.assumptions else 0,
        "run_linear_attention": len(study.linear_attention.seeds) if study.linear_attention else 0,
        "prepare_dataset": len({study.networks[run["network"]].dataset for run in trained}),
        "train_network": len(trained),
        "import_checkpoints": len(measured) - len(trained),
        "compute_spectra": len(measured),
    }
    return {rule: count for rule, count in counts.items() if count}


def slurm_job_counts(counts):
    """The SLURM jobs into which the profile `slurm` groups the jobs in `counts` (from `job_counts`): a dict."""
    groups = {
        "toy (a problem each)": counts.get("make_problem", 0),
        "linear attention (a problem each)": counts.get("run_linear_attention", 0),
        "prepare_dataset": counts.get("prepare_dataset", 0),
        "train_network": counts.get("train_network", 0),
        "import_checkpoints": counts.get("import_checkpoints", 0),
        "spectra (a run each)": counts.get("compute_spectra", 0),
    }
    return {name: count for name, count in groups.items() if count}


def known_samples(study, name, folder):
    """Size of a dataset, as packed or else from `plan.datasets`: a dict with the keys of `configuration.Samples`.

    None if it is neither packed in `folder` nor listed there.
    """
    manifest = Path(folder) / "manifest.json"
    if not manifest.exists():
        return study.plan.datasets[name].model_dump() if name in study.plan.datasets else None
    manifest = json.loads(manifest.read_text())
    of_sample = {key: manifest[key] for key in ("kind", "shape", "label_shape")}
    return {**manifest["counts"], **of_sample, "classes": len(manifest["classes"])}


def run_cost(study, network, samples):
    """The cost of a run of a network.

    Parameters
    ----------
    study : study.configuration.Study
    network : study.configuration.Network
    samples : dict
        From `known_samples`.

    Returns
    -------
    dict
        parameters
            Parameters of the model.
        flops
            FLOPs of a run: forward and backward passes for every training sample, and a forward pass for every test
            sample, in each epoch.
        devices, device
            Number of GPUs or CPU cores, and which of the two.
        hours
            Wall time on all devices, at the rate in `plan.gpu` or `plan.cpu`.
        packed
            Bytes of the dataset: one per pixel, one or two per token, four per feature, and eight per label.
        snapshots
            Bytes of the weights in float32 at all snapshots.
        memory
            Bytes on each device, at most: weights, gradients and two moments in float32, and what a pass keeps for the
            backward pass in bfloat16, if the compiler saves nothing. A GPU holds the packed data, too, if they fit.
        asked
            Bytes of `hardware.mem_mb`.
        checkpoints
            Bytes during the run: three states (the last two, and one being written), each of weights and two moments.
        spectra
            Bytes of singular values: 8 each, twice, as the tables of the run and of the network both hold them.
    """
    recipe, hardware = network.recipe, network.hardware
    cost = model_cost(network, samples, tuple(study.extensions))
    train, test = recipe.used_samples(samples["train"], samples["test"])
    steps = train // recipe.batch_size
    flops = recipe.epochs * (cost["training"] * steps * recipe.batch_size + cost["forward"] * test)
    device, devices = ("GPU", hardware.gpu) if hardware.gpu else ("core", hardware.threads)
    rate = study.plan.gpu if hardware.gpu else study.plan.cpu
    snapshots = len(recipe.snapshot_steps(steps))
    itemsize = sample_dtype(samples["kind"], samples["classes"]).itemsize
    of_sample = itemsize * math.prod(samples["shape"]) + 8 * math.prod(samples["label_shape"])
    spectra = sum(
        heads * ((snapshots + 1) * (8 * trained + ROW_BYTES) + 4 * snapshots * (8 * change + ROW_BYTES))
        for heads, trained, change in cost["products"]
    )
    processes = hardware.gpu or hardware.processes
    share = -(-recipe.batch_size // processes)
    return {
        "memory": 16 * cost["parameters"] + cost["activations"] * min(hardware.pass_size or share, share),
        "asked": hardware.mem_mb * 10**6,
        "parameters": cost["parameters"],
        "flops": flops,
        "device": device,
        "devices": devices,
        "hours": flops / (rate.peak_tflops * 1e12 * rate.utilisation * devices) / 3600,
        "packed": (samples["train"] + samples["test"]) * of_sample,
        "snapshots": 4 * snapshots * cost["weights"],
        "checkpoints": 3 * 3 * cost["parameters"] * 4,
        "spectra": 2 * spectra,
    }


def toy_hours(study):
    """Estimated core-hours of the toy runs, from the gradients of a run, their FLOPs, and `TOY_SHARE` of a core's rate.

    Gradient descent takes one gradient per step. The flow of diagonal weights took about 1000 cbrt(ln(1/alpha))
    gradients at the paper's size, in proportion to the entries that become active (measured, alpha from 0.1 to
    1e-3000). The flow of full weights took some 2500 at 1e-4.
    """
    rate = study.plan.cpu.peak_tflops * 1e12 * TOY_SHARE
    seconds = 0.0
    for run in toy_runs(study):
        toy, unit = SimpleNamespace(**variant_settings(study, run["variant"])), -log_alpha(run["alpha"])
        gradient = 8 * max(1, toy.layers) * toy.heads * toy.samples * toy.tokens**2 * toy.dim
        if toy.method != "flow":
            share = toy.batch_size / toy.samples if toy.method == "sgd" else 1
            gradients = share * toy.max_time * unit / toy.step
        else:
            gradients = (1000 if toy.weights == "diagonal" else 1200) * unit ** (1 / 3) * toy.dim / 50
        full = 4 * toy.samples * toy.tokens * toy.dim**2 if toy.weights == "full" else 0
        seconds += gradients * (gradient + 2 * full) / rate
    return seconds / 3600


def measured_hours(path):
    """Wall time in a Snakemake benchmark file, in hours; None if there is no such file."""
    try:
        with open(path, newline="") as file:
            return float(next(csv.DictReader(file, delimiter="\t"))["s"]) / 3600
    except FileNotFoundError:
        return None


def describe(study, datasets, benchmarks):
    """The plan of a study as text, at most 120 columns wide.

    Parameters
    ----------
    study : study.configuration.Study
    datasets : str
        Folder of the packed datasets.
    benchmarks : str
        Folder of the study's benchmark files.
    """
    costs, notes = {}, []
    for name, network in study.networks.items():
        samples = known_samples(study, network.dataset, Path(datasets) / network.dataset)
        if samples:
            costs[name] = run_cost(study, network, samples)
        else:
            notes.append(
                f"{name} is left out: the size of {network.dataset} is not known before it is packed;"
                " `plan.datasets` can say."
            )
    runs, jobs = trained_runs(study), job_counts(study)
    counts = {name: sum(run["network"] == name for run in runs) for name in costs}
    parts = [
        f'Plan of the study "{study.study}"',
        "Jobs (tables and figures, seconds each, not counted)",
        _count_table(jobs),
        "SLURM jobs with `--profile slurm`; tables and figures are made beside the controller",
        _count_table(slurm_job_counts(jobs)),
    ]
    if study.toy:
        parts.append(f"Toy runs: about {toy_hours(study):.2g} core-hours, Algorithm 1 and perturbations as much again")
    if costs:
        parts += [
            "Training of networks, at " + _rates(study, costs),
            text_table(_time_rows(costs, counts)),
            "Memory: on each device, at most, and what a run asks for on its node",
            text_table(_memory_rows(costs)),
            "Disk (checkpoints are deleted at the end of a run)",
            text_table(_disk_rows(costs, counts)),
        ]
    notes += [
        f"{name}: the packed data are larger than `hardware.mem_mb`, so they are read from the disk in every epoch."
        for name, cost in costs.items()
        if cost["packed"] > cost["asked"]
    ]
    measured = _measured_rows(runs, costs, benchmarks)
    if len(measured) > 1:
        parts += [
            "Hours predicted and measured (by the last attempt, of a run that was interrupted)",
            text_table(measured),
        ]
    return "\n\n".join([*parts, *notes])


def _rates(study, costs):
    rates = {"GPU": study.plan.gpu, "core": study.plan.cpu}
    used = {cost["device"]: rates[cost["device"]] for cost in costs.values()}
    return ", ".join(f"{rate.utilisation:.0%} of {rate.peak_tflops:g} TFLOP/s a {d}" for d, rate in used.items())


def _count_table(counts):
    return text_table([*([name, str(number)] for name, number in counts.items()), ["total", str(sum(counts.values()))]])


def _time_rows(costs, counts):
    rows = [["network", "runs", "parameters", "FLOPs a run", "on", "hours a run", "device-hours"]]
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


def _memory_rows(costs):
    rows = [["network", "on each", "at most", "packed data", "mem_mb"]]
    for name, cost in costs.items():
        sizes = (cost["memory"], cost["packed"], cost["asked"])
        rows.append([name, cost["device"], *map(size_text, sizes)])
    return rows


def _disk_rows(costs, counts):
    rows = [["network", "packed", "snapshots", "spectra", "total", "checkpoints, a run"]]
    total = 0
    for name, cost in costs.items():
        sizes = [cost["packed"], counts[name] * cost["snapshots"], counts[name] * cost["spectra"]]
        total += sum(sizes)
        rows.append([name, *map(size_text, (*sizes, sum(sizes), cost["checkpoints"]))])
    return [*rows, ["total", "", "", "", size_text(total), ""]]


def _measured_rows(runs, costs, benchmarks):
    rows = [["network", "alpha", "seed", "predicted", "measured", "measured / predicted"]]
    for run in runs:
        path = Path(benchmarks) / "train_network" / "{network}_alpha_{alpha}_seed_{seed}.tsv".format(**run)
        hours = measured_hours(path)
        if hours is not None and run["network"] in costs:
            predicted = costs[run["network"]]["hours"]
            which = [run["network"], run["alpha"], str(run["seed"])]
            rows.append([*which, f"{predicted:.3g}", f"{hours:.3g}", f"{hours / predicted:.2f}"])
    return rows
