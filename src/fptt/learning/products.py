"""Matrix products of compiled steps on a CPU, as its libraries do them fastest.

What is added to a product, a bias or another product, torch copies to where the result will be, for the library to add to it;
added afterwards, it is so by whatever computes with the result, at hardly any cost.

On processors of AMD, Intel's MKL, which torch calls for ``mm``, leaves AVX-512 aside; oneDNN, which torch brings too, does not,
and multiplies the matrices of a step about twice as fast.

For bfloat16 torch calls oneDNN, and each call costs some 30 us, as long as the matrix unit of an Intel processor (AMX) takes
for the product. There Inductor's own kernels multiply large matrices; small ones are multiplied in float32, everywhere.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

aten, prims = torch.ops.aten, torch.ops.prims
SMALLEST = 2**20  # multiplications; for fewer, a call of oneDNN takes longer than MKL's whole product in float32

library = torch.library.Library("fptt", "DEF")
library.define("product(Tensor a, Tensor b) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
library.define("tiled(Tensor a, Tensor b) -> Tensor", tags=torch.Tag.pt2_compliant_tag)


@torch.library.impl(library, "product", "CPU")
def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for float32 matrices [m, k] and [k, n] of any strides."""
    return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")


@torch.library.register_fake("fptt::product", lib=library)  # type: ignore[untyped-decorator]
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@torch.library.impl(library, "tiled", "CPU")
def tiled(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for contiguous bfloat16 matrices [m, k] and [k, n]; in compiled code by a kernel for the matrix unit."""
    return torch.mm(a, b)


@torch.library.register_fake("fptt::tiled", lib=library)  # type: ignore[untyped-decorator]
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@functools.cache
def has_matrix_unit() -> bool:
    """Whether this processor multiplies tiles of bfloat16 (AMX)."""
    return torch.cpu._is_amx_tile_supported()


@functools.cache
def pays() -> bool:
    """Whether this is a processor on which oneDNN multiplies faster than MKL."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    information = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (information.read_text() if information.exists() else platform.processor())


def rewrite(graph: fx.Graph) -> None:
    """Take products of a traced ``graph`` apart from what is added to them, and give each to who does it fastest.

    A left factor that is a transposed view (a weight's gradient has one) is laid out in rows first: its multiplication is then
    twice as fast, and what computes it can write it in that order.
    """
    if pays() or has_matrix_unit():
        _register_lowerings()
    laid: dict[fx.Node, fx.Node] = {}

    def rows(node: Any) -> fx.Node:
        """``node`` laid out in rows."""
        if node.meta["val"].is_contiguous():
            return node
        whole = node.args[0] if node.target in (aten.t.default, aten.permute.default) else node
        if whole not in laid:
            laid[whole] = graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
            laid[whole].meta["val"] = node.meta["val"].contiguous()
        return laid[whole]

    def cast(node: Any, dtype: torch.dtype) -> fx.Node:
        new = graph.call_function(prims.convert_element_type.default, (node, dtype))
        new.meta["val"] = node.meta["val"].to(dtype)
        return new

    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        left, right, result = (n.meta["val"] for n in (a, b, node))
        if result.dtype not in (torch.float32, torch.bfloat16) or result.device.type != "cpu":
            continue
        large = left.shape[0] * left.shape[1] * right.shape[1] >= SMALLEST
        half = result.dtype == torch.bfloat16
        with graph.inserting_before(node):
            if half and not large:
                new = graph.call_function(aten.mm.default, (cast(a, torch.float32), cast(b, torch.float32)))
                new.meta["val"] = result.float()
                new = cast(new, torch.bfloat16)
            elif half and has_matrix_unit():
                new = graph.call_function(torch.ops.fptt.tiled.default, (rows(a), rows(b)))
            elif not half and large and pays():
                new = graph.call_function(torch.ops.fptt.product.default, (a if left.stride(1) == 1 else rows(a), b))
            elif bias:
                new = graph.call_function(aten.mm.default, (a, b))
            else:
                continue
            if bias:
                new.meta["val"] = result
                new = graph.call_function(aten.add.Tensor, (new, bias[0]))
        new.meta["val"] = result
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def options() -> dict[str, Any]:
    """Options of torch's compiler: ``rewrite``, and one kernel for all products of a shape, whatever computes with them."""
    return {"post_grad_custom_post_pass": _compiler_pass(), "epilogue_fusion": False}


@functools.cache
def _compiler_pass() -> Any:
    from torch._inductor.custom_graph_pass import CustomGraphPass

    class Rewrite(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            rewrite(graph)

        def uuid(self) -> str:
            return f"fptt products 4, {pays()}, {has_matrix_unit()}"

    return Rewrite()


@functools.cache
def _register_lowerings() -> None:
    """What compiled code does for this module's operators: no detour through Python."""
    from torch._inductor import config, ir, lowering
    from torch._inductor.codegen.common import KernelTemplate
    from torch._inductor.kernel.bmm import tuned_bmm
    from torch._inductor.select_algorithm import NoValidChoicesError

    def by_onednn(a: Any, b: Any) -> Any:
        kernel = torch.ops.mkldnn._linear_pointwise.default
        return ir.TensorBox.create(ir.FallbackKernel.create(kernel, a, lowering.permute(b, [1, 0]), None, "none", [], ""))

    def by_matrix_unit(a: Any, b: Any) -> Any:
        try:
            with config.patch(max_autotune_gemm=True, max_autotune_gemm_backends="CPP"):
                return lowering.squeeze(tuned_bmm(lowering.unsqueeze(a, 0), lowering.unsqueeze(b, 0)), 0)
        except NoValidChoicesError:  # of matrices or compilers that its kernels are not for
            return lowering.lowerings[aten.mm.default](a, b)

    # torch parses the text of a kernel anew for each product that it is for, which takes longer than compiling it
    KernelTemplate._template_from_string = staticmethod(  # type: ignore[method-assign]
        functools.cache(KernelTemplate._template_from_string)
    )
    for op, lowered in ((torch.ops.fptt.product.default, by_onednn), (torch.ops.fptt.tiled.default, by_matrix_unit)):
        lowering.register_lowering(op, type_promotion_kind=None)(lowered)
        lowering.add_layout_constraint(op, lowering.constrain_to_fx_strides)
