"""Matrix products of compiled steps on a CPU, as its libraries do them fastest.

What is added to a product, a bias or another product, torch copies to where the result will be, for the library to add to it;
added afterwards, it is so by whatever computes with the result, at hardly any cost.

On processors of AMD, Intel's MKL, which torch calls for ``mm``, leaves AVX-512 aside; oneDNN, which torch brings too, does not,
and multiplies the matrices of a step about twice as fast. For bfloat16 torch calls oneDNN anyway; other types are left alone.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
SMALLEST = 2**20  # multiplications; for fewer, a call of oneDNN takes longer than MKL's whole product

library = torch.library.Library("fptt", "DEF")
library.define("product(Tensor a, Tensor b) -> Tensor", tags=torch.Tag.pt2_compliant_tag)


@torch.library.impl(library, "product", "CPU")
def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for float32 matrices [m, k] and [k, n] of any strides."""
    return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")


@torch.library.register_fake("fptt::product", lib=library)  # type: ignore[untyped-decorator]
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@functools.cache
def pays() -> bool:
    """Whether this is a processor on which oneDNN multiplies faster than MKL."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    information = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (information.read_text() if information.exists() else platform.processor())


def rewrite(graph: fx.Graph) -> None:
    """Take products of a traced ``graph`` apart from what is added to them, and large ones to oneDNN where that pays.

    For oneDNN, a left factor that is a transposed view (a weight's gradient has one) is laid out in rows first: its
    multiplication is then twice as fast again, and what computes it can write it in that order. Products of bfloat16 are
    oneDNN's already.
    """
    if pays():
        _register_lowering()
    rows: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        left, right, result = (n.meta["val"] for n in (a, b, node))
        if result.dtype not in (torch.float32, torch.bfloat16) or result.device.type != "cpu":
            continue
        work = left.shape[0] * left.shape[1] * right.shape[1]
        large = result.dtype == torch.float32 and pays() and work >= SMALLEST
        if not (large or bias):
            continue
        with graph.inserting_before(node):
            if large and left.stride(1) != 1:
                whole = a.args[0] if a.target in (aten.t.default, aten.permute.default) else a
                if whole not in rows:
                    rows[whole] = graph.call_function(aten.clone.default, (a,), {"memory_format": torch.contiguous_format})
                a = rows[whole]
            new = graph.call_function(torch.ops.fptt.product.default if large else aten.mm.default, (a, b))
            if bias:
                new.meta["val"] = result
                new = graph.call_function(aten.add.Tensor, (new, bias[0]))
        new.meta["val"] = result
        node.replace_all_uses_with(new)
        graph.erase_node(node)


@functools.cache
def compiler_pass() -> Any:
    """``rewrite`` as an option of torch's compiler, ``{"post_grad_custom_post_pass": compiler_pass()}``."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    class Rewrite(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            rewrite(graph)

        def uuid(self) -> str:
            return f"fptt products 3, {pays()}"

    return Rewrite()


@functools.cache
def _register_lowering() -> None:
    """In compiled code, call oneDNN without a detour through Python."""
    from torch._inductor import ir, lowering

    def lowered(a: Any, b: Any) -> Any:
        kernel = torch.ops.mkldnn._linear_pointwise.default
        return ir.TensorBox.create(ir.FallbackKernel.create(kernel, a, lowering.permute(b, [1, 0]), None, "none", [], ""))

    lowering.register_lowering(torch.ops.fptt.product.default, type_promotion_kind=None)(lowered)
    lowering.add_layout_constraint(torch.ops.fptt.product.default, lowering.constrain_to_fx_strides)
