"""OTTT against the sums of its definition and, where the paper says so, against backpropagation through time."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import online_sums as sums
from conftest import assert_close
from fptt import InputError, surrogate
from fptt import state as states
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.ottt import OTTT, known_leaks
from fptt.models.baselines import RecurrentBaseline
from fptt.models.convolutional import ConvolutionalModel


def train(model, sequence, target, lr=0.0, **options):
    """The gradients of every update, by parameter, of a trainer with plain gradient descent."""
    base, gradients = torch.optim.SGD(model.parameters(), lr=lr), []
    base.register_step_pre_hook(lambda *_: gradients.append({n: p.grad.clone() for n, p in model.named_parameters()}))
    loss = StepLoss(cross_entropy, len(sequence)).double()
    make_trainer("ottt", model, loss, base, len(sequence), **options)(sequence, target)
    return gradients


# The gradients of OTTT_A on the feed-forward network and problem of online_sums, as its sums gave them.
FROZEN = {
    "layers.0.synapse.weight": [
        [0.0231804481, -0.106450006],
        [0.000172058708, 0.0835509689],
        [0.0753333798, 0.0660400125],
        [0.00235570483, 0.00197894851],
    ],
    "layers.0.synapse.bias": [0.546977427, -0.214625634, -0.0795124575, -0.0126518644],
}


def test_accumulated_gradients_are_the_sums_of_the_definition_and_those_that_were_stored():
    model, (sequence, target) = sums.network(recurrent=False), sums.problem()
    (gradients,) = train(model, sequence, target, parts=1)
    g = sums.run(model, sequence, target, StepLoss(cross_entropy, sums.T).weights.double())
    assert 0.1 < g.z.mean() < 0.6
    sums.assert_gradients(model, sums.ottt(g))
    for name, frozen in FROZEN.items():
        assert_close(gradients[name], torch.tensor(frozen, dtype=torch.float64), 1e-6)


def test_each_update_of_ottt_o_has_the_gradient_of_its_step():
    model, (sequence, target) = sums.network(recurrent=False), sums.problem()
    gradients = train(model, sequence, target)
    g = sums.run(model, sequence, target, StepLoss(cross_entropy, sums.T).weights.double())
    assert len(gradients) == sums.T
    for t, gradient in enumerate(gradients):
        expected = sums.ottt(g, [t])
        for name, value in gradient.items():
            torch.testing.assert_close(value.numpy(), expected[sums.NAMES[name]], rtol=1e-9, atol=1e-12)


def test_recurrent_synapses_are_refused_unless_approximate_and_then_have_traces_of_the_last_spikes():
    model, (sequence, target) = sums.network(recurrent=True), sums.problem()
    with pytest.raises(InputError, match="not for recurrence: .*approximate"):
        OTTT(model)
    train(model, sequence, target, parts=1, approximate=True)
    g = sums.run(model, sequence, target, StepLoss(cross_entropy, sums.T).weights.double())
    sums.assert_gradients(model, sums.ottt(g))


class Published(nn.Module):
    """The paper's neuron: u <- leak (u - z) + W x, soft reset cut from the graph; the output reads the last layer's spikes."""

    LEAK = 0.7

    def __init__(self, enter, *more, leave):
        super().__init__()
        self.synapses, self.leave = nn.ModuleList([enter, *more]), leave
        self.spike = surrogate.get("multi_gaussian")
        self.double()

    def forward(self, x, state=None):
        after = []
        for number, synapse in enumerate(self.synapses):
            current = synapse(x)
            u, z = (torch.zeros_like(current),) * 2 if state is None else state[number]
            u = self.LEAK * (u - z.detach()) + current
            x = self.spike(u - 1)
            after.append((u, x))
        return self.leave(x.flatten(1)), after


def published(kind):
    torch.manual_seed(3)
    stacks = {
        "dense": lambda: ([nn.Linear(2, 6)], nn.Linear(6, 3)),
        "no bias": lambda: ([nn.Linear(2, 6, bias=False)], nn.Linear(6, 3)),
        "convolution": lambda: ([nn.Conv2d(2, 4, 3, stride=2, padding=1)], nn.Linear(4 * 3 * 2, 3)),
        "two layers": lambda: ([nn.Linear(2, 6), nn.Linear(6, 5)], nn.Linear(5, 3)),
    }
    synapses, leave = stacks[kind]()
    model = Published(*synapses, leave=leave)
    with torch.no_grad():
        for p in model.synapses.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64) * (0.6 if p.dim() == 4 else 1.5))
    leaks = {f"synapses.{n}": model.LEAK for n in range(len(synapses))} | {"leave": 0.0}
    shape = (2, 5, 4) if kind == "convolution" else (2,)
    return model, leaks, torch.randn(9, 3, *shape, dtype=torch.float64)


def compare(model, leaks, sequence):
    """Relative difference to BPTT of each parameter's gradient, the losses of all steps summed."""
    target, weights = torch.tensor([0, 2, 1]), [1.0] * len(sequence)
    expected = sums.bptt(model, sequence, target, weights)
    sums.bptt(OTTT(model, leaks), sequence, target, weights)
    return {n: abs(p.grad.numpy() - expected[n]).max() / abs(expected[n]).max() for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["dense", "no bias", "convolution"])
def test_one_layer_below_an_output_without_memory_has_the_gradient_of_bptt(kind):
    errors = compare(*published(kind))
    assert max(errors.values()) < 1e-12


