"""A simulated set is written in N-MNIST's format and layout, once, and says that it is simulated."""

import json

import numpy as np
import pytest
import torch

from fptt import InputError
from fptt.data import formats, recordings, simulated_set
from fptt.data.samples import Samples
from fptt.data.simulated import Camera, saccades, simulate


@pytest.fixture
def images():
    x = torch.rand(9, 28, 28, generator=torch.Generator().manual_seed(0)).square()
    y = torch.tensor([3, 0, 3, 1, 2, 3, 0, 1, 2])
    return Samples(x[:6], y[:6], "train"), Samples(x[6:], y[6:], "test")


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_written_and_read_again(images, tmp_path):
    camera = Camera()
    target = simulated_set.folder(tmp_path, "MNIST", (6, 3), camera)
    simulated_set.make(target, "MNIST", *images, camera)
    train, test = sorted(target.glob("Train/*/*.bin")), sorted(target.glob("Test/*/*.bin"))
    assert [file.relative_to(target).as_posix() for file in test] == [
        "Test/0/00001.bin",
        "Test/1/00002.bin",
        "Test/2/00003.bin",
    ]
    assert sorted(int(file.stem) for file in train) == [1, 2, 3, 4, 5, 6]
    assert all(int(file.parent.name) == images[0].y[int(file.stem) - 1] for file in train)
    for number, file in ((4, target / "Train/2/00005.bin"), (7, target / "Test/1/00002.bin")):
        x = torch.cat([samples.x for samples in images])[number : number + 1].numpy()
        events = recordings.read(file)
        assert same(events, simulate(saccades(x), camera, number)[0]) and (events.width, events.height) == (34, 34)
    description = json.loads((target / "simulated.json").read_text())
    assert description["made"].startswith("simulated") and description["images"] == "MNIST"
    assert description["camera"]["on"] == camera.on


def test_the_format_keeps_all_times_of_a_recording(images):
    events = simulate(saccades(images[0].x.numpy()), Camera(noise=100.0))[0]
    assert events.t[-1] > 2**16 and same(formats.nmnist(simulated_set.nmnist_bytes(events), "it"), events)


def test_each_setting_has_a_folder_of_its_own_and_is_made_once(images, tmp_path):
    cases = [("MNIST", (6, 3), Camera()), ("FashionMNIST", (6, 3), Camera()), ("MNIST", (6, 2), Camera())]
    cases += [("MNIST", (6, 3), Camera(noise=1.0))]
    folders = {simulated_set.folder(tmp_path, *case, dark=dark) for case in cases for dark in (True, False)}
    assert len(folders) == 2 * len(cases)
    target = tmp_path / "simulated" / "MNIST-0"
    simulated_set.make(target, "MNIST", *images, Camera())
    before = {file: file.stat().st_mtime_ns for file in target.rglob("*")}
    simulated_set.make(target, "MNIST", *images, Camera())
    assert {file: file.stat().st_mtime_ns for file in target.rglob("*")} == before


def test_what_is_interrupted_leaves_nothing(images, tmp_path, monkeypatch):
    target = tmp_path / "simulated" / "MNIST-0"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated_set, "nmnist_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        simulated_set.make(target, "MNIST", *images, Camera())
    assert not list((tmp_path / "simulated").iterdir())


def test_a_folder_that_cannot_be_written(images, tmp_path):
    (tmp_path / "simulated").write_text("a file")
    with pytest.raises(InputError, match=r"^cannot write simulated recordings to .*--data$"):
        simulated_set.make(tmp_path / "simulated" / "MNIST-0", "MNIST", *images, Camera())
