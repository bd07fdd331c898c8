"""Speed of training on a device: samples per second, the share of the device's rate, and where time goes."""

import re
import time

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from rank_increase.gpu_check.trials import pack_noise, trial
from rank_increase.training.costs import model_cost

REPEATS = 5  # of a measurement; the median is reported, with the lowest and the highest
WARM_UP = 3  # steps before, of which the first compiles
PROFILED = 5  # steps
ROWS = 30  # of the profiler's table
# Kinds of kernels by what occurs in their names, on a GPU or a CPU; the first that fits counts.
KINDS = {
    "fused by the compiler": r"^triton_",
    "attention": r"flash|fmha|attention|scaled_dot",
    "matrix products": r"gemm|cutlass|nvjet|xmma|cublas|aten::(mm|addmm|bmm|linear|matmul)\b|mkldnn",
    "optimizer": r"multi_tensor|adam",
    "copies": r"memcpy|memset|copy",
}
MARKS = r"#|Torch-Compiled|ProfilerStep"  # spans that contain kernels, not kernels


def wait(device):
    """Wait until a device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_product_rate(device, side, seconds):
    """FLOP/s of the product of two square bfloat16 matrices: the median of `REPEATS` intervals of about `seconds`."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates, count = [], 1
    for repeat in range(REPEATS + 2):  # two to warm up and to find how many products an interval takes
        start = time.perf_counter()
        for _ in range(count):
            a @ b
        wait(device)
        taken = time.perf_counter() - start
        if repeat > 1:
            rates.append(2 * side**3 * count / taken)
        else:
            count = max(1, round(count * seconds / taken))
    return float(np.median(rates))


def measure(case, device, folder, size, rate, compiled):
    """Time the training of a `sizes.Case`.

    Parameters
    ----------
    case : sizes.Case
    device : torch.device
    folder : pathlib.Path
        Empty; for data and state.
    size : sizes.Size
    rate : float
        FLOP/s of the device, from `matrix_product_rate`.
    compiled : str
        Folder for compiled code.

    Returns
    -------
    measured : dict
        Samples per second (median, lowest, highest), FLOPs of a sample, FLOP/s, share of `rate`, seconds until the
        first steps were done (with compilation), largest memory in bytes (on a GPU), and shares of the time by kind.
    table : str
        The profiler's, of operations and kernels by their own time.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    dataset = pack_noise(folder / "data", case.shape, case.classes, 2 * case.batch_size, 2)
    run = trial(dataset, folder / "run", case.model, device, batch_size=case.batch_size, compiled=compiled)
    epochs = iter(range(1, 10**6))

    def steps(count):
        done = 0
        while True:
            for images, labels in run.batches.train(next(epochs)):
                run.update(images, labels, 1e-4)
                done += 1
                if done == count:
                    wait(device)
                    return

    start = time.perf_counter()
    steps(WARM_UP)
    first = time.perf_counter() - start
    speeds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        steps(size.steps)
        speeds.append(size.steps * case.batch_size / (time.perf_counter() - start))
    samples = {"kind": "pixels", "shape": case.shape, "classes": case.classes}
    speed, cost = float(np.median(speeds)), model_cost(case.model, samples)["training"]
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        steps(PROFILED)
    events = profiled.key_averages()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    measured = {
        "label": case.label,
        "batch_size": case.batch_size,
        "compiled": run.is_compiled,
        "samples_per_second": speed,
        "lowest": min(speeds),
        "highest": max(speeds),
        "flops_per_sample": cost,
        "flops_per_second": speed * cost,
        "utilisation": speed * cost / rate,
        "first_steps_seconds": first,
        "memory_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        "time_by_kind": _shares(events, order),
    }
    return measured, events.table(sort_by=order, row_limit=ROWS, max_name_column_width=70)


def _shares(events, order):
    """Share of the time in kernels (on a CPU, in operations) of each of `KINDS`, and of others; a dict."""
    times = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in events:
        on_gpu = event.device_type != torch.autograd.DeviceType.CPU
        if order.startswith("self_device") != on_gpu or re.search(MARKS, event.key):
            continue
        found = (kind for kind, pattern in KINDS.items() if re.search(pattern, event.key, re.IGNORECASE))
        times[next(found, "other")] += getattr(event, order)
    total = sum(times.values())
    return {kind: spent / total for kind, spent in times.items()} if total else times
