"""A stream is stepped as a whole sequence is, learns as one is learnt, and does not grow."""

import copy
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from fptt.learning.losses import Auxiliary, StepLoss
from fptt.learning.rules import SequenceTrainer, make_optimizer
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import SequenceModel
from fptt.streaming import Stream
from fptt.training.record import record

T = 12


def network(**options):
    return SequenceModel(inputs=3, hidden=(8, 6), outputs=4, norm_steps=T, **options)


def learner(model, parts=T, auxiliary=None):
    optimizer = make_optimizer("fptt", torch.optim.Adamax(model.parameters(), lr=1e-2), alpha=0.05, max_norm=1.0)
    return optimizer, StepLoss(cross_entropy, parts, auxiliary=auxiliary)


@pytest.mark.parametrize("batch", [1, 5])
def test_outputs_are_those_of_the_whole_sequence(batch):
    model, sequence = network(), torch.rand(T, batch, 3)
    outputs, _ = record(model, sequence)
    stream = Stream(model.eval())
    for x_t, expected in zip(sequence, outputs, strict=True):
        step = stream.step(x_t)
        assert torch.equal(step.output, expected) and step.loss is None and 0 <= step.firing_rate <= 1
    assert (stream.steps, stream.updates) == (T, 0)
    stream.reset()
    assert torch.equal(stream.step(sequence[0]).output, outputs[0]), "from the start again"


@pytest.mark.parametrize("make", [network, lambda: network(neuron="alif"), lambda: RecurrentBaseline(3, (5,), 4)])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_updates_are_those_of_the_trainer(make, auxiliary):
    model = make()
    other = copy.deepcopy(model)
    sequences, target = torch.rand(2, T, 5, 3), torch.tensor([0, 1, 2, 3, 0])
    optimizer, loss = learner(model, auxiliary=Auxiliary(T, 4) if auxiliary else None)
    trainer = SequenceTrainer(other, *reversed(learner(other, auxiliary=Auxiliary(T, 4) if auxiliary else None)), T)
    stream = Stream(model, optimizer, loss)
    for number, sequence in enumerate(sequences):
        torch.manual_seed(number)
        stream.reset()
        for x_t in sequence:
            step = stream.step(x_t, target)
        torch.manual_seed(number)
        trained = trainer(sequence, target)
        assert torch.equal(step.output, trained.output) and torch.equal(step.loss, trained.loss)
    assert stream.updates == T
    for mine, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(optimizer.state.values(), trainer.optimizer.state.values(), strict=True):
        assert torch.equal(mine["average"], theirs["average"]) and torch.equal(mine["lambda_"], theirs["lambda_"])


def test_a_stream_goes_on_after_the_last_weight_and_over_steps_without_a_target():
    model = network().eval()
    optimizer, loss = learner(model, parts=3)
    stream = Stream(model, optimizer, loss)
    before = copy.deepcopy(model.state_dict())
    assert stream.step(torch.rand(1, 3)).loss is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for number in range(8):
        assert (stream.step(torch.rand(1, 3), torch.tensor([1]) if number % 2 else None).loss is None) == (number % 2 == 0)
    assert (stream.steps, stream.updates) == (9, 4)
    after = model.state_dict()
    assert not torch.equal(after["output.bias"], before["output.bias"])
    assert all(torch.equal(after[key], before[key]) for key in before if "running" in key), "statistics are kept"


def test_a_stream_learns_what_it_is_told():
    """Three inputs that name their class, in changing order, without end: errors grow rare."""
    model = SequenceModel(inputs=3, hidden=(16,), outputs=3).eval()
    optimizer, _ = learner(model)
    stream, right = Stream(model, optimizer, StepLoss(cross_entropy, 1)), []
    for label in torch.randint(0, 3, (300,)).tolist():
        for _ in range(3):
            output = stream.step(torch.nn.functional.one_hot(torch.tensor([label]), 3).float(), torch.tensor([label])).output
        right.append(output.argmax().item() == label)
    assert sum(right[:15]) < 15 and sum(right[-50:]) >= 48


@pytest.mark.parametrize("learning", [False, True])
def test_memory_does_not_grow(learning):
    """Over 10,000 steps the process grows by no more than noise; a graph kept, or outputs in a list, would be megabytes."""
    model = SequenceModel(inputs=2, hidden=(4,), outputs=2, neuron="lif", recurrent=False, readout="membrane").eval()
    optimizer = make_optimizer("fptt", torch.optim.SGD(model.parameters(), lr=1e-3))
    stream = Stream(model, optimizer, StepLoss(cross_entropy, 1)) if learning else Stream(model)
    target, x = torch.tensor([1]) if learning else None, torch.rand(1, 2)

    def run(steps):
        for _ in range(steps):
            stream.step(x, target)
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])

    before = run(500)
    assert run(10_000) - before < 2000, "kB resident"
    tracemalloc.start()
    run(200)
    start, _ = tracemalloc.get_traced_memory()
    run(500)
    assert (tracemalloc.get_traced_memory()[0] - start) / 500 < 50, "bytes of Python objects per step"
    tracemalloc.stop()


def test_what_is_missing_is_said():
    model = network()
    optimizer, loss = learner(model)
    for half in ({"optimizer": optimizer}, {"loss": loss}):
        with pytest.raises(ValueError, match="both an optimizer and a loss"):
            Stream(model, **half)
    with pytest.raises(ValueError, match="does not learn"):
        Stream(model).step(torch.rand(1, 3), torch.tensor([0]))