def test_of_two_layers_only_the_upper_one_has_it():
    errors = compare(*published("two layers"))
    assert max(e for name, e in errors.items() if not name.startswith("synapses.0")) < 1e-12
    assert min(e for name, e in errors.items() if name.startswith("synapses.0")) > 0.01


def test_a_wrong_leak_or_none_is_not_bptt():
    model, leaks, sequence = published("dense")
    for leak in (0.0, 0.6):
        errors = compare(model, leaks | {"synapses.0": leak}, sequence)
        assert errors["synapses.0.weight"] > 0.01 and errors["leave.weight"] < 1e-12


def test_a_reset_within_the_graph_is_not_bptt():
    """The network of online_sums resets hard and differentiates the reset; after a step that cannot have been reset it is."""
    sequence, target = sums.problem()
    for steps, equal in ((1, True), (sums.T, False)):
        model, weights = sums.network(recurrent=False), StepLoss(cross_entropy, steps).weights
        expected = sums.bptt(model, sequence[:steps], target, weights)
        (gradients,) = train(model, sequence[:steps], target, parts=1)
        error = abs(gradients["layers.0.synapse.weight"].numpy() - expected["W"]).max() / abs(expected["W"]).max()
        assert (error < 1e-7) == equal and (equal or error > 0.01)


def test_outputs_are_those_of_the_model_and_the_state_may_be_saved_in_between():
    model, leaks, sequence = published("dense")
    target, traced = torch.tensor([0, 2, 1]), OTTT(model, leaks)
    state, plain, results = None, None, []
    for t, x_t in enumerate(sequence):
        if t == 5:
            state = states.restore(states.save(state), like=state)
            traced = OTTT(model, leaks)
        output, state = traced(x_t, state)
        expected, plain = model(x_t, plain)
        assert torch.equal(output, expected)
        model.zero_grad()
        cross_entropy(output, target).backward()
        results.append(model.synapses[0].weight.grad.clone())
    assert not any(hook for module in model.modules() for hook in module._forward_hooks.values())
    model.zero_grad()
    sums.bptt(OTTT(model, leaks), sequence, target, [1.0] * len(sequence))
    assert_close(torch.stack(results).sum(0), model.synapses[0].weight.grad)


def test_memory_is_independent_of_the_sequence():
    """All tensors that the state keeps, and the graph of a step, after 3 and after 40 steps."""
    model, leaks, sequence = published("dense")
    traced, state, sizes = OTTT(model, leaks), None, []
    for t in range(40):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            _, state = traced(sequence[t % 9], state)
        sizes.append((sum(kept), sum(leaf.numel() for leaf in states.leaves(state))))
    assert sizes[3] == sizes[39] and min(sizes[3]) > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: sums.network(neuron="ltc", recurrent=False), "depends on its input"),
        (lambda: sums.network(readout="liquid", recurrent=False), "that of the readout depends on its input"),
        (lambda: sums.network(neuron="alif", recurrent=False), "not for a leak that is learnt"),
        (lambda: sums.network(norm_steps=3), "not for batch norm, recurrence"),
        (lambda: ConvolutionalModel((1, 6, 6), (2,), (), 3, pool=(2,), neuron="lif", readout="fixed"), "not for batch norm"),
        (lambda: RecurrentBaseline(2, (3,), 3, "lstm"), "RecurrentBaseline has no"),
        (lambda: published("dense")[0], "Published has no layers"),
    ],
)
def test_what_the_derivation_does_not_cover_is_one_line(model, message):
    with pytest.raises(InputError, match=message) as raised:
        OTTT(model())
    assert "\n" not in str(raised.value)


def test_names_and_calls_that_do_not_fit_are_one_line():
    model, _, sequence = published("dense")
    with pytest.raises(InputError, match="'spike' is no linear"):
        OTTT(model, {"spike": 0.5})
    model.synapses.append(model.synapses[0])
    model.synapses[0] = nn.Linear(2, 2, bias=False).double()
    model.synapses[1] = model.synapses[0]
    with pytest.raises(InputError, match="called twice in a step"):
        OTTT(model, {"synapses.0": 0.5})(sequence[0])


@pytest.mark.parametrize("parts", [1, 4, None])
def test_it_learns(parts):
    """Also approximately: ALIF neurons, recurrent, with batch norm."""
    torch.manual_seed(0)
    target = torch.arange(16) % 3
    sequence = (torch.randn(8, 16, 2) + 2 * nn.functional.one_hot(target, 3)[:, :2]).double()
    for options in ({"recurrent": False}, {"recurrent": True, "neuron": "alif", "norm_steps": 8}):
        model = sums.network(**options)
        optimizer, loss = torch.optim.Adam(model.parameters(), lr=0.01), StepLoss(cross_entropy, 8).double()
        trainer = make_trainer("ottt", model, loss, optimizer, 8, parts=parts, approximate=options["recurrent"])
        losses = [trainer(sequence, target).loss for _ in range(40)]
        assert torch.stack(losses[-5:]).mean() < 0.9 * torch.stack(losses[:5]).mean()


def test_leaks_of_a_layered_model():
    leaks = known_leaks(sums.network(recurrent=False))
    assert leaks == {"layers.0.synapse": pytest.approx(0.75), "output": pytest.approx(0.5)}
    assert known_leaks(sums.network(recurrent=False, readout="membrane"))["output"] == 0.0
