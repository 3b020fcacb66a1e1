"""One FPTT update alone, without the network: written plainly, the library's eager one and its compiled one.

    python benchmarks/update.py [--threads 2] [--out results/update]

14.2 million weights (12 convolutions of 3 x 3 from 256 to 512 channels, and 48 vectors of 512), Adamax, clipping at 1. Beside
it the time to stream the same tensors once through memory: weights, averages, multipliers and two moments are read and
written, the gradient is read. Writes OUT.json with medians, and medians of the ratios of neighbouring runs.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fptt import FPTT
from fptt.benchmark import write_record
from fptt.learning.graphs import CompiledUpdate

SHAPES = [(512, 256, 3, 3)] * 12 + [(512,)] * 48
ALPHA, BETA, MAX_NORM = 0.1, 0.5, 1.0


class Plain:
    """Regulariser through autograd, clipping, the base optimizer, and a loop over the parameters, as published."""

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.base = torch.optim.Adamax(parameters, lr=1e-3)
        self.averages = [p.detach().clone() for p in parameters]
        self.lambdas = [torch.zeros_like(p) for p in parameters]

    def step(self) -> None:
        regulariser: Any = 0.0
        for w, average, lambda_ in zip(self.parameters, self.averages, self.lambdas, strict=True):
            regulariser = regulariser - (w * lambda_).sum() + 0.5 * ALPHA * torch.square(w - average).sum()
        regulariser.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.base.step()
        with torch.no_grad():
            for w, average, lambda_ in zip(self.parameters, self.averages, self.lambdas, strict=True):
                lambda_.add_(-ALPHA * (w - average))
                average.mul_(1 - BETA)
                average.add_(BETA * w - (BETA / ALPHA) * lambda_)


class Stream:
    """Reads six tensors of all weights and writes five: what an update cannot do without."""

    def __init__(self, parameters: list[Tensor]):
        size = sum(p.numel() for p in parameters)
        self.tensors = [torch.zeros(size) for _ in range(6)]

    def step(self) -> None:
        for tensor in self.tensors[:5]:
            tensor.neg_()
        self.tensors[5].sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/update"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in SHAPES]
    gradients = [torch.randn(shape) for shape in SHAPES]
    runs: dict[str, Any] = {}
    for name in ("plain", "eager", "compiled", "stream"):
        parameters = [torch.nn.Parameter(w.clone()) for w in weights]
        fptt = FPTT(torch.optim.Adamax(parameters, lr=1e-3), alpha=ALPHA, beta=BETA, max_norm=MAX_NORM)
        made: Any = {"plain": Plain, "stream": Stream}.get(name, lambda _, fptt=fptt: fptt)(parameters)
        runs[name] = parameters, CompiledUpdate(fptt) if name == "compiled" else made
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 2):
        for name, (parameters, optimizer) in runs.items():
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g.clone()
            start = time.perf_counter()
            optimizer.step()
            if repeat > 1:  # the first creates the states, the second compiles
                times[name].append(1e3 * (time.perf_counter() - start))
    difference = max((a - b).abs().max().item() for a, b in zip(runs["plain"][0], runs["compiled"][0], strict=True))

    def ratio(a: str, b: str) -> float:
        return round(statistics.median(x / y for x, y in zip(times[a], times[b], strict=True)), 2)

    result = {
        "threads": options.threads,
        "weights": sum(w.numel() for w in weights),
        "update_ms": {name: round(statistics.median(values), 2) for name, values in times.items()},
        "plain_over_compiled": ratio("plain", "compiled"),
        "compiled_over_stream": ratio("compiled", "stream"),
        "largest_difference_of_weights": difference,
    }
    print(json.dumps(result, indent=1))
    write_record(options.out, result)


if __name__ == "__main__":
    main()
