"""What e-prop cannot train is one clear line, before the first step or at it."""

import pytest
import torch
from torch import nn

import online_sums as sums
from eprop_paper import Paper, PaperState
from fptt import InputError
from fptt.learning.eprop import EProp
from fptt.models.baselines import RecurrentBaseline
from fptt.models.convolutional import ConvolutionalModel


def oblong_gate():
    model = sums.network(recurrent=False)
    model.layers[0].neuron.gate = nn.Linear(3, 4)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: sums.network(readout="liquid"), "one constant: set readout fixed"),
        (lambda: sums.network(readout="learned"), "one constant: set readout fixed"),
        (lambda: sums.network(norm_steps=3), "not the batch norm layers.0.norm"),
        (lambda: ConvolutionalModel((1, 6, 6), (2,), (), 3, pool=(2,), neuron="lif", readout="fixed"), "not the batch norm"),
        (
            lambda: ConvolutionalModel((1, 6, 6), (2,), (), 3, pool=(2,), neuron="lif", readout="fixed", norm_steps=None),
            "not layers.0.synapse.weight",
        ),
        (oblong_gate, "the gate layers.0.neuron.gate, which is not square"),
        (lambda: RecurrentBaseline(2, (3,), 3, "lstm"), "RecurrentBaseline has no"),
    ],
)
def test_what_it_cannot_train_is_one_line(model, message):
    with pytest.raises(InputError, match=message) as raised:
        EProp(model())
    assert "\n" not in str(raised.value)


def without_state(model):
    """No state before the first step, which the neuron makes up for."""
    (layer,), step = model.layers, model.layers[0].neuron.forward
    layer.neuron.forward = lambda current, _: step(current, PaperState(*[torch.zeros_like(current)] * 3))
    model.forward = lambda x, state: layer.neuron(layer.synapse(x), None)


def apart(model):
    """The neuron's output is not in its state."""
    model.layers[0].neuron.forward = lambda current, state: (state.z + current, state)


def around(model):
    """The readout reads something else than the last layer's output."""
    forward = model.forward
    model.forward = lambda x, state: (model.output(model.layers[0].synapse(x)), forward(x, state)[1])


def twice(model):
    """A synapse is used twice in a step."""
    forward = model.forward
    model.forward = lambda x, state: (forward(x, state)[0] + model.layers[0].synapse(x).sum(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_state, "give the model a method initial_state"),
        (apart, "output of PaperNeuron to be one of the tensors of its state"),
        (around, "a readout that reads the last layer's output and nothing else"),
        (twice, "'layers.0.synapse' is called twice in a step"),
    ],
)
def test_what_shows_in_a_step_only_is_one_line(change, message):
    model, (sequence, _) = Paper(), sums.problem()
    change(model)
    with pytest.raises(InputError, match=message):
        EProp(model)(sequence[0])


def test_feedback_has_two_kinds():
    with pytest.raises(InputError, match="symmetric or random, got 'none'"):
        EProp(Paper(), "none")


def test_a_neuron_that_begins_to_depend_on_what_it_did_not_is_one_line():
    """No trace is kept of a tensor of the state that the next step does not depend on."""
    model, (sequence, _) = Paper(), sums.problem()
    neuron, forward = model.layers[0].neuron, model.layers[0].neuron.forward
    neuron.forward = lambda current, state: forward(current, state._replace(a=state.a.detach()))
    eligible = EProp(model)
    _, state = eligible(sequence[0])
    traces = state.traces.state["layers.0.synapse"]
    assert [trace is None for trace in traces] == [False, False, True]
    neuron.forward = forward
    with pytest.raises(InputError, match="depends on the same tensors of its state at every step"):
        eligible(sequence[1], state)
