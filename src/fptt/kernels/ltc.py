"""A step of a recurrent layer of LTC neurons, forward and backward, in five kernels of a GPU instead of some thirty.

A step of a few hundred neurons takes a GPU longer to start than to compute, so what counts is the number of kernels and that
each has work for all of its processors:

    forward     current and what gates have of the state (four products) | gates (two products), neuron
    backward    pointwise | gradient of the current | gradients of all weights, of the input, and of the state where wanted

Eager autograd, ``make_fx``, ``torch.compile`` and CUDA graphs take the two operators as they are.
"""

# ruff: noqa: PLR0917 - a kernel has as many arguments as it reads and writes
# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations  # those of kernels name Triton

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fptt.kernels.blocks import cdiv, jitted, load, load_transposed, ltc_backward, ltc_forward, precision, rows, store
from fptt.kernels.tiles import CURRENT, CURRENT_BACKWARD, NEURON, POINTWISE, PRODUCTS_BACKWARD, SUMS, tile
from fptt.neurons import ADAPTATION_STRENGTH

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # until the first kernel starts

BROADCAST = 16  # inputs: fewer are multiplied by one by one, without a product of matrices


def ltc_current(
    x, z, v, b, S, bias, R, Wv, Wb, current, of_v, of_b,
    B, x_stride,
    N: tl.constexpr, H: tl.constexpr, FEW: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of current = x S^T + bias + z R^T; or of what the gates have of the state, v Wv^T or b Wb^T."""
    which = tl.program_id(2)
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    state = tl.where(which == 0, z, tl.where(which == 1, v, b))
    weight = tl.where(which == 0, R, tl.where(which == 1, Wv, Wb))
    inside = n < tl.where(which == 0, H, 0)
    total = tl.zeros([ROWS, COLUMNS], tl.float32) + tl.load(bias + n, mask=inside, other=0.0)[None, :]
    if FEW:
        for i in tl.static_range(N):
            x_i = tl.load(x + m * x_stride + i, mask=m < B, other=0.0)
            S_i = tl.load(S + n * N + i, mask=inside, other=0.0)
            total += x_i[:, None] * S_i[None, :]
        for start in range(0, H, DEPTH):
            k = start + tl.arange(0, DEPTH)
            total = tl.dot(load(state, m, k, H, B, H), load_transposed(weight, n, k, H, H, H), total, input_precision=PRECISION)
    else:
        of_x: tl.constexpr = (N + DEPTH - 1) // DEPTH
        for i in range(tl.where(which == 0, 0, of_x), of_x + (H + DEPTH - 1) // DEPTH):  # over both products, so that
            first = i < of_x  # the pipeline is filled once
            k = tl.where(first, i, i - of_x) * DEPTH + tl.arange(0, DEPTH)
            width = tl.where(first, N, H)
            left = load(tl.where(first, x, state), m, k, tl.where(first, x_stride, H), B, width)
            right = load_transposed(tl.where(first, S, weight), n, k, width, H, width)
            total = tl.dot(left, right, total, input_precision=PRECISION)
    store(tl.where(which == 0, current, tl.where(which == 1, of_v, of_b)), m, n, H, B, H, total)


def ltc_neuron(
    current, v, z, b, Wc, c, a_out, r_out, u_out, z_out, v_out, b_out,
    B, b0,
    H: tl.constexpr, STRENGTH: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Both gates of a tile of neurons, of which a_out and r_out hold what they have of the state; the step of these neurons."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    a = load(a_out, m, n, H, B, H) + tl.load(c + n, mask=n < H, other=0.0)[None, :]
    r = load(r_out, m, n, H, B, H) + tl.load(c + H + n, mask=n < H, other=0.0)[None, :]
    for start in range(0, H, DEPTH):
        k = start + tl.arange(0, DEPTH)
        currents = load(current, m, k, H, B, H)
        a = tl.dot(currents, load_transposed(Wc, n, k, H, H, H), a, input_precision=PRECISION)
        r = tl.dot(currents, load_transposed(Wc + H * H, n, k, H, H, H), r, input_precision=PRECISION)
    a, r = tl.sigmoid(a), tl.sigmoid(r)
    x = load(current, m, n, H, B, H)
    v_before, z_before, b_before = load(v, m, n, H, B, H), load(z, m, n, H, B, H), load(b, m, n, H, B, H)
    u, v_after, z_after, b_after = ltc_forward(x, a, r, v_before, z_before, b_before, b0, STRENGTH)
    store(a_out, m, n, H, B, H, a)
    store(r_out, m, n, H, B, H, r)
    store(u_out, m, n, H, B, H, u)
    store(z_out, m, n, H, B, H, z_after)
    store(v_out, m, n, H, B, H, v_after)
    store(b_out, m, n, H, B, H, b_after)


def ltc_pointwise_backward(
    dz_after, dv_after, db_after, v, z, b, current, a, r, u, z_after, b_after, D, dv, dz, db,
    B, b0,
    H: tl.constexpr, STRENGTH: tl.constexpr, HAS_DZ: tl.constexpr, HAS_DV: tl.constexpr, HAS_DB: tl.constexpr,
    NEED_STATE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """D [B, 3 H]: the gradients of both gates' logits, and of the current but for what goes through the gates.

    Of the state's gradients likewise what does not go through a product.
    """
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    zero = tl.zeros([ROWS, COLUMNS], tl.float32)
    dv_after = load(dv_after, m, n, H, B, H) if HAS_DV else zero
    dz_after = load(dz_after, m, n, H, B, H) if HAS_DZ else zero
    db_after = load(db_after, m, n, H, B, H) if HAS_DB else zero
    x, a, r, u = load(current, m, n, H, B, H), load(a, m, n, H, B, H), load(r, m, n, H, B, H), load(u, m, n, H, B, H)
    v, z, b = load(v, m, n, H, B, H), load(z, m, n, H, B, H), load(b, m, n, H, B, H)
    fired, adaptation = load(z_after, m, n, H, B, H), load(b_after, m, n, H, B, H)
    du, db_total, through_a, through_r = ltc_backward(
        dv_after, dz_after, db_after, x, a, r, u, v, z, b, fired, adaptation, b0, STRENGTH
    )
    store(D, m, n, 3 * H, B, H, through_a)
    store(D + H, m, n, 3 * H, B, H, through_r)
    store(D + 2 * H, m, n, 3 * H, B, H, a * du)
    if NEED_STATE:
        store(dv, m, n, H, B, H, (1 - a) * du)
        store(dz, m, n, H, B, H, (1 - r) * db_total)
        store(db, m, n, H, B, H, r * db_total)


def ltc_current_backward(
    D,
    Wc,
    B,
    H: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Adds to the last third of D what goes through the gates, its first two thirds."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = load(D + 2 * H, m, n, 3 * H, B, H)
    for start in range(0, 2 * H, DEPTH):
        k = start + tl.arange(0, DEPTH)
        total = tl.dot(load(D, m, k, 3 * H, B, 2 * H), load(Wc, k, n, H, 2 * H, H), total, input_precision=PRECISION)
    store(D + 2 * H, m, n, 3 * H, B, H, total)


def weight_tile(
    left, right, out,
    index, stride, B,
    WIDTH: tl.constexpr, H: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of out [H, WIDTH] = left^T right, a sum over the batch; ``left`` is a third of D."""
    columns: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    m = index // columns * ROWS + tl.arange(0, ROWS)
    n = index % columns * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, B, DEPTH):
        k = start + tl.arange(0, DEPTH)
        of_d = load_transposed(left, k, m, 3 * H, B, H)
        total = tl.dot(of_d, load(right, k, n, stride, B, WIDTH), total, input_precision=PRECISION)
    store(out, m, n, WIDTH, H, WIDTH, total)


