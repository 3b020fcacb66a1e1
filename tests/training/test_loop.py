"""Training that is interrupted, resumed, goes wrong, and is measured."""

import dataclasses
import json
import math
import signal
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Reads, Silent
from fptt import FPTT, InputError
from fptt.data import images
from fptt.data.samples import Samples
from fptt.loading import trained
from fptt.tasks.adding import Adding
from fptt.tasks.digits import Digits
from fptt.tasks.images import MNIST
from fptt.tasks.mnist import RowMNIST
from fptt.training import checkpoint
from fptt.training.average import MovingAverage
from fptt.training.loop import Stopped, Trainer, stop_on_signal
from fptt.training.run import Run


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    original = images.digits

    def digits(seed=0):
        return tuple(Samples(s.x[:n], s.y[:n], s.name) for s, n in zip(original(seed), (90, 30, 50), strict=True))

    monkeypatch.setattr(images, "digits", digits)


def small(**options):
    return Digits(**{"epochs": 2, "hidden": (8,), "batch_size": 16, "auxiliary": "table", **options})


def start(task, folder):
    run = Run(folder)
    run.create(task)
    return Trainer(task, run)


PLAIN = {"neuron": "lif", "recurrent": False, "norm": "none", "readout": "fixed"}
CASES = {
    "fptt": small(),
    "fptt-ema": small(ema=0.9),
    "bptt-lstm": small(rule="bptt", neuron="lstm", optimizer="adam"),
    "fptt-muon": small(optimizer="muon", schedule="linear", hidden=(32,)),
    "fptt-4-alif": small(parts=4, neuron="alif", norm="none"),
    "tbptt-ema": small(rule="tbptt", parts=4, ema=0.9),
    "sltt-3": small(rule="sltt", sampled=3),
    "online-bptt": small(rule="online-bptt", window=3),
    "ottt": small(rule="ottt", **PLAIN),
    "eprop": small(rule="eprop", feedback="random", **PLAIN | {"neuron": "ltc", "recurrent": True}),
    "adding": Adding(length=6, iterations=5, epochs=2, held_out=20, batch_size=16, hidden=(8,)),
    "images": MNIST(length=2, epochs=2, channels=(2,), pool=(4,), hidden=(8,), dropout=0.3, flip=True, batch_size=2),
    "rate-coded": RowMNIST(encoding="rate", length=3, epochs=2, hidden=(8,), batch_size=2),
}


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("when", [(1, 2), (2, 3), (1, "last"), (2, "last")], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_resumed_training_equals_training_straight_through(case, when, tmp_path, small_mnist):
    """Weights, averages, multipliers and metrics are those of a training that was never interrupted."""
    task = CASES[case]
    batches = task.training_set(task.sets()[0], 0).number_of_batches(task.batch_size, drop_last=True)
    straight = start(task, tmp_path / "straight")
    expected = straight.fit(Silent())
    epoch, batch = when
    with pytest.raises(Stopped):
        start(task, tmp_path / "resumed").fit(Silent(stop_after=(epoch, batches if batch == "last" else batch)))
    torch.manual_seed(99)
    resumed = Trainer(task, Run(tmp_path / "resumed"))
    resumed.restore()
    assert (resumed.epoch, resumed.batch) == ((epoch, 0) if batch == "last" else (epoch - 1, batch))
    result = resumed.fit(Silent())
    assert_same_training(straight, resumed)
    key = f"test_{task.metric}"
    assert (result[key], result["test_loss"]) == (expected[key], expected["test_loss"])


@pytest.mark.parametrize("when", [(2, 3), (1, "last")], ids=str)
def test_resumed_metrics_equal_those_of_training_straight_through(when, tmp_path):
    straight = start(small(), tmp_path / "straight")
    straight.fit(Silent())
    with pytest.raises(Stopped):
        start(small(), tmp_path / "resumed").fit(Silent(stop_after=(when[0], 5 if when[1] == "last" else when[1])))
    resumed = Trainer(small(), Run(tmp_path / "resumed"))
    resumed.restore()
    resumed.fit(Silent())
    assert without_seconds(resumed.run.metrics()) == without_seconds(straight.run.metrics())


def assert_same_training(one, other):
    pairs = zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True)
    for (name, ours), theirs in pairs:
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(one.loss.state_dict().values(), other.loss.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    if isinstance(one.average, MovingAverage):
        assert one.average.averages.keys() == other.average.averages.keys() == dict(one.model.named_parameters()).keys()
        assert all(torch.equal(average, other.average.averages[name]) for name, average in one.average.averages.items())
    if isinstance(one.optimizer, FPTT):
        for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(one.optimizer.state[p]["average"], other.optimizer.state[q]["average"])
            assert torch.equal(one.optimizer.state[p]["lambda_"], other.optimizer.state[q]["lambda_"])


@pytest.mark.parametrize("rule", ["tbptt", "fptt"])
def test_a_moving_average_is_evaluated_and_leaves_training_as_it_is(rule, tmp_path):
    plain, averaged = (start(small(rule=rule, parts=4, ema=ema), tmp_path / str(ema)) for ema in (None, 0.9))
    plain.fit(Silent())
    summary = averaged.fit(Silent())
    for p, q in zip(plain.model.parameters(), averaged.model.parameters(), strict=True):
        assert torch.equal(p, q), "training knows nothing of the average"
    assert [row["loss"] for row in plain.run.metrics()] == [row["loss"] for row in averaged.run.metrics()]
    rows = zip(plain.run.metrics(), averaged.run.metrics(), strict=True)
    assert all(a["validation_loss"] != b["validation_loss"] for a, b in rows)
    loaded = trained(averaged.run.folder)
    for name, p in loaded.model.named_parameters():
        assert torch.equal(p, averaged.average.averages[name])
    assert loaded.evaluate(loaded.task.sets()[2])["loss"] == summary["test_loss"]


def test_a_training_goes_on_with_an_average_that_it_did_not_begin_with(tmp_path):
    start(small(), tmp_path).fit(Silent())
    resumed = Trainer(small(epochs=3, ema=0.9), Run(tmp_path))
    resumed.restore()
    with resumed.averaged_weights():
        for name, value in checkpoint.load(resumed.run.checkpoint)["model"].items():
            assert torch.equal(resumed.model.state_dict()[name], value), "nothing to average yet"
    resumed.fit(Silent())
    assert any(not torch.equal(p, resumed.average.averages[name]) for name, p in resumed.model.named_parameters())


def test_an_average_of_other_parameters_is_refused(tmp_path):
    start(small(ema=0.9), tmp_path).fit(Silent())
    content = checkpoint.load(Run(tmp_path).checkpoint)
    del content["average"]["output.weight"]
    checkpoint.save(Run(tmp_path).checkpoint, content)
    with pytest.raises(InputError, match=r"does not fit these settings \('output.weight'\)"):
        Trainer(small(ema=0.9), Run(tmp_path)).restore()


@given(st.floats(0.01, 0.99), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_the_moving_average_is_the_sum_of_what_it_has_seen(decay, values):
    model = torch.nn.ParameterList([torch.zeros((), dtype=torch.float64)])
    weight, average = model[0], MovingAverage(model, decay)
    with average.averaged_weights():
        assert weight == 0, "nothing to average yet"
    for value in values:
        weight.data.fill_(value)
        average.update()
    shares = [decay ** (len(values) - 1 - n) * (1 - decay if n else 1) for n in range(len(values))]
    expected = sum(share * value for share, value in zip(shares, values, strict=True))
    with average.averaged_weights():
        torch.testing.assert_close(weight.item(), expected, rtol=1e-9, atol=1e-9)
    assert weight.item() == values[-1]


def test_a_crash_between_metrics_and_checkpoint_repeats_the_epoch(tmp_path):
    trainer = start(small(), tmp_path)
    trainer.fit(Silent())
    trainer.run.append_metrics({"epoch": 3, "loss": 0.0})
    resumed = Trainer(small(epochs=3), trainer.run)
    resumed.restore()
    resumed.fit(Silent())
    rows = resumed.run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3] and rows[-1]["loss"] > 0


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    runs = [start(small(seed=seed), tmp_path / str(n)) for n, seed in enumerate((3, 3, 4))]
    for run in runs:
        run.fit(Silent())
    assert_same_training(runs[0], runs[1])
    assert runs[0].run.metrics()[0]["loss"] != runs[2].run.metrics()[0]["loss"]


def test_training_learns_something(tmp_path):
    trainer = start(small(epochs=25, hidden=(32,)), tmp_path)
    summary = trainer.fit(Silent())
    assert summary["test_accuracy"] > 0.3  # of 90 training samples
    rows = trainer.run.metrics()
    assert rows[-1]["accuracy"] > 0.4 and rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert {"validation_loss", "validation_accuracy", "lr", "seconds"} <= set(rows[0])


def test_nan_loss_names_epoch_and_batch_and_keeps_the_checkpoint(tmp_path):
    trainer = start(small(), tmp_path)
    trainer.fit(Silent())
    before = trainer.run.checkpoint.read_bytes()

    class Poison(Silent):
        def batch(self, epoch, batch, batches, totals):
            if batch == 2:
                with torch.no_grad():
                    next(again.model.parameters()).fill_(float("nan"))

    again = Trainer(small(epochs=4), trainer.run)
    again.restore()
    with pytest.raises(InputError, match="the loss became nan in epoch 3, batch 3: lower --lr.*kept") as error:
        again.fit(Poison())
    assert "\n" not in str(error.value)
    assert trainer.run.checkpoint.read_bytes() == before


def evaluated(trainer, batch_size):
    trainer.task = dataclasses.replace(trainer.task, batch_size=batch_size)
    return trainer.evaluate(trainer.task.sets()[2])


@pytest.mark.parametrize("case", ["fptt", "fptt-4-alif", "bptt-lstm", "adding"])
def test_evaluation_repeats_and_does_not_depend_on_the_batch_size(case, tmp_path):
    trainer = start(CASES[case], tmp_path)
    trainer.fit(Silent())
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    random = torch.get_rng_state()
    first = evaluated(trainer, 16)
    torch.manual_seed(77)
    assert evaluated(trainer, 16) == pytest.approx(first, rel=0, abs=0, nan_ok=True)
    for batch_size in (2, 7, 50):
        assert evaluated(trainer, batch_size) == pytest.approx(first, rel=1e-4, nan_ok=True)
    assert all(torch.equal(p, w) for p, w in zip(trainer.model.parameters(), weights, strict=True))
    torch.set_rng_state(random)
    evaluated(trainer, 16)
    assert torch.equal(torch.get_rng_state(), random), "an evaluation leaves the training's random numbers alone"


@pytest.mark.parametrize("case", ["fptt", "bptt-lstm", "adding", "images"])
def test_the_score_after_each_step_is_that_of_sequences_that_end_there(case, tmp_path, small_mnist):
    trainer = start(CASES[case], tmp_path)
    trainer.fit(Silent())
    test = trainer.task.sets()[2]
    whole = trainer.evaluate(test)
    result = trainer.evaluate(test, every_step=True)
    steps = result.pop("steps")
    assert result == pytest.approx(whole, rel=0, abs=0, nan_ok=True)
    assert {key: values[-1] for key, values in steps.items()} == pytest.approx(whole, rel=0, abs=0, nan_ok=True)
    assert all(len(values) == trainer.task.time_steps for values in steps.values())
    encode = type(trainer.task).encode
    for end in range(1, trainer.task.time_steps):
        trainer.task.encode = lambda x, generator, end=end: encode(trainer.task, x, generator)[:end]
        expected = trainer.evaluate(test)
        assert {key: values[end - 1] for key, values in steps.items()} == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_scores_after_every_step_are_not_read_by_the_host_between_steps(tmp_path):
    numbers = []
    for length in (4, 12):
        task = Adding(length=length, parts=2, iterations=1, held_out=40, batch_size=16, hidden=(8,))
        trainer = start(task, tmp_path / str(length))
        with Reads() as reads:
            trainer.evaluate(trainer.task.sets()[2], every_step=True)
        numbers.append(reads.number)
    assert numbers[0] == numbers[1]


def test_evaluation_uses_the_averaged_weights(tmp_path):
    trainer = start(small(), tmp_path)
    trainer.train_epoch(trainer.task.sets()[0], threading.Event(), Silent())
    test = trainer.task.sets()[2]
    averaged = trainer.evaluate(test)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.zero_()
    assert trainer.evaluate(test) == averaged


@pytest.mark.parametrize("norm", ["none", "time", "shared"])
def test_a_batch_of_one_sample_trains_or_is_refused(norm, tmp_path):
    """Batch statistics of one sample do not exist: where the network needs them, that is said."""
    try:
        start(small(epochs=1, batch_size=1, norm=norm), tmp_path).fit(Silent())
    except InputError as error:
        assert norm != "none" and "batch" in str(error)


def test_network_of_another_shape(tmp_path):
    trainer = start(small(), tmp_path)
    trainer.fit(Silent())
    trainer.run.write_config(small(hidden=(9,)))  # by hand, say
    with pytest.raises(InputError, match="does not fit these settings") as error:
        Trainer(small(hidden=(9,)), trainer.run).restore()
    assert "\n" not in str(error.value)


OTHERS = {"rule": "bptt", "neuron": "alif", "optimizer": "sgd", "form": "published", "seed": 1, "batch_size": 8, "hidden": (9,)}


@pytest.mark.parametrize(("name", "other"), OTHERS.items())
def test_a_run_goes_on_as_it_began(name, other, tmp_path):
    trainer = start(small(), tmp_path)
    trainer.fit(Silent())
    option = name.replace("_", "-")
    with pytest.raises(InputError, match=f"--{option} was .* in .*: a run goes on as it began"):
        Trainer(small(**{name: other}), trainer.run).restore()


def test_a_run_goes_on_with_a_regulariser_of_another_strength(tmp_path):
    trainer = start(small(), tmp_path)
    trainer.fit(Silent())
    resumed = Trainer(small(alpha=0.5, beta=0.25), trainer.run)
    resumed.restore()
    assert (resumed.optimizer.param_groups[0]["fptt_alpha"], resumed.optimizer.param_groups[0]["fptt_beta"]) == (0.5, 0.25)


def test_summary_counts_and_configuration(tmp_path):
    trainer = start(small(), tmp_path)
    summary = trainer.fit(Silent())
    assert json.loads((tmp_path / "summary.json").read_text()) == summary == trainer.run.summary()
    assert summary["parameters"] == sum(p.numel() for p in trainer.model.parameters())
    assert trainer.steps == 2 * 5 * 8
    assert summary["steps_per_second"] == pytest.approx(trainer.steps / trainer.seconds, rel=0.01)
    assert summary["peak_memory_mb"] > 50 and 0 < summary["firing_rate"] < 1
    name, settings = trainer.run.config()
    assert name == "digits" and small(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}) == small()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as stop:
        signal.raise_signal(number)
        assert stop.is_set()
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_calibration_takes_the_statistics_of_the_weights_as_they_end_up(compile, tmp_path, traced):
    """From every batch of the epoch: each step's mean is that of the whole training set."""
    options = {"batch_size": 45, "calibrate": 5, "norm": "time", "recurrent": False, "compile": compile}
    trainer = start(small(epochs=1, **options), tmp_path / "run")
    trainer.fit(Silent())
    layer = trainer.model.layers[0]
    rows = trainer.task.sets()[0].x[:, 3]  # what the fourth step sees
    torch.testing.assert_close(layer.norm.running_mean[3], layer.synapse(rows).mean(0).detach(), rtol=1e-4, atol=1e-5)
    assert layer.norm.momentum == 0.1


