"""Checkpoints and run folders that are damaged, hostile, foreign or half written."""

import os
import pickle
from pathlib import Path

import pytest
import torch
import yaml

from conftest import Silent
from fptt import InputError
from fptt.tasks.adding import Adding
from fptt.training import checkpoint
from fptt.training.loop import Trainer
from fptt.training.run import Run, write_atomically

CONTENT = {"model": {"w": torch.arange(3.0)}, "epoch": 2}


def task():
    return Adding(length=4, iterations=1, held_out=4, batch_size=4, hidden=(4,), epochs=1)


@pytest.fixture
def finished(tmp_path):
    run = Run(tmp_path / "run")
    run.create(task())
    Trainer(task(), run).fit(Silent())
    return run


def refuse(path, match="damaged or no checkpoint|not a checkpoint"):
    with pytest.raises(InputError, match=match) as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path / "last.pt", CONTENT)
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert loaded["epoch"] == 2 and torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])
    assert os.listdir(tmp_path) == ["last.pt"]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", ["pickle", "torch"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, protocol):
    path, trace = tmp_path / "last.pt", tmp_path / "executed"
    content = {"model": Hostile(trace)}
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    refuse(path)
    assert not trace.exists()


@pytest.mark.parametrize("size", [0, 1, 10, 100, 0.5, 0.9, 0.99])
def test_truncated(finished, size):
    content = finished.checkpoint.read_bytes()
    finished.checkpoint.write_bytes(content[: size if isinstance(size, int) else int(size * len(content))])
    refuse(finished.checkpoint)


def test_neither_text_nor_another_object_nor_a_missing_file(tmp_path):
    path = tmp_path / "last.pt"
    refuse(path, "no checkpoint at")
    path.write_text("weights: none\n")
    refuse(path)
    for other in ([1, 2], {"state": 1}, torch.ones(2)):
        torch.save(other, path)
        refuse(path)


@pytest.mark.parametrize("change", [{"model": 3}, {"totals": "no"}, {"optimizer": []}, {"optimizer": None}, {"loss": 1.5}])
def test_a_checkpoint_with_wrong_parts(finished, change):
    checkpoint.save(finished.checkpoint, {**checkpoint.load(finished.checkpoint), **change})
    with pytest.raises(InputError, match="does not fit"):
        Trainer(task(), finished).restore()


@pytest.mark.parametrize("key", ["optimizer", "loss", "totals", "epoch", "batch"])
def test_a_checkpoint_with_missing_parts(finished, key):
    content = checkpoint.load(finished.checkpoint)
    del content[key]
    checkpoint.save(finished.checkpoint, content)
    with pytest.raises(InputError, match="does not fit"):
        Trainer(task(), finished).restore()


@pytest.mark.parametrize("failing", ["os.replace", "pathlib.Path.write_bytes"])
def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch, failing):
    path = tmp_path / "last.pt"
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*No space left on device"):
        checkpoint.save(path, {"model": {}, "epoch": 3})
    assert path.read_bytes() == before
    assert checkpoint.load(path)["epoch"] == 2


def test_a_write_that_is_killed_halfway_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")

    def killed(self, content):
        with self.open("wb") as file:
            file.write(content[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_bytes", killed)
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["summary.json"]


def test_a_run_is_never_overwritten(finished):
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds a run: continue it with --resume"):
        Run(finished.folder).create(task())
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


def test_free_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        run = Run(Run.free_folder("x"))
        run.create(task())
        names.append(str(run.folder))
    assert names == ["runs/x", "runs/x-2", "runs/x-3"]


def test_not_a_run(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="is not a run folder"):
            Run.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "adding", "format": 99, "version": "9.0"}, "written by fptt 9.0 in another format"),
        ({"task": "adding", "version": "9.0"}, "damaged"),
        ({"format": 1, "version": "9.0"}, "damaged"),
        ([1, 2], "damaged"),
        (3, "damaged"),
        (None, "damaged"),
        ("{", "damaged"),
    ],
)
def test_config_of_another_format_or_damaged(finished, content, message):
    path = finished.folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(InputError, match=message) as error:
        Run.open(finished.folder).config()
    assert "\n" not in str(error.value)


def test_damaged_metrics_and_summary(finished):
    (finished.folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(InputError, match="metrics.jsonl is damaged"):
        finished.metrics()
    (finished.folder / "summary.json").write_text("{")
    with pytest.raises(InputError, match="summary.json is damaged"):
        finished.summary()
    (finished.folder / "summary.json").unlink()
    with pytest.raises(InputError, match="is unfinished"):
        finished.summary()
