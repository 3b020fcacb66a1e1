"""What a network costs, against operations counted by hand, by convolutions of ones, and by NeuroBench."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import Reads
from fptt import InputError
from fptt import state as states
from fptt.cost import Product, measure
from fptt.models.baselines import RecurrentBaseline
from fptt.models.convolutional import ConvolutionalModel
from fptt.models.sequence import SequenceModel
from fptt.models.spyv4 import SPYv4
from fptt.training.record import record

COUNTED = ("dense_operations", "effective_macs", "effective_acs")


def set_weight(linear, rows):
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(rows))


@pytest.fixture
def by_hand():
    """Two recurrent LIF neurons, tau 2, threshold 0.5: neuron 0 is driven by the input, neuron 1 by neuron 0."""
    options = {"neuron": "lif", "readout": "fixed", "b0": 0.5, "initial_v": "zero"}
    model = SequenceModel(2, (2,), 1, **options)
    set_weight(model.layers[0].synapse, [[2.0, 0.0], [0.0, 2.0]])
    set_weight(model.layers[0].recurrent, [[0.0, 0.0], [2.0, 0.0]])
    set_weight(model.output, [[1.0, 1.0]])
    return model


def test_operations_counted_by_hand(by_hand):
    """Inputs (1, 0), (0, 0), (0.4, 0): neuron 0 fires at the first step, neuron 1 at the second, none at the third."""
    sequence = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.4, 0.0]]).unsqueeze(1)
    cost = measure(by_hand, [sequence])
    _, (layer,) = record(by_hand, sequence)
    assert layer["z"].squeeze(1).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert cost["steps"]["dense_operations"] == [10, 10, 10]  # 4 of the input, 4 recurrent, 2 of the output
    assert cost["steps"]["effective_macs"] == [1, 0, 1]  # the input's one weight: 0.4 is no spike
    assert cost["steps"]["effective_acs"] == [0 + 1, 1 + 1, 0]  # recurrent, output; neuron 1 feeds nobody back
    # The first step sets two neurons and the readout; then v of neuron 0 goes from 0 to 0.4, and the readout changes twice.
    assert cost["steps"]["membrane_updates"] == [3, 1, 2]
    assert [cost[key] for key in (*COUNTED, "membrane_updates")] == [30, 2, 3, 6]
    assert cost["energy_estimate_nj"] == pytest.approx((2 * 4.6 + 3 * 0.9) / 1000)
    assert cost["steps"]["energy_estimate_nj"] == pytest.approx([5.5e-3, 1.8e-3, 4.6e-3])
    assert cost["connection_sparsity"] == (2 + 3) / 10
    assert cost["activation_sparsity"] == 1 - 2 / 6 and cost["firing_rates"] == {"layers.0.neuron": 2 / 6}
    rows = [(row["name"], row["operation"], row["dense"], row["effective"]) for row in cost["products"]]
    assert rows == [("layers.0.synapse", "MAC", 12, 2), ("layers.0.recurrent", "AC", 12, 1), ("output", "AC", 6, 2)]
    numbers = sum(p.numel() for p in by_hand.parameters()) + 2 + 1  # buffers: the constants of the neurons and of the readout
    assert cost["footprint_bytes"] == 4 * numbers


def test_spikes_as_input_are_accumulated(by_hand):
    assert measure(by_hand, [torch.tensor([[[1.0, 0.0]], [[0.0, -1.0]]])])["effective_macs"] == 0


def test_figures_are_means_over_samples_however_they_come_in_batches():
    model = SequenceModel(3, (6, 5), 2, norm_steps=4)
    sequence = torch.rand(4, 9, 3)
    sequence[:, :3] = (sequence[:, :3] > 0.5).float()  # some samples alone would pass for spikes
    whole = measure(model, [sequence])
    assert measure(model, sequence.split(3, 1)) == whole and measure(model, sequence.split(1, 1)) == whole
    assert whole["products"][0]["operation"] == "MAC"
    for key, values in whole["steps"].items():
        assert len(values) == 4 and sum(values) == pytest.approx(whole[key])


@pytest.mark.parametrize("kind", ["ltc", "alif", "lif"])
def test_gates_are_macs_and_spikes_acs(kind):
    """3 inputs, 6 neurons, 2 outputs; gates of LTC neurons read the current, v and b, the readout's its current and itself."""
    cost = measure(SequenceModel(3, (6,), 2, neuron=kind), [torch.rand(5, 4, 3)])
    gates = {"from_current": 6 * 12, "from_states.0": 36, "from_states.1": 36} if kind == "ltc" else {}
    expected = {
        "layers.0.synapse": ("MAC", 18),
        "layers.0.recurrent": ("AC", 36),
        "output": ("AC", 12),
        "readout.inv_tau.from_current": ("MAC", 4),
        "readout.inv_tau.from_states.0": ("MAC", 4),
        **{f"layers.0.neuron.rates.{name}": ("MAC", number) for name, number in gates.items()},
    }
    assert {row["name"]: (row["operation"], row["dense"] / 5) for row in cost["products"]} == expected
    assert cost["effective_macs"] + cost["effective_acs"] == sum(row["effective"] for row in cost["products"])


