import io
from typing import NamedTuple

import pytest
import torch

import fptt
from fptt import state as states
from fptt.models.sequence import SequenceModel


class Pair(NamedTuple):
    z: torch.Tensor
    rest: object


def nested():
    x = torch.ones(2, requires_grad=True) * 2
    return Pair(x, [{"a": x, "b": None}, (x, x)])


def test_detach_keeps_the_structure_and_cuts_the_graph():
    after = fptt.detach(nested())
    assert isinstance(after, Pair) and isinstance(after.rest, list) and after.rest[0]["b"] is None
    assert len(list(states.leaves(after))) == 4
    assert not any(leaf.requires_grad for leaf in states.leaves(after))
    assert fptt.detach(None) is None


def test_map_state_visits_every_tensor_once():
    doubled = states.map_state(lambda x: x + 1, nested())
    assert [leaf.tolist() for leaf in states.leaves(doubled)] == [[3, 3]] * 4
    assert states.map_state(lambda x: x + 1, ()) == ()


def test_a_stream_goes_on_from_a_saved_state():
    model, sequence = SequenceModel(3, (8, 8), 2, norm_steps=5).eval(), torch.randn(10, 4, 3)
    state = None
    for x in sequence[:5]:
        _, state = model(x, state)
    file = io.BytesIO()
    torch.save(states.save(state), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = states.restore(saved, like=model.initial_state(sequence[0]))
    for x in sequence[5:]:
        expected, state = model(x, state)
        output, resumed = model(x, resumed)
    assert torch.equal(output, expected)


def test_restore_refuses_another_networks_state():
    x = torch.zeros(1, 3)
    saved = states.save(SequenceModel(3, (8,), 2).initial_state(x))
    with pytest.raises(ValueError, match="does not fit"):
        states.restore(saved, like=SequenceModel(3, (9,), 2).initial_state(x))


def test_firing_rate_is_the_mean_over_all_neurons():
    state = [Pair(torch.ones(2, 3), None), {"deep": Pair(torch.zeros(2, 1), None)}]
    assert states.firing_rate(state).item() == pytest.approx(0.75)
    assert states.firing_rates([state, state]).item() == pytest.approx(1.5)
    assert torch.isnan(states.firing_rate(torch.ones(3))) and torch.isnan(states.firing_rates([torch.ones(3)]))
