"""Parity with the research code: float64 vectors, 1e-9 relative."""

import pytest
import torch

from conftest import assert_close
from fptt import detach, layers, surrogate
from fptt.layers import LayerState
from fptt.learning.fptt import FPTT
from fptt.learning.losses import StepLoss
from fptt.learning.step import CompiledStep
from fptt.models.sequence import SequenceModel, SequenceState
from fptt.neurons import NeuronState, make_neuron


def load(parameters, **values):
    """Copy golden values into the named parameters."""
    with torch.no_grad():
        for parameter, value in values.items():
            target = parameters.get_parameter(parameter.replace("__", "."))
            assert target.shape == value.shape
            target.copy_(value)


def load_recurrent(layer, golden, prefix):
    """The research code has one matrix for [input, previous spikes]; ours are two."""
    weight, inputs = golden[f"{prefix}x_weight"], layer.synapse.in_features
    load(
        layer,
        synapse__weight=weight[:, :inputs],
        synapse__bias=golden[f"{prefix}x_bias"],
        recurrent__weight=weight[:, inputs:],
        **liquid("neuron__rates__", lambda name: golden[f"{prefix}{name}"], "tauM", "tauAdp"),
    )


def liquid(prefix, values, *gates):
    """The reference's one matrix for [current, state] of each gate as our parts, from a function name -> value."""
    dot = "__" if prefix.endswith("__") else "."
    weights = [values(f"{gate}_weight").chunk(2, dim=-1) for gate in gates]
    return {
        f"{prefix}from_current{dot}weight": torch.cat([of_current for of_current, _ in weights]),
        f"{prefix}from_current{dot}bias": torch.cat([values(f"{gate}_bias") for gate in gates]),
        **{f"{prefix}from_states{dot}{n}{dot}weight": of_state for n, (_, of_state) in enumerate(weights)},
    }


def recurrent_values(values, inputs):
    """Golden values by our parameter names, from a function name -> value."""
    weight = values("x_weight")
    return {
        "synapse.weight": weight[..., :inputs],
        "recurrent.weight": weight[..., inputs:],
        "synapse.bias": values("x_bias"),
        **liquid("neuron.rates.", values, "tauM", "tauAdp"),
    }


def test_multi_gaussian(golden):
    vectors = golden("surrogate")
    x = vectors["membrane_minus_threshold"].requires_grad_()
    z = surrogate.get("multi_gaussian")(x)
    z.backward(vectors["upstream_gradient"])
    assert torch.equal(z.detach(), vectors["spike"])
    assert_close(x.grad, vectors["gradient"])


@pytest.fixture
def dense(golden):
    vectors = golden("ltc_dense")
    inputs, n = vectors["inputs"].shape[-1], vectors["v0"].shape[-1]
    neuron = make_neuron("ltc", n, b0=vectors["baseline_threshold"])
    layer = layers.dense(inputs, neuron, n, recurrent=True).double()
    load_recurrent(layer, vectors, "param_layer1_")
    return vectors, layer, LayerState(NeuronState(vectors["v0"], vectors["z0"], vectors["b0"]), None)


def test_dense_forward(dense):
    vectors, layer, state = dense
    for t, x in enumerate(vectors["inputs"]):
        z, state = layer(x, state)
        assert torch.equal(z, vectors["z"][t])
        assert_close(state.neuron.v.detach(), vectors["v"][t])
        assert_close(state.neuron.b.detach(), vectors["b"][t])


@pytest.mark.parametrize("kind", ["bptt", "last_step"])
def test_dense_gradient(dense, kind):
    vectors, layer, state = dense
    for x in vectors["inputs"]:
        z, state = layer(x, detach(state) if kind == "last_step" else state)
    z.backward(vectors["cotangent"])
    expected = recurrent_values(lambda name: vectors[f"grad_{kind}_layer1_{name}"], layer.synapse.in_features)
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, expected[name])


def load_conv(layer, vectors, convs, norms):
    for name, conv in convs.items():
        load(conv, weight=vectors[f"param_{name}_weight"], bias=vectors[f"param_{name}_bias"])
    for name, norm in norms.items():
        load(norm, weight=vectors[f"param_{name}_weight"], bias=vectors[f"param_{name}_bias"])


