"""e-prop against the sums of its definition, the paper's own recursions, full Jacobians and backpropagation through time."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import online_sums as sums
from conftest import assert_close
from eprop_paper import Paper, PaperNeuron, PaperReadout
from fptt import state as states
from fptt.learning.eprop import EProp
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.models.sequence import SequenceModel

WEIGHTS = StepLoss(cross_entropy, sums.T).weights.double()

# The gradients of e-prop on the recurrent network and problem of online_sums, as its sums gave them.
FROZEN = {
    "layers.0.synapse.weight": [
        [-0.390926931, -0.456960268],
        [0.155082644, 0.141095027],
        [-0.0236859753, -0.026185122],
        [-0.0266213565, -0.00365981946],
    ],
    "layers.0.recurrent.weight": [
        [0.255090604, 0.0, -0.00834199917, 0.186859175],
        [-0.0470201732, 0.0, -0.000995061911, -0.09212957],
        [0.00308903602, 0.0, -0.00279917327, 0.0120211299],
        [-0.0640311963, 0.0, 0.00141306404, -0.00931830061],
    ],
}


def gradients_of(model, sequence, target, weights=WEIGHTS, **options):
    sums.bptt(EProp(model, **options), sequence, target, weights)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def errors_to_bptt(model, sequence, target, **options):
    """Relative difference of each parameter's gradient to that of backpropagation through time."""
    weights = [(t + 1) / len(sequence) for t in range(len(sequence))]
    ours = gradients_of(model, sequence, target, weights, **options)
    sums.bptt(model, sequence, target, weights)
    scale = {name: p.grad.abs().max().clamp(min=1e-9) for name, p in model.named_parameters()}
    return {name: ((ours[name] - p.grad).abs().max() / scale[name]).item() for name, p in model.named_parameters()}


@pytest.mark.parametrize("recurrent", [True, False])
def test_gradients_are_the_sums_of_the_definition_and_those_that_were_stored(recurrent):
    model, (sequence, target) = sums.network(recurrent), sums.problem()
    gradients = gradients_of(model, sequence, target)
    sums.assert_gradients(model, sums.eprop(sums.run(model, sequence, target, WEIGHTS)))
    for name, frozen in FROZEN.items() if recurrent else ():
        assert_close(gradients[name], torch.tensor(frozen, dtype=torch.float64), 1e-6)


def test_the_trainer_adds_up_a_sequence_and_updates_once_or_as_often_as_is_asked():
    model, (sequence, target) = sums.network(), sums.problem()
    expected = gradients_of(model, sequence, target)
    for parts in (None, 3, sums.T):
        base, seen = torch.optim.SGD(model.parameters(), lr=0.0), []
        base.register_step_pre_hook(lambda *_, seen=seen: seen.append(model.layers[0].recurrent.weight.grad.clone()))
        make_trainer("eprop", model, StepLoss(cross_entropy, sums.T).double(), base, sums.T, parts=parts)(sequence, target)
        assert len(seen) == (parts or 1)
        assert_close(torch.stack(seen).sum(0), expected["layers.0.recurrent.weight"], 1e-6)


EXACT = {
    "lif, hard reset": {},
    "lif, soft reset": {"reset": "soft"},
    "lif, membrane": {"readout": "membrane"},
    "alif": {"neuron": "alif", "tau_adp": 5.0},
    "alif, membrane": {"neuron": "alif", "tau_adp": 5.0, "readout": "membrane", "reset": "soft"},
    "alif, fixed threshold": {"neuron": "alif", "adaptive": False},
}


@pytest.mark.parametrize("options", EXACT)
def test_one_layer_without_recurrence_has_the_gradient_of_bptt(options):
    """Of all synapses; time constants that ALIF learns have that of the present step alone."""
    model, problem = sums.network(recurrent=False, **EXACT[options]), sums.problem(12)
    errors = errors_to_bptt(model, *problem)
    assert max(e for name, e in errors.items() if "logit" not in name) < 1e-9
    assert all(e > 1e-3 for name, e in errors.items() if "logit" in name)


