"""Gradients of every rule, step by step: against sums written by hand, each other, and what optimizers are given."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import online_sums as sums
from conftest import assert_close
from fptt import FPTT, InputError
from fptt.learning.alignment import by_name, cosine, first_steps, step_gradients, update_gradients
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.rules import make_optimizer, number_of_parts
from fptt.models.sequence import SequenceModel

LOSS = StepLoss(cross_entropy, sums.T).double()


class Scalar(nn.Module):
    """h <- a h + x, its own output."""

    def __init__(self, a=0.7):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x, h=None):
        h = self.a * (torch.zeros_like(x) if h is None else h) + x
        return h, h


@pytest.mark.parametrize(
    ("rule", "options", "first"),
    [
        ("bptt", {}, [0, 0, 0, 0, 0, 0, 0]),
        ("fptt", {}, [0, 1, 2, 3, 4, 5, 6]),
        ("sltt", {}, [0, 1, 2, 3, 4, 5, 6]),
        ("online-bptt", {"window": 3}, [0, 0, 0, 1, 2, 3, 4]),
        ("online-bptt", {"window": 9}, [0, 0, 0, 0, 0, 0, 0]),
        ("tbptt", {"parts": 3}, [0, 0, 2, 2, 4, 4, 4]),
        ("tbptt", {"parts": 7}, [0, 1, 2, 3, 4, 5, 6]),
        ("tbptt", {"parts": 1}, [0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_how_far_each_rule_goes_back(rule, options, first):
    """The derivative of weight(t) h[t] with respect to a, with h before step first[t] held: sums of powers of a."""
    x = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 0.3, 2.0])
    h = [0.0]
    for value in x:
        h.append(0.7 * h[-1] + value)
    loss = StepLoss(lambda output, target: output.mean(), 7).double()
    sums_of_powers = [sum(0.7 ** (t - s) * h[s] for s in range(f, t + 1)) for t, f in enumerate(first)]
    expected = loss.weights.numpy() * sums_of_powers
    sequence = torch.from_numpy(x).view(7, 1, 1)
    ours = step_gradients(rule, Scalar(), sequence, torch.zeros(1), loss, **options)
    assert first_steps(rule, 7, **options) == first
    assert_close(ours, expected[:, None], 1e-12)


def stacked(model, gradients):
    """Sums by hand, {letter: array}, in the order of the model's parameters."""
    return np.concatenate([gradients[sums.NAMES[name]].ravel() for name, _ in model.named_parameters()])


def test_bptt_adds_up_to_that_of_autograd():
    model, (sequence, target) = sums.network(), sums.problem()
    ours = step_gradients("bptt", model, sequence, target, LOSS).sum(0)
    assert all(p.grad is None for p in model.parameters())
    assert_close(ours, stacked(model, sums.bptt(model, sequence, target, LOSS.weights)))


@pytest.mark.parametrize(("rule", "by_hand"), [("fptt", sums.sltt), ("sltt", sums.sltt), ("ottt", sums.ottt)])
def test_each_step_of_the_online_rules_against_sums_by_hand(rule, by_hand):
    model, (sequence, target) = sums.network(), sums.problem()
    g = sums.run(model, sequence, target, LOSS.weights)
    ours = step_gradients(rule, model, sequence, target, LOSS, approximate=True)
    for t in range(sums.T):
        assert_close(ours[t], stacked(model, by_hand(g, [t])))


def test_eprop_adds_up_to_sums_by_hand_and_is_exact_without_recurrence():
    model, (sequence, target) = sums.network(), sums.problem()
    g = sums.run(model, sequence, target, LOSS.weights)
    assert_close(step_gradients("eprop", model, sequence, target, LOSS).sum(0), stacked(model, sums.eprop(g)))
    model = sums.network(recurrent=False)
    exact = step_gradients("bptt", model, sequence, target, LOSS)
    assert_close(step_gradients("eprop", model, sequence, target, LOSS), exact)
    for options in ({"rule": "eprop", "feedback": "random"}, {"rule": "ottt"}, {"rule": "sltt"}):
        ours = step_gradients(model=model, sequence=sequence, target=target, loss=LOSS, **options)
        assert cosine(ours.sum(0), exact.sum(0)) < 0.999


@pytest.mark.parametrize("rule", ["bptt", "tbptt", "online-bptt", "fptt", "sltt", "eprop"])
def test_on_one_step_all_rules_are_one(rule):
    model = SequenceModel(3, (6,), 4, readout="fixed").double()  # LTC, recurrent, its start drawn at random
    sequence, target, loss = torch.randn(1, 5, 3, dtype=torch.float64), torch.arange(5) % 4, StepLoss(cross_entropy, 1).double()
    exact = step_gradients("bptt", model, sequence, target, loss)
    assert_close(step_gradients(rule, model, sequence, target, loss, parts=1), exact)
    assert exact.abs().max() > 0


def test_random_feedback_is_the_same_every_time_and_leaves_the_readout_exact():
    model = SequenceModel(3, (6,), 4, readout="fixed").double()  # its start is drawn at random too
    sequence, target, loss = torch.randn(1, 5, 3, dtype=torch.float64), torch.arange(5) % 4, StepLoss(cross_entropy, 1).double()
    exact = by_name(model, step_gradients("bptt", model, sequence, target, loss))
    ours = [step_gradients("eprop", model, sequence, target, loss, feedback="random") for _ in range(2)]
    assert torch.equal(*ours)
    for name, gradient in by_name(model, ours[0]).items():
        if name.startswith("output"):
            assert_close(gradient, exact[name])
        elif exact[name].abs().max() > 0:
            assert cosine(gradient, exact[name]) < 0.999


