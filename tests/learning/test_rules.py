"""The rules against loops written by hand, and on every kind of network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from conftest import assert_close
from fptt import FPTT, detach
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.rules import SequenceTrainer, make_optimizer, number_of_parts, part_ends
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import SequenceModel

RULES = ["fptt", "bptt", "tbptt"]


@given(st.integers(1, 300).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(1, steps))))
def test_parts_are_as_equal_as_can_be_and_end_with_the_sequence(case):
    steps, parts = case
    ends = sorted(part_ends(steps, parts))
    sizes = [end - before for before, end in zip([-1, *ends], ends, strict=False)]
    assert len(ends) == parts and ends[-1] == steps - 1
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_default_number_of_parts():
    assert [number_of_parts(rule, 30, None) for rule in RULES] == [30, 1, 10]
    assert [number_of_parts(rule, 3, None) for rule in RULES] == [3, 1, 3]
    assert [number_of_parts(rule, 30, 6) for rule in RULES] == [6, 1, 6]


@pytest.mark.parametrize(("rule", "steps", "parts"), [("fptt", 5, 6), ("tbptt", 5, -1), ("fptt", 5, 0), ("bptt", 0, None)])
def test_impossible_numbers_of_parts(rule, steps, parts):
    with pytest.raises(ValueError, match=r"time step"):
        number_of_parts(rule, steps, parts)


def ltc_problem(steps=10):
    torch.manual_seed(3)
    model = SequenceModel(3, (6, 5), 4).double()
    return model, torch.randn(steps, 7, 3, dtype=torch.float64), torch.arange(7) % 4


def recorded(model):
    """An SGD base optimizer, and the list of gradients that reach it."""
    base, gradients = torch.optim.SGD(model.parameters(), lr=0.05), []
    base.register_step_pre_hook(lambda *_: gradients.append([p.grad.clone() for p in model.parameters()]))
    return base, gradients


CUTS = {1: [10], 3: [3, 6, 10], 4: [2, 5, 7, 10], 10: list(range(1, 11))}


@pytest.mark.parametrize("parts", CUTS)
@pytest.mark.parametrize("rule", ["fptt", "tbptt"])
def test_without_regulariser_fptt_is_truncated_bptt_written_by_hand(rule, parts):
    """With alpha -> 0 the gradients of FPTT-K are those of a truncated loop, and with one part those of BPTT."""
    model, sequence, target = ltc_problem()
    base, gradients = recorded(model)
    optimizer = make_optimizer(rule, base, alpha=1e-12)
    torch.manual_seed(4)
    step_loss = StepLoss(cross_entropy, parts)
    trained = SequenceTrainer(model, step_loss, optimizer, parts)(sequence, target)

    model, sequence, target = ltc_problem()
    plain, expected = recorded(model)
    torch.manual_seed(4)
    state, start = model.initial_state(sequence[0]), 0
    for number, end in enumerate(CUTS[parts], 1):
        for x in sequence[start:end]:
            output, state = model(x, state)
        plain.zero_grad()
        loss = cross_entropy(output, target)
        (step_loss.weights[number - 1] * loss).backward()
        plain.step()
        state, start = detach(state), end

    assert len(gradients) == len(expected) == parts
    for ours, theirs in zip(gradients, expected, strict=True):
        for gradient, other in zip(ours, theirs, strict=True):
            if other.any():
                assert_close(gradient, other)
            else:  # but for what alpha leaves
                assert gradient.abs().max() < 1e-12
    assert_close(trained.output, output.detach())
    assert_close(trained.loss, loss.detach())


class OwnNetwork(nn.Module):
    """What a user may bring: no base class, no ``initial_state``, a state of its own making."""

    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.enter, self.leave = nn.Linear(inputs + hidden, hidden), nn.Linear(hidden, outputs)

    def forward(self, x, state=None):
        h = x.new_zeros(len(x), self.leave.in_features) if state is None else state["h"]
        h = torch.tanh(self.enter(torch.cat((x, h), 1)))
        return self.leave(h), {"h": h, "nothing": None}


NETWORKS = {
    "ltc": lambda: SequenceModel(3, (20,), 4, neuron="ltc", norm_steps=6),
    "alif": lambda: SequenceModel(3, (20,), 4, neuron="alif", tau_m=3.0),
    "lif": lambda: SequenceModel(3, (20,), 4, neuron="lif", reset="soft"),
    "membrane": lambda: SequenceModel(3, (20,), 4, readout="membrane"),
    "lstm": lambda: RecurrentBaseline(3, (20,), 4, "lstm"),
    "rnn": lambda: RecurrentBaseline(3, (20, 10), 4, "rnn"),
    "own": lambda: OwnNetwork(3, 20, 4),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_rule_trains_every_network(rule, network):
    """Every parameter moves, and the loss on a batch that is shown again and again falls."""
    model = NETWORKS[network]()
    target = torch.arange(16) % 4
    sequence = torch.randn(6, 16, 3) + nn.functional.one_hot(target, 4)[:, :3]
    parts = number_of_parts(rule, 6, 3 if rule == "tbptt" else None)
    optimizer = make_optimizer(rule, torch.optim.Adam(model.parameters(), lr=0.01), alpha=0.01, max_norm=1.0)
    trainer = SequenceTrainer(model, StepLoss(cross_entropy, parts), optimizer, parts)
    before = [p.detach().clone() for p in model.parameters()]
    results = [trainer(sequence, target) for _ in range(40)]
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    losses = torch.stack([trained.loss for trained in results])
    assert losses[-5:].mean() < 0.9 * losses[:5].mean()
    assert torch.isnan(results[-1].firing_rate) if network in ("lstm", "rnn", "own") else 0 < results[-1].firing_rate < 1


@pytest.mark.parametrize("pieces", [2, 3, 7])
@pytest.mark.parametrize("rule", RULES)
def test_a_batch_in_pieces_gives_the_same_updates(rule, pieces):
    torch.manual_seed(0)
    whole = SequenceModel(3, (6, 5), 4, initial_v="zero").double()
    parted = SequenceModel(3, (6, 5), 4, initial_v="zero").double()
    parted.load_state_dict(whole.state_dict())
    sequence, target = torch.randn(6, 7, 3, dtype=torch.float64), torch.arange(7) % 4
    results = []
    for model, accumulate in ((whole, 1), (parted, pieces)):
        parts = number_of_parts(rule, 6, 3 if rule == "tbptt" else None)
        optimizer = make_optimizer(rule, torch.optim.SGD(model.parameters(), lr=0.1), max_norm=1.0)
        trainer = SequenceTrainer(model, StepLoss(cross_entropy, parts), optimizer, parts, accumulate=accumulate)
        results.append([trainer(sequence, target) for _ in range(3)][-1])
    for mine, expected in zip(parted.parameters(), whole.parameters(), strict=True):
        assert_close(mine, expected)
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-9, check_dtype=False)


@pytest.mark.parametrize("rule", RULES)
def test_a_sequence_of_one_step(rule):
    model, sequence, target = ltc_problem(steps=1)
    base, gradients = recorded(model)
    optimizer = make_optimizer(rule, base)
    trained = SequenceTrainer(model, StepLoss(cross_entropy, 1), optimizer, number_of_parts(rule, 1, None))(sequence, target)
    assert len(gradients) == 1 and trained.output.shape == (7, 4)


@pytest.mark.parametrize("rule", RULES)
def test_all_rules_clip_what_reaches_the_base_optimizer(rule):
    model, sequence, target = ltc_problem()
    norms = []
    base = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer = make_optimizer(rule, base, alpha=1.0, max_norm=0.01)
    assert isinstance(optimizer, FPTT) == (rule == "fptt")
    base.register_step_pre_hook(lambda *_: norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()])))
    parts = number_of_parts(rule, 10, None)
    SequenceTrainer(model, StepLoss(cross_entropy, parts), optimizer, parts)(sequence, target)
    assert len(norms) == parts
    assert torch.stack(norms).tolist() == pytest.approx([0.01] * parts, rel=1e-3)


def test_memory_does_not_grow_with_the_sequence():
    """Of FPTT's graph only one step is ever alive."""
    model = OwnNetwork(3, 5, 4)
    alive = []

    def hook(module, inputs, output):
        length, node = 0, output[0].grad_fn
        seen, queue = set(), [node]
        while queue:
            node = queue.pop()
            if node is not None and node not in seen:
                seen.add(node)
                length += 1
                queue += [after for after, _ in node.next_functions]
        alive.append(length)

    model.register_forward_hook(hook)
    optimizer = make_optimizer("fptt", torch.optim.SGD(model.parameters(), lr=0.1))
    SequenceTrainer(model, StepLoss(cross_entropy, 20), optimizer, 20)(torch.randn(20, 2, 3), torch.tensor([0, 1]))
    assert len(alive) == 20 and len(set(alive)) == 1