@pytest.mark.parametrize("options", EXACT)
def test_with_recurrence_it_is_not_that_of_bptt_and_with_one_step_it_is(options):
    model = sums.network(recurrent=True, **EXACT[options])
    errors = errors_to_bptt(model, *sums.problem(12))
    assert errors["layers.0.synapse.weight"] > 0.01 and errors["layers.0.recurrent.weight"] > 0.01
    assert max(errors_to_bptt(model, *sums.problem(1)).values()) < 1e-9


def stacked(neuron="lif", recurrent=False, **options):
    torch.manual_seed(1)
    options = {"readout": "fixed", "initial_v": "zero", "b0": 0.3} | options
    model = SequenceModel(sums.INPUTS, (6, 5), sums.OUTPUTS, neuron=neuron, recurrent=recurrent, **options).double()
    with torch.no_grad():
        for layer in model.layers:
            layer.synapse.weight.mul_(3)
    return model


def test_of_two_layers_only_the_upper_one_has_the_gradient_of_bptt():
    errors = errors_to_bptt(stacked(), *sums.problem(12))
    assert max(e for name, e in errors.items() if not name.startswith("layers.0")) < 1e-9
    assert min(e for name, e in errors.items() if name.startswith("layers.0")) > 0.01


@pytest.mark.parametrize("neuron", ["lif", "alif", "ltc"])
def test_on_one_step_every_network_has_the_gradient_of_bptt(neuron):
    errors = errors_to_bptt(stacked(neuron, recurrent=True), *sums.problem(1))
    assert max(errors.values()) < 1e-9


@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_the_recursions_that_the_paper_gives_for_alif(feedback):
    """Filtered spikes, eligibility of the adaptation, F_kappa of the whole, times B (y - y*): written out in NumPy."""
    model, (sequence, target) = Paper(), sums.problem(10)
    rule = EProp(model, feedback)
    sums.bptt(rule, sequence, target, [1.0] * 10)
    w_in, w_rec, w_out, c = (p.detach().numpy() for p in model.parameters())
    back = w_out if feedback == "symmetric" else rule.wiring.feedback["output"].numpy()
    n = PaperNeuron
    v, z, a, y = (np.zeros((3, size)) for size in (5, 5, 5, 3))
    filtered, adapted = np.zeros((3, 7)), np.zeros((3, 5, 7))  # of inputs and spikes; for synapses from both
    remembered, remembered_z, gradient, gradient_out, rates = np.zeros((3, 5, 7)), np.zeros((3, 5)), 0.0, 0.0, []
    psi, old = np.zeros((3, 5)), np.zeros((3, 7))
    for x in sequence.numpy():
        adapted = psi[:, :, None] * old[:, None, :] + (n.RHO - n.BETA * psi[:, :, None]) * adapted
        filtered = n.ALPHA * filtered + np.concatenate((x, z), 1)
        a = n.RHO * a + z
        v = n.ALPHA * v + x @ w_in.T + z @ w_rec.T - n.THRESHOLD * z
        distance = v - n.THRESHOLD - n.BETA * a
        z, psi = (distance > 0).astype(float), 0.3 * np.maximum(0, 1 - abs(distance))
        old = filtered
        eligibility = psi[:, :, None] * (filtered[:, None, :] - n.BETA * adapted)
        remembered = PaperReadout.KAPPA * remembered + eligibility
        remembered_z = PaperReadout.KAPPA * remembered_z + z
        y = PaperReadout.KAPPA * y + z @ w_out.T + c
        error = (np.exp(y) / np.exp(y).sum(1, keepdims=True) - np.eye(3)[target.numpy()]) / 3
        gradient = gradient + np.einsum("bj,bji->ji", error @ back, remembered)
        gradient_out = gradient_out + error.T @ remembered_z
        rates.append(z.mean())
    assert 0.1 < np.mean(rates) < 0.7
    (layer,) = model.layers
    assert_close(layer.synapse.weight.grad, gradient[:, :2])
    assert_close(layer.recurrent.weight.grad, gradient[:, 2:])
    assert_close(model.output.weight.grad, gradient_out)


