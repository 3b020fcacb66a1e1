"""Devices, and what they compute with."""

import platform
import warnings
from typing import TypeVar, cast

import torch
from torch import nn

from fptt.errors import InputError

P = TypeVar("P", bound=str)
OPERATIONS = 2.5e8  # of a step that a second thread is worth (benchmarks/threads.py)


def open_device(name: str) -> torch.device:
    """The device of that name. Raises InputError where there is none."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used ({reason}): choose another") from None
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16: GPUs of Nvidia since Ampere, processors with AVX-512 BF16 or AMX."""
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type != "cpu" or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable(precision: P, device: torch.device) -> P:
    """``precision``, or "float32" in place of "bfloat16", with a warning, where the device would only imitate it.

    On a processor an imitated product takes ten to forty times as long as one in float32.
    """
    if precision != "bfloat16" or has_bfloat16(device):
        return precision
    where = "processor" if device.type == "cpu" else "GPU"
    warnings.warn(f"fptt: this {where} has no instructions for bfloat16, it computes in float32 instead", stacklevel=2)
    return cast(P, "float32")


def busy_threads(model: nn.Module, batch_size: int, most: int) -> int:
    """How many threads, up to ``most``, a training step of ``model`` on a processor keeps busy.

    Threads beyond that win nothing, and lose much where something else runs on the machine: each waits for the others after
    every operation. Convolutions keep all busy; other weights count as six operations a sample, two forward and four backward.
    """
    parameters = list(model.parameters())
    if any(p.dim() > 2 for p in parameters):
        return most
    operations = 6 * batch_size * sum(p.numel() for p in parameters)
    return min(most, max(1, round(operations / OPERATIONS)))
