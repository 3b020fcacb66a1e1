"""What a GPU does differently: steps and parts as CUDA graphs. The CPU's own tests say what they compute."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import Silent
from detectors import detector
from fptt import cli, tasks
from fptt import state as states
from fptt.data.samples import Samples
from fptt.detection.looks import look
from fptt.learning.captured import TOGETHER, CapturedInference
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.rules import make_optimizer, number_of_parts
from fptt.models.convolutional import ConvolutionalModel
from fptt.models.sequence import SequenceModel
from fptt.models.spyv4 import SPYv4
from fptt.training.loop import Trainer
from fptt.training.run import Run
from stateless import Cell

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU: torch sees none"),
    pytest.mark.filterwarnings("error:fptt"),  # a fallback is a failure
]
INPUTS, CLASSES, BATCH = 5, 10, 16


def trained(rule, compiled, *, steps=2 * TOGETHER + 3, parts=None, batches=4, model=None, dtype=torch.float32, **options):
    """The losses of some batches, the model and its trainer."""
    torch.manual_seed(1)
    model = model() if model else SequenceModel(INPUTS, (24, 20), CLASSES, **options)
    model.to("cuda", dtype)
    cuts = number_of_parts(rule, steps, parts)
    optimizer = make_optimizer(rule, torch.optim.Adamax(model.parameters(), lr=1e-3), max_norm=1.0)
    loss = StepLoss(cross_entropy, cuts).to("cuda", dtype)
    trainer = make_trainer(rule, model, loss, optimizer, steps, parts=parts, compiled=compiled)
    shape = getattr(model, "inputs", (INPUTS,))
    losses = []
    for _ in range(batches):
        x = torch.randn(steps, BATCH, *shape, device="cuda", dtype=dtype)
        losses.append(trainer(x, torch.arange(BATCH, device="cuda") % CLASSES).loss)
    return torch.stack(losses), model, trainer


def assert_same(a, b, tolerance):
    torch.testing.assert_close(a[0], b[0], rtol=tolerance, atol=tolerance)
    for p, q in zip(a[1].state_dict().values(), b[1].state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("neuron", ["ltc", "alif", "lif"])
def test_replayed_steps_are_the_eager_ones(neuron):
    eager, compiled = (trained("fptt", on, neuron=neuron, dtype=torch.float64) for on in (False, True))
    assert_same(eager, compiled, 1e-8)
    assert len(compiled[2]._step.captured) == 2  # a whole stretch, and the rest


def test_replayed_steps_have_batch_norms():
    steps = 2 * TOGETHER + 3
    eager, compiled = (trained("fptt", on, norm_steps=steps, gamma=1.0, dtype=torch.float64) for on in (False, True))
    torch.testing.assert_close(eager[0], compiled[0], rtol=1e-6, atol=1e-6)


def test_in_single_precision_losses_stay_together():
    eager, compiled = (trained("fptt", on, batches=6) for on in (False, True))
    torch.testing.assert_close(eager[0], compiled[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", ["fptt", "bptt", "tbptt"])
@pytest.mark.parametrize("parts", [3, 5])
def test_replayed_parts_are_the_eager_ones(rule, parts):
    """Of equal and of different lengths."""
    eager, compiled = (
        trained(rule, on, steps=20 if parts == 5 else 23, parts=parts, dtype=torch.float64) for on in (False, True)
    )
    assert_same(eager, compiled, 1e-8)
    assert compiled[2]._captured.graphs


def test_parts_go_through_all_their_steps_at_once():
    """In single precision, by kernels: spikes may differ where a potential is at its threshold."""
    eager, compiled = (trained("fptt", on, steps=40, parts=4, batches=3) for on in (False, True))
    torch.testing.assert_close(eager[0], compiled[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("rule", ["sltt", "ottt", "eprop", "online-bptt"])
def test_other_rules_run(rule):
    options = (
        {"neuron": "lif", "recurrent": False, "readout": "fixed"} if rule == "ottt" else {"neuron": "lif", "readout": "fixed"}
    )
    eager, compiled = (trained(rule, on, steps=12, dtype=torch.float64, **options) for on in (False, True))
    assert_same(eager, compiled, 1e-8)


def test_convolutional_networks():
    def model():
        return ConvolutionalModel((1, 8, 8), (6,), (12,), CLASSES, pool=(2,), neuron="ltc", norm_steps=10)

    eager, compiled = (trained("fptt", on, steps=10, model=model, dtype=torch.float64) for on in (False, True))
    torch.testing.assert_close(eager[0], compiled[0], rtol=1e-6, atol=1e-6)


def test_inference_is_that_of_single_steps():
    model = SequenceModel(INPUTS, (24,), CLASSES).cuda().eval()
    x = torch.randn(3 * TOGETHER + 2, BATCH, INPUTS, device="cuda")

    def infer(x_t, state):
        output, state = model(x_t, state)
        return output, state, states.firing_rate(state)

    start = states.initialise(model, x[0])
    output, _, rate = CapturedInference(infer)(x, start)
    with torch.no_grad():
        expected, total = start, 0
        for x_t in x:
            o, expected, z = infer(x_t, expected)
            total += z
    torch.testing.assert_close(output, o, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rate, total, rtol=1e-4, atol=1e-4)


def test_memory_does_not_grow_with_the_sequence():
    peaks = []
    for steps in (100, 1000):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trained("fptt", True, steps=steps, batches=3)
        peaks.append(torch.cuda.max_memory_allocated() - before - 4 * steps * BATCH * INPUTS)
    assert peaks[1] < 1.1 * peaks[0]


def test_a_run_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "digits", "--device", "cuda", "--compile", "--epochs", "4", "--out", "run", "--seed", "1"]
    assert cli.main(words) == 0
    assert cli.main(["evaluate", "run"]) == 0
    summary = (tmp_path / "run" / "summary.json").read_text()
    assert '"test_accuracy": 0.8' in summary or '"test_accuracy": 0.9' in summary


def test_a_run_that_was_stopped_goes_on_there(tmp_path, monkeypatch):
    """In the middle of an epoch, with a moving average."""
    monkeypatch.chdir(tmp_path)
    task = tasks.get("digits")(device="cuda", rule="bptt", ema=0.9, epochs=2, hidden=(8,), compile=False)
    run = Run(tmp_path / "run")
    run.create(task)
    first = Trainer(task, run)
    first.epoch, first.batch = 0, 1
    first.totals.add(torch.rand(4, 10, device="cuda"), torch.zeros(4, device="cuda"), *torch.rand(2, device="cuda"))
    first.average.update()
    first.save()
    second = Trainer(task, run)
    second.restore()
    assert second.fit(Silent())["epochs"] == 2


@pytest.mark.parametrize("task", ["smnist", "rmnist", "fashion"])
def test_a_task_makes_the_same_sequences_there(task):
    """Images go there once; what is drawn is drawn alike."""
    x = torch.rand(3, 28, 28)
    task = tasks.get(task)()
    made = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(1)
        images, _ = task.augmented(x.to(device), torch.zeros(3, device=device), generator)
        made.append(task.encode(images, generator).cpu())
    torch.testing.assert_close(*made)


def test_a_detector_is_trained_and_evaluated_there():
    model = SPYv4(3, 32, width=0.1).cuda()
    steps = torch.rand(4, 2, 3, 32, 32, device="cuda")
    loss = StepLoss(lambda output, target: output.square().mean(), 2).to("cuda")
    optimizer = make_optimizer("fptt", torch.optim.Adamax(model.parameters(), lr=1e-3))
    trainer = make_trainer("fptt", model, loss, optimizer, 4, parts=2, compiled=True)
    losses = [trainer(steps, torch.zeros(2, device="cuda")).loss for _ in range(4)]
    assert torch.stack(losses).isfinite().all()

    def infer(x_t, state):
        output, state = model(x_t, state)
        return output, state, states.firing_rate(state)

    model.eval()
    inference = CapturedInference(infer, model)
    outputs = [inference(steps, states.initialise(model, steps[0]))[0] for _ in range(3)]
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", ["fptt", "bptt", "tbptt"])
def test_a_network_without_a_state_at_first_is_served_there(rule):
    eager, compiled = (
        trained(rule, on, steps=12, parts=3, model=lambda: Cell(INPUTS, CLASSES), dtype=torch.float64) for on in (False, True)
    )
    assert_same(eager, compiled, 1e-8)


def test_states_of_an_optimizer_may_be_reset():
    ends = []
    for on in (False, True):
        torch.manual_seed(1)
        model = SequenceModel(INPUTS, (8,), CLASSES).to("cuda", torch.float64)
        optimizer = make_optimizer("fptt", torch.optim.Adamax(model.parameters(), lr=1e-3))
        trainer = make_trainer("fptt", model, StepLoss(cross_entropy, 6).to("cuda", torch.float64), optimizer, 6, compiled=on)
        fresh = copy.deepcopy(optimizer.state_dict())
        for batch in range(8):
            if batch == 4:
                optimizer.load_state_dict(fresh)
            trainer(
                torch.randn(6, BATCH, INPUTS, device="cuda", dtype=torch.float64), torch.arange(BATCH, device="cuda") % CLASSES
            )
        ends.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs: torch sees fewer")
def test_on_the_second_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "digits", "--device", "cuda:1", "--compile", "--epochs", "4", "--out", "run"]) == 0
    assert '"test_accuracy": 0.8' in (summary := (tmp_path / "run" / "summary.json").read_text()) or "0.9" in summary


def test_a_detector_finds_there_what_it_finds_here():
    image = torch.randint(0, 256, (3, 50, 80), dtype=torch.uint8)
    here, there = (
        [detector(device=device)([image])[0], look(detector(device=device), image, 3)[0]] for device in ("cpu", "cuda")
    )
    for found, expected in ((there[0], here[0]), (there[1].found(0.5, 0.45), here[1].found(0.5, 0.45))):
        torch.testing.assert_close(found.boxes.cpu(), expected.boxes, rtol=1e-2, atol=0.5)
        assert found.labels.cpu().tolist() == expected.labels.tolist()


def test_samples_are_handed_out_where_they_lie():
    samples = Samples(torch.rand(7, 2), torch.arange(7)).to(torch.device("cuda"))
    shuffle = torch.Generator().manual_seed(1)
    assert all(x.is_cuda and y.is_cuda for x, y in samples.batches(3, shuffle=shuffle))
