"""From simulated recordings to a trained network, to a stream on which it goes on learning; and what fptt data says of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from event_files import nmnist, some_events
from fptt.commands.stream import frame_maker
from fptt.data import event_sets, recordings
from fptt.data.cache import Framing
from fptt.report.reading import read
from fptt.tasks.events import CIFAR10DVS
from fptt.tasks.simulated import SimulatedEvents
from fptt.training.checkpoint import load

SMALL = ["--training-size", "8", "--test-size", "4", "--validation", "0.25", "--length", "3", "--channels", "4", "--pool", "4"]
QUICK = [*SMALL, "--hidden", "8", "--epochs", "1", "--batch-size", "3", "--threads", "1"]


@pytest.fixture
def streamed(run, small_mnist, tmp_path, monkeypatch):
    """A small run on simulated events, and one of its recordings; (folder, file, summary)."""
    monkeypatch.setenv("FPTT_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("FPTT_CACHE", raising=False)
    status, out, err = run("train", "events-sim", *QUICK, "--out", "first", "--json")
    assert status == 0, err
    file = next((tmp_path / "data" / "simulated").glob("*/Test/*/00002.bin"))
    return tmp_path / "first", file, json.loads(out)


def rows(out):
    lines = [json.loads(line) for line in out.splitlines()]
    return lines[:-1], lines[-1]


def test_a_run_says_that_its_events_are_simulated(streamed, run):
    _, _, summary = streamed
    assert summary["data"] == "simulated events of MNIST images" and summary["test_samples"] == 4
    status, out, _ = run("evaluate", "first", "--json")
    assert status == 0 and json.loads(out)["accuracy"] == summary["test_accuracy"]
    assert json.loads(out)["data"].startswith("simulated")


def test_a_stream_steps_the_network_of_a_run_as_evaluation_does(streamed, run):
    """Slices of a third of the recording's events each are the frames that the task is tested on."""
    folder, file, _ = streamed
    events = recordings.read(file)
    status, out, err = run("stream", file, "--run", folder, "--events", len(events.t) // 3, "--json")
    assert status == 0, err
    steps, summary = rows(out)
    assert len(steps) == summary["steps"] == 3 and summary["updates"] == 0 and "accuracy" not in summary
    assert [step["events"] for step in steps] == [len(events.t) // 3] * 3 and steps[0]["label"] is None

    task = SimulatedEvents(training_size=8, test_size=4, length=3, channels=(4,), pool=(4,), hidden=(8,))
    model = task.model().eval()
    content = load(folder / "checkpoints" / "last.pt")
    model.load_state_dict(content["model"])
    even = events._replace(**{name: getattr(events, name)[: len(events.t) // 3 * 3] for name in "txyp"})
    sequence = task.encode(torch.from_numpy(Framing(number=3)(even))[None], torch.Generator())
    state = None
    with torch.no_grad():
        for x_t, step in zip(sequence, steps, strict=True):
            output, state = model(x_t, state)
            assert step["probability"] == pytest.approx(output.softmax(1).max().item(), abs=1e-4)
            assert step["class"] == output.argmax()


def test_a_stream_learns_and_saves_a_run_of_its_own(streamed, run, tmp_path):
    folder, file, _ = streamed
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["stream", file, "--run", folder, "--ms", "10", "--learn", "1", "--lr", "0.02"]
    status, out, err = run(*words, "--save", "second", "--json")
    assert status == 0, err
    steps, summary = rows(out)
    assert summary["updates"] == len(steps) == 30 and all(step["label"] == 1 for step in steps)
    assert np.mean([step["loss"] for step in steps[-10:]]) < np.mean([step["loss"] for step in steps[:5]])
    assert {path: path.read_bytes() for path in before} == before, "the run it came from is left as it is"
    assert json.loads((tmp_path / "second" / "summary.json").read_text())["adapted_from"] == str(folder)
    shutil.copytree(tmp_path / "second", tmp_path / "evidence" / "second")
    assert not read(tmp_path / "evidence").runs, "no command makes it again: a report leaves it out"

    _, fresh, _ = run("stream", file, "--run", folder, "--ms", "10", "--json")
    _, adapted, _ = run("stream", file, "--run", "second", "--ms", "10", "--json")
    assert rows(adapted)[1]["class"] == 1 and rows(adapted)[0] != rows(fresh)[0]
    assert run("evaluate", "second", "--json")[0] == 0
    status, _, err = run(*words, "--save", "second")
    assert status == 2 and "second exists already" in err


def test_labels_of_parts_of_a_recording(streamed, run, tmp_path):
    folder, file, _ = streamed
    (tmp_path / "labels.csv").write_text("label,start_us,end_us\n1,0,100000\n0,200000,400000\n")
    status, out, err = run("stream", file, "--run", folder, "--ms", "50", "--learn", "labels.csv")
    assert status == 0, err
    assert out.count("label 1") == 1 and out.count("label 0") >= 2 and "updates" in out and "accuracy" in out
    assert out.count("class") - 1 > out.count("label"), "steps without a label are shown, too"


def test_a_run_of_another_rule_goes_on_with_fptt(streamed, run):
    _, file, _ = streamed
    assert run("train", "events-sim", *QUICK, "--rule", "bptt", "--out", "offline", "--json")[0] == 0
    status, out, err = run("stream", file, "--run", "offline", "--ms", "100", "--learn", "0", "--save", "online", "--json")
    assert status == 0, err
    assert rows(out)[1]["updates"] == 3
    assert run("evaluate", "online", "--json")[0] == 0


def test_what_a_stream_refuses(streamed, run, tmp_path):
    folder, file, _ = streamed
    (tmp_path / "large.bin").write_bytes(nmnist(some_events(n=50, width=34, height=34)))
    for name, line in (("none", ""), ("back", "1,5,5\n"), ("late", "1,9000000000,9000000001\n")):
        (tmp_path / f"{name}.csv").write_text("label,start_us,end_us\n" + line)
    shutil.copytree(folder, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "checkpoints" / "last.pt").unlink()
    assert run("train", "--epochs", "1", "--hidden", "8", "--out", "digits", "--json")[0] == 0
    cases = [
        ([file, "--run", folder], "give --events or --ms"),
        ([file, "--run", folder, "--ms", "5", "--events", "5"], "give one of the two"),
        *(([file, "--run", folder, "--ms", ms], "--ms must be a positive number of milliseconds") for ms in ("-5", "0", "nan")),
        ([file, "--run", folder, "--ms", "5", "--learn=--5"], "cannot read labels from --5"),
        ([file, "--run", folder, "--ms", "5", "--lr", "0.1"], "--lr is that of --learn"),
        ([file, "--run", folder, "--ms", "5", "--learn", "none.csv"], "none.csv names no label"),
        ([file, "--run", folder, "--ms", "5", "--learn", "back.csv"], "back.csv, line 2: label 1 is to hold from 5 to 5"),
        ([file, "--run", folder, "--ms", "50", "--learn", "late.csv", "--save", "x"], "no label of late.csv applies"),
        ([file, "--run", folder, "--ms", "5", "--learn", "1", "--save", "large.bin/x"], "give another --save"),
        ([file, "--run", folder, "--ms", "5", "--save", "x"], "give --learn"),
        ([file, "--run", folder, "--ms", "5", "--learn", "12"], "the network knows the classes 0 to 9"),
        ([file, "--run", folder, "--ms", "5", "--learn", "1", "--lr", "0"], "--lr must be positive"),
        ([file, "--run", folder, "--ms", "5", "--learn", "1", "--lr", "1e38", "--save", "x"], "lower --lr; nothing was saved"),
        ([file, "--run", folder, "--events", "1000000"], "shorter than one slice"),
        ([file, "--run", "nowhere", "--ms", "5"], "nowhere is not a run folder"),
        ([file, "--run", "unfinished", "--ms", "5"], "no checkpoint"),
        ([file, "--run", "digits", "--ms", "5"], "task 'digits' of this run has no events"),
        (["nothing.bin", "--run", folder, "--ms", "5"], "cannot read nothing.bin"),
    ]
    for words, message in cases:
        status, _, err = run("stream", *words)
        assert status == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "x").exists()


def test_a_run_that_was_stopped_in_its_first_epoch_can_learn(streamed, run, tmp_path):
    folder, file, _ = streamed
    (folder / "metrics.jsonl").unlink()
    status, _, err = run("stream", file, "--run", folder, "--ms", "100", "--learn", "1", "--save", "second", "--json")
    assert status == 0, err
    assert json.loads((tmp_path / "second" / "summary.json").read_text())["updates"] == 3


def test_a_set_whose_columns_are_rows_is_streamed_as_it_is_trained_on():
    task = CIFAR10DVS(channels=(4,), pool=(4,))
    events = some_events(200)
    expected = task.encode(torch.from_numpy(task.framing(event_sets.exchanged(events)))[None].sum(1, keepdim=True), None)[0]
    assert torch.equal(frame_maker(task, events)(events), expected)


def test_data_checks_and_shows_what_was_simulated(streamed, run, tmp_path):
    _, file, _ = streamed
    status, out, err = run("data", "check", "events-sim", "--json")
    assert status == 0, err
    checked = json.loads(out)
    assert (checked["training_recordings"], checked["test_recordings"], checked["readable"]) == (8, 4, True)
    assert checked["events"] == sum(len(recordings.read(path).t) for path in file.parents[2].rglob("*.bin"))
    status, out, _ = run("data", "show", file, "--out", "film.gif", "--frames", "6", "--json")
    assert status == 0 and json.loads(out)["events"] == len(recordings.read(file).t)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 6
    assert run("data", "show", "events-sim", "--sample", "3")[0] == 0
    assert (tmp_path / "simulated events-3.png").read_bytes().startswith(b"\x89PNG")
    file.write_bytes(file.read_bytes()[:-2])
    status, _, err = run("data", "check", "simulated events")
    assert status == 2 and "00002.bin is truncated" in err and err.count("\n") == 1


def test_data_shows_an_image(run, small_mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"0")
    assert run("data", "show", "mnist", "--sample", "2", "--out", "two.svg", "--data", tmp_path)[0] == 0
    assert (tmp_path / "two.svg").read_bytes().startswith(b"<?xml")
    status, out, _ = run("data", "check", "mnist", "--data", tmp_path, "--json")
    assert status == 0 and json.loads(out)["test_samples"] == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "needs a name"),
        (["check", "imagenet"], "unknown data set 'imagenet': choose one of digits"),
        (["check", "N-MNIST"], "N-MNIST is not in"),
        (["check", "events-sim"], "simulated events is not in"),
        (["show", "digits", "--sample", "300"], "choose --sample from 0 to 299"),
        (["show", "digits", "--sample", "-1"], "choose --sample from 0 to 299"),
        (["show", "digits", "--frames", "0"], "--frames must be at least 1"),
        (["show", "digits", "--out", "none/x.png"], "cannot write the picture"),
        (["show", "adding"], "are no images"),
    ],
)
def test_what_data_refuses(run, tmp_path, words, message):
    status, _, err = run("data", *words, "--data", tmp_path / "empty")
    assert status == 2 and message in err and err.count("\n") == 1


def test_real_recordings_are_checked_and_shown(run, data, tmp_path):
    status, out, _ = run("data", "check", "N-MNIST", "--data", data, "--json")
    assert status == 0 and json.loads(out)["classes"] == 10
    status, out, _ = run("data", "show", "nmnist", "--sample", "1", "--data", data, "--out", "one.png", "--json")
    assert status == 0 and json.loads(out)["width"] == 34


@pytest.mark.parametrize(
    "setting", [["--training-size", "0"], ["--test-size", "10001"], ["--threshold", "0"], ["--noise", "-1"]]
)
def test_settings_of_the_simulation_outside_their_range(run, setting):
    status, _, err = run("train", "events-sim", *setting)
    assert status == 2 and err.count("\n") == 1
