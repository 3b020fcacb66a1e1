"""What the kernels share: how the work is cut into blocks, how these are read and written, and how Triton gets to see them.

All matrices have their rows one after another; N inputs, H neurons, C outputs, and B samples of a batch. Triton is imported
when the first kernel starts: those who have no GPU need not wait for it, nor have it.
"""

# ruff: noqa: PLR0917 - a kernel has as many arguments as it reads and writes
# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations  # those of kernels name Triton

import functools
import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

INSTALLED = importlib.util.find_spec("triton") is not None
if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # until the first kernel starts

EXACT = "ieee"  # products at torch's "highest" precision; "tf32x3" are three on tensor cores, as good to about 1e-6


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The next one from 16 on, the least that a product of matrices takes."""
    return max(16, 1 << (n - 1).bit_length())


def rows(t: Tensor) -> Tensor:
    """``t`` [height, width], copied where it is not row by row."""
    return t if t.stride(1) == 1 or t.shape[1] == 1 else t.contiguous()


def precision() -> str:
    """Of products, as ``torch.set_float32_matmul_precision`` has it; what is asked here torch.compile can follow."""
    try:
        allowed = torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # who has set it by torch's newer name must not ask by the older
        allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else EXACT


# Helpers of kernels


def load(matrix, rows, columns, stride, height, width):
    """A block of a matrix [height, width], zero beyond it."""
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    return tl.load(matrix + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


def load_transposed(matrix, rows, columns, stride, height, width):
    """The transpose of that block."""
    inside = (rows < height)[None, :] & (columns < width)[:, None]
    return tl.load(matrix + rows[None, :] * stride + columns[:, None], mask=inside, other=0.0)


def store(matrix, rows, columns, stride, height, width, value):
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    tl.store(matrix + rows[:, None] * stride + columns[None, :], value, mask=inside)


def multi_gaussian(x):
    """``surrogate.multi_gaussian`` with its default constants."""
    narrow = tl.exp(x * x * (-0.5 / 0.3**2)) * (1.15 / 0.3)
    wide = tl.exp((x - 0.3) * (x - 0.3) * (-0.5 / 1.8**2)) + tl.exp((x + 0.3) * (x + 0.3) * (-0.5 / 1.8**2))
    return (narrow - wide * (0.15 / 1.8)) * (0.5 / 2.5066282746310002)


def ltc_forward(x, a, r, v, z, b, b0, STRENGTH):
    """u, the potential before the reset, and v, z and b after a step of LTC neurons with current x and gates a and r."""
    b = r * b + (1 - r) * z
    u = v + a * (x - v)
    z = tl.where(u - (b0 + STRENGTH * b) > 0, 1.0, 0.0)
    return u, (1 - z) * u, z, b


def ltc_backward(dv, dz, db, x, a, r, u, v, z, b, z_after, b_after, b0, STRENGTH):
    """The gradients of u and of b after the step, and of both gates' logits; dv, dz and db are those of what it leaves."""
    slope = multi_gaussian(u - (b0 + STRENGTH * b_after))
    d_spike = dz - u * dv
    du = (1 - z_after) * dv + slope * d_spike
    db -= STRENGTH * slope * d_spike
    return du, db, du * (x - v) * a * (1 - a), db * (b - z) * r * (1 - r)


def elements(B, H):
    """B H in 64 bits; B may be a batch of one, which Triton takes for a constant."""
    return tl.cast(B, tl.int64) * H


def keep(V, Z, A, a_out, r_out, u_out, a, r, u, v, z, b, at, m, n, H, B):
    """What a step of a scan leaves: a, r and u from ``at`` on; of V, Z and A the step after that."""
    after = at + elements(B, H)
    store(a_out + at, m, n, H, B, H, a)
    store(r_out + at, m, n, H, B, H, r)
    store(u_out + at, m, n, H, B, H, u)
    store(V + after, m, n, H, B, H, v)
    store(Z + after, m, n, H, B, H, z)
    store(A + after, m, n, H, B, H, b)


@functools.cache
def helpers() -> dict[str, Any]:
    """Those helpers as Triton's functions, by name."""
    import triton

    functions = (load, load_transposed, store, multi_gaussian, ltc_forward, ltc_backward, elements, keep)
    found = {function.__name__: triton.jit(function) for function in functions}
    globals().update(found, tl=triton.language)  # where they find each other
    return found


def jitted(module: dict[str, Any], kernels: tuple[Callable[..., Any], ...], own: tuple[Callable[..., Any], ...] = ()) -> Any:
    """``kernels`` as Triton's, by name: ``jitted(...).kernel[grid](...)``.

    Args:
        module: the globals of their module, where Triton looks up itself, the helpers and ...
        own: ... the helpers of that module.
    """
    import triton

    module.update(helpers(), tl=triton.language)
    module.update({function.__name__: triton.jit(function) for function in own})
    return SimpleNamespace(**{function.__name__: triton.jit(function) for function in kernels})


def mark(out):
    """The least that a kernel can do."""
    tl.store(out, 1.0)


def works(device: torch.device) -> bool:
    """Whether a kernel runs on ``device``; raises whatever keeps it from being built."""
    out = torch.zeros(1, device=device)
    with torch.cuda.device_of(out):
        jitted(globals(), (mark,)).mark[(1,)](out)
    return bool(out == 1)
