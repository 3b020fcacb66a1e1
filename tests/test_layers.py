import pytest
import torch

from fptt import layers
from fptt.layers import BatchNormThroughTime
from fptt.neurons import make_neuron

STEP = torch.tensor


@pytest.mark.parametrize("shape", [(16, 5), (4, 5, 6, 7)])
def test_one_step_is_ordinary_batch_norm(shape):
    ours = BatchNormThroughTime(5)
    theirs = torch.nn.BatchNorm1d(5) if len(shape) == 2 else torch.nn.BatchNorm2d(5)
    for _ in range(3):
        x = 3 * torch.randn(shape) + 1
        torch.testing.assert_close(ours(x, STEP(0)), theirs(x))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, STEP(7)), theirs(x))


def test_each_step_has_statistics_of_its_own_and_one_affine_map():
    norm = BatchNormThroughTime(2, time_steps=3, gamma=0.1, momentum=1.0)
    for step in range(3):
        norm(torch.randn(1000, 2) + 10 * step, STEP(step))
    torch.testing.assert_close(norm.running_mean, torch.tensor([[0.0], [10], [20]]).expand(3, 2), atol=0.2, rtol=0)
    assert {name for name, _ in norm.named_parameters()} == {"weight", "bias"}
    norm.eval()
    at = [norm(torch.full((1, 2), 10.0), STEP(step)) for step in range(3)]
    assert at[0].min() > 0.9 and at[1].abs().max() < 0.1 and at[2].max() < -0.9


@pytest.mark.parametrize("trained", [1, 2, 3])
def test_later_steps_use_the_last_step_trained(trained):
    norm = BatchNormThroughTime(2, time_steps=3, momentum=1.0)
    for step in range(trained):
        norm(torch.randn(50, 2) + 5 * step, STEP(step))
    norm.eval()
    x = torch.randn(4, 2)
    for step in (trained, 3, 100):
        assert torch.equal(norm(x, STEP(step)), norm(x, STEP(trained - 1)))
    norm.train()(x, STEP(99))  # longer than there is room for: counted to the last step
    assert norm.trained_steps == 3


@pytest.mark.parametrize("start", [0, 2])
def test_several_steps_at_once_are_normalised_as_one_by_one(start):
    together, one = BatchNormThroughTime(4, time_steps=6, gamma=0.5), BatchNormThroughTime(4, time_steps=6, gamma=0.5)
    for training in (True, True, False):
        together.train(training), one.train(training)
        x = 3 * torch.randn(3 if training else 9, 8, 4) + 1  # in evaluation for longer than trained
        expected = torch.stack([one(x_t, STEP(start + t)) for t, x_t in enumerate(x)])
        torch.testing.assert_close(together.through(x, STEP(start)), expected)
        for a, b in zip(together.buffers(), one.buffers(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["lif", "alif", "ltc"])
@pytest.mark.parametrize("build", ["dense", "recurrent", "convolutional"])
def test_none_starts_a_sequence_as_the_initial_state_does(kind, build):
    neuron = make_neuron(kind, 6, convolutional=build == "convolutional")
    if build == "convolutional":
        layer, x = layers.convolutional(2, neuron, 6, pool=torch.nn.MaxPool2d(2)), torch.randn(3, 2, 8, 8)
    else:
        layer, x = layers.dense(4, neuron, 6, recurrent=build == "recurrent", norm_steps=5), torch.randn(3, 4)
    layer.eval()
    z, state = layer(x)
    again, _ = layer(x, layer.initial_state(x))
    assert torch.equal(z, again)
    assert z.shape == ((3, 6, 4, 4) if build == "convolutional" else (3, 6))
    assert state.step.item() == 1


def test_recurrence_reads_the_layers_own_spikes():
    layer = layers.dense(2, make_neuron("lif", 3), 3, recurrent=True)
    state, x = layer.initial_state(torch.zeros(1, 2)), torch.zeros(1, 2)
    fired = state._replace(neuron=state.neuron._replace(z=torch.ones(1, 3)))
    expected = state.neuron.v / 2 + layer.recurrent(torch.ones(1, 3)) / 2  # tau_m = 2 steps
    z, after = layer(x, fired)
    torch.testing.assert_close(after.neuron.v, torch.where(z > 0, 0, expected))