def input_tile(
    left, right, out,
    index, B,
    WIDTH: tl.constexpr, H: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of out [B, WIDTH] = left right, or out += left right; ``left`` is a third of D."""
    columns: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    m = index // columns * ROWS + tl.arange(0, ROWS)
    n = index % columns * COLUMNS + tl.arange(0, COLUMNS)
    total = load(out, m, n, WIDTH, B, WIDTH) if ADD else tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, H, DEPTH):
        k = start + tl.arange(0, DEPTH)
        total = tl.dot(load(left, m, k, 3 * H, B, H), load(right, k, n, WIDTH, H, WIDTH), total, input_precision=PRECISION)
    store(out, m, n, WIDTH, B, WIDTH, total)


def ltc_products_backward(
    D, x, current, v, z, b, S, R, Wv, Wb, dS, dbias, dR, dWc, dc, dWv, dWb, dx, dv, dz, db,
    B, x_stride,
    N: tl.constexpr, H: tl.constexpr, FEW: tl.constexpr, NEED_X: tl.constexpr, NEED_STATE: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    SUM_ROWS: tl.constexpr, SUM_COLUMNS: tl.constexpr,
):  # fmt: skip
    """All that is left once D is complete, a tile of one of the results in each program: in this order

    - gradients of weights, D^T [current, v, b, z, x];
    - those of input and state, D [S, Wv, Wb, R];
    - those of biases, sums over D, and of the synapse where inputs are few.
    """
    program = tl.program_id(0)
    columns_h: tl.constexpr = (H + COLUMNS - 1) // COLUMNS
    columns_x: tl.constexpr = (N + COLUMNS - 1) // COLUMNS
    rows_h: tl.constexpr = (H + ROWS - 1) // ROWS
    each: tl.constexpr = rows_h * columns_h
    to_s: tl.constexpr = 5 * each if FEW else 5 * each + rows_h * columns_x
    to_x = to_s + (B + ROWS - 1) // ROWS * columns_x if NEED_X else to_s
    each_state = (B + ROWS - 1) // ROWS * columns_h
    to_state = to_x + 3 * each_state if NEED_STATE else to_x
    if program < 5 * each:
        which = program // each  # Wc's upper and lower half, Wv, Wb, R
        left = D + tl.where(which < 4, which % 2, 2) * H
        right = tl.where(which == 4, z, tl.where(which == 3, b, tl.where(which == 2, v, current)))
        out = tl.where(which == 4, dR, tl.where(which == 3, dWb, tl.where(which == 2, dWv, dWc + which * H * H)))
        weight_tile(left, right, out, program % each, H, B, H, H, PRECISION, ROWS, COLUMNS, DEPTH)
    elif program < to_s:
        weight_tile(D + 2 * H, x, dS, program - 5 * each, x_stride, B, N, H, PRECISION, ROWS, COLUMNS, DEPTH)
    elif program < to_x:
        input_tile(D + 2 * H, S, dx, program - to_s, B, N, H, False, PRECISION, ROWS, COLUMNS, DEPTH)
    elif program < to_state:
        which = (program - to_x) // each_state  # v, b, z
        right = tl.where(which == 2, R, tl.where(which == 1, Wb, Wv))
        out = tl.where(which == 2, dz, tl.where(which == 1, db, dv))
        input_tile(D + which * H, right, out, (program - to_x) % each_state, B, H, H, True, PRECISION, ROWS, COLUMNS, DEPTH)
    else:
        j = (program - to_state) * SUM_COLUMNS + tl.arange(0, SUM_COLUMNS)
        of_x = (j >= 2 * H) & (j < 3 * H)
        parts = tl.zeros([SUM_ROWS, SUM_COLUMNS], tl.float32)
        for start in range(0, B, SUM_ROWS):
            parts += load(D, start + tl.arange(0, SUM_ROWS), j, 3 * H, B, 3 * H)
        sums = tl.sum(parts, 0)
        tl.store(dc + j, sums, mask=j < 2 * H)
        tl.store(dbias + j - 2 * H, sums, mask=of_x)
        if FEW:
            for i in tl.static_range(N):
                parts = tl.zeros([SUM_ROWS, SUM_COLUMNS], tl.float32)
                for start in range(0, B, SUM_ROWS):
                    m = start + tl.arange(0, SUM_ROWS)
                    x_i = tl.load(x + m * x_stride + i, mask=m < B, other=0.0)
                    parts += load(D, m, j, 3 * H, B, 3 * H) * x_i[:, None]
                tl.store(dS + (j - 2 * H) * N + i, tl.sum(parts, 0), mask=of_x)


@functools.cache
def kernels() -> Any:
    """The kernels, by name."""
    of_layer = (ltc_current, ltc_neuron, ltc_pointwise_backward, ltc_current_backward, ltc_products_backward)
    return jitted(globals(), of_layer, (weight_tile, input_tile))


# Operators


@torch.library.custom_op("fptt::ltc_step", mutates_args=())
def _step(
    x: Tensor, v: Tensor, z: Tensor, b: Tensor, S: Tensor, bias: Tensor, R: Tensor, Wc: Tensor, c: Tensor, Wv: Tensor,
    Wb: Tensor,
    b0: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """z', v', b' and what the backward pass needs beside them: current, a, r, u."""
    x = rows(x)
    v, z, b, S, bias, R, Wc, c, Wv, Wb = (t.contiguous() for t in (v, z, b, S, bias, R, Wc, c, Wv, Wb))
    batch, features, inputs = *v.shape, x.shape[1]
    current, a, r, u, z_after, v_after, b_after = (torch.empty_like(v) for _ in range(7))
    with torch.cuda.device_of(v):
        t = tile(CURRENT, precision, batch, 3 * features)
        kernels().ltc_current[cdiv(batch, t.rows), cdiv(features, t.columns), 3](
            *(x, z, v, b, S, bias, R, Wv, Wb, current, a, r, batch, x.stride(0), inputs, features, inputs < BROADCAST),
            *(precision, t.rows, t.columns, t.depth),
            num_warps=t.warps,
            num_stages=t.stages,
        )
        t = tile(NEURON, precision, batch, features)
        kernels().ltc_neuron[cdiv(batch, t.rows), cdiv(features, t.columns)](
            *(current, v, z, b, Wc, c, a, r, u, z_after, v_after, b_after, batch, b0, features, ADAPTATION_STRENGTH),
            *(precision, t.rows, t.columns, t.depth),
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return z_after, v_after, b_after, current, a, r, u


@_step.register_fake
def _(x, v, z, b, S, bias, R, Wc, c, Wv, Wb, b0, precision):
    return tuple(v.new_empty(v.shape) for _ in range(7))


@torch.library.custom_op("fptt::ltc_step_backward", mutates_args=())
def _step_backward(
    dz_after: Tensor | None, dv_after: Tensor | None, db_after: Tensor | None, x: Tensor, v: Tensor, z: Tensor, b: Tensor,
    S: Tensor, R: Tensor, Wc: Tensor, Wv: Tensor, Wb: Tensor, current: Tensor, a: Tensor, r: Tensor, u: Tensor,
    z_after: Tensor, b_after: Tensor,
    b0: float, precision: str, need_x: bool, need_state: bool,
) -> list[Tensor]:  # fmt: skip
    """The gradients of x, v, z, b, S, bias, R, Wc, c, Wv, Wb; empty where not needed."""
    results = _gradients(x, v, S, need_x, need_state)
    dx, dv, dz, db, dS, dbias, dR, dWc, dc, dWv, dWb = results
    x = rows(x)
    v, z, b, S, R, Wc, Wv, Wb = (t.contiguous() for t in (v, z, b, S, R, Wc, Wv, Wb))
    given = [None if t is None else t.contiguous() for t in (dz_after, dv_after, db_after)]
    batch, features, inputs = *v.shape, x.shape[1]
    D = v.new_empty(batch, 3 * features)
    with torch.cuda.device_of(v):
        t = POINTWISE
        kernels().ltc_pointwise_backward[cdiv(batch, t.rows), cdiv(features, t.columns)](
            *(v if t is None else t for t in given),
            *(v, z, b, current, a, r, u, z_after, b_after, D, dv, dz, db, batch, b0, features, ADAPTATION_STRENGTH),
            *(t is not None for t in given),
            *(need_state, t.rows, t.columns),
            num_warps=t.warps,
        )
        t = tile(CURRENT_BACKWARD, precision, batch, features)
        kernels().ltc_current_backward[cdiv(batch, t.rows), cdiv(features, t.columns)](
            *(D, Wc, batch, features, precision, t.rows, t.columns, t.depth), num_warps=t.warps, num_stages=t.stages
        )
        t = tile(PRODUCTS_BACKWARD, precision, 5 * features, features)
        each, of_x = (cdiv(features, t.rows) * cdiv(width, t.columns) for width in (features, inputs))
        few = inputs < BROADCAST
        programs = 5 * each + (0 if few else of_x) + cdiv(3 * features, SUMS[1])
        programs += cdiv(batch, t.rows) * (need_x * cdiv(inputs, t.columns) + 3 * need_state * cdiv(features, t.columns))
        kernels().ltc_products_backward[(programs,)](
            *(D, x, current, v, z, b, S, R, Wv, Wb, dS, dbias, dR, dWc, dc, dWv, dWb, dx, dv, dz, db, batch, x.stride(0)),
            *(inputs, features, few, need_x, need_state, precision, t.rows, t.columns, t.depth, *SUMS),
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return results


def _gradients(x: Tensor, v: Tensor, S: Tensor, need_x: bool, need_state: bool) -> list[Tensor]:
    """Room for the gradients of the step's arguments."""
    features, inputs = S.shape
    square = (features, features)
    weights = ((features, inputs), (features,), square, (2 * features, features), (2 * features,), square, square)
    dx = v.new_empty(x.shape if need_x else 0)
    return [dx, *(v.new_empty(v.shape if need_state else 0) for _ in range(3)), *(v.new_empty(shape) for shape in weights)]


@_step_backward.register_fake
def _(dz_after, dv_after, db_after, x, v, z, b, S, *rest):
    return _gradients(x, v, S, *rest[-2:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, v, z, b, S, _, R, Wc, _, Wv, Wb, ctx.b0, ctx.precision = inputs
    z_after, _, b_after, current, a, r, u = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(current, a, r, u)
    ctx.save_for_backward(x, v, z, b, S, R, Wc, Wv, Wb, current, a, r, u, z_after, b_after)


def _backward(ctx: Any, dz: Tensor | None, dv: Tensor | None, db: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    need_x, need_state = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:4])
    found = _step_backward(dz, dv, db, *ctx.saved_tensors, ctx.b0, ctx.precision, need_x, need_state)
    return *(g if needed else None for g, needed in zip(found, ctx.needs_input_grad, strict=False)), None, None


_step.register_autograd(_backward, setup_context=_save)


def ltc_step(
    x: Tensor, v: Tensor, z: Tensor, b: Tensor, S: Tensor, bias: Tensor, R: Tensor, Wc: Tensor, c: Tensor, Wv: Tensor,
    Wb: Tensor,
    b0: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One step of a recurrent layer of LTC neurons with an adaptive threshold and a hard reset, as ``neurons.spiking_step``:

        current = x S^T + bias + z R^T
        a       = sigma(current Wc_1^T + c_1 + v Wv^T)      inverse membrane time constant
        r       = sigma(current Wc_2^T + c_2 + b Wb^T)      retention of the adaptation

    Args:
        x: input, [batch, inputs].
        v, z, b: membrane potential, spikes and adaptation before the step, [batch, features].
        S, bias: synapse, [features, inputs] and [features].
        R: recurrent weights, [features, features].
        Wc, c: both gates' weights from the current and their biases, [2 features, features] and [2 features].
        Wv, Wb: their weights from v and from b, [features, features].
        b0: baseline threshold.

    Returns:
        z, v and b after the step. Gradients are those of the multi-Gaussian surrogate with its default constants. Products are
        as precise as ``torch.set_float32_matmul_precision`` says: "highest", or TF32.
    """
    z, v, b, *_ = _step(x, v, z, b, S, bias, R, Wc, c, Wv, Wb, b0, precision())
    return z, v, b
