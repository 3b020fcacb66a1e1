"""All steps of a part of a sequence through a recurrent layer of LTC neurons, in one kernel of a GPU forward and one backward.

Samples do not meet within a layer: a program takes a few of them through all steps, and what a step has to wait for is only
this program's own last one. That is for rules that go back through several steps at once, FPTT-K and BPTT; the input currents
of all steps, and the gradients of all weights, are each one product of large matrices.
"""

# ruff: noqa: PLR0917 - a kernel has as many arguments as it reads and writes
# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations  # those of kernels name Triton

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fptt.kernels import resident
from fptt.kernels.blocks import (
    cdiv,
    elements,
    jitted,
    keep,
    load,
    load_transposed,
    ltc_backward,
    ltc_forward,
    power_of_two,
    precision,
    store,
)
from fptt.neurons import ADAPTATION_STRENGTH

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # until the first kernel starts

ROWS = 16  # samples of a program: the fewest that a product on tensor cores takes
STAGES = 2
BYTES = 17  # of shared memory for each weight of a matrix that is taken at once: of four matrices and two stages, backward
WIDEST = 256  # neurons of a layer, whose weights come from the cache at every step


def scan_forward(
    X, V, Z, A, current, a_out, r_out, u_out, R, Wc, c, Wv, Wb,
    steps, B, b0,
    H: tl.constexpr, STRENGTH: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """States V, Z and A (the adaptation) are [steps + 1, B, H], of which the first is given; all else [steps, B, H]."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    size = elements(B, H)
    of_a = tl.load(c + n, mask=n < H, other=0.0)[None, :]
    of_r = tl.load(c + H + n, mask=n < H, other=0.0)[None, :]
    v, z, b = load(V, m, n, H, B, H), load(Z, m, n, H, B, H), load(A, m, n, H, B, H)
    for t in range(steps):
        at = t * size
        x = load(X + at, m, n, H, B, H)
        a = tl.zeros([ROWS, COLUMNS], tl.float32) + of_a
        r = tl.zeros([ROWS, COLUMNS], tl.float32) + of_r
        for start in range(0, H, DEPTH):
            k = start + tl.arange(0, DEPTH)
            x = tl.dot(load(Z + at, m, k, H, B, H), load_transposed(R, n, k, H, H, H), x, input_precision=PRECISION)
            a = tl.dot(load(V + at, m, k, H, B, H), load_transposed(Wv, n, k, H, H, H), a, input_precision=PRECISION)
            r = tl.dot(load(A + at, m, k, H, B, H), load_transposed(Wb, n, k, H, H, H), r, input_precision=PRECISION)
        store(current + at, m, n, H, B, H, x)
        tl.debug_barrier()  # other threads read what this one has written
        for start in range(0, H, DEPTH):
            k = start + tl.arange(0, DEPTH)
            currents = load(current + at, m, k, H, B, H)
            a = tl.dot(currents, load_transposed(Wc, n, k, H, H, H), a, input_precision=PRECISION)
            r = tl.dot(currents, load_transposed(Wc + H * H, n, k, H, H, H), r, input_precision=PRECISION)
        a, r = tl.sigmoid(a), tl.sigmoid(r)
        u, v, z, b = ltc_forward(x, a, r, v, z, b, b0, STRENGTH)
        keep(V, Z, A, a_out, r_out, u_out, a, r, u, v, z, b, at, m, n, H, B)
        tl.debug_barrier()


def scan_backward(
    dV, dZ, dA, V, Z, A, current, a_in, r_in, u_in, R, Wc, Wv, Wb, D, dx_out, dv_out, dz_out, db_out,
    steps, B, b0,
    H: tl.constexpr, STRENGTH: tl.constexpr, PRECISION: tl.constexpr,
    HAS_DV: tl.constexpr, HAS_DZ: tl.constexpr, HAS_DA: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """D [steps, B, 2 H]: the gradients of both gates' logits; those of the currents [steps, B, H], and of the first state."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    size = elements(B, H)
    dv = tl.zeros([ROWS, COLUMNS], tl.float32)
    dz = tl.zeros([ROWS, COLUMNS], tl.float32)
    db = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(steps):
        at = (steps - 1 - step) * size
        if HAS_DV:
            dv += load(dV + at + size, m, n, H, B, H)
        if HAS_DZ:
            dz += load(dZ + at + size, m, n, H, B, H)
        if HAS_DA:
            db += load(dA + at + size, m, n, H, B, H)
        u, a, r = load(u_in + at, m, n, H, B, H), load(a_in + at, m, n, H, B, H), load(r_in + at, m, n, H, B, H)
        x, v = load(current + at, m, n, H, B, H), load(V + at, m, n, H, B, H)
        z, b = load(Z + at, m, n, H, B, H), load(A + at, m, n, H, B, H)
        fired, adaptation = load(Z + at + size, m, n, H, B, H), load(A + at + size, m, n, H, B, H)
        du, db, through_a, through_r = ltc_backward(dv, dz, db, x, a, r, u, v, z, b, fired, adaptation, b0, STRENGTH)
        store(D + 2 * at, m, n, 2 * H, B, H, through_a)
        store(D + 2 * at + H, m, n, 2 * H, B, H, through_r)
        tl.debug_barrier()  # other threads read what this one has written
        dx = a * du
        dv = (1 - a) * du
        dz = (1 - r) * db
        db = r * db
        for start in range(0, H, DEPTH):
            k = start + tl.arange(0, DEPTH)
            of_a, of_r = load(D + 2 * at, m, k, 2 * H, B, H), load(D + 2 * at + H, m, k, 2 * H, B, H)
            dx = tl.dot(of_a, load(Wc, k, n, H, H, H), dx, input_precision=PRECISION)
            dx = tl.dot(of_r, load(Wc + H * H, k, n, H, H, H), dx, input_precision=PRECISION)
            dv = tl.dot(of_a, load(Wv, k, n, H, H, H), dv, input_precision=PRECISION)
            db = tl.dot(of_r, load(Wb, k, n, H, H, H), db, input_precision=PRECISION)
        store(dx_out + at, m, n, H, B, H, dx)
        tl.debug_barrier()
        for start in range(0, H, DEPTH):
            k = start + tl.arange(0, DEPTH)
            dz = tl.dot(load(dx_out + at, m, k, H, B, H), load(R, k, n, H, H, H), dz, input_precision=PRECISION)
    store(dv_out, m, n, H, B, H, dv)
    store(dz_out, m, n, H, B, H, dz)
    store(db_out, m, n, H, B, H, db)


@functools.cache
def kernels() -> Any:
    """The kernels, by name."""
    return jitted(globals(), (scan_forward, scan_backward))


def depth(features: int, device: torch.device) -> int:
    """Terms of a sum that are taken at once: 16 to 64, as there is shared memory on ``device``; 0 where there is too little."""
    room = 2**18  # of an interpreter
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor - 2**10  # which CUDA keeps
    terms = room // BYTES // power_of_two(features)
    return 0 if terms < 16 else min(64, 1 << (terms.bit_length() - 1))


# Operators


@torch.library.custom_op("fptt::ltc_scan", mutates_args=())
def _scan(
    X: Tensor, v: Tensor, z: Tensor, b: Tensor, R: Tensor, Wc: Tensor, c: Tensor, Wv: Tensor, Wb: Tensor,
    b0: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """States V, Z, A [steps + 1, B, H], and what the backward pass needs beside them [steps, B, H]: current, a, r, u."""
    X, R, Wc, c, Wv, Wb = (t.contiguous() for t in (X, R, Wc, c, Wv, Wb))
    steps, batch, features = X.shape
    V, Z, A = (t.new_empty(steps + 1, batch, features) for t in (v, z, b))
    for states, first in ((V, v), (Z, z), (A, b)):
        states[0] = first
    current, a, r, u = (torch.empty_like(X) for _ in range(4))
    columns, grid = power_of_two(features), (cdiv(batch, ROWS),)
    kept = V, Z, A, current, a, r, u
    with torch.cuda.device_of(v):
        if resident.fits(features, precision, V.device):
            gates = F.linear(X, Wc, c)
            resident.kernels().resident_forward[grid](
                *(X, gates, *kept, R, Wc @ R, Wv, Wb, steps, batch, b0, features, ADAPTATION_STRENGTH, ROWS, columns),
                num_warps=resident.warps(features),
                num_stages=1,
            )
        else:
            kernels().scan_forward[grid](
                *(X, *kept, R, Wc, c, Wv, Wb, steps, batch, b0, features, ADAPTATION_STRENGTH),
                *(precision, ROWS, columns, depth(features, V.device)),
                num_warps=8 if features <= 128 else 16,
                num_stages=STAGES,
            )
    return kept


@_scan.register_fake
def _(X, v, *rest):
    steps, batch, features = X.shape
    return *(X.new_empty(steps + 1, batch, features) for _ in range(3)), *(X.new_empty(X.shape) for _ in range(4))


@torch.library.custom_op("fptt::ltc_scan_backward", mutates_args=())
def _scan_backward(
    dV: Tensor | None, dZ: Tensor | None, dA: Tensor | None, V: Tensor, Z: Tensor, A: Tensor, current: Tensor, a: Tensor,
    r: Tensor, u: Tensor, R: Tensor, Wc: Tensor, Wv: Tensor, Wb: Tensor,
    b0: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of X, v, z, b, R, Wc, c, Wv, Wb."""
    R, Wc, Wv, Wb = (t.contiguous() for t in (R, Wc, Wv, Wb))
    given = [None if t is None else t.contiguous() for t in (dV, dZ, dA)]
    steps, batch, features = current.shape
    D, dx = current.new_empty(steps, batch, 2 * features), torch.empty_like(current)
    dv, dz, db = (current.new_empty(batch, features) for _ in range(3))
    columns, grid, has = power_of_two(features), (cdiv(batch, ROWS),), [t is not None for t in given]
    kept = *(V if t is None else t for t in given), V, Z, A, current, a, r, u
    fits = resident.fits(features, precision, V.device)
    with torch.cuda.device_of(V):
        if fits:
            peak = torch.stack([torch.linalg.vector_norm(t, torch.inf) for t in given if t is not None]).amax()
            resident.kernels().resident_backward[grid](
                *(*kept, R, Wc @ R, Wv, Wb, peak, D, dx, dv, dz, db, steps, batch, b0, features, ADAPTATION_STRENGTH),
                *(*has, ROWS, columns),
                num_warps=resident.warps(features),
                num_stages=1,
            )
        else:
            kernels().scan_backward[grid](
                *(*kept, R, Wc, Wv, Wb, D, dx, dv, dz, db, steps, batch, b0, features, ADAPTATION_STRENGTH, precision),
                *(*has, ROWS, columns, depth(features, V.device)),
                num_warps=8 if features <= 128 else 16,
                num_stages=STAGES,
            )
    gates, currents = D.view(-1, 2 * features), current.view(-1, features)
    if fits:
        dx = torch.addmm(dx.view(-1, features), gates, Wc).view(dx.shape)
    before = [t[:steps].view(-1, features) for t in (V, Z, A)]
    of_a, of_r = gates.T.chunk(2)
    weights = dx.view(-1, features).T @ before[1], gates.T @ currents, gates.sum(0), of_a @ before[0], of_r @ before[2]
    if dV is not None:
        dv += dV[0]
    if dZ is not None:
        dz += dZ[0]
    if dA is not None:
        db += dA[0]
    return dx, dv, dz, db, *weights


@_scan_backward.register_fake
def _(dV, dZ, dA, V, Z, A, current, a, r, u, R, Wc, Wv, Wb, b0, precision):
    state = (current.new_empty(current.shape[1:]) for _ in range(3))
    return current.new_empty(current.shape), *state, *(R.new_empty(t.shape) for t in (R, Wc, Wc[:, 0], Wv, Wb))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, R, Wc, _, Wv, Wb, ctx.b0, ctx.precision = inputs
    V, Z, A, current, a, r, u = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(current, a, r, u)
    ctx.save_for_backward(V, Z, A, current, a, r, u, R, Wc, Wv, Wb)


def _backward(ctx: Any, dV: Tensor | None, dZ: Tensor | None, dA: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    found = _scan_backward(dV, dZ, dA, *ctx.saved_tensors, ctx.b0, ctx.precision)
    return *(g if needed else None for g, needed in zip(found, ctx.needs_input_grad, strict=False)), None, None


_scan.register_autograd(_backward, setup_context=_save)


def ltc_steps(
    current: Tensor, v: Tensor, z: Tensor, b: Tensor, R: Tensor, Wc: Tensor, c: Tensor, Wv: Tensor, Wb: Tensor,
    b0: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``ltc.ltc_step`` for several steps: v, z and b after each of them, [steps, batch, features].

    Args:
        current: what the input makes of the current at all steps, [steps, batch, features].
        v, z, b: the state before the first step, [batch, features].
        R, Wc, c, Wv, Wb, b0: as there.
    """
    V, Z, A, *_ = _scan(current, v, z, b, R, Wc, c, Wv, Wb, b0, precision())
    return V[1:], Z[1:], A[1:]
