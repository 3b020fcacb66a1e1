"""Matrix products of compiled steps against torch's own."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy

from fptt.learning import products
from fptt.learning.losses import StepLoss
from fptt.learning.rules import SequenceTrainer, make_optimizer
from fptt.models.sequence import SequenceModel

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
product, tiled = torch.ops.fptt.product.default, torch.ops.fptt.tiled.default


@pytest.fixture
def always(monkeypatch):
    """oneDNN is used for whatever size on whatever processor."""
    monkeypatch.setattr(products, "pays", lambda: True)
    monkeypatch.setattr(products, "SMALLEST", 0)


@pytest.mark.parametrize("left", [(6, 4), (4, 6)])
@pytest.mark.parametrize("right", [(4, 5), (5, 4)])
def test_the_product_of_matrices_of_any_strides(left, right):
    a, b = torch.randn(left), torch.randn(right)
    a, b = a if left == (6, 4) else a.T, b if right == (4, 5) else b.T
    torch.testing.assert_close(product(a, b), a @ b)
    torch.library.opcheck(product, (a, b), test_utils=("test_schema", "test_faketensor"))


def traced(function, *arguments):
    graph = make_fx(function)(*arguments)
    before = graph(*arguments)
    products.rewrite(graph.graph)
    graph.recompile()
    torch.testing.assert_close(graph(*arguments), before)
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_products_of_a_graph_are_replaced(always):
    def gradients(x, w, bias, g):
        y = torch.addmm(bias, x, w.T)
        return y, g.T @ x, g.T @ y, (g @ w) @ w.T

    targets = traced(gradients, torch.randn(7, 4), torch.randn(5, 4), torch.randn(5), torch.randn(7, 5))
    assert targets.count(product) == 5 and torch.ops.aten.mm.default not in targets
    assert targets.count(torch.ops.aten.clone.default) == 1  # of g.T, which two products share


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_and_double_products_stay(monkeypatch, dtype):
    monkeypatch.setattr(products, "pays", lambda: True)
    n = 8 if dtype == torch.float32 else 128
    targets = traced(torch.mm, torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype))
    assert targets == [torch.ops.aten.mm.default]


def test_other_processors_keep_their_products(monkeypatch):
    monkeypatch.setattr(products, "pays", lambda: False)
    assert traced(torch.mm, torch.randn(128, 128), torch.randn(128, 128)) == [torch.ops.aten.mm.default]


@pytest.mark.parametrize("dtype, pays", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_what_is_added_to_a_product_is_so_afterwards(monkeypatch, dtype, pays):
    monkeypatch.setattr(products, "pays", lambda: pays)
    monkeypatch.setattr(products, "has_matrix_unit", lambda: False)
    exact = (torch.randn(*shape, dtype=dtype).sign() for shape in ((128,), (128, 128), (128, 128)))  # in 8 bits of mantissa
    targets = traced(torch.addmm, *exact)
    assert targets == [torch.ops.aten.mm.default, torch.ops.aten.add.Tensor]


def test_what_is_added_in_double_precision_stays(monkeypatch):
    monkeypatch.setattr(products, "pays", lambda: True)
    targets = traced(torch.addmm, *(torch.randn(*shape, dtype=torch.float64) for shape in ((5,), (7, 4), (4, 5))))
    assert targets == [torch.ops.aten.addmm.default]


def test_small_products_of_bfloat16_are_those_of_float32():
    signs = [torch.randn(*shape).sign().bfloat16() for shape in ((3,), (8, 5), (5, 3))]
    targets = traced(torch.addmm, *signs)
    cast = torch.ops.prims.convert_element_type.default
    assert targets == [cast, cast, torch.ops.aten.mm.default, cast, torch.ops.aten.add.Tensor]


def test_a_matrix_unit_reads_rows(monkeypatch):
    monkeypatch.setattr(products, "has_matrix_unit", lambda: True)
    monkeypatch.setattr(products, "SMALLEST", 0)

    def gradients(x, w, g):
        return x @ w.T, g @ w, g.T @ x, x @ w.T

    targets = traced(gradients, *(torch.randn(*shape).sign().bfloat16() for shape in ((7, 4), (5, 4), (7, 5))))
    assert targets.count(tiled) == 4 and torch.ops.aten.mm.default not in targets
    assert targets.count(torch.ops.aten.clone.default) == 2  # of w.T, which two products share, and of g.T


@pytest.mark.skipif(not products.has_matrix_unit(), reason="this processor has no matrix unit for bfloat16")
@pytest.mark.parametrize("m, k, n", [(128, 256, 512), (100, 96, 128), (17, 250, 30)])
def test_compiled_for_a_matrix_unit_a_product_is_the_same(monkeypatch, m, k, n):
    monkeypatch.setattr(products, "SMALLEST", 0)
    signs = torch.randn(m, k).sign().bfloat16(), torch.randn(n, k).sign().bfloat16()

    def several(a, b):
        c = a @ b.T
        return c, c.T @ a, torch.sigmoid(c.float())

    for found, expected in zip(torch.compile(several, options=products.options())(*signs), several(*signs), strict=True):
        torch.testing.assert_close(found, expected)


def test_where_the_compiler_has_no_kernel_for_it_torch_multiplies(monkeypatch):
    monkeypatch.setattr(products, "has_matrix_unit", lambda: True)
    monkeypatch.setattr(products, "SMALLEST", 0)
    monkeypatch.setattr("torch._inductor.kernel.bmm.use_cpp_bmm_template", lambda *_: False)
    signs = torch.randn(8, 4).sign().bfloat16(), torch.randn(4, 6).sign().bfloat16()
    with torch._inductor.config.patch(fx_graph_cache=False):
        compiled = torch.compile(torch.mm, options=products.options())
        torch.testing.assert_close(compiled(*signs), torch.mm(*signs))


@pytest.mark.parametrize(("rule", "neuron"), [("fptt", "ltc"), ("bptt", "lif")])
def test_training_is_that_of_the_eager_step(always, rule, neuron):
    weights = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = SequenceModel(3, (12,), 4, neuron=neuron)
        optimizer = make_optimizer(rule, torch.optim.SGD(model.parameters(), lr=0.1), max_norm=1.0)
        parts = 3 if rule == "fptt" else 1
        train = SequenceTrainer(model, StepLoss(cross_entropy, parts), optimizer, parts, compiled)
        for _ in range(2):
            train(torch.randn(3, 9, 3), torch.arange(9) % 4)
        weights.append(model.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-5, msg=name)
