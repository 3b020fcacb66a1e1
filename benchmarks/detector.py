"""The detector at work: frames per second of SPYv4, one step a frame, beside the same network written plainly.

    python benchmarks/detector.py [--threads 1 2] [--out results/detector-speed]

The plain network is what research code usually is: cell by cell a convolution, a batch norm, the gate's convolution and batch
norm, the neuron with its surrogate as an autograd function, run eagerly and without gradients, and each cell's mean spike
copied to the host at every step. It has the same weights and gives the same outputs. All take turns in one process, at batch
1. Writes OUT.json: medians of the time of a step of the network; and medians of the ratios of neighbouring runs. "detector"
is all that ``Detector.step`` does with a photograph: letterbox, network, boxes.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt.arithmetic import has_bfloat16
from fptt.benchmark import write_record
from fptt.data.voc import CLASSES
from fptt.detection.detector import Detector
from fptt.detection.head import Head
from fptt.models.spyv4 import SPYv4
from fptt.training.precision import prepare_cpu

PHOTOGRAPH = (375, 500)  # height and width of most images of VOC
WAYS: dict[str, dict[str, Any]] = {
    "eager": {},
    "compiled": {"compile": True},
    "bfloat16, eager": {"precision": "bfloat16"},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
}


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.gt(0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors

        def gaussian(mean: float, sigma: float) -> Tensor:
            return torch.exp(-((x - mean) ** 2) / (2 * sigma**2)) / math.sqrt(2 * math.pi) / sigma

        return gradient * 0.5 * (1.15 * gaussian(0.0, 0.3) - 0.15 * gaussian(0.3, 1.8) - 0.15 * gaussian(-0.3, 1.8))


class PlainCell(nn.Module):
    """One convolutional LTC layer with a fixed threshold of 1."""

    def __init__(self, conv: nn.Conv2d, upsampled: bool):
        super().__init__()
        channels = conv.out_channels
        bias = conv.bias is not None
        self.conv = nn.Conv2d(conv.in_channels, channels, conv.kernel_size, conv.stride, conv.padding, bias=bias)
        self.norm = nn.BatchNorm2d(channels)
        self.upsample = nn.Upsample(scale_factor=2) if upsampled else None
        self.gate = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        current = self.norm(self.conv(x))
        if self.upsample is not None:
            current = self.upsample(current)
        inv_tau_m = torch.sigmoid(self.gate_norm(self.gate(current + v)))
        v = v + inv_tau_m * (current - v)
        z = Spike.apply(v - 1.0)
        v = (1 - z) * v
        return z, v


class PlainSPYv4(nn.Module):
    """SPYv4 with the readout "last", from the weights of ``model``, which has one batch norm for all steps."""

    def __init__(self, model: SPYv4):
        super().__init__()
        self.cells = nn.ModuleDict()
        for name, layer in model.layers.items():
            made: Any = layer
            cell = PlainCell(made.synapse, made.pool is not None)
            gate = made.neuron.rates[0]
            cell.conv.load_state_dict(made.synapse.state_dict())
            cell.gate.load_state_dict(gate.conv.state_dict())
            cell.gate_norm.load_state_dict(gate.norm.state_dict())
            for norm, key in ((cell.norm, "weight"), (cell.norm, "bias")):
                getattr(norm, key).data.copy_(getattr(made.norm, key))
            cell.norm.running_mean.copy_(made.norm.running_mean[0])
            cell.norm.running_var.copy_(made.norm.running_var[0])
            self.cells[name] = cell
        self.heads = nn.ModuleList(nn.Conv2d(head.in_channels, head.out_channels, 1) for head in model.heads)
        self.heads.load_state_dict(model.heads.state_dict())

    @torch.no_grad()
    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor], dict[str, float]]:
        after, spikes = {}, {}

        def cell(name: str, x: Tensor) -> Tensor:
            z, after[name] = self.cells[name](x, state[name])
            spikes[name] = z.detach().cpu().numpy().mean()
            return z

        x = cell("stem2", cell("stem1", x))
        for block in ("block1", "block2", "block3"):
            route = cell(f"{block}_1", x)
            half = route[:, route.shape[1] // 2 :]
            second = cell(f"{block}_2", half)
            third = cell(f"{block}_3", second)
            fine = cell(f"{block}_4", torch.cat([third, second], dim=1))
            x = F.max_pool2d(torch.cat([route, fine], dim=1), 2, 2)
        neck = cell("neck", cell("top", x))
        coarse = self.heads[0](cell("coarse", neck))
        fine = self.heads[1](cell("fine", torch.cat([cell("up", neck), fine], dim=1)))
        return [coarse, fine], after, spikes


def network(size: int, width: float) -> SPYv4:
    """A network whose layers fire: untrained, with the statistics that its batch norms have on noise, and shifted currents."""
    torch.manual_seed(0)
    model, state = SPYv4(len(CLASSES), size, width=width), None
    with torch.no_grad():
        for layer in model.layers.values():
            layer.norm.bias.fill_(0.8)
        for _ in range(20):
            _, state = model(torch.rand(1, 3, size, size), state)
    return model.eval()


def plain_step(model: SPYv4) -> Callable[[Tensor], Any]:
    plain = PlainSPYv4(model).eval()
    size = model.size
    first = model.initial_state(torch.zeros(1, 3, size, size))
    state = {name: layer.neuron.v for name, layer in zip(model.layers, first.layers, strict=True)}

    def step(x: Tensor) -> Any:
        nonlocal state
        outputs, state, _ = plain(x, state)
        return outputs

    return step


def detector_step(detector: Detector) -> Callable[[Tensor], Any]:
    """A step of the network alone; its state as ``Detector`` keeps it."""
    state = None

    def step(x: Tensor) -> Any:
        nonlocal state
        output, state = detector.forward(x, state)
        return output

    return step


def compare(model: SPYv4, threads: int, repeats: int) -> dict[str, Any]:
    """Times at so many threads."""
    torch.set_num_threads(threads)
    torch._dynamo.reset()  # what is compiled is compiled for a number of threads
    possible = {name: how for name, how in WAYS.items() if has_bfloat16(torch.device("cpu")) or "precision" not in how}
    detectors = {name: Detector(model, Head(len(CLASSES), model.size), CLASSES, 1, **how) for name, how in possible.items()}
    steps: dict[str, Callable[[Tensor], Any]] = {"plain": plain_step(model)}
    steps |= {name: detector_step(detector) for name, detector in detectors.items()}
    x = torch.rand(1, 3, model.size, model.size)
    photograph = torch.randint(0, 256, (3, *PHOTOGRAPH), dtype=torch.uint8)
    times: dict[str, list[float]] = {name: [] for name in steps}
    whole: dict[str, list[float]] = {name: [] for name in detectors}
    states: dict[str, Any] = dict.fromkeys(detectors)
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step(x)
            if repeat > 1:  # the first ones allocate and compile
                times[name].append(1e3 * (time.perf_counter() - start))
        for name, detector in detectors.items():
            start = time.perf_counter()
            _, states[name] = detector.step(photograph, states[name])
            if repeat > 1:
                whole[name].append(1e3 * (time.perf_counter() - start))

    def ratio(name: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times["plain"], times[name], strict=True)), 2)

    return {
        "threads": threads,
        "step_ms": {name: round(statistics.median(values), 1) for name, values in times.items()},
        "step_ms_fastest": {name: round(min(values), 1) for name, values in times.items()},
        "frames_per_second": {name: round(1e3 / statistics.median(values), 2) for name, values in times.items()},
        "times_faster_than_plain": {name: ratio(name) for name in steps},
        "detector_ms": {name: round(statistics.median(values), 1) for name, values in whole.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("results/detector-speed"))
    options = parser.parse_args()
    prepare_cpu()
    model = network(options.size, options.width)
    rows = []
    for threads in options.threads:
        rows.append(compare(model, threads, options.repeats))
        print(json.dumps(rows[-1], indent=1), flush=True)
    write_record(options.out, {"size": options.size, "width": options.width, "batch": 1, "rows": rows})


if __name__ == "__main__":
    main()
