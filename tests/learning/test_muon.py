"""Muon: orthogonal steps of matrices, Adamax's of all else, alone and within FPTT."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from fptt.learning.losses import StepLoss
from fptt.learning.muon import Muon, orthogonal
from fptt.learning.rules import SequenceTrainer, make_optimizer
from fptt.models.sequence import SequenceModel

pytestmark = pytest.mark.filterwarnings("error:fptt")
LR = 0.01


def moved(shape, gradient=None, **settings):
    """What one step from zero makes of a weight of ``shape``, and its gradient."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(shape))
    p.grad = torch.randn(shape) if gradient is None else gradient
    Muon([p], lr=LR, **settings).step()
    return p.detach(), p.grad


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1e-6, 1e6), st.integers(0, 10**6))
def test_directions_stay_and_lengths_become_about_one(rows, columns, scale, seed):
    """In the basis of its singular vectors the result is diagonal, with numbers around 1."""
    generator = torch.Generator().manual_seed(seed)
    m = scale * torch.randn(3, rows, columns, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(m, full_matrices=False)
    inside = left.mT @ orthogonal(m, 5) @ right.mT
    diagonal = inside.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inside, torch.diag_embed(diagonal), atol=1e-6, rtol=0)
    sure = values > 2e-3 * torch.linalg.matrix_norm(m, keepdim=True)[..., 0]
    assert ((diagonal > 0.65) & (diagonal < 1.25))[sure].all()
    assert sure.any()


def test_zeros_stay_zeros():
    assert not moved((64, 32), torch.zeros(64, 32))[0].any()


@pytest.mark.parametrize("shape", [(64, 64), (32, 100), (100, 32)])
def test_a_matrix_moves_by_a_tenth_of_the_rate_against_its_gradient(shape):
    step, gradient = moved(shape)
    assert step.square().mean().sqrt() == pytest.approx(0.1 * LR, rel=0.25)
    assert (step * gradient).sum() < 0


@pytest.mark.parametrize("shape", [(), (50,), (10, 128), (128, 28), (8, 3, 3, 3)])
def test_all_else_moves_as_by_adamax(shape):
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizers = (
        Muon([ours], lr=LR, betas=(0.8, 0.99), eps=1e-7),
        torch.optim.Adamax([theirs], lr=LR, betas=(0.8, 0.99), eps=1e-7),
    )
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_convolution_is_a_matrix_of_its_output_channels():
    step, gradient = moved((40, 8, 3, 3))
    torch.testing.assert_close(step.flatten(1), moved((40, 72), gradient.flatten(1))[0])
    last = gradient.to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved((40, 8, 3, 3), last)[0], step)


def test_matrices_of_one_size_do_not_disturb_each_other():
    torch.manual_seed(0)
    gradients = torch.randn(3, 48, 32)
    together = [nn.Parameter(torch.zeros(48, 32)) for _ in gradients]
    for factor, p, gradient in zip((1e-4, 1, 1e4), together, gradients, strict=True):
        p.grad = factor * gradient
    Muon(together, lr=LR).step()
    for p, gradient in zip(together, gradients, strict=True):
        torch.testing.assert_close(p.detach(), moved((48, 32), gradient)[0])


def test_momentum_remembers_the_gradient_before():
    p = nn.Parameter(torch.zeros(32, 32))
    optimizer = Muon([p], lr=LR, momentum=0.9)
    p.grad = torch.eye(32)
    optimizer.step()
    before = p.detach().clone()
    p.grad = torch.zeros(32, 32)
    optimizer.step()
    assert (p - before).diagonal().lt(0).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lr": -1.0}, "lr must not be negative, got -1.0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Muon([nn.Parameter(torch.zeros(2))], **settings)


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(40, 40, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="neither sparse nor complex"):
        Muon(embedding.parameters()).step()


def test_a_closure_is_called_with_gradients_enabled():
    p = nn.Parameter(torch.ones(32, 32))
    optimizer = Muon([p])

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 32 * 32
    assert (p < 1).any()


class Run:
    """A small LTC network, trained by FPTT around Muon."""

    def __init__(self, parts, compiled):
        torch.manual_seed(1)
        self.model = SequenceModel(3, (33,), 4).double()
        self.optimizer = make_optimizer("fptt", Muon(self.model.parameters(), lr=LR), max_norm=1.0)
        self.trainer = SequenceTrainer(self.model, StepLoss(cross_entropy, parts), self.optimizer, parts, compiled)

    def train(self, batches):
        losses = []
        for number in batches:
            torch.manual_seed(number)
            losses.append(self.trainer(torch.randn(6, 5, 3, dtype=torch.float64), torch.arange(5) % 4).loss)
        return losses

    def assert_equal(self, other, tolerance=0.0):
        for (name, a), b in zip(self.model.state_dict().items(), other.model.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("parts", [2, 6])
def test_compiled_training_is_that_of_eager_code_and_says_nothing(parts, request):
    """With an update at every step, too: the gradients are compiled, the update is not.

    To a hundredth of a step of a weight: where a matrix has next to no gradient, orthogonal steps follow its rounding.
    """
    if parts == 2:  # of 6 they are compiled to the end
        request.getfixturevalue("traced")
    eager, compiled = (Run(parts, on) for on in (False, True))
    torch.testing.assert_close(compiled.train(range(3)), eager.train(range(3)))
    compiled.assert_equal(eager, 0.1 * LR / 100)
    assert (compiled.trainer.graphs == 1) == (parts == 6)


def test_a_state_dict_goes_on_as_if_nothing_had_happened():
    whole, first, second = (Run(2, False) for _ in range(3))
    whole.train(range(4))
    first.train(range(2))
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.train(range(2, 4))
    second.assert_equal(whole)
