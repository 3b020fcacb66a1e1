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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

INSTALLED = importlib.util.find_spec("triton") is not None
if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # until the first kernel starts

PROGRAMS = 96  # of the 132 processors of an H100
EXACT = "ieee"  # products at torch's "highest" precision; "tf32x3" are three on tensor cores, as good to about 1e-6


class Tile(NamedTuple):
    """The block of the result that a program computes, the terms of its sums taken at once, its warps and pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 3


Tiles = dict[str, tuple[Tile, ...]]


def tile(tiles: Tiles, precision: str, rows: int, columns: int) -> Tile:
    """That of ``tiles`` for a result [rows, columns]."""
    found = tiles[precision]
    return next((t for t in found if cdiv(rows, t.rows) * cdiv(columns, t.columns) >= PROGRAMS), found[-1])


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
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else EXACT


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


@functools.cache
def helpers() -> dict[str, Any]:
    """Those helpers as Triton's functions, by name."""
    import triton

    globals()["tl"] = triton.language
    return {function.__name__: triton.jit(function) for function in (load, load_transposed, store, multi_gaussian)}


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
