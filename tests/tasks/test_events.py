"""Tasks on recordings: from the archives that are downloaded to a trained epoch."""

import json

import numpy as np
import pytest
import torch

import event_files
from fptt import InputError, tasks
from fptt.cli import main
from fptt.data import cache, event_sets
from fptt.tasks.events import CIFAR10DVS, NMNIST, SHD, DVSGesture

SMALL = ["--channels", "4", "--pool", "4", "--hidden", "8", "--length", "3", "--epochs", "1", "--batch-size", "2"]


@pytest.fixture(autouse=True)
def frames_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FPTT_CACHE", str(tmp_path / "frames"))


def test_from_the_archive_to_a_trained_epoch(tmp_path, capsys):
    files, expected = event_files.gesture_files()
    event_files.write_tar(tmp_path / "DvsGesture.tar.gz", files)
    options = [*SMALL, "--shrink", "8", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--json"]
    assert main(["train", "dvs-gesture", *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["train_samples"], summary["test_samples"]) == (4, 2) and 0 <= summary["test_accuracy"] <= 1
    assert summary["frames"] == "3 by count" and summary["parameters"] > 0
    frames = torch.from_numpy(np.load(next((tmp_path / "frames").glob("*/x.npy"))))
    assert torch.equal(frames.sum((1, 2, 3, 4)), torch.tensor([len(events.t) for events, *_ in expected]))
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["accuracy"] == summary["test_accuracy"] and again["data_split"] == "the set's own"


@pytest.mark.parametrize("name", ["nmnist", "cifar10-dvs", "shd"])
def test_every_set_trains_an_epoch_from_its_archives(tmp_path, capsys, name):
    options = [*SMALL, "--shrink", "4"]
    if name == "nmnist":
        files, home, archives = event_files.nmnist_files(1), "NMNIST", ("Train", "Test")
    elif name == "cifar10-dvs":
        files, home, archives = event_files.cifar10_dvs_files(10), "CIFAR10DVS", event_sets.CIFAR10
    else:
        pytest.importorskip("h5py")
        options, home, archives = ["--hidden", "8", "--length", "3", "--epochs", "1", "--batch-size", "2"], "SHD", ()
        (tmp_path / home).mkdir()
        for part in ("train", "test"):
            event_files.write_shd(tmp_path / home / f"shd_{part}.h5", [([0.1, 0.2], [5, 6], i, 0) for i in range(4)])
    (tmp_path / home).mkdir(exist_ok=True)
    for archive in archives:
        chosen = {key: content for key, content in files.items() if key.startswith(archive)}
        event_files.write_zip(tmp_path / home / f"{archive}.zip", chosen)
    assert main(["train", name, *options, "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    sizes = {"nmnist": (9, 10), "cifar10-dvs": (90, 10), "shd": (4, 4)}
    assert (summary["train_samples"], summary["test_samples"]) == sizes[name] and np.isfinite(summary["test_loss"])
    assert name != "cifar10-dvs" or summary["data_split"] == "random 9:1 per class, seed 0"


def test_without_a_test_set_the_training_score_is_told_and_called_so(tmp_path, capsys):
    files, _ = event_files.gesture_files()
    event_files.write_folder(tmp_path, {name: content for name, content in files.items() if "trials" not in name})
    options = [*SMALL, "--shrink", "8", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--json"]
    assert main(["train", "dvs-gesture", *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["train_samples"] == 6 and 0 <= summary["train_accuracy"] <= 1
    assert not {"test_accuracy", "test_samples"} & set(summary)
    assert summary["data_split"] == "none, all recordings are for training"
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "without a test set" in capsys.readouterr().err


def gestures(tmp_path, people=6, **options):
    event_files.write_folder(tmp_path, event_files.gesture_files(people)[0])
    return DVSGesture(data=str(tmp_path), shrink=8, channels=(4,), pool=(4,), length=2, **options)


def test_people_who_are_held_out_are_not_seen_in_training(tmp_path):
    task = gestures(tmp_path, validation=0.4)
    train, validation, test = task.sets()
    assert [len(s) for s in (train, validation, test)] == [6, 4, 2]
    groups = [set(task.recordings.group[s.x.rows].tolist()) for s in (train, validation, test)]
    assert groups[2] == {6} and len(groups[1]) == 2 and groups[0] | groups[1] == {1, 2, 3, 4, 5}
    assert not groups[0] & groups[1]
    again = DVSGesture(data=str(tmp_path), shrink=8, channels=(4,), pool=(4,), length=2, validation=0.4, seed=3)
    assert torch.equal(again.sets()[1].x.rows, validation.x.rows), "the same for every seed"


def test_sets_read_only_what_a_batch_asks_for(tmp_path, monkeypatch):
    task = gestures(tmp_path)
    train, _, _ = task.sets()
    asked = []

    class Storage:
        def __init__(self, tensor):
            self.tensor = tensor

        def __getitem__(self, rows):
            asked.append(len(rows))
            return self.tensor[rows]

    monkeypatch.setattr(train.x, "storage", Storage(train.x.storage))
    batches = list(train.batches(4, shuffle=torch.Generator().manual_seed(0)))
    assert asked == [4, 4, 2] and batches[0][0].dtype == torch.uint8
    for x, y in batches:
        encoded = task.encode(x, torch.Generator())
        assert encoded.shape == (2, len(y), 2, 16, 16) and encoded.dtype == torch.float32
        assert torch.equal(encoded.transpose(0, 1), x.float())


@pytest.fixture
def ten_each(tmp_path):
    event_files.write_folder(tmp_path / "CIFAR10DVS", event_files.cifar10_dvs_files(10))
    return {"data": str(tmp_path), "shrink": 16, "channels": (2,), "pool": (4,), "length": 1}


def numbers(task, samples):
    """(class, number) of every recording; the number is also told by its count of events."""
    counts = samples.x[:].flatten(1).sum(1) - 50
    assert torch.equal(counts, task.recordings.group[samples.x.rows])
    return set(zip(samples.y.tolist(), counts.tolist(), strict=True))


def test_splits_of_cifar10_dvs(ten_each):
    contiguous, random, again, other = (
        CIFAR10DVS(**ten_each, **options) for options in ({"split": "contiguous"}, {}, {"seed": 5}, {"split_seed": 1})
    )
    sets = [(numbers(task, task.sets()[0]), numbers(task, task.sets()[2])) for task in (contiguous, random, again, other)]
    everything = {(label, number) for label in range(10) for number in range(10)}
    for train, test in sets:
        assert train | test == everything and not train & test
        assert sorted(label for label, _ in test) == list(range(10)), "one of ten of every class"
    assert sets[0][1] == {(label, 9) for label in range(10)}
    assert sets[1] == sets[2] and sets[1] != sets[3] and sets[1] != sets[0]
    assert [number for _, number in sorted(sets[1][1])] == [5, 4, 7, 4, 3, 0, 0, 4, 2, 4], "as shipped"
    assert contiguous.notes()["data_split"] == "contiguous: last tenth of each class to test"
    assert other.notes()["data_split"] == "random 9:1 per class, seed 1"


def test_validation_of_cifar10_dvs_comes_from_training(ten_each):
    task = CIFAR10DVS(**ten_each, validation=0.2)
    train, validation, test = task.sets()
    assert [len(s) for s in (train, validation, test)] == [72, 18, 10]
    assert sorted(torch.cat([s.x.rows for s in (train, validation, test)]).tolist()) == list(range(100))


def test_spoken_digits(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "SHD").mkdir()
    random = np.random.default_rng(0)
    rows = [(np.sort(random.random(50)), random.integers(0, 700, 50), i % 20, 0) for i in range(8)]
    for part in ("train", "test"):
        event_files.write_shd(tmp_path / "SHD" / f"shd_{part}.h5", rows)
    task = SHD(data=str(tmp_path), length=10, microseconds=200_000, hidden=(8,), batch_size=2, validation=0.25)
    train, validation, test = task.sets()
    assert [len(s) for s in (train, validation, test)] == [6, 2, 8]
    x = task.encode(test.x[:], torch.Generator())
    assert x.shape == (10, 8, 700) and x.sum() == 400
    t, channels, *_ = rows[3]
    assert x[2, 3].nonzero().flatten().tolist() == sorted(set(channels[(t - t[0]) // 0.2 == 2].tolist()))
    task.model()(x[0])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (NMNIST, {"length": 0}, "--length must be at least 1"),
        (NMNIST, {"shrink": 0}, "--shrink must be at least 1"),
        (NMNIST, {"validation": 1.0}, "--validation must lie in"),
        (NMNIST, {"shift": 34}, "--shift must lie from 0"),
        (NMNIST, {"shrink": 8}, "leaves nothing of a map"),
        (SHD, {"polarity": "two"}, "leave --polarity"),
    ],
)
def test_settings_outside_their_range(task, options, message):
    with pytest.raises(InputError, match=message) as error:
        task(**options)
    assert "\n" not in str(error.value)


def test_validation_that_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="leaves no recordings for training"):
        gestures(tmp_path, people=2, validation=0.9).sets()


def test_recipes_are_those_of_the_paper():
    gesture, cifar = tasks.get("dvs-gesture")(), tasks.get("cifar10-dvs")()
    assert gesture.channels == cifar.channels == (64, 128, 128, 256, 256, 512) and gesture.hidden == (512,)
    assert (gesture.length, gesture.batch_size, gesture.by) == (20, 16, "count")
    assert (cifar.length, cifar.batch_size, cifar.epochs, cifar.outputs) == (100, 32, 50, 10)
    for task in (gesture, cifar):
        assert (task.optimizer, task.lr, task.alpha, task.beta, task.max_norm) == ("adamax", 3e-3, 0.1, 0.5, 1.0)
        assert task.recurrent and task.b0 == 0.5 and task.schedule == "cosine"


def test_real_nmnist_becomes_sets(data, tmp_path):
    task = NMNIST(data=str(data))
    assert [len(s) for s in task.sets()] == [900, 100, 100]
    assert task.recordings.x.dtype == torch.uint8 and task.inputs == (2, 34, 34)
    assert isinstance(task.recordings, cache.Cached)
