"""A step in kernels against the eager layers."""

import pytest
import torch

from conftest import assert_close
from fptt import layers
from fptt import state as states
from fptt.kernels import blocks, dispatch, ltc
from fptt.layers import LayerState
from fptt.models.sequence import SequenceModel, SequenceState
from fptt.neurons import NeuronState, make_neuron

SIZES = [(33, 1, 24), (5, 5, 24), (16, 32, 32), (33, 20, 40), (260, 3, 8)]  # batch, inputs, features


def recurrent(device, inputs, features):
    layer = layers.dense(inputs, make_neuron("ltc", features), features, recurrent=True).to(device)
    for p in layer.parameters():
        p.data += 0.2 * torch.randn_like(p)  # biases too
    return layer


def beginning(device, batch, features):
    v, z, b = torch.randn(batch, features), torch.rand(batch, features).lt(0.3).float(), torch.rand(batch, features)
    return NeuronState(*(t.to(device) for t in (v, z, b)))


def gradients(outputs, given, wanted):
    found = torch.autograd.grad(outputs, wanted, given, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]


def all_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, 1e-5)


def compare(device, sizes, eager, given=(0, 1, 2), state_too=True, input_too=True):
    """The step and its gradients, where ``given`` of v, z and b after it have one."""
    batch, inputs, features = sizes
    layer, x = recurrent(device, inputs, features), torch.randn(batch, inputs, device=device, requires_grad=input_too)
    state = NeuronState(*(t.requires_grad_(state_too) for t in beginning(device, batch, features)))
    z, (found, _) = layer(x, LayerState(state, None))
    assert z is found.z
    _, (expected, _) = eager(layer, x, LayerState(state, None))
    assert torch.equal(z, expected.z) and 0 < z.mean() < 1
    all_close(found, expected)
    wanted = [t for t in (*layer.parameters(), x, *state) if t.requires_grad]
    d = [torch.randn_like(z) for _ in given]
    all_close(*(gradients([after[i] for i in given], d, wanted) for after in (found, expected)))


@pytest.mark.parametrize("sizes", SIZES)
def test_kernels_step_as_the_layer_does(sizes, kernels, eager, device):
    compare(device, sizes, eager)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("given", [(1,), (0, 1), (1, 2), (0,), (2,)])
def test_kernels_with_gradients_of_a_part_of_the_state(given, seed, kernels, eager, device):
    torch.manual_seed(seed)
    compare(device, (17, 2, 10), eager, given)


@pytest.mark.parametrize("inputs", [1, 20])
@pytest.mark.parametrize("input_too", [False, True])
def test_kernels_of_a_step_that_is_learnt_from_alone(inputs, input_too, kernels, eager, device):
    compare(device, (33, inputs, 24), eager, (1,), False, input_too)


def test_kernels_take_inputs_and_gradients_of_any_strides(kernels, eager, device):
    layer, state = recurrent(device, 20, 24), beginning(device, 33, 24)
    sequence = torch.randn(33, 4, 20, device=device).transpose(0, 1)
    pixels = torch.randn(33, 784, device=device)
    first = recurrent(device, 1, 24)
    for module, x in ((layer, sequence[2]), (layer, torch.randn(20, 33, device=device).t()), (first, pixels[:, 5:6])):
        a, e = (run(module, x, LayerState(state, None))[1].neuron for run in (lambda f, *rest: f(*rest), eager))
        all_close(a, e)
        parameters = list(module.parameters())
        one = torch.ones((), device=device).expand(33, 24)
        all_close(*(torch.autograd.grad(t.v, parameters, one) for t in (a, e)))


@pytest.mark.parametrize(("outputs", "features"), [(10, 24), (1, 40), (20, 33)])
def test_kernels_read_out_as_the_model_does(outputs, features, kernels, eager, device):
    model = SequenceModel(2, (features,), outputs).to(device)
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    x, before = beginning(device, 33, features).z.requires_grad_(), torch.randn(33, outputs, device=device).requires_grad_()
    assert dispatch.applies_to_readout(model.output, model.readout, x)
    found = dispatch.readout_step(model.output, model.readout, x, before)
    expected, _ = model.readout(model.output(x), before)
    assert_close(found, expected, 1e-5)
    given, parameters = torch.randn_like(found), [*model.output.parameters(), *model.readout.parameters()]
    for wanted in ([*parameters, x, before], [*parameters, x], parameters):
        all_close(*(gradients(t, given, wanted) for t in (found, expected)))


@pytest.mark.parametrize("how", ["eager", "make_fx", "compile"])
def test_kernels_train_a_model(how, kernels, eager, device):
    """A step of two layers and a readout, by each way in which the library takes a gradient."""
    model, x = SequenceModel(1, (16, 16), 10).to(device), torch.randn(17, 1, device=device)
    before = SequenceState(
        tuple(LayerState(beginning(device, 17, 16), None) for _ in range(2)), torch.randn(17, 10, device=device)
    )
    leaves = states.leaves(before)
    names, weights = zip(*((name, p.detach()) for name, p in model.named_parameters()), strict=True)

    def step(x, *tensors):
        remaining = iter(tensors)
        state = states.map_state(lambda _: next(remaining), before)
        parameters = [t.detach().requires_grad_() for t in remaining]
        with torch.enable_grad():
            output, state = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x, state))
            found = torch.autograd.grad(output.square().sum(), parameters)
        return [output.detach(), *states.leaves(states.detach(state)), *found]

    arguments = [x, *leaves, *weights]
    expected = eager(step, *arguments)
    if how == "eager":
        found = step(*arguments)
    elif how == "make_fx":
        from torch._inductor import compile
        from torch.fx.experimental.proxy_tensor import make_fx

        graph = make_fx(step)(*arguments)
        used = [str(node.target) for node in graph.graph.nodes if "fptt" in str(node.target)]
        assert (
            used
            == ["fptt.ltc_step.default"] * 2
            + ["fptt.leaky_readout.default"]
            + ["fptt.leaky_readout_backward.default"]
            + ["fptt.ltc_step_backward.default"] * 2
        )
        found = (graph if device == "cpu" else compile(graph, arguments))(*arguments)
    else:
        output, state = torch.compile(model, fullgraph=True, backend="aot_eager" if device == "cpu" else "inductor")(x, before)
        found = torch.autograd.grad(output.square().sum(), list(model.parameters()))
        found = [output, *states.leaves(state), *found]
    all_close(found, expected)


def test_kernels_are_operators_by_torchs_rules(kernels, device):
    layer, x, (v, z, b) = recurrent(device, 3, 8), torch.randn(5, 3, device=device), beginning(device, 5, 8)
    gates = layer.neuron.rates
    of_current = (gates.from_current.weight, gates.from_current.bias)
    weights = (layer.synapse.weight, layer.synapse.bias, layer.recurrent.weight, *of_current)
    of_states = (part.weight for part in gates.from_states)
    torch.library.opcheck(ltc._step, (x, v.requires_grad_(), z, b, *weights, *of_states, 0.1, "ieee"))


def test_the_least_kernel(device):
    assert blocks.works(torch.device(device))
