"""The detection task, from a folder of images to a tested detector."""

import json
from pathlib import Path

import pytest
import torch

import voc_files
from fptt import InputError
from fptt.detection.detector import Detector
from fptt.detection.head import Head
from fptt.tasks.voc import VOC, DetectionTotals
from fptt.training.metrics import Totals

SMALL = ("--size", "32", "--width", "0.1", "--length", "2", "--batch-size", "2", "--epochs", "1", "--threads", "1")


@pytest.fixture
def folder(tmp_path, torchvision, monkeypatch):
    monkeypatch.setenv("FPTT_CACHE", str(tmp_path / "cache"))
    return voc_files.write(tmp_path / "own")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--rule", "bptt"),
        ("--neuron", "relu", "--length", "1", "--norm", "shared"),
        ("--readout", "liquid", "--accumulate", "2", "--norm", "none"),
        ("--precision", "bfloat16", "--test", "train", "--training-size", "2"),
    ],
    ids=" ".join,
)
def test_a_folder_of_images_becomes_a_tested_detector(options, folder, run):
    status, out, err = run("train", "voc", "--folder", str(folder), *SMALL, *options, "--out", "r", "--json")
    assert status == 0, err
    summary = json.loads(out)
    score = summary["train_map50" if "--test" in options else "test_map50"]
    assert 0 <= score <= 1
    assert summary["size"] == 32
    status, out, err = run("evaluate", "r", "--split", "validation", "--json")
    assert status == 0, err
    assert 0 <= json.loads(out)["map50"] <= 1
    split = ("--split", "validation")
    status, out, err = run("evaluate", "r", *split, "--cost", "--json")
    assert status == 0, err
    assert json.loads(out)["cost"]["dense_operations"] > 1e5
    for words in (("evaluate", "r", "--steps"), ("plot", "r", "--kind", "steps")):
        status, _, err = run(*words, *split)
        said = [line for line in err.splitlines() if "no instructions for bfloat16" not in line]  # of some processors
        assert status == 2 and len(said) == 1
        assert said[0].startswith("fptt: task 'voc' finds objects: scores after every step are")
    status, _, err = run("train", "--resume", "r", "--epochs", "2")
    assert status == 0, err
    assert run("plot", "r", "--out", "curves.png")[0] == 0


def test_a_spiking_network_starts_from_its_twin(folder, run):
    assert run("train", "voc", "--folder", str(folder), *SMALL, "--neuron", "relu", "--length", "1", "--out", "twin")[0] == 0
    task = VOC(folder=str(folder), size=32, width=0.1, length=2, start="twin")
    torch.manual_seed(0)
    model = task.model()
    task.prepare(model)
    ours, theirs = model.state_dict(), torch.load("twin/checkpoints/last.pt")["model"]
    assert torch.equal(ours["layers.coarse.synapse.weight"], theirs["layers.coarse.synapse.weight"])
    assert torch.equal(ours["layers.coarse.norm.running_var"], theirs["layers.coarse.norm.running_var"].expand(2, -1))
    assert set(ours) - set(theirs) == {key for key in ours if ".neuron." in key}
    status, _, err = run("train", "voc", "--folder", str(folder), *SMALL, "--width", "0.3", "--start", "twin", "--out", "wider")
    assert status == 2
    assert err.startswith("fptt: --start twin: its layers.stem2.synapse.weight does not fit") and err.count("\n") == 1
    assert not Path("wider").exists(), "nothing is left of a training that never began"


def test_a_network_of_the_same_neurons_starts_from_all_weights_that_were_evaluated(folder, run):
    words = ("train", "voc", "--folder", str(folder), *SMALL, "--ema", "0.9", "--out", "first")
    assert run(*words)[0] == 0
    task = VOC(folder=str(folder), size=32, width=0.1, length=5, readout="liquid", start="first")
    model = task.model()
    readouts = {key: value.clone() for key, value in model.state_dict().items() if "readouts." in key}
    task.prepare(model)
    ours, content = model.state_dict(), torch.load("first/checkpoints/last.pt")
    theirs = content["average"]
    assert any(".neuron." in key for key in theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert any(not torch.equal(value, content["model"][key]) for key, value in theirs.items())
    assert readouts and all(torch.equal(ours[key], value) for key, value in readouts.items()), (
        "those that it has not stay fresh"
    )
    gate = "layers.coarse.neuron.rates.0.norm.running_var"
    assert torch.equal(ours[gate], content["model"][gate])
    torch.save({**content, "average": list(theirs.values())}, "first/checkpoints/last.pt")
    with pytest.raises(InputError, match="--start first: its checkpoint is of another version of fptt"):
        task.prepare(model)


def test_a_network_for_other_classes_starts_from_the_weights_that_come_with_fptt_but_for_its_heads(folder):
    given = {"folder": str(folder), "size": 64, "width": 0.5, "length": 2, "start": "packaged"}
    task = VOC(**given, b0=0.5)
    model = task.model()
    heads = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("heads.")}
    with pytest.warns(UserWarning, match="^fptt: --start packaged has another number of classes: the heads are trained anew$"):
        task.prepare(model)
    ours, theirs = model.state_dict(), Detector.load().model.state_dict()
    assert heads and all(torch.equal(ours[key], value) for key, value in heads.items())
    rest = [key for key in theirs if not key.startswith("heads.") and not key.endswith(("running_mean", "running_var"))]
    assert any(".neuron." in key for key in rest)
    assert all(torch.equal(ours[key], theirs[key]) for key in rest if not key.endswith("trained_steps"))
    with pytest.warns(UserWarning) as told:
        other = VOC(**given)
        other.prepare(other.model())
    assert "fptt: --start packaged was trained with --b0 0.5, which suits its weights" in {str(each.message) for each in told}
    with pytest.raises(InputError, match="^--start packaged: its layers.stem1.synapse.weight does not fit: give a detector of"):
        wider = VOC(**{**given, "width": 1.0})
        wider.prepare(wider.model())


