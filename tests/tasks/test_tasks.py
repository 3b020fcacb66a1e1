"""Every task trains a batch, and settings are checked where they enter."""

import dataclasses
import math
import re
import shlex
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fptt
from conftest import Silent
from fptt import InputError, tasks
from fptt.data.samples import Samples
from fptt.learning.rules import Rule
from fptt.tasks.adding import Adding
from fptt.tasks.digits import Digits
from fptt.tasks.images import CIFAR10, MNIST, FashionMNIST
from fptt.tasks.mnist import PermutedMNIST, RowMNIST, SequentialMNIST
from fptt.tasks.settings import make_task
from fptt.training.loop import Trainer
from fptt.training.run import Run

TINY = {"hidden": (16,), "batch_size": 4, "epochs": 1}
EVERY = {
    "digits-rows": ("digits", {}, (8, 8)),
    "digits-pixels": ("digits", {"order": "pixels"}, (64, 1)),
    "adding": ("adding", {"length": 12, "iterations": 1, "held_out": 4}, (12, 2)),
    "rmnist-rows": ("rmnist", {}, (28, 28)),
    "rmnist-repeated": ("rmnist", {"encoding": "repeated", "length": 5}, (5, 784)),
    "rmnist-rate": ("rmnist", {"encoding": "rate", "length": 5}, (5, 784)),
    "smnist": ("smnist", {}, (784, 1)),
    "psmnist": ("psmnist", {}, (784, 1)),
    "psmnist-pooled": ("psmnist", {"pool": 2, "initial_v": "zero"}, (196, 1)),
    "mnist": ("mnist", {"length": 3, "channels": (2,), "pool": (4,)}, (3, 1, 28, 28)),
    "fashion": ("fashion", {"length": 2, "channels": (2, 2), "pool": (2, 2)}, (2, 1, 28, 28)),
    "cifar10": ("cifar10", {"length": 2, "channels": (2,), "pool": (4,), "dropout": 0.2}, (2, 3, 32, 32)),
    "arrays": ("arrays", {"test_size": 2}, (6, 3)),
}


@pytest.mark.parametrize("case", EVERY)
def test_every_task_trains_a_batch_and_is_tested(case, small_mnist, tmp_path):
    name, options, shape = EVERY[case]
    if name == "arrays":
        np.savez(tmp_path / "own.npz", x_train=np.random.default_rng(0).random((8, 6, 3)), y_train=np.arange(8) % 2)
        options = {**options, "file": str(tmp_path / "own.npz")}
    task = tasks.get(name)(**TINY, **options)
    train, _validation, test = task.sets()
    train = task.training_set(train, 0)
    train = Samples(train.x[:4], train.y[:4], "train")
    sequence = task.encode(train.x, torch.Generator().manual_seed(0))
    assert sequence.shape == (shape[0], 4, *shape[1:]) and task.time_steps == shape[0]
    assert task.inputs == (shape[1] if len(shape) == 2 else shape[1:])
    trainer = Trainer(task, Run(tmp_path))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    row = trainer.train_epoch(train, _never(), Silent())
    same = [n for (n, p), b in zip(trainer.model.named_parameters(), before, strict=True) if torch.equal(p, b)]
    assert not same
    result = trainer.evaluate(Samples(test.x[:4], test.y[:4], "test"))
    for numbers in (row, result):
        assert {"loss", task.metric, "firing_rate"} <= set(numbers) and np.isfinite(list(numbers.values())).all()


def _never():
    from threading import Event

    return Event()


def test_an_image_is_the_same_at_every_step(small_mnist):
    task = MNIST(length=3)
    x = task.sets()[0].x
    assert torch.equal(task.encode(x, torch.Generator()), torch.stack(3 * [x.unsqueeze(1)]))


@pytest.mark.parametrize("options", [{"shift": 2}, {"shift": 0, "flip": True}, {"shift": 0}], ids=str)
def test_images_are_varied_in_training_alone(options, small_mnist, tmp_path, monkeypatch):
    task = MNIST(length=1, channels=(2,), pool=(4,), hidden=(4,), batch_size=4, **options)
    train = task.sets()[0]
    seen, original = [], MNIST.encode
    monkeypatch.setattr(MNIST, "encode", lambda task, x, generator: seen.append(x) or original(task, x, generator))
    trainer = Trainer(task, Run(tmp_path))
    for epoch in (0, 0, 1):
        trainer.epoch = epoch
        trainer.train_epoch(train, _never(), Silent())
    first, again, other = (torch.cat(seen[n : n + 2]) for n in (0, 2, 4))
    assert torch.equal(first, again) and first.shape == train.x.shape
    images = [set(map(bytes, x.numpy())) for x in (train.x, first, other)]
    varied = bool(task.shift or task.flip)
    assert (images[0] != images[1] != images[2] != images[0]) == varied
    seen.clear()
    trainer.evaluate(train)
    assert torch.equal(torch.cat(seen), train.x)