def test_a_membrane_readout_multiplies():
    cost = measure(SequenceModel(3, (6,), 2, readout="membrane"), [torch.rand(5, 4, 3)])
    assert {row["name"]: row["operation"] for row in cost["products"]}["output"] == "MAC"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 4, (1, 3), dilation=2, groups=4, bias=False),
        nn.Conv1d(4, 6, 5, padding=2, padding_mode="circular"),
        nn.Conv3d(4, 2, 2),
        nn.Linear(7, 5),
    ],
    ids=str,
)
def test_uses_of_each_input_add_up_to_the_layer_of_ones(layer):
    shapes = {nn.Linear: (7,), nn.Conv1d: (4, 9), nn.Conv2d: (4, 9, 7), nn.Conv3d: (4, 3, 5, 4)}
    nn.init.zeros_(layer.bias) if layer.bias is not None else None
    with torch.no_grad():
        layer.weight[torch.rand_like(layer.weight) < 0.3] = 0
    x = torch.randint(0, 3, (8, *shapes[type(layer)])).float()
    model = Stepped(layer)
    cost = measure(model, [x.unsqueeze(0)])
    with torch.no_grad():
        layer.weight.copy_(layer.weight != 0)
        assert cost["effective_macs"] == layer((x != 0).float()).sum().round().item() / 8
        layer.weight.fill_(1)
        assert cost["dense_operations"] == layer(torch.ones_like(x)).sum().round().item() / 8


class Stepped(nn.Module):
    """A module without a state, and what follows it, behind the protocol."""

    def __init__(self, *modules):
        super().__init__()
        self.modules_in_order = nn.Sequential(*modules)

    def forward(self, x, state=None):
        return self.modules_in_order(x), state


def test_convolutional_networks_and_the_detector():
    model = ConvolutionalModel((1, 8, 8), (2, 3), (5,), 4, pool=(2, 1), recurrent=True)
    cost = measure(model, [(torch.rand(3, 6, 1, 8, 8) > 0.6).float()])
    kinds = {row["name"]: row["operation"] for row in cost["products"]}
    assert all(kinds[f"layers.{n}.synapse"] == "AC" for n in (0, 1)) and kinds["layers.2.synapse.2"] == "AC"
    assert all(kind == "MAC" for name, kind in kinds.items() if "rates" in name)
    detector = SPYv4(2, 32, width=0.1)
    cost = measure(detector, [torch.rand(2, 1, 3, 32, 32)])
    assert len(cost["firing_rates"]) == len(detector.layers) and cost["dense_operations"] > cost["effective_macs"] > 0


def test_the_non_spiking_twin_multiplies_throughout():
    cost = measure(SPYv4(2, 32, width=0.1, neuron="relu"), [torch.rand(1, 1, 3, 32, 32)])
    assert cost["effective_acs"] == cost["membrane_updates"] == 0 and cost["firing_rates"] == {}
    assert cost["activation_sparsity"] < 0.1


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("rnn", 1)])
def test_recurrent_cells(cell, gates):
    """Every product is a MAC; the hidden state is zero at the first step."""
    cost = measure(RecurrentBaseline(3, (6, 5), 2, cell), [0.1 + torch.rand(4, 7, 3)])
    inputs, recurrent = gates * (6 * 3 + 5 * 6), gates * (6 * 6 + 5 * 5)
    assert cost["steps"]["dense_operations"] == [inputs + recurrent + 10] * 4
    assert cost["steps"]["effective_macs"] == [inputs + 10] + [inputs + recurrent + 10] * 3
    assert cost["effective_acs"] == 0 and cost["activation_sparsity"] == 0 and cost["firing_rates"] == {}


def test_cells_without_a_state_are_those_of_a_zero_state():
    cell = nn.GRUCell(3, 4)
    assert measure(Stepped(cell), [torch.ones(1, 2, 3)])["dense_operations"] == 3 * 4 * (3 + 4)
    cost = measure(Stepped(nn.Linear(3, 4)), [torch.ones(1, 2, 3)])
    assert cost["activation_sparsity"] is cost["membrane_updates"] is None


