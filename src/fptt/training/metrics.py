"""Running sums of what is reported, kept on the device, and the memory of the process."""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Metric = Literal["accuracy", "mse", "map50"]


class Totals:
    """Means over samples of loss, score and firing rate; nothing reaches the host before ``result``.

    The score of "accuracy" is the share of samples whose largest output is the target's, that of "mse" the squared error; None
    has none.
    """

    def __init__(self, metric: Literal["accuracy", "mse"] | None):
        self.metric = metric
        self.keys = ("loss", *([] if metric is None else [metric]), "firing_rate")
        self.samples = 0
        self.sums: Tensor | None = None

    def add(self, output: Tensor, target: Tensor, loss: Tensor, firing_rate: Tensor) -> None:
        """``output`` and ``target`` [batch, ...] after the last step, mean ``loss`` and ``firing_rate`` of the batch."""
        values = {"loss": loss, "firing_rate": firing_rate}
        if self.metric == "accuracy":
            values["accuracy"] = (output.argmax(1) == target).float().mean()
        elif self.metric == "mse":
            values["mse"] = torch.nn.functional.mse_loss(output, target)
        kind = torch.float32 if output.device.type == "mps" else torch.float64  # which that device does not have
        row = torch.stack([values[key].detach().to(output.device, kind) for key in self.keys])
        self.samples += len(target)
        self.sums = row * len(target) if self.sums is None else self.sums + row * len(target)

    def result(self) -> dict[str, float]:
        """{"loss": ..., metric: ..., "firing_rate": ...}, NaN before the first batch."""
        means = [float("nan")] * len(self.keys) if self.sums is None else (self.sums / self.samples).tolist()
        return dict(zip(self.keys, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "sums": self.sums}

    def load_state_dict(self, content: dict[str, Any], device: torch.device) -> None:
        self.samples, self.sums = content["samples"], content["sums"]
        if self.sums is not None:
            self.sums = self.sums.to(device)


def machine(device: torch.device) -> str:
    """The processor, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = []
    if Path("/proc/cpuinfo").exists():
        models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB (2^20 bytes) so far: allocated on a CUDA device, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
