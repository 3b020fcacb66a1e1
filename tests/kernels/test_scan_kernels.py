"""Several steps at once in kernels against the eager network, step by step."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import assert_close
from fptt import state as states
from fptt.learning import rules
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.rules import make_optimizer
from fptt.models.sequence import SequenceModel

STEPS = 7
SEED = 3  # of networks in which half precision decides no spike


@pytest.fixture
def products():
    """Sets how precise products are: at "high", weights are kept in float16 where they fit."""
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


def close_in_half_precision(actual, expected, _):
    assert_close(actual, expected, 5e-3)


def network(device, hidden, norm_steps, inputs=3):
    model = SequenceModel(inputs, hidden, 10, norm_steps=norm_steps, norm_recurrent=False, gamma=1.0)
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.to(device)


def stepped(model, x, state):
    rate = 0
    for x_t in x:
        output, state = model(x_t, state)
        rate += states.firing_rate(state)
    return output, state, rate


@pytest.mark.parametrize(("hidden", "batch"), [((24,), 19), ((16, 20), 17), ((40,), 5)])
@pytest.mark.parametrize("norm_steps", [None, 2 * STEPS])
@pytest.mark.parametrize("tf32", [False, True])
def test_outputs_states_and_gradients_are_those_of_single_steps(
    hidden, batch, norm_steps, tf32, device, kernels, eager, products
):
    products("high" if tf32 else "highest")
    close = close_in_half_precision if tf32 else assert_close
    torch.manual_seed(SEED)
    model = network(device, hidden, norm_steps)
    other = copy.deepcopy(model)
    x, y = torch.randn(STEPS, batch, 3, device=device), torch.arange(batch, device=device) % 10
    start = eager(states.initialise, model, x[0])
    start = [states.map_state(lambda t: t.clone().requires_grad_(t.is_floating_point()), start) for _ in range(2)]
    expected = eager(stepped, model, x, start[0])
    found = other.through(x, start[1])
    for output, state, _ in (expected, found):
        (cross_entropy(output, y) + sum(0.01 * layer.neuron.v.square().sum() for layer in state.layers)).backward()
    close(found[0], expected[0].detach(), 1e-5)
    close(found[2], expected[2].detach(), 1e-5)
    for a, b in zip(states.leaves(found[1]), states.leaves(expected[1]), strict=True):
        close(a, b.detach(), 1e-5)
    for a, b in zip(states.leaves(start[1]), states.leaves(start[0]), strict=True):
        if b.grad is not None:
            close(a.grad, b.grad, 1e-4)
    for (name, p), q in zip(other.named_parameters(), model.parameters(), strict=True):
        if norm_steps is None or not name.endswith("synapse.bias"):  # before a norm, a bias has no gradient but rounding
            close(p.grad, q.grad, 1e-4)
    for a, b in zip(other.buffers(), model.buffers(), strict=True):
        close(a, b, 1e-5)


def test_in_evaluation_norms_have_their_running_statistics(device, kernels, eager):
    model = network(device, (16,), STEPS)
    x = torch.randn(STEPS + 2, 12, 3, device=device)  # longer than trained
    start = eager(states.initialise, model, x[0])
    eager(stepped, model, x[:STEPS], start)
    model.eval()
    start = eager(states.initialise, model, x[0])
    with torch.no_grad():
        assert_close(model.through(x, start)[0], eager(stepped, model, x, start)[0], 1e-5)


def test_parts_are_trained_through_it(device, kernels, eager):
    results = []
    for how in (eager, lambda function, *arguments: function(*arguments)):
        torch.manual_seed(1)
        model = network(device, (16,), None, inputs=1)
        optimizer = make_optimizer("fptt", torch.optim.Adamax(model.parameters(), lr=1e-2), max_norm=1.0)
        trainer = make_trainer("fptt", model, StepLoss(cross_entropy, 3).to(device), optimizer, 12, parts=3)
        trainer.compiled_finish = trainer.finish  # what is compiled is tested elsewhere
        trainer.through = lambda segment, state, compiled, trainer=trainer: type(trainer).through(
            trainer, segment, state, False
        )
        state, losses = states.initialise(model, torch.zeros(8, 1, device=device)), []
        for part in range(3):
            x, y = torch.randn(4, 8, 1, device=device), torch.arange(8, device=device)
            optimizer.zero_grad()
            number = torch.tensor(part, device=device)
            objective, criterion, _, state, _ = how(trainer.part, x, state, y, number, True)
            objective.backward()
            optimizer.step()
            losses.append(criterion)
        results.append(torch.stack(losses))
    assert_close(results[1], results[0], 1e-4)


def test_compiled_parts_go_through_it(device, kernels, monkeypatch, request):
    if device == "cpu":
        request.getfixturevalue("traced")
    monkeypatch.setattr(rules, "captures", lambda x: True)
    model = network(device, (16, 20), 12, inputs=1)
    x, y, number = torch.randn(4, 8, 1, device=device), torch.arange(8, device=device), torch.tensor(1, device=device)
    start, results = states.initialise(model, x[0]), []
    for compiled in (False, True):
        same = copy.deepcopy(model)
        optimizer = make_optimizer("fptt", torch.optim.Adamax(same.parameters(), lr=1e-2), max_norm=1.0)
        trainer = make_trainer("fptt", same, StepLoss(cross_entropy, 3).to(device), optimizer, 12, parts=3)
        trainer.through = trainer.finish = trainer.compiled_finish = None  # not one by one
        if not compiled:
            trainer._at_once = trainer.at_once
        objective, criterion, output, state, rate = trainer.part(x, start, y, number, True)
        objective.backward()
        results.append([criterion, output, rate, *states.leaves(state), *(p.grad for p in same.parameters()), *same.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e4])
def test_gradients_of_any_size_fit_into_half_precision(size, device, kernels, products):
    products("high")
    gradients = []
    for scale in (1.0, size):
        torch.manual_seed(SEED)
        layer = network(device, (16,), None)
        x = torch.randn(STEPS, 5, 3, device=device)
        output, _, _ = layer.through(x, states.initialise(layer, x[0]))
        (scale * output.sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in layer.parameters()]))
    assert gradients[1].isfinite().all()
    if size > 1e-30:
        assert_close(gradients[1] / size, gradients[0], 1e-3)
