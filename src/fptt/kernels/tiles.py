"""What to tune: the blocks of their results that the kernels' programs compute, by the precision of their products."""

from typing import NamedTuple

from fptt.kernels.blocks import cdiv

PROGRAMS = 96  # of the 132 processors of an H100


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


# Each kernel's tiles are in order of size: the first is taken that makes a grid of ``PROGRAMS``, else the last.
CURRENT: Tiles = {
    "tf32": (Tile(64, 64, 32), Tile(64, 32, 64), Tile(32, 32, 64), Tile(16, 32, 64)),
    "tf32x3": (Tile(64, 64, 32), Tile(64, 32, 32), Tile(32, 32, 32), Tile(16, 32, 32)),
    "ieee": (Tile(64, 64, 16), Tile(64, 32, 16), Tile(32, 32, 16), Tile(16, 32, 16)),
}
NEURON: Tiles = {
    "tf32": (Tile(64, 32, 32), Tile(16, 64, 64), Tile(16, 32, 64)),
    "tf32x3": (Tile(64, 32, 32), Tile(32, 32, 32), Tile(16, 32, 32)),
    "ieee": (Tile(64, 32, 16), Tile(32, 32, 16), Tile(16, 32, 16)),
}
# Below, 64 rows would take the tensor cores' instructions for large tiles, for which TF32 factors are transposed on the way.
CURRENT_BACKWARD: Tiles = {
    "tf32": (Tile(32, 128, 32), Tile(32, 64, 64), Tile(32, 32, 64), Tile(16, 32, 64)),
    "tf32x3": (Tile(32, 128, 32), Tile(32, 64, 32), Tile(32, 32, 32), Tile(16, 32, 32)),
    "ieee": CURRENT["ieee"],
}
PRODUCTS_BACKWARD: Tiles = {
    "tf32": (Tile(32, 128, 32), Tile(32, 64, 64), Tile(32, 32, 64)),
    "tf32x3": (Tile(32, 128, 32), Tile(32, 64, 32), Tile(32, 32, 32)),
    "ieee": (Tile(64, 64, 16), Tile(64, 32, 16), Tile(32, 32, 16)),
}
POINTWISE = Tile(4, 256, 0)
SUMS = (256, 16)  # rows and columns that a program adds up at once
READOUT = Tile(16, 128, 64)  # columns are those of the gradient of the spikes
READOUT_WEIGHTS = Tile(16, 32, 64)
