"""The readout on a GPU: a linear map of spikes and a leaky integrator with a liquid leak, a step or several at once.

A step is one kernel forward and two backward; several steps, whose linear maps are products of large matrices, one each.
"""

# ruff: noqa: PLR0917 - a kernel has as many arguments as it reads and writes
# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations  # those of kernels name Triton

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fptt.kernels.blocks import cdiv, elements, jitted, load, load_transposed, power_of_two, precision, store
from fptt.kernels.tiles import READOUT, READOUT_WEIGHTS

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # until the first kernel starts

OUTPUTS = 64  # the most of a readout, which are all in one tile
ROWS = 16  # samples of a program that takes them through several steps


def readout_forward(
    z, W, bias, G, g, Go, before, drive_out, rate_out, after,
    B,
    H: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A few samples' step of the readout; its ``COLUMNS`` are all outputs and some more."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    drive = tl.zeros([ROWS, COLUMNS], tl.float32) + tl.load(bias + n, mask=n < C, other=0.0)[None, :]
    for start in range(0, H, DEPTH):
        k = start + tl.arange(0, DEPTH)
        drive = tl.dot(load(z, m, k, H, B, H), load_transposed(W, n, k, H, C, H), drive, input_precision=PRECISION)
    o = load(before, m, n, C, B, C)
    rate = tl.zeros([ROWS, COLUMNS], tl.float32) + tl.load(g + n, mask=n < C, other=0.0)[None, :]
    rate = tl.dot(drive, load_transposed(G, n, n, C, C, C), rate, input_precision=PRECISION)
    rate = tl.sigmoid(tl.dot(o, load_transposed(Go, n, n, C, C, C), rate, input_precision=PRECISION))
    store(drive_out, m, n, C, B, C, drive)
    store(rate_out, m, n, C, B, C, rate)
    store(after, m, n, C, B, C, o + rate * (drive - o))


def readout_backward(
    d_after, drive, rate, before, W, G, Go, D, dz, d_before,
    B,
    H: tl.constexpr, C: tl.constexpr, NEED_Z: tl.constexpr, NEED_STATE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """D [B, 2 PADDED]: the gradients of the drive and of the gate's logits; and those of spikes and state."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, PADDED)
    d_out, inv_tau = load(d_after, m, n, C, B, C), load(rate, m, n, C, B, C)
    change = load(drive, m, n, C, B, C) - load(before, m, n, C, B, C)
    d_logit = d_out * change * inv_tau * (1 - inv_tau)
    d_drive = tl.dot(d_logit, load(G, n, n, C, C, C), d_out * inv_tau, input_precision=PRECISION)
    if tl.program_id(1) == 0:
        store(D, m, n, 2 * PADDED, B, PADDED, d_drive)
        store(D + PADDED, m, n, 2 * PADDED, B, PADDED, d_logit)
        if NEED_STATE:
            d_o = tl.dot(d_logit, load(Go, n, n, C, C, C), d_out * (1 - inv_tau), input_precision=PRECISION)
            store(d_before, m, n, C, B, C, d_o)
    if NEED_Z:
        j = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        store(dz, m, j, H, B, H, tl.dot(d_drive, load(W, n, j, H, C, H), input_precision=PRECISION))


def readout_weights_backward(
    D, z, drive, before, dW, dbias, dG, dg, dGo,
    B,
    H: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """A tile of D_1^T z in each program; in the last but one, what is as small as the outputs; in the last, sums over D."""
    n = tl.arange(0, PADDED)
    if tl.program_id(0) < tl.num_programs(0) - 2:
        j = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        of_z = tl.zeros([PADDED, COLUMNS], tl.float32)
        for start in range(0, B, DEPTH):
            k = start + tl.arange(0, DEPTH)
            d_drive = load_transposed(D, k, n, 2 * PADDED, B, PADDED)
            of_z = tl.dot(d_drive, load(z, k, j, H, B, H), of_z, input_precision=PRECISION)
        store(dW, n, j, H, C, H, of_z)
    elif tl.program_id(0) == tl.num_programs(0) - 2:
        of_drive = tl.zeros([PADDED, PADDED], tl.float32)
        of_o = tl.zeros([PADDED, PADDED], tl.float32)
        for start in range(0, B, DEPTH):
            k = start + tl.arange(0, DEPTH)
            d_logit = load_transposed(D + PADDED, k, n, 2 * PADDED, B, PADDED)
            of_drive = tl.dot(d_logit, load(drive, k, n, C, B, C), of_drive, input_precision=PRECISION)
            of_o = tl.dot(d_logit, load(before, k, n, C, B, C), of_o, input_precision=PRECISION)
        store(dG, n, n, C, C, C, of_drive)
        store(dGo, n, n, C, C, C, of_o)
    else:
        j = tl.arange(0, 2 * PADDED)
        parts = tl.zeros([2 * DEPTH, 2 * PADDED], tl.float32)
        for start in range(0, B, 2 * DEPTH):
            parts += load(D, start + tl.arange(0, 2 * DEPTH), j, 2 * PADDED, B, 2 * PADDED)
        sums = tl.sum(parts, 0)
        tl.store(dbias + j, sums, mask=j < C)
        tl.store(dg + j - PADDED, sums, mask=(j >= PADDED) & (j < PADDED + C))


def readout_scan(
    drive, logit, Go, outputs, rates,
    steps, B,
    C: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``outputs`` [steps + 1, B, C], of which the first is given; all else [steps, B, C], logit without what it has of them."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    size = elements(B, C)
    of_o = load_transposed(Go, n, n, C, C, C)
    o = load(outputs, m, n, C, B, C)
    for t in range(steps):
        at = t * size
        rate = tl.sigmoid(tl.dot(o, of_o, load(logit + at, m, n, C, B, C), input_precision=PRECISION))
        o += rate * (load(drive + at, m, n, C, B, C) - o)
        store(rates + at, m, n, C, B, C, rate)
        store(outputs + at + size, m, n, C, B, C, o)


def readout_scan_backward(
    d_outputs, drive, Go, outputs, rates, d_drive, d_logit, d_first,
    steps, B,
    C: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradients of drive and logit [steps, B, C], and of the first of ``outputs``."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    size = elements(B, C)
    of_logit = load(Go, n, n, C, C, C)
    do = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(steps):
        at = (steps - 1 - step) * size
        do += load(d_outputs + at + size, m, n, C, B, C)
        rate = load(rates + at, m, n, C, B, C)
        change = load(drive + at, m, n, C, B, C) - load(outputs + at, m, n, C, B, C)
        of_rate = do * change * rate * (1 - rate)
        store(d_drive + at, m, n, C, B, C, do * rate)
        store(d_logit + at, m, n, C, B, C, of_rate)
        do = tl.dot(of_rate, of_logit, do * (1 - rate), input_precision=PRECISION)
    store(d_first, m, n, C, B, C, do)


@functools.cache
def kernels() -> Any:
    """The kernels, by name."""
    of_step = (readout_forward, readout_backward, readout_weights_backward)
    return jitted(globals(), (*of_step, readout_scan, readout_scan_backward))


# Operators of a step


@torch.library.custom_op("fptt::leaky_readout", mutates_args=())
def _readout(
    z: Tensor, o: Tensor, W: Tensor, bias: Tensor, G: Tensor, g: Tensor, Go: Tensor, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and what the backward pass needs beside it: the drive z W^T + bias, and its rate."""
    z, o, W, bias, G, g, Go = (t.contiguous() for t in (z, o, W, bias, G, g, Go))
    (batch, features), outputs, t = z.shape, o.shape[1], READOUT
    drive, rate, after = (torch.empty_like(o) for _ in range(3))
    with torch.cuda.device_of(z):
        kernels().readout_forward[(cdiv(batch, t.rows),)](
            *(z, W, bias, G, g, Go, o, drive, rate, after, batch, features, outputs),
            *(precision, t.rows, power_of_two(outputs), t.depth),
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return after, drive, rate


@_readout.register_fake
def _(z, o, W, bias, G, g, Go, precision):
    return tuple(o.new_empty(o.shape) for _ in range(3))


@torch.library.custom_op("fptt::leaky_readout_backward", mutates_args=())
def _readout_backward(
    d_after: Tensor, z: Tensor, o: Tensor, W: Tensor, G: Tensor, Go: Tensor, drive: Tensor, rate: Tensor,
    precision: str, need_z: bool, need_state: bool,
) -> list[Tensor]:  # fmt: skip
    """The gradients of z, o, W, bias, G, g, Go; the first two empty where not needed."""
    results = _readout_gradients(z, o, need_z, need_state)
    dz, d_before, dW, dbias, dG, dg, dGo = results
    d_after, z, o, W, G, Go = (t.contiguous() for t in (d_after, z, o, W, G, Go))
    (batch, features), outputs = z.shape, o.shape[1]
    width = power_of_two(outputs)
    D = z.new_empty(batch, 2 * width)
    with torch.cuda.device_of(z):
        t = READOUT
        kernels().readout_backward[cdiv(batch, t.rows), cdiv(features, t.columns) if need_z else 1](
            *(d_after, drive, rate, o, W, G, Go, D, dz, d_before, batch, features, outputs),
            *(need_z, need_state, precision, t.rows, t.columns, width),
            num_warps=t.warps,
        )
        t = READOUT_WEIGHTS
        kernels().readout_weights_backward[(cdiv(features, t.columns) + 2,)](
            *(D, z, drive, o, dW, dbias, dG, dg, dGo, batch, features, outputs, precision, t.columns, t.depth, width),
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return results


def _readout_gradients(z: Tensor, o: Tensor, need_z: bool, need_state: bool) -> list[Tensor]:
    """Room for the gradients of the readout's arguments."""
    features, outputs = z.shape[1], o.shape[1]
    weights = ((outputs, features), (outputs,), (outputs, outputs), (outputs,), (outputs, outputs))
    first = (z.new_empty(z.shape if need_z else 0), o.new_empty(o.shape if need_state else 0))
    return [*first, *(z.new_empty(shape) for shape in weights)]


@_readout_backward.register_fake
def _(d_after, z, o, W, G, Go, drive, rate, precision, need_z, need_state):
    return _readout_gradients(z, o, need_z, need_state)


def _save_readout(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, o, W, _, G, _, Go, ctx.precision = inputs
    _, drive, rate = output
    ctx.mark_non_differentiable(drive, rate)
    ctx.save_for_backward(z, o, W, G, Go, drive, rate)


def _backward_of_readout(ctx: Any, d_after: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    found = _readout_backward(d_after, *ctx.saved_tensors, ctx.precision, *ctx.needs_input_grad[:2])
    return *(g if needed else None for g, needed in zip(found, ctx.needs_input_grad, strict=False)), None


_readout.register_autograd(_backward_of_readout, setup_context=_save_readout)


def leaky_readout(z: Tensor, o: Tensor, W: Tensor, bias: Tensor, G: Tensor, g: Tensor, Go: Tensor) -> Tensor:
    """One step of a linear map and a leaky integrator with a liquid leak, as ``neurons.leaky_step``:

        drive   = z W^T + bias
        inv_tau = sigma(drive G^T + g + o Go^T)
        o      <- o + inv_tau (drive - o)

    Args:
        z: spikes, [batch, features].
        o: output before the step, [batch, outputs].
        W, bias: linear map, [outputs, features] and [outputs].
        G, g: the gate's weights from the drive and its bias, [outputs, outputs] and [outputs].
        Go: its weights from o, [outputs, outputs].

    Returns:
        The output after the step, with products as precise as those of ``ltc_step``.
    """
    after, *_ = _readout(z, o, W, bias, G, g, Go, precision())
    return after


# Operators of several steps


@torch.library.custom_op("fptt::readout_scan", mutates_args=())
def _scan(drive: Tensor, logit: Tensor, o: Tensor, Go: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Outputs [steps + 1, B, C] and rates [steps, B, C]."""
    drive, logit, Go = drive.contiguous(), logit.contiguous(), Go.contiguous()
    steps, batch, outputs = drive.shape
    after, rates = drive.new_empty(steps + 1, batch, outputs), torch.empty_like(drive)
    after[0] = o
    with torch.cuda.device_of(drive):
        kernels().readout_scan[(cdiv(batch, ROWS),)](
            drive, logit, Go, after, rates, steps, batch, outputs, precision, ROWS, power_of_two(outputs), num_warps=1
        )
    return after, rates


@_scan.register_fake
def _(drive, logit, o, Go, precision):
    steps, batch, outputs = drive.shape
    return drive.new_empty(steps + 1, batch, outputs), drive.new_empty(drive.shape)


@torch.library.custom_op("fptt::readout_scan_backward", mutates_args=())
def _scan_backward(
    d_outputs: Tensor, drive: Tensor, Go: Tensor, after: Tensor, rates: Tensor, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of drive, logit, o, Go."""
    drive, Go, d_outputs = drive.contiguous(), Go.contiguous(), d_outputs.contiguous()
    steps, batch, outputs = drive.shape
    d_drive, d_logit, d_first = torch.empty_like(drive), torch.empty_like(drive), drive.new_empty(batch, outputs)
    with torch.cuda.device_of(drive):
        kernels().readout_scan_backward[(cdiv(batch, ROWS),)](
            *(d_outputs, drive, Go, after, rates, d_drive, d_logit, d_first, steps, batch, outputs, precision),
            *(ROWS, power_of_two(outputs)),
            num_warps=1,
        )
    return d_drive, d_logit, d_first + d_outputs[0], d_logit.view(-1, outputs).T @ after[:steps].view(-1, outputs)


@_scan_backward.register_fake
def _(d_outputs, drive, Go, after, rates, precision):
    return drive.new_empty(drive.shape), drive.new_empty(drive.shape), drive.new_empty(drive.shape[1:]), Go.new_empty(Go.shape)


def _save_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    drive, _, _, Go, ctx.precision = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(drive, Go, *output)


def _backward_of_scan(ctx: Any, d_outputs: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return *_scan_backward(d_outputs, *ctx.saved_tensors, ctx.precision), None


_scan.register_autograd(_backward_of_scan, setup_context=_save_scan)


def readout_steps(drive: Tensor, logit: Tensor, o: Tensor, Go: Tensor) -> Tensor:
    """``leaky_readout`` for several steps: the outputs after each of them, [steps, batch, outputs].

    Args:
        drive, logit: z W^T + bias and drive G^T + g of all steps, [steps, batch, outputs].
        o: output before the first step, [batch, outputs].
        Go: the gate's weights from o, [outputs, outputs].
    """
    after, _ = _scan(drive, logit, o, Go, precision())
    return after[1:]
