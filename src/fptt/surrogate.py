"""Spike functions: Heaviside step forward, surrogate derivative backward.

A spike function maps x = v - theta (any shape) to spikes 0.0 or 1.0 of the same shape and dtype. Its true derivative is
zero almost everywhere; the backward pass uses a surrogate. Choose one by name: ``surrogate.get("multi_gaussian")``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fptt.errors import InputError

SpikeFunction = Callable[[Tensor], Tensor]


def _gaussian(x: Tensor, mean: float, sigma: float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)


def multi_gaussian(x: Tensor, gamma: float = 0.5, h: float = 0.15, s: float = 0.3, scale: float = 6.0) -> Tensor:
    """gamma [(1+h) N(x; 0, s) - h N(x; s, scale s) - h N(x; -s, scale s)] (Yin et al. 2021, arXiv 2103.12593)."""
    wide = scale * s
    return gamma * ((1 + h) * _gaussian(x, 0.0, s) - h * (_gaussian(x, s, wide) + _gaussian(x, -s, wide)))


def fast_sigmoid(x: Tensor, slope: float = 10.0) -> Tensor:
    """1 / (1 + slope |x|)^2, the derivative of SuperSpike (Zenke & Ganguli 2018, arXiv 1705.11146)."""
    return 1 / (1 + slope * x.abs()) ** 2


def triangular(x: Tensor, gamma: float = 0.3, width: float = 1.0) -> Tensor:
    """gamma max(0, 1 - |x| / width) (Bellec et al. 2018, arXiv 1803.09574)."""
    return gamma * (1 - x.abs() / width).clamp(min=0)


def arctan(x: Tensor, slope: float = 2.0) -> Tensor:
    """(slope / 2) / (1 + (pi slope x / 2)^2) (Fang et al. 2021, arXiv 2007.05785)."""
    return slope / 2 / (1 + (math.pi / 2 * slope * x) ** 2)


def boxcar(x: Tensor, width: float = 0.5) -> Tensor:
    """1 / (2 width) for |x| < width, else 0 (Wu et al. 2018, arXiv 1706.02609)."""
    return (x.abs() < width).to(x.dtype) / (2 * width)


DERIVATIVES: dict[str, Callable[..., Tensor]] = {
    "multi_gaussian": multi_gaussian,
    "fast_sigmoid": fast_sigmoid,
    "superspike": fast_sigmoid,
    "triangular": triangular,
    "arctan": arctan,
    "boxcar": boxcar,
}


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, derivative, parameters):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.derivative, ctx.parameters = derivative, parameters
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return gradient * ctx.derivative(x, *ctx.parameters), None, None


def get(name: str = "multi_gaussian", *parameters: float) -> SpikeFunction:
    """The spike function whose surrogate derivative is called ``name``; ``parameters`` replace its defaults, in order.

    Raises InputError for a name that is not one of ``DERIVATIVES``.
    """
    if name not in DERIVATIVES:
        raise InputError(f"unknown surrogate '{name}': choose one of {', '.join(DERIVATIVES)}")
    derivative = DERIVATIVES[name]

    def spike(x: Tensor) -> Tensor:
        return _Spike.apply(x, derivative, parameters)

    spike.surrogate = derivative, parameters  # type: ignore[attr-defined]  # by which others know it
    return spike
