import pytest
import torch

from fptt import state as states
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import SequenceModel

MODELS = {
    **{f"{kind}-{readout}": (kind, readout) for kind in ("ltc", "alif", "lif") for readout in ("liquid", "membrane")},
    "ltc-learned": ("ltc", "learned"),
    "ltc-fixed": ("ltc", "fixed"),
    "lstm": ("lstm", None),
    "rnn": ("rnn", None),
}


def build(name, **options):
    kind, readout = MODELS[name]
    if readout is None:
        return RecurrentBaseline(3, (6, 5), 2, kind)
    return SequenceModel(3, (6, 5), 2, neuron=kind, readout=readout, norm_steps=4, **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_none_starts_as_the_initial_state_does(name, training):
    model, x = build(name).train(training), torch.randn(4, 3)
    torch.manual_seed(5)
    state = model.initial_state(x)
    expected, after = model(x, state)
    torch.manual_seed(5)
    output, again = model(x)
    assert torch.equal(output, expected) and output.shape == (4, 2)
    for ours, theirs in zip(states.leaves(again), states.leaves(after), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_does_not_depend_on_the_batch(name):
    model, sequence = build(name).eval(), torch.randn(6, 4, 3)

    def run(sequence):
        state = None
        for x in sequence:
            output, state = model(x, state)
        return output

    together = run(sequence)
    alone = torch.cat([run(sequence[:, n : n + 1]) for n in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ltc-liquid", "lstm"])
@pytest.mark.parametrize("shape", [(4, 5), (4,), (2, 4, 3)])
def test_wrong_input_shapes_are_named(name, shape):
    with pytest.raises(ValueError, match=r"expected an input of shape \[batch, 3\], got"):
        build(name)(torch.zeros(shape))


def test_membrane_readout_is_linear_in_the_last_membrane_potential():
    model = build("ltc-membrane")
    output, state = model(torch.randn(4, 3))
    assert state.readout is None
    torch.testing.assert_close(output, model.output(state.layers[-1].neuron.v))


def test_feedforward_network_has_no_recurrent_weights():
    names = [name for name, _ in build("ltc-liquid", recurrent=False).named_parameters()]
    assert names and not any("recurrent" in name for name in names)
