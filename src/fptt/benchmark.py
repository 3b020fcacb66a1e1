"""Speed and memory of the learning rules: ``fptt benchmark``.

Every point (a rule, a length, a batch, a width) is measured in a process of its own, so that its memory is its own, and the
processes of one value take turns sequence by sequence, so that whatever else the machine does meets all rules alike.
"""

import ctypes
import json
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import fptt
from fptt.detection.head import Head
from fptt.detection.loss import DetectionLoss
from fptt.errors import InputError
from fptt.learning.losses import Criterion, StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.rules import Rule, make_optimizer, number_of_parts
from fptt.models.convolutional import ConvolutionalModel
from fptt.models.sequence import Readout, SequenceModel
from fptt.models.spyv4 import SPYv4
from fptt.training.metrics import machine
from fptt.training.precision import Precision, in_precision, prepare_cpu

VARIED = ("time_steps", "batch_size", "width")


@dataclass
class Point:
    """What is measured: ``layers`` recurrent layers of ``width`` neurons and a readout of 10 classes, on noise.

    ``parts`` are updates per sequence, where the rule has a choice; ``window`` is that of online BPTT. With ``channels``,
    convolutional layers of so many channels, each pooled by 2, on images of 28 x 28 as a constant current, and one dense layer
    of ``width``. With ``detector``, SPYv4 at its full width on images of that size, and its own loss.
    """

    rule: Rule = "fptt"
    parts: int | None = None
    window: int = 10
    neuron: str = "ltc"
    readout: Readout = "liquid"
    time_steps: int = 100
    batch_size: int = 128
    width: int = 256
    layers: int = 2
    inputs: int = 1
    channels: tuple[int, ...] = ()
    detector: int = 0
    compiled: bool = True
    precision: Precision = "float32"
    device: str = "cpu"
    threads: int = 0


def network(point: Point) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network of ``point``, and its input [time, batch, ...]."""
    steps, batch = point.time_steps, point.batch_size
    options: dict[str, Any] = {"neuron": point.neuron}
    if not point.detector:
        options["readout"] = point.readout
    if not (point.channels or point.detector):
        model: torch.nn.Module = SequenceModel(point.inputs, (point.width,) * point.layers, 10, **options)
        return model, torch.rand(steps, batch, point.inputs)
    options["norm_steps"] = steps
    if point.detector:
        model, shape = SPYv4(size=point.detector, **options), (3, point.detector, point.detector)
    else:
        shape = (1, 28, 28)
        pool = (2,) * len(point.channels)
        model = ConvolutionalModel(shape, point.channels, (point.width,), 10, pool=pool, **options)
    return model, torch.rand(batch, *shape).expand(steps, -1, -1, -1, -1)


def criterion_and_target(point: Point) -> tuple[Criterion, torch.Tensor]:
    """What the output of the network of ``point`` is held to."""
    if not point.detector:
        return torch.nn.functional.cross_entropy, torch.randint(0, 10, (point.batch_size,))
    corners = torch.rand(point.batch_size, 3, 2, 2).sort(dim=2).values * point.detector  # three boxes an image
    classes = torch.randint(0, 20, (point.batch_size, 3, 1))
    target = torch.cat((classes, corners.flatten(2), torch.zeros_like(classes)), dim=2)
    return DetectionLoss(Head(20, point.detector)), target


class Sequences:
    """Trains sequence after sequence as ``point`` says; measures time, and memory since it was built."""

    def __init__(self, point: Point):
        self.device = torch.device(point.device)
        prepare_cpu(point.threads)
        torch.manual_seed(0)
        model, x = network(point)
        model.to(self.device)
        stepped = in_precision(model, point.precision, self.device)
        parts = number_of_parts(point.rule, point.time_steps, point.parts)
        base = torch.optim.Adamax(model.parameters(), lr=1e-3)
        self.optimizer = make_optimizer(point.rule, base, max_norm=1.0)
        criterion, target = criterion_and_target(point)
        loss = StepLoss(criterion, parts).to(self.device)
        self.trainer = make_trainer(
            point.rule,
            stepped,
            loss,
            self.optimizer,
            point.time_steps,
            parts=point.parts,
            compiled=point.compiled,
            window=point.window,
            approximate=True,
        )
        self.sequence = x.to(self.device)
        self.target = target.to(self.device)
        self.parameters = sum(p.numel() for p in model.parameters())

    def run(self) -> float:
        """Seconds for one sequence."""
        start = time.perf_counter()
        self.trainer(self.sequence, self.target)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def lasting_mb(self) -> float:
        """Weights, gradients and optimizer states."""
        tensors = {id(t): t for group in self.optimizer.param_groups for t in group["params"]}
        for optimizer in (self.optimizer, getattr(self.optimizer, "base", self.optimizer)):
            tensors |= {id(t): t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)}
        sizes = [t.numel() * t.element_size() * (2 if t.requires_grad else 1) for t in tensors.values()]
        return sum(sizes) / 2**20

    def start_memory(self) -> None:
        """From here on, count how far memory rises."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device) / 2**20
            return
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of the resident set
        except (OSError, AttributeError):
            pass
        self.before = self.memory_mb()

    def rise_mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self.before
        return self.memory_mb() - self.before

    def memory_mb(self) -> float:
        """High-water mark of the resident set."""
        status = Path("/proc/self/status")
        if status.exists():
            return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def serve(point: Point) -> None:
    """The process of one point: trains one sequence for each line it is sent, and answers with the seconds it took."""
    sequences = Sequences(point)
    print(json.dumps({"first": sequences.run(), "parameters": sequences.parameters}), flush=True)
    sequences.start_memory()
    for _ in sys.stdin:
        print(json.dumps({"seconds": sequences.run()}), flush=True)
    rise = sequences.rise_mb()
    print(json.dumps({"training_mb": rise + sequences.lasting_mb(), "peak_mb": sequences.memory_mb()}), flush=True)