def test_convolutional_forward(golden):
    vectors = golden("ltc_conv")
    channels = vectors["v0"].shape[1]
    neuron = make_neuron("ltc", channels, convolutional=True, b0=vectors["baseline_threshold"])
    layer = layers.convolutional(2, neuron, channels, pool=torch.nn.MaxPool2d(2)).double()
    tau_m, tau_adp = neuron.rates
    load_conv(
        layer,
        vectors,
        {"conv1_x": layer.synapse, "conv_tauM": tau_m.conv, "conv_tauAdp": tau_adp.conv},
        {"BN": layer.norm, "BN1": tau_m.norm, "BN2": tau_adp.norm},
    )
    start = layer.initial_state(vectors["inputs"][0])
    state = start._replace(neuron=NeuronState(vectors["v0"], vectors["z0"], vectors["b0"]))
    for t, x in enumerate(vectors["inputs"]):
        z, state = layer(x, state)
        assert torch.equal(z, vectors["z"][t])
        assert_close(state.neuron.v.detach(), vectors["v"][t])
        assert_close(state.neuron.b.detach(), vectors["b"][t])


def test_detector_cell_forward(golden):
    vectors = golden("ltc_conv_detection")
    channels = vectors["v0"].shape[1]
    neuron = make_neuron("ltc", channels, convolutional=True, adaptive=False, b0=vectors["threshold"])
    (tau_m,) = neuron.rates
    layer = layers.convolutional(3, neuron, channels, stride=2).double()
    load_conv(
        layer,
        vectors,
        {"conv1_x": layer.synapse, "conv_tauM": tau_m.conv},
        {"BN": layer.norm, "BN1": tau_m.norm},
    )
    start = layer.initial_state(vectors["inputs"][0])
    state = start._replace(neuron=NeuronState(vectors["v0"], vectors["z0"], None))
    for t, x in enumerate(vectors["inputs"]):
        z, state = layer(x, state)
        assert torch.equal(z, vectors["z"][t])
        assert_close(state.neuron.v.detach(), vectors["v"][t])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["adamax", "sgd", "adam_rho"])
def test_fptt_trajectory(golden, name, compiled):
    """Every update of a whole training: gradient before the regulariser, weights, averages and multipliers after it."""
    vectors = golden(f"fptt_trajectory_{name}")
    sequence, target = vectors["inputs"], vectors["targets"]
    inputs, n, outputs = sequence.shape[-1], vectors["v0"].shape[-1], vectors["out0"].shape[-1]
    model = SequenceModel(inputs, (n,), outputs, b0=vectors["baseline_threshold"]).double()
    load_recurrent(model.layers[0], vectors, "init_param_hidden_layer1_")
    load(
        model,
        output__weight=vectors["init_param_readout_weight"],
        output__bias=vectors["init_param_readout_bias"],
        **liquid("readout__inv_tau__", lambda name: vectors[f"init_param_readout_{name}"], "tau"),
    )

    def expected(prefix, t):
        hidden = recurrent_values(lambda name: vectors[f"{prefix}_hidden_layer1_{name}"][t], inputs)
        return {
            **{f"layers.0.{key}": value for key, value in hidden.items()},
            "output.weight": vectors[f"{prefix}_readout_weight"][t],
            "output.bias": vectors[f"{prefix}_readout_bias"][t],
            **liquid("readout.inv_tau.", lambda name: vectors[f"{prefix}_readout_{name}"][t], "tau"),
        }

    base = getattr(torch.optim, vectors["optimizer"])(model.parameters(), lr=vectors["lr"])
    optimizer = FPTT(base, alpha=vectors["alpha"], beta=vectors["beta"], rho=vectors["rho"], max_norm=vectors["clip"] or None)
    layer_state = LayerState(NeuronState(vectors["v0"], vectors["z0"], vectors["b0"]), None)
    state = SequenceState((layer_state,), vectors["out0"])
    loss = StepLoss(torch.nn.functional.cross_entropy, vectors["total_steps"])
    loss.weights = torch.arange(1, vectors["total_steps"] + 1).double() / vectors["total_steps"]
    step = CompiledStep(model, loss, optimizer)
    steps = step.steps(sequence, state, target)
    for t, x in enumerate(sequence):
        gradient, weight, average, lambda_ = (expected(p, t) for p in ("loss_gradient", "param", "average", "lambda"))
        if compiled:
            output, _, _ = next(steps)
        else:
            output, state = model(x, detach(state))
            optimizer.zero_grad()
            loss(output, target, torch.tensor(t))[0].backward()
            for key, parameter in model.named_parameters():
                assert_close(parameter.grad, gradient[key])
            optimizer.step()
        assert_close(output.detach(), vectors["out"][t])
        for key, parameter in model.named_parameters():
            assert_close(parameter.detach(), weight[key])
            assert_close(optimizer.state[parameter]["average"], average[key])
            assert_close(optimizer.state[parameter]["lambda_"], lambda_[key])
    assert len(step.graphs) == int(compiled)
