"""Triton compiles the kernels for a GPU that is not there: what its interpreter lets pass is refused here."""

import os
from types import SimpleNamespace

import pytest

from fptt.kernels import blocks, ltc, readout, resident, scan
from fptt.neurons import ADAPTATION_STRENGTH

pytestmark = pytest.mark.skipif(
    not blocks.INSTALLED or os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton, not its interpreter"
)
H100 = ("cuda", 90, 32)
LEAST = SimpleNamespace(kernels=lambda: blocks.jitted(vars(blocks), (blocks.mark,)))
ROOMS = {"scan": scan, "resident": resident, "readout": readout, "ltc": ltc, "mark": LEAST}
GRADIENTS = {"HAS_DV": True, "HAS_DZ": True, "HAS_DA": True}
LAYER = {"H": 64, "STRENGTH": ADAPTATION_STRENGTH, "ROWS": 16, "COLUMNS": 64}
PRODUCTS = {"PRECISION": "tf32", "DEPTH": 32}
NEEDED = {"NEED_X": True, "NEED_STATE": True, "SUM_ROWS": 64, "SUM_COLUMNS": 16}
KERNELS = {
    "scan_forward": LAYER | PRODUCTS,
    "scan_backward": LAYER | PRODUCTS | GRADIENTS,
    "resident_forward": LAYER,
    "resident_backward": LAYER | GRADIENTS,
    "readout_scan": {"C": 10, "ROWS": 16, "COLUMNS": 16, "PRECISION": "tf32"},
    "readout_scan_backward": {"C": 10, "ROWS": 16, "COLUMNS": 16, "PRECISION": "tf32"},
    "ltc_neuron": LAYER | PRODUCTS,
    "ltc_products_backward": {**LAYER, **PRODUCTS, **NEEDED, "N": 1, "FEW": True},
    "mark": {},
}


@pytest.mark.parametrize("one", [None, "B", "steps"])  # batch of one, one step: numbers that Triton takes for constants
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile(name, one):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = getattr(ROOMS[name.split("_")[0]].kernels(), name)
    constants = {key: value for key, value in KERNELS[name].items() if key in kernel.arg_names}
    if one is not None and one not in kernel.arg_names:
        pytest.skip(f"has no {one}")
    constants |= {} if one is None else {one: 1}
    kinds = {"steps": "i32", "B": "i32", "x_stride": "i32", "b0": "fp32"}
    signature = {n: "constexpr" if n in constants else kinds.get(n, "*fp32") for n in kernel.arg_names}
    places = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    done = compile(ASTSource(kernel, signature, places), target=GPUTarget(*H100), options={"num_warps": 4})
    assert name in done.asm["ptx"]
