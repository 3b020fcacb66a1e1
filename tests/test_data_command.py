"""fptt data: sets of images with boxes; archives as published or not."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import event_files
import voc_files
from fptt import pictures
from fptt.data import published

FEW = {
    "trainval": {"a": (40, 30, [("cow", 5, 6, 20, 25, 0), ("dog", 1, 1, 40, 30, 1)]), "b": (30, 60, [])},
    "train": {"a": (40, 30, [("cow", 5, 6, 20, 25, 0), ("dog", 0, 1, 40, 30, 1)])},
    "test": {"e": (64, 32, [("cow", 33, 1, 64, 16, 0)])},
}


@pytest.fixture
def few(tmp_path, torchvision):
    pytest.importorskip("defusedxml")
    return voc_files.write(tmp_path / "VOCdevkit" / "VOC2007", FEW)


def test_images_with_boxes_are_checked(run, few, tmp_path):
    status, out, _ = run("data", "check", "PASCAL VOC", "--data", tmp_path, "--json")
    facts = json.loads(out)
    assert status == 0 and facts.pop("path") == str(tmp_path / "VOCdevkit")
    counts = {"training_images": 2, "test_images": 1, "objects": 3, "difficult_objects": 1, "clipped_boxes": 1, "classes": 2}
    assert facts == {"data_set": "PASCAL VOC", "readable": True, **counts}
    (few / "JPEGImages" / "b.jpg").write_bytes(b"")
    status, _, err = run("data", "check", "voc", "--data", tmp_path)
    assert status == 2 and "b.jpg cannot be read as an image" in err and err.count("\n") == 1
    for path in few.glob("ImageSets/Main/*.txt"):
        path.unlink()
    status, _, err = run("data", "check", "voc", "--data", tmp_path)
    assert status == 2 and "holds no lists of images" in err and err.count("\n") == 1


def test_images_with_boxes_are_shown(run, few, tmp_path):
    status, out, _ = run("data", "show", "voc", "--data", tmp_path, "--out", "e.png", "--json")
    assert status == 0 and json.loads(out) == {"picture": "e.png", "image": "e", "objects": ["cow"]}
    with Image.open(tmp_path / "e.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:] < 80).all(-1)
    assert red.mean() > 0.05, "the object is painted red"
    status, _, err = run("data", "show", "voc", "--sample", "1", "--data", tmp_path)
    assert status == 2 and "choose --sample from 0 to 0" in err and err.count("\n") == 1


def test_boxes_are_drawn_where_they_are(torchvision):
    image = torch.full((3, 100, 200), 200, dtype=torch.uint8)
    drawn = pictures.boxed(image, torch.tensor([[20.0, 30, 80, 90], [100, 10, 190, 60]]), ["cow", "dog"])
    assert drawn.shape == (100, 200, 3) and drawn.dtype == np.uint8
    changed = (drawn != 200).any(-1)
    assert changed[30:90, 20].all() and changed[90, 20:80].all() and changed[10:60, 190].all()
    assert not changed[:8].any() and not changed[:, :18].any() and not changed[50:80, 30:70].any()
    assert set(map(tuple, drawn[85, 18:24].tolist())) != set(map(tuple, drawn[55, 98:104].tolist())), "a colour for each class"
    assert np.array_equal(pictures.boxed(image, torch.zeros(0, 4), []), image.permute(1, 2, 0).numpy())


def test_archives_are_compared_with_those_published(run, tmp_path, monkeypatch):
    home = tmp_path / "NMNIST"
    home.mkdir()
    files = event_files.nmnist_files(1)
    for part in ("Train", "Test"):
        event_files.write_zip(home / f"{part}.zip", {name: body for name, body in files.items() if name.startswith(part)})
    sums = {part: hashlib.md5((home / f"{part}.zip").read_bytes()).hexdigest() for part in ("Train", "Test")}
    monkeypatch.setitem(published.SUMS, "N-MNIST", {"train.zip": sums["Train"], "test.zip": "0" * 32})
    status, out, err = run("data", "check", "nmnist", "--data", tmp_path, "--json")
    assert status == 0 and json.loads(out)["archives"] == "Test.zip not as published, Train.zip as published"
    expected = f"{home / 'Test.zip'} is not the published file: its md5 is {sums['Test']}, that of the published {'0' * 32}"
    assert err == f"fptt: {expected}\n"
    monkeypatch.setitem(published.SUMS, "N-MNIST", {"train.zip": sums["Train"], "test.zip": sums["Test"]})
    status, out, err = run("data", "check", "nmnist", "--data", tmp_path)
    assert status == 0 and "archives  Test.zip as published, Train.zip as published" in out and not err


def test_an_archive_that_is_the_whole_set_is_compared_too(run, tmp_path, monkeypatch):
    path = tmp_path / "DvsGesture.tar.gz"
    event_files.write_tar(path, event_files.gesture_files(2, 1)[0])
    monkeypatch.setitem(published.SUMS, "DVS128 Gesture", {"dvsgesture.tar.gz": hashlib.md5(path.read_bytes()).hexdigest()})
    status, out, err = run("data", "check", "dvs-gesture", "--data", tmp_path, "--json")
    assert status == 0 and json.loads(out)["archives"] == "DvsGesture.tar.gz as published" and not err


def test_folders_have_no_published_sums(run, tmp_path):
    event_files.write_folder(tmp_path / "NMNIST", event_files.nmnist_files(1))
    status, out, err = run("data", "check", "nmnist", "--data", tmp_path, "--json")
    assert status == 0 and "archives" not in json.loads(out) and not err


JELLY = {"N-MNIST": "n_mnist", "DVS128 Gesture": "dvs128_gesture", "CIFAR10-DVS": "cifar10_dvs", "SHD": "shd"}


@pytest.mark.parametrize(("library", "files"), [("spikingjelly", JELLY), ("tonic", {"N-MNIST": "nmnist", "SHD": "hsd"})])
def test_the_published_sums_are_those_of_other_libraries(library, files):
    """Read in their sources, for not every torch lets them be imported."""
    spec = importlib.util.find_spec(library)
    if spec is None:
        pytest.skip(f"{library} is not installed")
    for name, file in files.items():
        text = (Path(spec.origin).parent / "datasets" / f"{file}.py").read_text(encoding="utf-8").lower()
        for archive, md5 in published.SUMS[name].items():
            assert archive in text and md5 in text
            if library == "spikingjelly":
                assert re.search(rf'"{archive}",[^()]*?"{md5}"', text), "each beside its own archive"
