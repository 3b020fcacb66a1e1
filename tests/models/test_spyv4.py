"""The detector's network: its size, its wiring, its state."""

import pytest
import torch

import fptt
from fptt import state as states
from fptt.errors import InputError
from fptt.learning import rules
from fptt.learning.losses import StepLoss
from fptt.models.spyv4 import PRIOR, SPYv4


def small(**options):
    torch.manual_seed(0)
    return SPYv4(classes=3, size=64, width=0.25, **options)


def test_the_reference_has_13_96_million_weights_and_6_19_million_neurons():
    with torch.device("meta"):
        model = SPYv4()
        state = model.initial_state(torch.zeros(1, 3, 416, 416))
    assert sum(p.numel() for p in model.parameters()) == 13_956_214
    assert sum(layer.neuron.v.numel() for layer in state.layers) == 6_186_752


@pytest.mark.parametrize("neuron", ["ltc", "alif", "lif", "relu"])
@pytest.mark.parametrize("readout", ["last", "liquid"])
def test_one_prediction_for_every_anchor_of_every_cell(neuron, readout):
    model = small(neuron=neuron, readout=readout)
    x = torch.rand(2, 3, 64, 64)
    output, state = model(x)
    assert output.shape == (2, 3 * (2 * 2 + 4 * 4), 8)
    again, _ = model(x, state)
    assert torch.equal(again, output) == (neuron == "relu" and readout == "last")  # all others have a memory


def test_predictions_come_in_the_order_head_anchor_row_column():
    """What a head says of one place of one anchor is found where the order puts it."""
    model = small(neuron="relu").eval()
    x = torch.rand(1, 3, 64, 64)
    before, _ = model(x)
    with torch.no_grad():
        model.heads[1].bias[1 * 8 + 4] += 5.0  # objectness of the fine head's second anchor
    after, _ = model(x)
    changed = (after - before).abs().sum((0, 2)) > 1
    assert changed.nonzero().flatten().tolist() == list(range(12 + 16, 12 + 32))
    rows = model(torch.cat((x[:, :, :, :32], torch.zeros(1, 3, 64, 32)), 3))[0].view(-1, 8)
    assert len(rows) == 60


def test_at_first_it_finds_nothing():
    output, _ = small()(torch.rand(2, 3, 64, 64))
    assert abs(torch.sigmoid(output[..., 4]).mean().item() - PRIOR) < 0.01
    assert abs(torch.sigmoid(output[..., 5:]).mean().item() - 1 / 3) < 0.05


def test_every_weight_learns_and_the_state_can_be_cut():
    model = small(readout="liquid")
    x = torch.rand(2, 3, 64, 64)
    state = None
    for _ in range(2):
        output, state = model(x, fptt.detach(state))
    output.square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    biases = [name for name in silent if not name.endswith("conv.bias") and not name.endswith("synapse.bias")]
    assert not biases, biases  # a bias before a batch norm has no effect


def test_every_layer_fires_and_says_so():
    model = small()
    state = None
    for _ in range(4):
        _, state = model(torch.rand(2, 3, 64, 64), state)
    rates = [z.mean().item() for z in states.spikes(state)]
    assert len(rates) == len(model.layers) == 19
    assert min(rates) > 0
    assert torch.isnan(states.firing_rate(small(neuron="relu")(torch.rand(1, 3, 64, 64))[1]))


def test_without_a_norm_one_image_trains():
    output, _ = small(norm_steps=None)(torch.rand(1, 3, 64, 64))
    output.sum().backward()


@pytest.mark.parametrize(
    ("options", "message"), [({"size": 100}, "multiple of 32"), ({"width": 0.0}, "width must be positive")]
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(InputError, match=message):
        SPYv4(**options)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected images of shape \[batch, 3, 64, 64\]"):
        small()(torch.rand(1, 3, 32, 32))


def test_it_is_trained_by_parts_whose_steps_are_compiled(monkeypatch):
    """``through`` is a name of the protocol, for models that take several steps at once."""
    monkeypatch.setattr(rules, "or_eager", lambda function: function)  # what is compiled is another test's
    model = SPYv4(2, 32, width=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = StepLoss(lambda output, target: output.square().mean(), 2)
    trainer = rules.SequenceTrainer(model, loss, optimizer, 2, compiled=True)
    assert trainer(torch.rand(4, 2, 3, 32, 32), torch.zeros(2)).loss.isfinite()