def test_gradients_between_updates_with_batch_norm_leave_the_model_as_it_was():
    model = SequenceModel(3, (6,), 4, norm_steps=9)
    sequence, target, loss = torch.randn(9, 5, 3), torch.arange(5) % 4, StepLoss(cross_entropy, 9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    a = step_gradients("bptt", model, sequence, target, loss)
    torch.rand(3)  # elsewhere, random numbers are drawn
    assert torch.equal(a, step_gradients("bptt", model, sequence, target, loss)), "the same draw every time"
    b = step_gradients("online-bptt", model, sequence, target, loss, window=9)
    torch.testing.assert_close(a, b)
    assert not torch.equal(a, step_gradients("bptt", model, sequence, target, loss, seed=1))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_the_base_optimizer_is_given_holds_the_regulariser():
    """Two updates of plain gradient descent by hand: R is zero at first, then -lambda + alpha (w - average)."""
    model, (sequence, target) = sums.network(), sums.problem()
    lr, alpha, beta = 0.1, 0.3, 0.5
    optimizer = FPTT(torch.optim.SGD(model.parameters(), lr=lr), alpha=alpha, beta=beta)
    trainer = make_trainer("fptt", model, LOSS, optimizer, sums.T)
    before = [p.clone() for p in model.parameters()]
    given = update_gradients(trainer, sequence, target)
    assert not optimizer.state and not optimizer.base.state
    assert all(torch.equal(p, kept) and p.grad is None for p, kept in zip(model.parameters(), before, strict=True))
    plain = step_gradients("fptt", model, sequence, target, LOSS)
    assert given.shape == plain.shape
    assert_close(given[0], plain[0])
    with torch.no_grad():
        for p, g in zip(model.parameters(), by_name(model, given[0]).values(), strict=True):
            p -= lr * g.view_as(p)
    moved = -lr * given[0]  # w - average, where the average is still the first w
    lambda_ = -alpha * moved
    average = beta * moved - beta / alpha * lambda_
    # the state before the second step belongs to the first weights: reach it with them
    state = None
    with torch.no_grad():
        now = [p.clone() for p in model.parameters()]
        for p, old in zip(model.parameters(), before, strict=True):
            p.copy_(old)
        _, state = model(sequence[0], state)
        for p, new in zip(model.parameters(), now, strict=True):
            p.copy_(new)
    output, _ = model(sequence[1], state)
    objective, _ = LOSS(output, target, torch.tensor(1))
    g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(objective, list(model.parameters()))])
    assert_close(given[1], g - lambda_ + alpha * (moved - average))
    assert cosine(given[1], g) < 1 - 1e-6


@pytest.mark.parametrize(
    ("rule", "updates"), [("bptt", 1), ("tbptt", 3), ("fptt", sums.T), ("eprop", 1), ("online-bptt", sums.T)]
)
def test_what_is_given_is_clipped_and_training_goes_on_as_if_nothing_had_been_asked(rule, updates):
    sequence, target = sums.problem()
    ends = []
    for ask in (False, True):
        model = sums.network()
        base = torch.optim.Adamax(model.parameters(), lr=0.05)
        loss = StepLoss(cross_entropy, number_of_parts(rule, sums.T, updates)).double()
        trainer = make_trainer(rule, model, loss, make_optimizer(rule, base, max_norm=0.01), sums.T, parts=updates)
        trainer(sequence, target)
        if ask:
            given = update_gradients(trainer, sequence, target)
            assert given.shape == (updates, sum(p.numel() for p in model.parameters()))
            assert (given.norm(dim=1) < 0.01 * 1.001).all() and (given.norm(dim=1) > 0.009).any()
        trainer(sequence, target)
        ends.append([p.detach().clone() for p in model.parameters()])
    for asked, plain in zip(*ends, strict=True):
        assert torch.equal(asked, plain)


def test_what_is_given_while_steps_are_compiled(traced):
    sequence, target = sums.problem()
    rows = []
    for compiled in (False, True):
        model = sums.network()
        optimizer = make_optimizer("fptt", torch.optim.SGD(model.parameters(), lr=0.05))
        trainer = make_trainer("fptt", model, LOSS, optimizer, sums.T, compiled=compiled)
        trainer(sequence, target)
        rows += [update_gradients(trainer, sequence, target) for _ in range(2)]
        trainer(sequence, target)
        assert trainer.compiled == compiled
    for row in rows[1:]:
        assert_close(row, rows[0])


def test_cosines_and_names():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 0.0]])
    assert cosine(a, b)[0] == pytest.approx(24 / 25) and cosine(a, b)[1].isnan()
    assert cosine(a, -a).tolist() == pytest.approx([-1, -1])
    model = nn.Linear(2, 3)
    named = by_name(model, torch.arange(9.0))
    assert named["weight"].tolist() == [0, 1, 2, 3, 4, 5] and named["bias"].tolist() == [6, 7, 8]


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("tbptt", {"parts": 8}, "^parts must be 1 to 7, got 8$"),
        ("online-bptt", {"window": 0}, "^window must be at least 1"),
        ("ottt", {}, "^ottt is derived for feed-forward LIF neurons"),
        ("bptt", {"loss": StepLoss(cross_entropy, 6)}, "^the loss has 6 parts, the sequence 7 time steps"),
    ],
)
def test_impossible_settings_are_one_line(rule, options, message):
    sequence, target = sums.problem()
    with pytest.raises(InputError, match=message):
        step_gradients(rule, sums.network(), sequence, target, **({"loss": LOSS} | options))