def test_measuring_leaves_the_model_alone_and_agrees_with_a_recording():
    model, sequence = SequenceModel(3, (6, 5), 2, norm_steps=4), torch.rand(4, 9, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost = measure(model, [sequence])
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    _, layers = record(model, sequence)
    assert list(cost["firing_rates"].values()) == pytest.approx([layer["z"].mean().item() for layer in layers])
    spikes = sum(layer["z"].sum().item() for layer in layers)
    assert cost["activation_sparsity"] == pytest.approx(1 - spikes / (4 * 9 * 11))


def test_nothing_is_read_by_the_host_between_steps():
    model = SequenceModel(3, (6, 5), 2)
    numbers = []
    for time_steps, batches in ((2, 1), (9, 1), (9, 3)):
        with Reads() as reads:
            measure(model, [torch.rand(time_steps, 4, 3) for _ in range(batches)])
        numbers.append(reads.number)
    assert numbers[0] == numbers[1] == numbers[2] > 0


def test_what_cannot_be_counted_is_said():
    sequence = torch.rand(4, 9, 3)
    with pytest.raises(InputError, match="operations of modules_in_order.0, a Bilinear, cannot be counted"):
        measure(Stepped(nn.Bilinear(3, 3, 2)), [sequence])
    with pytest.raises(InputError, match="of 4 and of 3 time steps"):
        measure(SequenceModel(3, (6,), 2), [sequence, sequence[1:]])
    for model, sequences in ((SequenceModel(3, (6,), 2), []), (Stepped(nn.ReLU()), [sequence])):
        with pytest.raises(InputError, match="nothing to count"):
            measure(model, sequences)


def test_counts_beyond_float32_are_exact():
    product = Product("p", torch.ones(3, 2**12), F.linear, 1)
    for _ in range(2**12 + 1):
        product.add(torch.ones(1, 2**12), 0)
    assert product.effective.item() == product.dense.item() == 3 * 2**12 * (2**12 + 1) > 2**24


class WholeSequence(nn.Module):
    """``model`` stepped through sequences [batch, time, ...] from a given start, as NeuroBench calls a network."""

    def __init__(self, model, state):
        super().__init__()
        self.model, self.state = model, state

    def forward(self, batch):
        state = self.state
        for x_t in batch.transpose(0, 1):
            output, state = self.model(x_t, state)
        return output


NETWORKS = {
    "lif": lambda: SequenceModel(6, (8, 7), 3, neuron="lif", readout="fixed"),
    "ltc": lambda: SequenceModel(6, (8, 7), 3, norm_steps=5),
    "conv": lambda: ConvolutionalModel((2, 6, 6), (3, 4), (5,), 3, pool=(1, 2)),
    "lstm": lambda: RecurrentBaseline(6, (8,), 3),
    "rnn": lambda: RecurrentBaseline(6, (8, 7), 3, "rnn"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_neurobench_counts_the_same(name):
    """NeuroBench counts the elementwise products of an LSTM cell as well: three per unit and step, two where c is zero.

    What such a cell's state that is zero would take part in, it leaves out of the dense operations, too.
    """
    pytest.importorskip("neurobench", reason="neurobench is not installed", exc_type=ImportError)
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import ActivationSparsity, MembraneUpdates, SynapticOperations
    from neurobench.models import TorchModel

    model = NETWORKS[name]().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p[torch.rand_like(p) < 0.2] = 0
    sequence = (torch.rand(5, 4, *((2, 6, 6) if name == "conv" else (6,))) + 0.1) * 2
    ours = measure(model, [sequence])

    theirs = TorchModel(WholeSequence(model, states.initialise(model, sequence[0])))
    neurons = [model.layers[n].neuron for n in range(len(model.layers))] if name in ("lif", "ltc", "conv") else []
    for kind in {type(neuron) for neuron in neurons}:
        theirs.add_activation_module(kind)
    if neurons and model.readout is not None:
        theirs.add_activation_module(type(model.readout))
    theirs.register_hooks()
    batch = sequence.transpose(0, 1)
    with torch.no_grad():
        data = (batch, theirs(batch))
    operations = SynapticOperations()(theirs, None, data)
    elementwise = 3 * 8 * 5 - 8
    extra = {"Dense": elementwise - 4 * 8 * 8, "Effective_MACs": elementwise} if name == "lstm" else {}
    for key, their_key in zip(COUNTED, ("Dense", "Effective_MACs", "Effective_ACs"), strict=True):
        assert ours[key] + extra.get(their_key, 0) == operations[their_key], key
    assert ours["footprint_bytes"] == Footprint()(theirs)
    if name not in ("lstm", "rnn"):  # there it counts biases as connections
        assert ours["connection_sparsity"] == pytest.approx(ConnectionSparsity()(theirs), abs=1e-4)

    for hook in theirs.activation_hooks:  # what NeuroBench reads from snnTorch's neurons, from ours
        before, hook.activation_outputs[:] = hook.activation_inputs, [*hook.activation_outputs]
        spiking = hook.layer in neurons
        hook.pre_fire_mem_potential = [state.v if spiking else state for _, state in before]
        hook.post_fire_mem_potential = [state.v if spiking else state for _, state in hook.activation_outputs]
        hook.activation_outputs = [z for z, _ in hook.activation_outputs] if spiking else []
    if neurons:
        assert ours["membrane_updates"] == MembraneUpdates()(theirs, None, data)
        assert ours["activation_sparsity"] == pytest.approx(ActivationSparsity()(theirs, None, data))
