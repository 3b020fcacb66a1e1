import pytest
import torch

from fptt import layers
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import SequenceModel
from fptt.neurons import make_neuron
from fptt.training.record import record


@pytest.mark.parametrize(
    ("kind", "names"), [("ltc", "v z b inv_tau_m rho"), ("alif", "v z b inv_tau_m rho"), ("lif", "v z inv_tau_m")]
)
def test_recordings_are_those_of_a_plain_evaluation(kind, names):
    model, sequence = SequenceModel(3, (6, 5), 2, neuron=kind, norm_steps=7), 3 * torch.randn(7, 4, 3)
    outputs, rows = record(model, sequence)
    assert model.training, "the mode is put back"
    assert [set(row) for row in rows] == [set(names.split())] * 2
    assert [row["v"].shape for row in rows] == [(7, 4, 6), (7, 4, 5)]
    assert all(row[name].shape == row["v"].shape for row in rows for name in row)
    model.eval()
    state = None
    for t, x in enumerate(sequence):
        output, state = model(x, state)
        assert torch.equal(outputs[t], output)
        for row, layer in zip(rows, state.layers, strict=True):
            assert torch.equal(row["v"][t], layer.neuron.v) and torch.equal(row["z"][t], layer.neuron.z)
    assert sum(row["z"].sum() for row in rows) > 0
    again, _ = record(model, sequence)
    assert torch.equal(again, outputs)


@pytest.mark.parametrize("kind", ["lif", "alif", "ltc"])
def test_convolutional_layers_are_recorded_neuron_by_neuron(kind):
    layer = layers.convolutional(2, make_neuron(kind, 3, convolutional=True), 3)
    _, (row,) = record(layer, torch.randn(5, 4, 2, 6, 6))
    assert row["v"].shape == row["z"].shape == (5, 4, 3 * 36)
    assert all(values.shape == row["v"].shape for values in row.values())


def test_rectifiers_are_not_recorded():
    _, rows = record(layers.convolutional(2, make_neuron("relu", 3, convolutional=True), 3), torch.randn(5, 4, 2, 6, 6))
    assert rows == []


def test_a_network_without_spikes_has_no_layers_to_record_and_hooks_are_gone():
    outputs, rows = record(RecurrentBaseline(3, (4,), 2), torch.randn(5, 1, 3))
    assert outputs.shape == (5, 1, 2) and rows == []
    model = SequenceModel(3, (4,), 2)
    record(model, torch.randn(5, 1, 3))
    assert not any(module._forward_hooks for module in model.modules())
