"""Digits, MNIST (real, damaged and missing) and the encodings."""

import struct
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fptt import InputError
from fptt.data import images


def test_digits_are_split_without_overlap():
    sets = images.digits()
    assert [(len(s), s.name) for s in sets] == [(1297, "train"), (200, "validation"), (300, "test")]
    x = torch.cat([s.x for s in sets])
    assert x.shape == (1797, 8, 8) and x.min() == 0 and x.max() == 1
    bundle = load_digits()
    ours = sorted(zip(x.flatten(1).mul(16).int().tolist(), torch.cat([s.y for s in sets]).tolist(), strict=True))
    theirs = sorted(zip(bundle.data.astype(int).tolist(), bundle.target.tolist(), strict=True))
    assert ours == theirs, "every digit once, with its own label"


def test_digits_follow_the_seed():
    assert torch.equal(images.digits(1)[0].x, images.digits(1)[0].x)
    assert not torch.equal(images.digits(1)[2].x, images.digits(2)[2].x)


def test_real_mnist(data, torchvision, monkeypatch):
    seen = []
    original = images.split
    monkeypatch.setattr(images, "split", lambda samples, *rest: seen.append(samples) or original(samples, *rest))
    train, validation, test = images.mnist(data, 5000)
    assert [len(s) for s in (train, validation, test)] == [55_000, 5_000, 10_000]
    assert train.x.shape[1:] == (28, 28) and train.x.min() == 0 and train.x.max() == 1
    assert test.y[:5].tolist() == [7, 2, 1, 0, 4], "the official test set, in its order"
    official = seen[0]
    assert official.y[:5].tolist() == [5, 0, 4, 1, 9]
    indices = images.Samples(torch.arange(60_000), torch.arange(60_000))
    ours, held_out = original(indices, 5000, ("train", "validation"), 0)
    assert not set(ours.x.tolist()) & set(held_out.x.tolist())
    assert torch.equal(official.x[held_out.x], validation.x) and torch.equal(official.x[ours.x], train.x)


def test_real_fashion_mnist(data, torchvision):
    train, validation, test = images.mnist(data, 5000, kind="FashionMNIST")
    assert [len(s) for s in (train, validation, test)] == [55_000, 5_000, 10_000]
    assert test.y[:5].tolist() == [9, 2, 1, 1, 6] and train.x.shape[1:] == (28, 28)


def write_idx(path, shape, payload):
    path.write_bytes(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(payload))


@pytest.fixture
def few_images(tmp_path):
    """MNIST's four files, complete but of 3 images each."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", (3, 28, 28), 3 * 28 * 28)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (3,), 3)
    return raw


def truncate(raw):
    write_idx(raw / "train-images-idx3-ubyte", (60_000, 28, 28), 1000)


def cut_header(raw):
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0")


def empty(raw):
    (raw / "train-labels-idx1-ubyte").write_bytes(b"")


def other_contents(raw):
    (raw / "train-images-idx3-ubyte").write_bytes(b"<html>404 not found</html>" * 100)


@pytest.mark.parametrize("damage", [lambda raw: None, truncate, cut_header, empty, other_contents])
def test_damaged_mnist(few_images, damage, torchvision, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    damage(few_images)
    with pytest.raises(InputError, match=r"^MNIST under .*raw is damaged.*fetch it again$"):
        images.mnist(few_images.parent.parent, 1)


def no_network(*_, **__):
    raise URLError("no network")


def test_missing_mnist(tmp_path, torchvision, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    with pytest.raises(InputError, match=r"^MNIST is not under .*nowhere and could not be fetched .*--data.*$"):
        images.mnist(tmp_path / "nowhere", 1)


@pytest.fixture
def colour_images(monkeypatch, torchvision):
    """torchvision's CIFAR10, but of 20 training images of 4 x 4 pixels; returns the loader of such a set."""

    class Few:
        def __init__(self, folder, train, download):
            rng = np.random.default_rng(train)
            number = 20 if train else 10
            self.data, self.targets = rng.integers(0, 256, (number, 4, 4, 3), np.uint8), list(range(number))
            few.append(self)

    few = []
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Few)
    monkeypatch.setitem(images.SIZES, "CIFAR10", (20, 10))

    def load(shape=(4, 4, 3)):
        return images._from_torchvision("CIFAR10", Path("data"), "batches", shape=shape, validation_size=5, seed=0), few

    return load