def test_calibration_of_statistics_that_all_steps_share_is_a_mean_over_them(tmp_path):
    trainer = start(small(epochs=1, batch_size=45, calibrate=5, norm="shared", recurrent=False), tmp_path / "run")
    trainer.fit(Silent())
    layer = trainer.model.layers[0]
    rows = trainer.task.sets()[0].x  # [images, steps, pixels]
    torch.testing.assert_close(layer.norm.running_mean[0], layer.synapse(rows).mean((0, 1)).detach(), rtol=1e-4, atol=1e-5)
    assert layer.norm.momentum == 0.1


def test_calibration_leaves_batch_norms_without_statistics_alone(tmp_path):
    trainer = start(small(norm="none"), tmp_path / "run")
    trainer.model.extra = torch.nn.BatchNorm1d(3, track_running_stats=False)
    train = trainer.task.sets()[0]
    assert not trainer.calibrate(train, 1)
    trainer.model.other = torch.nn.BatchNorm1d(3)
    assert trainer.calibrate(train, 1) and trainer.model.other.momentum == 0.1


def test_records_of_a_network_without_spikes_are_json(tmp_path):
    trainer = start(small(neuron="lstm", epochs=1), tmp_path)
    trainer.fit(Silent())
    for name in ("summary.json", "metrics.jsonl"):
        text = (tmp_path / name).read_text()
        assert "NaN" not in text and '"firing_rate": null' in text
    assert math.isnan(trainer.run.summary()["firing_rate"]) and math.isnan(trainer.run.metrics()[0]["firing_rate"])