def test_the_settings_of_an_image_task_reach_its_network():
    options = {"channels": (3, 5), "pool": (2, 3), "hidden": (7, 6), "dropout": 0.25, "recurrent": True, "b0": 0.3}
    layers = FashionMNIST(norm="shared", readout="membrane", **options).model().layers
    assert [layer.synapse.out_channels for layer in layers[:2]] == [3, 5]
    assert [layer.pool.kernel_size for layer in layers[:2]] == [2, 3]
    assert [layer.recurrent.out_features for layer in layers[2:]] == [7, 6] and layers[2].synapse[1].p == 0.25
    assert {layer.neuron.b0 for layer in layers} == {0.3} and layers[0].norm.time_steps == 1


@pytest.mark.parametrize("name", tasks.TASKS)
def test_recipes_are_settings_that_can_be_changed(name):
    task_class = tasks.get(name)
    for recipe, meant in task_class.recipes.items():
        task, _ = make_task(task_class, ["--recipe", recipe, "--lr", "0.5"])
        assert {**meant, "lr": 0.5}.items() <= {field.name: getattr(task, field.name) for field in task.options()}.items()
        again, _ = make_task(task_class, shlex.split(task.command())[3:])
        assert again == task, "its command says all of it"
    with pytest.raises(InputError, match=f"task '{name}' has no recipe 'cake'"):
        make_task(task_class, ["--recipe=cake"])


def test_permutation_is_one_seeded_and_fixed():
    first, again, other = PermutedMNIST(), PermutedMNIST(seed=5), PermutedMNIST(permutation_seed=1)
    assert sorted(first.permutation.tolist()) == list(range(784))
    assert torch.equal(first.permutation, again.permutation), "the run's seed does not change the order"
    assert not torch.equal(first.permutation, other.permutation)
    assert first.permutation.tolist() != list(range(784))
    x = torch.rand(2, 28, 28)
    assert torch.equal(first.encode(x, torch.Generator())[:, 1, 0], x[1].flatten()[first.permutation])


def test_pooled_pixels_are_means_of_squares():
    x, task = torch.rand(2, 28, 28), PermutedMNIST(pool=4)
    means = x[1].reshape(7, 4, 7, 4).mean((1, 3)).flatten()
    assert sorted(task.permutation.tolist()) == list(range(49))
    assert torch.allclose(task.encode(x, torch.Generator())[:, 1, 0], means[task.permutation])
    for pool in (0, 3, 29):
        with pytest.raises(InputError, match="--pool must divide the 28 pixels"):
            PermutedMNIST(pool=pool)


def test_pooled_steps_are_means_of_consecutive_ones():
    x, task, whole = torch.rand(2, 28, 28), PermutedMNIST(pool_steps=4), PermutedMNIST()
    sequence = task.encode(x, torch.Generator())
    assert torch.allclose(sequence, whole.encode(x, torch.Generator()).reshape(196, 4, 2, 1).mean(1))
    assert torch.equal(task.permutation, whole.permutation), "the order of the pixels is the same"
    for steps in (0, 5):
        with pytest.raises(InputError, match=f"--pool-steps must divide the 784 pixels of a sequence, got {steps}"):
            PermutedMNIST(pool_steps=steps)