def test_random_feedback_takes_the_place_of_the_transposed_weights():
    model, (sequence, target) = sums.network(), sums.problem()
    rule = EProp(model, "random")
    feedback = rule.wiring.feedback["output"]
    assert list(rule.wiring.feedback) == ["output"] and feedback.shape == model.output.weight.shape
    sums.bptt(rule, sequence, target, WEIGHTS)
    sums.assert_gradients(model, sums.eprop(sums.run(model, sequence, target, WEIGHTS), feedback.numpy()))


@pytest.mark.parametrize("readout", ["fixed", "membrane"])
def test_random_feedback_between_layers(readout):
    """With the weights themselves as feedback it is the symmetric one; the layer on top of all learns the same either way."""
    model, (sequence, target) = stacked(recurrent=True, readout=readout), sums.problem()
    symmetric = gradients_of(model, sequence, target)
    rule = EProp(model, "random")
    assert list(rule.wiring.feedback) == ["layers.1.synapse", "output"]
    sums.bptt(rule, sequence, target, WEIGHTS)
    assert_close(model.output.weight.grad, symmetric["output.weight"])
    assert not torch.allclose(model.layers[1].synapse.weight.grad, symmetric["layers.1.synapse.weight"], rtol=0.1)
    for name, matrix in rule.wiring.feedback.items():
        matrix.copy_(model.get_submodule(name).weight.detach())
    sums.bptt(rule, sequence, target, WEIGHTS)
    for name, p in model.named_parameters():
        assert_close(p.grad, symmetric[name])


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_single_liquid_neuron_has_the_gradient_of_bptt(adaptive):
    """Its gates' matrices are their own diagonals; two such neurons act on each other's gates, which is left out."""
    for neurons, exact in ((1, True), (2, False)):
        torch.manual_seed(0)
        model = SequenceModel(2, (neurons,), 3, recurrent=False, readout="fixed", initial_v="zero", adaptive=adaptive).double()
        with torch.no_grad():
            model.layers[0].synapse.weight.fill_(2.0).mul_(torch.tensor([1.0, -0.5]))
            if neurons == 2:
                model.layers[0].synapse.weight[1].mul_(-0.8)
        errors = errors_to_bptt(model, *sums.problem(12))
        hidden = [e for name, e in errors.items() if name.startswith("layers")]
        assert max(hidden) < 1e-9 if exact else max(hidden) > 1e-3


def test_liquid_neurons_keep_the_diagonals_of_their_full_jacobians():
    """The past's share of the input weights, with D and p from all of the neurons' Jacobians instead of one backward pass."""
    torch.manual_seed(0)
    model = SequenceModel(2, (4,), 3, recurrent=False, readout="membrane", initial_v="zero").double()
    sequence, target = sums.problem()
    with torch.no_grad():
        model.layers[0].synapse.weight.mul_(3)
    sums.bptt(EProp(model), sequence, target, WEIGHTS)
    ours = model.layers[0].synapse.weight.grad.clone()

    layer, batch, n = model.layers[0], sums.BATCH, 4
    expected, state = torch.zeros(n, 2, dtype=torch.float64), model.initial_state(sequence[0])
    eligibility = torch.zeros(3, batch, n, 2, dtype=torch.float64)
    for x_t, weight in zip(sequence, WEIGHTS, strict=True):
        before = tuple(t.detach() for t in state.layers[0].neuron)
        current = layer.synapse(x_t).detach()
        kind = type(state.layers[0].neuron)

        def step(current, *before, kind=kind):
            return tuple(layer.neuron(current, kind(*before))[1])

        jacobians = torch.autograd.functional.jacobian(step, (current, *before))  # [after][before]: [batch, n, batch, n]
        own = torch.stack([torch.stack([torch.einsum("bjbj->bj", part) for part in row]) for row in jacobians])
        past = torch.einsum("klbj,lbji->kbji", own[:, 1:], eligibility)
        eligibility = past + torch.einsum("kbj,bi->kbji", own[:, 0], x_t)
        after = [t.detach().requires_grad_() for t in step(current, *before)]
        (weight * cross_entropy(model.output(after[0]), target)).backward()  # the membrane readout reads v
        expected += torch.einsum("bj,bji->ji", after[0].grad, past[0])
        model.zero_grad()
        output, state = model(x_t, states.detach(state))
        expected += torch.autograd.grad(weight * cross_entropy(output, target), layer.synapse.weight)[0]
    assert_close(ours, expected)


