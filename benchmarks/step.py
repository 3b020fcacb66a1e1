"""One FPTT step: the naive loop, the library's eager step and its compiled ones, taking turns on the same network.

    python benchmarks/step.py [--threads 2] [--device cuda] [--out results/step]

Two recurrent LTC layers of 256, one input, Adamax, clipping at 1. Writes OUT.json: medians of the step times, their ratios to
the naive loop (medians of the ratios of neighbouring runs), and the share of matrix products in the compiled step, profiled.
On a processor all flush denormal numbers, as fptt does; "naive, denormals kept" is the naive loop in a process that does not,
as torch comes. On a GPU the naive loop and "eager" have torch's operators alone, "eager, kernels" has ours as well, and the
record says beside it what no step can be faster than: its kernels, each as short as an empty one; the tensors of the update,
passed through memory once; its multiplications, at the rate of one large product.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from naive import NaiveFPTT
from torch.profiler import profile

from fptt.arithmetic import usable
from fptt.benchmark import Point, Sequences, write_record
from fptt.kernels import dispatch
from fptt.models.sequence import SequenceModel
from fptt.training.precision import Precision, prepare_cpu

STEPS, BATCHES = 196, (128, 512)
PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")
PRECISIONS: dict[str, Precision] = {"compiled": "float32", "compiled, tf32": "tf32", "compiled, bfloat16": "bfloat16"}
UPDATE_PASSES = 11  # gradients and five tensors are read, the five are written: weights, averages, multipliers, Adamax's two
SEQUENCES = 3  # until everything is compiled and recorded


def timed(run: Callable[[], Any], device: str) -> float:
    """Milliseconds per step."""
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / STEPS


def profiled(run: Callable[[], Any], device: str) -> dict[str, float]:
    """Share of the time that is spent in matrix products; on a GPU, where they are parts of kernels, those and their time."""
    with profile() as recorded:
        seconds = timed(run, device) * STEPS / 1e3
    events = recorded.key_averages()
    if device == "cpu":
        return {"share_of_products": round(sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / 1e6 / seconds, 3)}
    kernels = [e for e in events if e.self_device_time_total and not e.self_cpu_time_total]
    busy = sum(e.self_device_time_total for e in kernels)
    return {
        "kernels_per_step": round(sum(e.count for e in kernels) / STEPS, 1),
        "kernels_us_per_step": round(busy / STEPS, 1),
    }


def floors(parameters: int, batch_size: int, kernels: float) -> dict[str, float]:
    """Microseconds that a step takes at least, by three measures of this GPU."""

    def microseconds(function: Callable[[], Any], repeats: int) -> float:
        function()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                function()
        graph.replay()
        torch.cuda.synchronize()
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        return 1e6 * (time.perf_counter() - start) / repeats

    one = torch.zeros(1, device="cuda")
    large, other = torch.rand(2, 2**28, device="cuda")
    matrix = torch.rand(8192, 8192, device="cuda")
    torch.set_float32_matmul_precision("high")
    empty = microseconds(lambda: one.add_(1), 1000)
    bytes_per_us = 2 * 4 * len(large) / microseconds(lambda: large.copy_(other), 10)
    rate = 2 * 8192**3 / microseconds(lambda: matrix @ matrix, 10)
    torch.set_float32_matmul_precision("highest")
    return {
        "empty_kernel_us": round(empty, 3),
        "launches_us": round(empty * kernels, 1),
        "copy_tb_s": round(bytes_per_us / 1e6, 2),
        "update_us": round(UPDATE_PASSES * 4 * parameters / bytes_per_us, 1),
        "tf32_tflop_s": round(rate / 1e6, 1),
        "products_us": round(6 * parameters * batch_size / rate, 1),
    }


def naive(point: Point) -> Callable[[], Any]:
    torch.manual_seed(0)
    loop = NaiveFPTT(SequenceModel(point.inputs, (point.width,) * point.layers, 10).to(point.device), lr=1e-3)
    sequence = torch.rand(STEPS, point.batch_size, point.inputs, device=point.device)
    target = torch.randint(0, 10, (point.batch_size,), device=point.device)
    return lambda: loop(sequence, target)


def without_kernels(run: Callable[[], Any]) -> Callable[[], Any]:
    """With torch's own operators alone."""

    def plain() -> None:
        with mock.patch.object(dispatch, "runs", lambda _: False):
            run()

    return plain


def serve(pipe: Connection, point: Point, threads: int) -> None:
    """The naive loop, once for everything that comes through ``pipe``."""
    torch.set_num_threads(threads)
    run = naive(point)
    with contextlib.suppress(EOFError):  # no more of them
        while pipe.recv():
            pipe.send(run())


def naive_elsewhere(point: Point, threads: int) -> Callable[[], Any]:
    """The naive loop in a process of its own."""
    pipe, other = get_context("spawn").Pipe()
    get_context("spawn").Process(target=serve, args=(other, point, threads), daemon=True).start()

    def run() -> None:
        pipe.send(True)
        pipe.recv()

    return run


def compare(batch_size: int, repeats: int, threads: int, device: str) -> dict[str, Any]:
    point = Point(time_steps=STEPS, batch_size=batch_size, device=device)
    eager = Sequences(Point(**{**vars(point), "compiled": False}))
    runs = {"naive": naive(point), "eager": eager.run}
    if device == "cpu":
        runs["naive, denormals kept"] = naive_elsewhere(point, threads)
    else:
        runs = {name: without_kernels(run) for name, run in runs.items()} | {"eager, kernels": eager.run}
    for name, precision in PRECISIONS.items():
        if usable(precision, torch.device(device)) == precision and (device, precision) != ("cpu", "tf32"):
            runs[name] = Sequences(Point(**{**vars(point), "precision": precision})).run

    def turn(name: str) -> float:
        torch.set_float32_matmul_precision("high" if name == "compiled, tf32" else "highest")
        return timed(runs[name], device)

    for name in runs:
        for _ in range(SEQUENCES if name in PRECISIONS else 1):
            turn(name)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name in runs:
            times[name].append(turn(name))

    def faster(slow: str, fast: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True)), 2)

    compiled = [name for name in runs if name in PRECISIONS]
    row = {
        "batch_size": batch_size,
        "parameters": eager.parameters,
        "step_ms": {name: round(statistics.median(values), 4) for name, values in times.items()},
        "times_faster_than_naive": {name: faster("naive", name) for name in runs if not name.startswith("naive")},
        "times_faster_than_eager": {name: faster("eager", name) for name in compiled},
        "times_faster_than_compiled": {name: faster("compiled", name) for name in compiled[1:]},
    }
    if device == "cpu":
        row["times_faster_than_naive_with_denormals"] = faster("naive, denormals kept", "compiled")
        return {**row, **profiled(runs["compiled"], device)}
    torch.set_float32_matmul_precision("high")
    found = profiled(runs["compiled, tf32"], device)
    return {**row, "tf32": {**found, "floors": floors(eager.parameters, batch_size, found["kernels_per_step"])}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--out", type=Path, default=Path("results/step"))
    options = parser.parse_args()
    prepare_cpu(options.threads)
    rows = []
    for batch_size in options.batches:
        rows.append(compare(batch_size, options.repeats, options.threads, options.device))
        print(rows[-1], flush=True)
    record = {"threads": options.threads, "repeats": options.repeats, "rows": rows}
    write_record(options.out, record, options.device)


if __name__ == "__main__":
    main()
