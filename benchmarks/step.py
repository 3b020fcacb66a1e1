"""One FPTT step: the naive loop, the library's eager step and its compiled ones, taking turns on the same network.

    python benchmarks/step.py [--threads 2] [--out results/step]

Two recurrent LTC layers of 256, one input, Adamax, clipping at 1. Writes OUT.json: medians of the step times, their ratios to
the naive loop (medians of the ratios of neighbouring runs), and the share of matrix products in the compiled step, profiled.
All flush denormal numbers, as fptt does; "naive, denormals kept" is the naive loop in a process that does not, as torch comes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from naive import NaiveFPTT
from torch.profiler import profile

from fptt.benchmark import Point, Sequences, write_record
from fptt.models.sequence import SequenceModel
from fptt.training.precision import prepare_cpu

STEPS, BATCHES = 196, (128, 512)
PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")


def timed(run: Callable[[], Any]) -> float:
    """Milliseconds per step."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start) / STEPS


def products_share(run: Callable[[], Any]) -> float:
    """Share of the time that is spent in matrix products."""
    with profile() as recorded:
        seconds = timed(run) * STEPS / 1e3
    events = recorded.key_averages()
    return sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / 1e6 / seconds


def naive(point: Point) -> Callable[[], Any]:
    torch.manual_seed(0)
    loop = NaiveFPTT(SequenceModel(point.inputs, (point.width,) * point.layers, 10), lr=1e-3)
    sequence = torch.rand(STEPS, point.batch_size, point.inputs)
    target = torch.randint(0, 10, (point.batch_size,))
    return lambda: loop(sequence, target)


def serve(pipe: Connection, point: Point, threads: int) -> None:
    """The naive loop, once for everything that comes through ``pipe``."""
    torch.set_num_threads(threads)
    run = naive(point)
    while pipe.recv():
        pipe.send(run())


def compare(batch_size: int, repeats: int, threads: int) -> dict[str, Any]:
    point = Point(time_steps=STEPS, batch_size=batch_size)
    pipe, other = get_context("spawn").Pipe()
    get_context("spawn").Process(target=serve, args=(other, point, threads), daemon=True).start()

    def naive_elsewhere() -> None:
        pipe.send(True)
        pipe.recv()

    eager, compiled = (Sequences(Point(**{**vars(point), "compiled": on})) for on in (False, True))
    rounded = Sequences(Point(**{**vars(point), "precision": "bfloat16"}))
    runs = {
        "naive, denormals kept": naive_elsewhere,
        "naive": naive(point),
        "eager": eager.run,
        "compiled": compiled.run,
        "compiled, bfloat16": rounded.run,
    }
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(timed(run))
    pipe.send(False)

    def faster(slow: str, fast: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True)), 2)

    return {
        "batch_size": batch_size,
        "parameters": eager.parameters,
        "step_ms": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "times_faster_than_naive": {name: faster("naive", name) for name in runs if not name.startswith("naive")},
        "times_faster_than_naive_with_denormals": faster("naive, denormals kept", "compiled"),
        "times_faster_in_bfloat16": faster("compiled", "compiled, bfloat16"),
        "share_of_products": round(products_share(compiled.run), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("results/step"))
    options = parser.parse_args()
    prepare_cpu(options.threads)
    rows = []
    for batch_size in BATCHES:
        rows.append(compare(batch_size, options.repeats, options.threads))
        print(rows[-1], flush=True)
    write_record(options.out, {"threads": options.threads, "repeats": options.repeats, "rows": rows})


if __name__ == "__main__":
    main()
