import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fptt import InputError, surrogate


@pytest.mark.parametrize("name", surrogate.DERIVATIVES)
def test_heaviside_forward_and_named_derivative_backward(name):
    x = torch.linspace(-2, 2, 401, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    z = surrogate.get(name)(x)
    z.backward(upstream)
    assert torch.equal(z, (x > 0).double())
    derivative = surrogate.DERIVATIVES[name](x.detach())
    assert torch.equal(x.grad, upstream * derivative)
    assert torch.equal(derivative, derivative.flip(0)), "surrogates are even functions"
    assert derivative.argmax() == 200 or name == "boxcar"


@pytest.mark.parametrize(
    ("name", "area"), [("multi_gaussian", 0.5 * 0.85), ("boxcar", 1), ("triangular", 0.3), ("arctan", 1), ("superspike", 0.2)]
)
def test_area_under_the_derivative(name, area):
    x = torch.linspace(-400, 400, 800_001, dtype=torch.float64)
    assert torch.trapezoid(surrogate.DERIVATIVES[name](x), x).item() == pytest.approx(area, rel=2e-3)


@given(st.floats(0.05, 2), st.floats(-3, 3))
def test_parameters_replace_defaults(width, x):
    value = torch.tensor([x], requires_grad=True)
    surrogate.get("boxcar", width)(value).backward()
    inside = abs(torch.tensor(x)) < width
    assert value.grad.item() == pytest.approx(float(inside) / (2 * width))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        (
            "multi_gaussian",
            lambda x: 0.5 * (1.15 * normal(x, 0, 0.3) - 0.15 * normal(x, 0.3, 1.8) - 0.15 * normal(x, -0.3, 1.8)),
        ),
        ("fast_sigmoid", lambda x: 1 / (1 + 10 * abs(x)) ** 2),
        ("superspike", lambda x: 1 / (1 + 10 * abs(x)) ** 2),
        ("triangular", lambda x: 0.3 * max(0, 1 - abs(x))),
        ("arctan", lambda x: 1 / (1 + (math.pi * x) ** 2)),
        ("boxcar", lambda x: 1.0 if abs(x) < 0.5 else 0.0),
    ],
)
@given(x=st.floats(-3, 3))
def test_documented_formula(name, formula, x):
    value = surrogate.DERIVATIVES[name](torch.tensor(x, dtype=torch.float64)).item()
    assert value == pytest.approx(formula(x), rel=1e-12, abs=1e-15)


def normal(x, mean, sigma):
    return statistics.NormalDist(mean, sigma).pdf(x)


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="^unknown surrogate 'step'.*multi_gaussian.*$") as error:
        surrogate.get("step")
    assert "\n" not in str(error.value)