def test_a_network_starts_from_a_file_of_weights(folder, run):
    assert run("train", "voc", "--folder", str(folder), *SMALL, "--out", "first")[0] == 0
    assert run("export", "first", "--out", "first.safetensors")[0] == 0
    task = VOC(folder=str(folder), size=32, width=0.1, length=2, start="first.safetensors")
    model = task.model()
    task.prepare(model)
    ours, theirs = model.state_dict(), Detector.load("first.safetensors").model.state_dict()
    last = "layers.coarse.norm.running_var"
    assert torch.equal(ours[last], theirs[last][-1:].expand(2, -1))
    assert all(
        torch.equal(value, theirs[key]) for key, value in ours.items() if "trained_steps" not in key and "running" not in key
    )
    Path("first.safetensors").write_bytes(b"nothing of use")
    with pytest.raises(InputError, match="^first.safetensors is damaged or no file of weights"):
        task.prepare(model)


def test_neurons_of_another_kind_keep_their_time_constants(folder, run):
    assert run("train", "voc", "--folder", str(folder), *SMALL, "--neuron", "lif", "--tau-m", "3", "--out", "lif")[0] == 0
    task = VOC(folder=str(folder), size=32, width=0.1, length=2, neuron="alif", start="lif")
    model = task.model()
    logit = model.state_dict()["layers.coarse.neuron.rates.0.logit"].clone()
    task.prepare(model)
    theirs = torch.load("lif/checkpoints/last.pt")["model"]
    assert torch.equal(model.state_dict()["layers.coarse.neuron.rates.0.logit"], logit)
    assert torch.equal(model.state_dict()["layers.coarse.synapse.weight"], theirs["layers.coarse.synapse.weight"])


def test_the_score_of_a_set_is_that_of_all_its_images_together():
    head = Head(2, 64)
    output = torch.full((2, len(head.cell), 7), -12.0)
    targets = torch.full((2, 3, 6), -1.0)
    for image, label in enumerate((0, 1)):
        box = torch.tensor([[10.0, 12.0, 30.0, 40.0]])
        row = torch.tensor([3 * 4 + 16 * 2 + 4 * 1 + 1])  # the fine head's third anchor in the cell of the box's centre
        output[image, row, :4] = head.encode(box, row)
        output[image, row, 4], output[image, row, 5 + label] = 9.0, 9.0
        targets[image, 0] = torch.tensor([label, *box[0].tolist(), 0.0])
    totals = DetectionTotals(head)
    for image in range(2):
        totals.add(output[image : image + 1], targets[image : image + 1], torch.tensor(float(image)), torch.tensor(0.5))
    assert totals.result() == {"loss": 0.5, "firing_rate": 0.5, "map50": 1.0}
    targets[1, 0, 0] = 0
    totals.add(output[1:], targets[1:], torch.tensor(0.0), torch.tensor(0.5))
    assert totals.result()["map50"] < 1
    assert Totals(None).result().keys() == {"loss", "firing_rate"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "--size must be a positive multiple of 32"),
        ({"width": 0.0}, "--width must be positive"),
        ({"length": 0}, "--length must be at least 1"),
        ({"smoothing": 1.0}, r"--smoothing must lie in \[0, 1\)"),
        ({"dropout": -0.1}, r"--dropout must lie in \[0, 1\)"),
        ({"mosaic": 2.0}, r"--mosaic must lie in \[0, 1\]"),
        ({"anchors": (1.0, 2.0)}, "--anchors must be twelve positive numbers"),
        ({"accumulate": 0}, "--accumulate must lie from 1 to the batch size"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(InputError, match=message):
        VOC(**options)


def test_what_means_nothing_to_a_detector_is_no_option(run):
    status, _, err = run("train", "voc", "--hidden", "3")
    assert status == 2
    assert "--hidden" in err