@pytest.mark.parametrize("neuron", ["ltc", "alif", "lstm"])
def test_weights_of_a_run_begin_another_at_other_steps(neuron, small_mnist, run, tmp_path):
    options = ["--neuron", neuron, "--hidden", 5, "--batch-size", 4, "--calibrate", 0]
    assert run("train", "smnist", "--pool", 7, "--epochs", 2, *options, "--out", "short")[0] == 0
    short = fptt.load("short").state_dict()
    task = SequentialMNIST(neuron=neuron, pool=4, hidden=(5,), batch_size=4, start="short", stretch=1.0)
    long = task.make_model()
    task.prepare(long)
    for key, value in long.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            assert torch.equal(value, short[key][[16 * step // 49 for step in range(49)]])
        elif key.endswith("trained_steps"):
            assert value == 49
        else:
            assert torch.equal(value, short[key]), "the weights that are evaluated, of the average"
    if neuron == "lstm":
        with pytest.raises(InputError, match="no time constants"):
            dataclasses.replace(task, stretch=2.0).prepare(long)
        return
    status, out, _ = run(
        "train", "smnist", "--pool", 4, "--epochs", 1, *options, "--start", "short", "--stretch", 2, "--out", "long"
    )
    assert status == 0 and "--start short --stretch 2.0" in out.replace("\n", " ")
    for words, message in (
        (["--hidden", 6], r"--start short: its layers.0.synapse.weight is \[5, 1\], not \[6, 1\]: give the same --hidden"),
        (["--norm", "none"], "--start short is not a network of the same --neuron, --norm and layers: see layers.0.norm.bias"),
        (["--start", "nowhere"], "nowhere is not a run folder"),
        (["--start", "null"], "--stretch is for the time constants that --start brings"),
        (["--stretch", 0], "--stretch must be positive"),
    ):
        status, _, err = run("train", "smnist", *options, "--start", "short", "--stretch", 2, *words, "--out", "none")
        assert status == 2 and re.search(message, err) and err.count("\n") == 1
        assert not (tmp_path / "none").exists()


def test_adding_makes_fresh_sequences_every_epoch_that_follow_the_seed():
    task = Adding(length=5, iterations=2, batch_size=3, held_out=4)
    train, validation, test = task.sets()
    first, second = task.training_set(train, 0), task.training_set(train, 1)
    assert len(first) == 6 and len(validation) == len(test) == 4
    assert not torch.equal(first.x, second.x) and not torch.equal(validation.x, test.x)
    assert torch.equal(first.x, task.training_set(train, 0).x)
    assert torch.equal(test.x, Adding(length=5, held_out=4, seed=9).sets()[2].x), "all seeds are tested on the same"


RATES = [
    ({"schedule": "constant"}, [1, 1, 1, 1]),
    ({"schedule": "cosine", "epochs": 4}, [1, 0.5 + 2**-1.5, 0.5, 0.5 - 2**-1.5]),
    ({"schedule": "steps", "milestones": (1, 3)}, [1, 0.1, 0.1, 0.01]),
    ({"schedule": "constant", "warmup": 2}, [1 / 3, 2 / 3, 1, 1]),
    ({"schedule": "cosine", "epochs": 4, "warmup": 2}, [1 / 3, 2 / 3, 1, 0.5]),
    ({"schedule": "linear", "epochs": 4}, [1, 0.75, 0.5, 0.25]),
    ({"schedule": "linear", "epochs": 4, "warmup": 2}, [1 / 3, 2 / 3, 1, 0.5]),
]


@pytest.mark.parametrize(("options", "expected"), RATES)
def test_learning_rate_over_the_epochs(options, expected):
    task = Digits(lr=2.0, **options)
    assert [task.learning_rate(epoch) for epoch in range(4)] == pytest.approx([2 * rate for rate in expected])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "steps", "linear"])
def test_learning_rate_within_an_epoch(schedule):
    task = Digits(lr=2.0, epochs=4, schedule=schedule)
    rates = [task.learning_rate(1, done) for done in (0, 0.5, 1 - 1e-9)]
    assert rates == pytest.approx([1.5, 1.25, 1.0] if schedule == "linear" else rates[:1] * 3)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (Digits, {"epochs": 0}, "--epochs"),
        (Digits, {"batch_size": 0}, "--batch-size"),
        (Digits, {"hidden": ()}, "--hidden"),
        (Digits, {"hidden": (4, 0)}, "--hidden"),
        (Digits, {"lr": 0}, "--lr"),
        (Digits, {"lr": float("nan")}, "--lr"),
        (Digits, {"alpha": 0}, "--alpha"),
        (Digits, {"surrogate": "step"}, "unknown surrogate"),
        (Digits, {"parts": 9}, "8 time steps into 9 parts"),
        (Digits, {"device": "abacus"}, "device"),
        (Digits, {"rule": "bptt", "ema": 1.0}, r"--ema must lie in \(0, 1\), got 1.0"),
        (Digits, {"tau_m": 1.0}, "--tau-m must be more than 1 time step, got 1.0"),
        (Digits, {"neuron": "lif", "tau_adp": 0.5}, "--tau-adp must be more than 1 time step, got 0.5"),
        (Adding, {"length": 1}, "--length"),
        (RowMNIST, {"length": 0}, "--length"),
        (MNIST, {"length": 0}, "--length"),
        (MNIST, {"shift": -1}, "--shift"),
        (MNIST, {"shift": 28}, "--shift must lie from 0 to 27"),
        (MNIST, {"dropout": 1.0}, "--dropout"),
        (MNIST, {"neuron": "lstm"}, "'mnist' has a convolutional spiking network: choose --neuron ltc"),
        (MNIST, {"channels": (4,)}, r"pool needs one factor from 1 for each of 1 convolutional layers, got \[2, 2, 2\]"),
        (MNIST, {"channels": (4, 4, 0)}, "channels needs at least one convolutional layer"),
        (CIFAR10, {"pool": (8, 5, 2)}, "leaves nothing of a map of 4 x 4"),
    ],
)
def test_settings_outside_their_range(task, options, message):
    with pytest.raises(InputError, match=message) as error:
        task(**options)
    assert "\n" not in str(error.value)


