"""CIFAR-10 from its own files, in the layout of the "CIFAR-10 python version" at www.cs.toronto.edu/~kriz/cifar.html."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch

from fptt.data import images

EACH = 20  # images in a batch file; 10,000 in the real ones
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar10(tmp_path, torchvision, monkeypatch):
    """The data folder, with five batches to train and one to test, of ``EACH`` random images."""
    folder, random = tmp_path / "data" / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name):
        labels = random.integers(0, 10, EACH)
        pixels = random.integers(0, 256, (EACH, 3072)).astype(np.uint8)  # a plane of red, one of green, one of blue, by rows
        names = [f"{NAMES[label]}_s_{n:06d}.png" for n, label in enumerate(labels)]
        return write(name, {"batch_label": name, "labels": labels.tolist(), "data": pixels, "filenames": names})

    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [batch(f"data_batch_{n}") for n in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [batch("test_batch")])
    meta = write("batches.meta", {"num_cases_per_batch": EACH, "label_names": NAMES, "num_vis": 3072})
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta[1]})
    monkeypatch.setitem(images.SIZES, "CIFAR10", (5 * EACH, EACH))
    return folder.parent


def test_images_are_those_of_the_files(cifar10):
    train, validation, test = images.cifar10(cifar10, 10)
    assert [len(one) for one in (train, validation, test)] == [90, 10, 20]
    files = [pickle.loads((cifar10 / "cifar-10-batches-py" / f"data_batch_{n}").read_bytes()) for n in range(1, 6)]
    theirs = [[*pixels, label] for file in files for pixels, label in zip(file["data"].tolist(), file["labels"], strict=True)]
    x, y = (torch.cat(pair) for pair in ((train.x, validation.x), (train.y, validation.y)))
    assert sorted(torch.cat(((x * 255).round().long().flatten(1), y[:, None]), 1).tolist()) == sorted(theirs)
    last = pickle.loads((cifar10 / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert test.y.tolist() == last["labels"]
    assert torch.equal((test.x * 255).round(), torch.from_numpy(last["data"]).view(EACH, 3, 32, 32).float())


def test_the_task_trains_and_evaluates(cifar10, run, tmp_path):
    sizes = ["--channels", "4", "4", "4", "--hidden", "8", "--length", "2", "--validation-size", "20", "--batch-size", "16"]
    status, _, err = run("train", "cifar10", "--data", cifar10, "--epochs", "1", "--out", "first", *sizes)
    assert status == 0, err
    status, out, err = run("evaluate", "first", "--json")
    assert status == 0 and 0 <= json.loads(out)["accuracy"] <= 1, err
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert summary["test_accuracy"] == json.loads(out)["accuracy"]


def test_a_changed_file_is_damage(cifar10, run, monkeypatch):
    """torchvision compares md5 sums and fetches the set anew where one is wrong."""

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    path = cifar10 / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    status, _, err = run("train", "cifar10", "--data", cifar10)
    assert status == 2 and "CIFAR10 is not under" in err and "no network" in err and err.count("\n") == 1