class Process:
    """``serve(point)`` in a process of its own."""

    def __init__(self, point: Point):
        code = f"from fptt.benchmark import Point, serve; serve(Point(**{asdict(point)!r}))"
        self.point, self.times = point, list[float]()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.first = self.answer()

    def answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        self.process.wait()
        last = (self.process.stderr.read().strip().splitlines() or ["no message"])[-1] if self.process.stderr else ""
        raise InputError(
            f"{self.point.rule} at {self.point.time_steps} steps, batch {self.point.batch_size}, width {self.point.width} "
            f"ended with status {self.process.returncode} ({last}): choose other values"
        )

    def run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.times.append(self.answer()["seconds"])

    def finish(self) -> dict[str, Any]:
        """All figures of the point."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        memory = self.answer()
        self.process.wait()
        sequence = statistics.median(self.times)
        return {
            **asdict(self.point),
            "parameters": self.first["parameters"],
            "start_up_s": round(max(0.0, self.first["first"] - sequence), 3),
            "sequence_s": round(sequence, 5),
            "step_ms": round(1e3 * sequence / self.point.time_steps, 4),
            "step_ms_fastest": round(1e3 * min(self.times) / self.point.time_steps, 4),
            "training_mb": round(memory["training_mb"], 1),
            "peak_mb": round(memory["peak_mb"], 1),
        }

    def kill(self) -> None:
        self.process.kill()


def measure(points: list[Point], repeats: int) -> list[dict[str, Any]]:
    """The figures of ``points``, which take turns for ``repeats`` sequences each."""
    processes: list[Process] = []
    try:
        for point in points:
            processes.append(Process(point))
        for _ in range(repeats):
            for process in processes:
                process.run()
        return [process.finish() for process in processes]
    finally:
        for process in processes:
            process.kill()


def provenance(command: str, device: str = "cpu") -> dict[str, Any]:
    """What a record of measurements says of itself: the command, versions and machine."""
    return {
        "command": command,
        "seed": 0,
        "version": fptt.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": machine(torch.device(device)),
    }


def write_record(out: Path, result: dict[str, Any], device: str = "cpu") -> None:
    """OUT.json of a script: ``result``, and what it says of itself."""
    record = {**provenance(shlex.join(["python", *sys.argv]), device), **result}
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