def test_time_constants_at_the_start_reach_the_neurons_of_every_kind_of_network():
    (leak,) = Digits(neuron="lif", tau_m=3.0).model().layers[0].neuron.rates
    torch.testing.assert_close(leak.logit, torch.full_like(leak.logit, -math.log(2)))
    assert Digits(tau_adp=50.0).model().layers[0].neuron.rates.from_current.bias.any()
    assert all(layer.neuron.rates[0].norm.bias.all() for layer in MNIST(tau_m=50.0).model().layers[:3])


def test_batch_norms_are_of_both_currents_or_of_the_inputs_alone():
    for norm, both in (("time", True), ("input", False)):
        (layer,) = Digits(norm=norm, gamma=0.7).make_model().layers
        assert (layer.recurrent_norm is not None) == both
        assert layer.norm.time_steps == 8 and (layer.norm.weight == 0.7).all()


def test_auxiliary_needs_classes():
    with pytest.raises(InputError, match="--auxiliary needs classes"):
        Adding(auxiliary="table").loss()


def settings_of(task_class):
    """Any mixture of valid settings."""
    return st.fixed_dictionaries(
        {},
        optional={
            "rule": st.sampled_from(get_args(Rule)),
            **{name: values for name, (_, values) in OF_RULES.items()},
            "neuron": st.sampled_from(["ltc", "alif", "lif", "lstm", "rnn"]),
            "epochs": st.integers(1, 100),
            "hidden": st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
            "lr": st.floats(1e-6, 10),
            "milestones": st.lists(st.integers(1, 99), min_size=1, max_size=3).map(tuple),
            "max_norm": st.none() | st.floats(0.1, 10),
            "adaptive": st.booleans(),
            "recurrent": st.booleans(),
            "seed": st.integers(0, 99),
        },
    ).map(lambda options: task_class(**{name: value for name, value in options.items() if belongs(name, options)}))


OF_RULES = {  # settings that only some rules have, and their values
    "sampled": (("sltt",), st.none() | st.integers(1, 8)),
    "window": (("online-bptt",), st.integers(1, 8)),
    "approximate": (("ottt",), st.booleans()),
    "feedback": (("eprop",), st.sampled_from(["symmetric", "random"])),
    "parts": (("fptt", "tbptt", "sltt", "ottt", "eprop"), st.none() | st.integers(1, 8)),
}


def belongs(name, options):
    return name not in OF_RULES or options.get("rule", "fptt") in OF_RULES[name][0]


def image_settings():
    """The same of the convolutional tasks."""
    return st.fixed_dictionaries(
        {},
        optional={
            "channels": st.lists(st.integers(1, 9), min_size=3, max_size=3).map(tuple),
            "pool": st.lists(st.integers(1, 3), min_size=3, max_size=3).map(tuple),
            "dropout": st.floats(0, 0.9),
            "flip": st.booleans(),
            "shift": st.integers(0, 9),
        },
    ).map(lambda options: FashionMNIST(**options))


@given(st.one_of(settings_of(Digits), settings_of(Adding), image_settings()))
@settings(max_examples=30, deadline=None)
def test_the_command_of_a_run_repeats_its_settings(task):
    words = shlex.split(task.command())
    assert words[:3] == ["fptt", "train", task.name]
    again, _ = make_task(type(task), words[3:])
    assert dataclasses.asdict(again) == dataclasses.asdict(task)


def test_the_command_survives_a_path_with_a_space(tmp_path):
    path = tmp_path / "my data.npz"
    np.savez(path, x_train=np.zeros((4, 2, 1)), y_train=np.arange(4) % 2)
    words = shlex.split(tasks.get("arrays")(file=str(path), test_size=1).command())
    assert str(path) in words


def test_unknown_task():
    with pytest.raises(InputError, match="unknown task 'sudoku': choose one of digits, adding"):
        tasks.get("sudoku")


def test_a_tasks_own_number_of_parts_is_for_the_rules_that_have_parts():
    assert Adding(rule="bptt").number_of_updates == Adding(rule="bptt", length=6).number_of_updates == 1
    with pytest.raises(InputError, match="give --rule tbptt"):
        Adding(rule="bptt", parts=5)