def test_outputs_are_those_of_the_model_and_the_state_may_be_saved_in_between():
    model, (sequence, target) = stacked("ltc", recurrent=True), sums.problem()
    whole = gradients_of(model, sequence, target)
    rule, state, plain = EProp(model), None, model.initial_state(sequence[0])
    model.zero_grad()
    for t, x_t in enumerate(sequence):
        if t == 4:
            state = states.restore(states.save(state), like=state)
            rule = EProp(model)
        if t == 5:
            with torch.no_grad():  # a step that is not learnt from leaves its traces nevertheless
                output, state = rule(x_t, state)
            assert not output.requires_grad and not any(leaf.requires_grad for leaf in states.leaves(state))
        else:
            output, state = rule(x_t, state)
            (WEIGHTS[t] * cross_entropy(output, target)).backward()
        with torch.no_grad():
            expected, plain = model(x_t, plain)
        assert torch.equal(output, expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    missing = gradients_of(model, sequence, target, [w * (t == 5) for t, w in enumerate(WEIGHTS)])
    learnt = gradients_of(model, sequence, target, [w * (t != 5) for t, w in enumerate(WEIGHTS)])
    for name in whole:
        assert_close(learnt[name] + missing[name], whole[name])


def test_memory_is_independent_of_the_sequence():
    """What the state keeps and what a step saves for its backward pass, after 3 and after 40 steps."""
    model, (sequence, _) = stacked("ltc", recurrent=True), sums.problem()
    rule, state, sizes = EProp(model), None, []
    for t in range(41):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            output, state = rule(sequence[t % sums.T], state)
        sizes.append((sum(kept), sum(leaf.numel() for leaf in states.leaves(state))))
    assert output.requires_grad and sizes[3] == sizes[40] and min(sizes[3]) > 0


@pytest.mark.parametrize("neuron", ["lif", "alif", "ltc"])
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_it_learns(neuron, feedback):
    torch.manual_seed(0)
    target = torch.arange(16) % 3
    sequence = torch.randn(8, 16, 2) + 2 * nn.functional.one_hot(target, 3)[:, :2]
    model = SequenceModel(2, (20,), 3, neuron=neuron, readout="fixed", tau_m=3.0 if neuron == "alif" else None)
    trainer = make_trainer(
        "eprop", model, StepLoss(cross_entropy, 8), torch.optim.Adam(model.parameters(), lr=0.01), 8, feedback=feedback
    )
    losses = [trainer(sequence, target).loss for _ in range(30)]
    assert torch.stack(losses[-5:]).mean() < 0.8 * torch.stack(losses[:5]).mean()


def test_random_feedback_is_in_the_state_dict_and_inference_mode_is_served():
    model = SequenceModel(3, (4, 4), 2, neuron="alif", readout="fixed")
    first, second = EProp(model, "random"), EProp(model, "random")
    x, state = torch.rand(5, 2, 3), None
    gradients = []
    for eligible in (first, second):
        eligible.load_state_dict(first.state_dict())
        model.zero_grad()
        torch.manual_seed(0)
        state = None
        for x_t in x:
            output, state = eligible(x_t, state)
            cross_entropy(output, torch.tensor([0, 1])).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with torch.inference_mode():
        output, _ = second(x[0], state)
    assert output.shape == (2, 2)
