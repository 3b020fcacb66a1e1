"""The way of a GPU without one: graphs are stood in for by what they recorded, run again on the same memory."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from fptt import state as states
from fptt.learning import captured, rules, step
from fptt.learning.captured import TOGETHER, CapturedInference, NotCaptured, stretches
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.rules import make_optimizer, number_of_parts
from fptt.models.sequence import SequenceModel
from fptt.models.spyv4 import SPYv4
from stateless import Cell

pytestmark = pytest.mark.filterwarnings("error:fptt")
INPUTS, CLASSES, BATCH = 3, 4, 6


class Again:
    """``captured.Captured``, which leaves its results where they are until the next call."""

    def __init__(self, function, arguments):
        self.function = function
        self.inputs = [t.clone() if isinstance(t, torch.Tensor) else t for t in arguments]
        self.outputs = None

    def __call__(self, *arguments):
        for mine, given in zip(self.inputs, arguments, strict=True):
            if isinstance(mine, torch.Tensor):
                assert mine.shape == given.shape
                mine.copy_(given)
        outputs = self.function(*self.inputs)
        if self.outputs is None:
            self.outputs = [t.clone() if isinstance(t, torch.Tensor) else t for t in outputs]
        for mine, new in zip(self.outputs, outputs, strict=True):
            if isinstance(mine, torch.Tensor):
                mine.copy_(new)
        return self.outputs


@pytest.fixture
def gpu(monkeypatch):
    for module in (captured, rules, step):
        monkeypatch.setattr(module, "captures", lambda x: True, raising=False)
        monkeypatch.setattr(module, "Captured", Again, raising=False)


def trained(rule, compiled, *, steps=2 * TOGETHER + 3, parts=None, batches=4, **options):
    torch.manual_seed(1)
    model = SequenceModel(INPUTS, (8, 8), CLASSES, **options).double()  # layers of one size have their machine code in common
    cuts = number_of_parts(rule, steps, parts)
    optimizer = make_optimizer(rule, torch.optim.Adamax(model.parameters(), lr=1e-2), max_norm=1.0)
    trainer = make_trainer(
        rule, model, StepLoss(cross_entropy, cuts).double(), optimizer, steps, parts=parts, compiled=compiled
    )
    results = []
    for _ in range(batches):
        x = torch.randn(steps, BATCH, INPUTS, dtype=torch.float64)
        results.append(trainer(x, torch.arange(BATCH) % CLASSES))
    return results, model, trainer


def assert_same(a, b):
    for one, other in zip(a[0], b[0], strict=True):
        torch.testing.assert_close(tuple(one)[:2], tuple(other)[:2], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(one.firing_rate, other.firing_rate)
    for p, q in zip(a[1].state_dict().values(), b[1].state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("neuron", ["ltc", "lif"])  # of which one has no adaptation
def test_replayed_steps_are_the_eager_ones(gpu, neuron, request):
    if neuron != "ltc":  # which is compiled to the end
        request.getfixturevalue("traced")
    eager, compiled = (trained("fptt", on, neuron=neuron) for on in (False, True))
    assert_same(eager, compiled)
    assert len(compiled[2]._step.captured) == 2  # a whole stretch, and the rest
    assert compiled[2].graphs == 1


def test_rules_that_learn_at_every_step(gpu, traced):
    eager, compiled = (trained("sltt", on, steps=8) for on in (False, True))
    assert_same(eager, compiled)
    assert compiled[2]._step.captured


@pytest.mark.parametrize("parts", [3, 4])  # of equal lengths, and not
def test_replayed_parts_are_the_eager_ones(gpu, traced, parts):
    eager, compiled = (trained("fptt", on, steps=9, parts=parts, batches=3) for on in (False, True))
    assert_same(eager, compiled)
    assert len(compiled[2]._captured.graphs) == 1 + (parts == 4)


def test_inference_is_that_of_single_steps(gpu):
    model = SequenceModel(INPUTS, (8,), CLASSES).eval()
    x = torch.randn(3 * TOGETHER + 2, BATCH, INPUTS)

    def infer(x_t, state):
        output, state = model(x_t, state)
        return output, state, states.firing_rate(state)

    start = states.initialise(model, x[0])
    output, _, rate = CapturedInference(infer)(x, start)
    state, total = start, 0
    with torch.no_grad():
        for x_t in x:
            expected, state, z = infer(x_t, state)
            total += z
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(rate, total)


def firing(model):
    def infer(x_t, state):
        output, state = model(x_t, state)
        return output, state, states.firing_rate(state)

    return infer


@pytest.mark.parametrize(
    "model",
    [lambda: Cell(INPUTS, CLASSES), lambda: SPYv4(2, 32, width=0.1).eval()],
    ids=["a cell without a state at first", "a detector"],
)
def test_inference_of_any_model(gpu, model):
    model = model()
    shape = (INPUTS,) if isinstance(model, Cell) else (3, 32, 32)
    x = torch.rand(TOGETHER + 2, 2, *shape)
    inference = CapturedInference(firing(model), model)
    found = [inference(x, states.initialise(model, x[0])) for _ in range(3)]
    state = states.initialise(model, x[0])
    with torch.no_grad():
        for x_t in x:
            expected, state = model(x_t, state)
    for output, after, _ in found:
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(states.detach(after), states.detach(state))


@pytest.mark.parametrize("parts", [3, 6])
def test_a_model_without_a_state_at_first_is_trained(gpu, traced, parts):
    ends = []
    for on in (False, True):
        torch.manual_seed(1)
        model = Cell(INPUTS, CLASSES)
        optimizer = make_optimizer("fptt", torch.optim.Adamax(model.parameters(), lr=1e-2))
        trainer = make_trainer("fptt", model, StepLoss(cross_entropy, parts), optimizer, 6, parts=parts, compiled=on)
        for _ in range(4):
            trainer(torch.randn(6, BATCH, INPUTS), torch.arange(BATCH) % CLASSES)
        ends.append([p.detach().clone() for p in model.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parts", [None, 3])
def test_the_optimizers_states_may_be_reset(gpu, traced, parts):
    ends = []
    for on in (False, True):
        torch.manual_seed(1)
        model = SequenceModel(INPUTS, (8,), CLASSES).double()
        cuts = number_of_parts("fptt", 6, parts)
        optimizer = make_optimizer("fptt", torch.optim.Adamax(model.parameters(), lr=1e-2))
        trainer = make_trainer("fptt", model, StepLoss(cross_entropy, cuts).double(), optimizer, 6, parts=parts, compiled=on)
        fresh = copy.deepcopy(optimizer.state_dict())
        for batch in range(9):
            if batch == 4:
                optimizer.load_state_dict(fresh)
            trainer(torch.randn(6, BATCH, INPUTS, dtype=torch.float64), torch.arange(BATCH) % CLASSES)
        ends.append([p.detach().clone() for p in model.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-8, atol=1e-8)


def test_one_part_becomes_a_graph(gpu, traced):
    eager, compiled = (trained("fptt", on, steps=6, parts=1, batches=6) for on in (False, True))
    assert_same(eager, compiled)
    assert compiled[2]._captured.graphs


@pytest.mark.filterwarnings("default:fptt")
@pytest.mark.parametrize("parts", [None, 3])
def test_what_cannot_be_recorded_runs_as_it_is(gpu, traced, monkeypatch, parts):
    def refused(*_):
        raise NotCaptured("it reads a value")

    eager = trained("fptt", False, steps=9, parts=parts, batches=3)
    for module in (captured, step):
        monkeypatch.setattr(module, "Captured", refused)
    with pytest.warns(UserWarning, match="not recorded as a CUDA graph, .*it reads a value"):
        compiled = trained("fptt", True, steps=9, parts=parts, batches=3)
    if parts is None:
        assert_same(eager, compiled)


def test_stretches():
    assert list(stretches(TOGETHER + 2)) == [(0, TOGETHER - 1), (TOGETHER, TOGETHER + 1)]
    assert list(stretches(5, {1, 4})) == [(0, 1), (2, 4)]