def test_colours_come_first_and_stay_with_their_labels(colour_images):
    (train, validation, test), few = colour_images()
    assert [(len(s), s.name) for s in (train, validation, test)] == [(15, "train"), (5, "validation"), (10, "test")]
    assert sorted([*train.y.tolist(), *validation.y.tolist()]) == list(range(20))
    for x, y in zip(train.x, train.y, strict=True):
        assert torch.equal(x.permute(1, 2, 0) * 255, torch.tensor(few[0].data[y]).float())


def test_images_of_another_size_are_damage(colour_images):
    with pytest.raises(InputError, match=r"CIFAR10 under data/batches is damaged .*\[20, 8, 4, 3\], found 20 labels"):
        colour_images((8, 4, 3))


def test_missing_cifar10(tmp_path, torchvision, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(InputError, match=r"^CIFAR10 is not under .* could not be fetched .*cifar-10-batches-py.*--data.*$"):
        images.cifar10(tmp_path, 1)


def some_images():
    return torch.rand(5, 4, 3)


def test_rows_and_pixels_in_reading_order():
    x = some_images()
    rows, pixels = images.rows(x), images.pixels(x)
    assert rows.shape == (4, 5, 3) and torch.equal(rows[2, 1], x[1, 2])
    assert pixels.shape == (12, 5, 1) and torch.equal(pixels[7, :, 0], x[:, 2, 1])


def test_constant_current_and_rate_code():
    x = some_images()
    x[0] = torch.tensor([0.0, 0.5, 1.0])
    assert torch.equal(images.repeated(x, 6), x.flatten(1).repeat(6, 1, 1))
    spikes = images.rate_coded(x, 2000, torch.Generator().manual_seed(0))
    assert spikes.shape == (2000, 5, 12) and set(spikes.unique().tolist()) == {0, 1}
    torch.testing.assert_close(spikes.mean(0), x.flatten(1), rtol=0, atol=0.05)
    assert torch.equal(spikes[:, 0, 0], torch.zeros(2000)) and torch.equal(spikes[:, 0, 2], torch.ones(2000))
    assert torch.equal(spikes, images.rate_coded(x, 2000, torch.Generator().manual_seed(0)))
    assert not torch.equal(spikes, images.rate_coded(x, 2000, torch.Generator().manual_seed(1)))


def shifts_of(x, y, pixels):
    """Every (down, across) that turns image ``x`` [height, width] into ``y``, zeros moving in."""
    height, width = x.shape
    padded = torch.nn.functional.pad(x, (pixels,) * 4)
    moves = [(down, across) for down in range(2 * pixels + 1) for across in range(2 * pixels + 1)]
    return [(a, b) for a, b in moves if torch.equal(padded[a : a + height, b : b + width], y)]


def test_shifted_images_move_as_wholes():
    x = torch.rand(400, 6, 5)
    moved = images.shifted(x, 1, torch.Generator().manual_seed(0))
    moves = [shifts_of(a, b, 1) for a, b in zip(x, moved, strict=True)]
    assert all(len(found) == 1 for found in moves), "each is its own image, moved"
    counts = Counter(found[0] for found in moves)
    assert len(counts) == 9 and min(counts.values()) > 20
    colours = images.shifted(x.unsqueeze(1) * torch.tensor([1.0, 2, 3]).view(3, 1, 1), 1, torch.Generator().manual_seed(0))
    assert torch.equal(colours[:, 2], 3 * moved), "all colours of an image move together"


def test_mirrored_images_are_flipped_at_even_odds():
    x = torch.rand(400, 3, 2, 5)
    mirrored = images.mirrored(x, torch.Generator().manual_seed(0))
    flipped = (mirrored == x.flip(-1)).flatten(1).all(1)
    same = (mirrored == x).flatten(1).all(1)
    assert (flipped ^ same).all() and 150 < flipped.sum() < 250