@pytest.mark.parametrize("rule", ["bptt", "fptt"])
def test_parts_compiled_in_threes_train_alike(rule, traced):
    """Two parts of 15 and 16 steps: four and five times three steps, and what is left, before the last."""
    results, calls = [], []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = SequenceModel(3, (6,), 4, norm_steps=31).double()
        parts = number_of_parts(rule, 31, 2)
        optimizer = make_optimizer(rule, torch.optim.SGD(model.parameters(), lr=0.05), max_norm=0.1)
        train = SequenceTrainer(model, StepLoss(cross_entropy, parts), optimizer, parts, compiled)
        several = train._several
        train._several = lambda steps, state, several=several: calls.append(len(steps)) or several(steps, state)
        for _ in range(2):
            trained = train(torch.randn(31, 7, 3, dtype=torch.float64), torch.arange(7) % 4)
        results.append({**model.state_dict(), "loss": trained.loss, "rate": trained.firing_rate})
    assert calls == [3] * 2 * {"bptt": 10, "fptt": 4 + 5}[rule]
    for name in results[0]:  # biases before a batch norm are nothing but rounding
        torch.testing.assert_close(results[1][name], results[0][name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("rule", ["bptt", "tbptt"])
def test_recomputed_activations_change_nothing(rule, compiled, traced):
    """Neither weights nor the statistics of batch norms, which a second computation must not count again."""
    results = []
    for recompute in (None, 3):
        torch.manual_seed(3)
        model = SequenceModel(3, (6, 5), 4, norm_steps=10)
        parts = number_of_parts(rule, 10, 2)
        optimizer = make_optimizer(rule, torch.optim.SGD(model.parameters(), lr=0.05))
        train = SequenceTrainer(model, StepLoss(cross_entropy, parts), optimizer, parts, compiled, recompute=recompute)
        for _ in range(2):
            trained = train(torch.randn(10, 7, 3), torch.arange(7) % 4)
        results.append({**model.state_dict(), "rate": trained.firing_rate})
    for name in results[0]:
        torch.testing.assert_close(results[1][name], results[0][name], rtol=1e-4, atol=1e-6, msg=name)


def test_recomputed_activations_are_not_kept():
    model, sequence, target = ltc_problem(steps=24)
    kept = []
    for recompute in (None, 6):
        sizes = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        train = SequenceTrainer(model, StepLoss(cross_entropy, 1), optimizer, 1, recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            train(sequence, target)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_loss_and_trainer_have_as_many_parts_and_sequences_no_fewer_steps():
    model = SequenceModel(3, (4,), 2)
    optimizer = make_optimizer("fptt", torch.optim.SGD(model.parameters(), lr=0.1))
    for parts in (5, 20):
        with pytest.raises(ValueError, match=f"the loss has {parts} parts and the trainer 10"):
            SequenceTrainer(model, StepLoss(cross_entropy, parts), optimizer, 10)
    trainer = SequenceTrainer(model, StepLoss(cross_entropy, 10), optimizer, 10)
    with pytest.raises(ValueError, match="cannot cut 5 time steps into 10 parts"):
        trainer(torch.rand(5, 2, 3), torch.zeros(2, dtype=torch.int64))
    window = make_trainer("online-bptt", model, StepLoss(cross_entropy, 10), torch.optim.SGD(model.parameters()), 10)
    with pytest.raises(ValueError, match="the loss has 10 parts, the sequence 12 time steps"):
        window(torch.rand(12, 2, 3), torch.zeros(2, dtype=torch.int64))
