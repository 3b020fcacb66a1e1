"""Boxes follow what is painted in them, whatever becomes of their images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fptt import InputError
from fptt.data import boxes
from fptt.data.boxes import Pieces

SIZE = 64
COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def painted(seed, batch=4, rows=6):
    """Black images with one coloured rectangle each, of the colour of its label."""
    images = torch.zeros(batch, 3, SIZE, SIZE, dtype=torch.uint8)
    targets = torch.full((batch, rows, 6), boxes.PADDING)
    sides = torch.randint(16, 40, (batch, 2), generator=seeded(seed))
    starts = (torch.rand(batch, 2, generator=seeded(seed + 1)) * (SIZE - sides)).long()
    for i, ((width, height), (x, y)) in enumerate(zip(sides.tolist(), starts.tolist(), strict=True)):
        images[i, :, y : y + height, x : x + width] = COLOURS[i % 4, :, None, None]
        targets[i, 0] = torch.tensor([i % 4, x, y, x + width, y + height, i % 2])
    return images, targets


def of_colour(image, label):
    """Where an image [3, height, width] has the colour of a label rather than another, bool."""
    return ((image > 127) == (COLOURS[label] > 127)[:, None, None]).all(0)


def found(image, label):
    """The box of all pixels of a label's colour."""
    y, x = of_colour(image, label).nonzero().unbind(1)
    return torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)).float()


def objects(targets):
    return targets[targets[:, 0] >= 0]


SWITCHES = [{"flip": True}, {"scale": 1.0}, {"flip": True, "scale": 3.0}]


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("seed", range(10))
def test_boxes_move_with_their_pixels(switches, seed):
    images, targets = boxes.augment(*painted(seed), seeded(seed), **switches)
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        for label, *box, difficult in objects(target).tolist():
            assert label == i and difficult == i % 2
            assert torch.allclose(found(image, i), torch.tensor(box), atol=1.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_mosaic_shows_what_its_boxes_say(seed):
    images, targets = boxes.augment(*painted(seed), seeded(seed), flip=True, scale=0.5, mosaic=1.0)
    for image, target in zip(images, targets, strict=True):
        for label, x1, y1, x2, y2, _ in objects(target).tolist():
            inner = of_colour(image, int(label))[round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
            assert inner.all(), "another colour within the box"
    assert len(objects(targets.flatten(0, 1))) > len(images), "mosaics hold the objects of several images"


def test_mosaics_are_as_likely_as_asked_and_others_stay_as_they_are():
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    mixed, _ = boxes.augment(images, torch.full((200, 1, 6), boxes.PADDING), seeded(0), mosaic=0.3)
    others = (mixed == images).flatten(1).all(1)
    assert 110 < int(others.sum()) < 170
    assert len(mixed[~others].unique()) > 100, "of all images of the batch"


def test_about_half_of_the_images_are_mirrored():
    images = torch.arange(16, dtype=torch.uint8).expand(200, 3, 16, 16).contiguous()
    new, _ = boxes.augment(images, torch.full((200, 1, 6), boxes.PADDING), seeded(0), flip=True)
    assert 70 < int((new == images.flip(-1)).flatten(1).all(1).sum()) < 130
    assert ((new == images) | (new == images.flip(-1))).all()


def test_what_is_left_of_a_box():
    """Windows that show a quarter of a box and a little less, a box shrunk to 2 pixels and a little less."""
    target = torch.tensor([[[3.0, 10, 10, 30, 30, 1], [4.0, 60, 60, 64, 64, 0], [-1.0] * 6]])

    def moved(window, place):
        zero = torch.zeros(1, dtype=torch.int64)
        return objects(boxes._moved(target, Pieces(zero, zero, torch.tensor([window]), torch.tensor([place])))[0]).tolist()

    assert moved((0, 0, 64, 64), (0, 0, 64, 64)) == [[3, 10, 10, 30, 30, 1], [4, 60, 60, 64, 64, 0]]
    assert moved((20, 20, 52, 52), (0, 0, 64, 64)) == [[3, 0, 0, 20, 20, 1]]
    assert moved((21, 20, 53, 52), (0, 0, 64, 64)) == []
    assert moved((0, 0, 64, 64), (16, 20, 48, 52)) == [[3, 21, 25, 31, 35, 1], [4, 46, 50, 48, 52, 0]]
    assert moved((0, 0, 64, 64), (16, 20, 46, 52)) == [[3, 16 + 10 * 30 / 64, 25, 16 + 30 * 30 / 64, 35, 1]]


def test_the_smallest_objects_are_left_out_where_a_mosaic_holds_too_many():
    sides = torch.tensor([4.0, 30, 10, 20])
    target = torch.stack([torch.tensor([i, 0, 0, side, side, 0]) for i, side in enumerate(sides.tolist())])
    source = torch.arange(2).repeat(2)
    window = torch.tensor([[0, 0, 64, 64]]).expand(4, 4)
    pieces = Pieces(source, torch.tensor([0, 0, 1, 1]), window, window)
    new = boxes._moved(torch.stack((target, target + torch.tensor([10.0, 0, 0, 0, 0, 0]))), pieces)
    assert new.shape == (2, 4, 6)
    assert [sorted(rows.tolist()) for rows in new[..., 0]] == [[1, 3, 11, 13]] * 2
    assert new[0, :, 3].tolist() == [30, 30, 20, 20]


def test_mirrored_twice_is_as_before():
    images, targets = painted(0)
    images = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    chosen = torch.tensor([True, False, True, True])
    once = boxes.mirrored(images, targets, chosen)
    assert torch.equal(once[0][1], images[1]) and torch.equal(once[1][1], targets[1])
    assert not torch.equal(once[0][0], images[0]) and not torch.equal(once[1][0], targets[0])
    twice = boxes.mirrored(*once, chosen)
    assert torch.equal(twice[0], images) and torch.equal(twice[1], targets)


def test_colours_turn_about_the_greys(monkeypatch):
    """A third of a turn exchanges red, green and blue; an exposure of a factor 2 makes all twice as bright."""
    monkeypatch.setattr(boxes, "HUE", 1 / 3)
    image = torch.tensor([[10, 100], [20, 100], [40, 100]], dtype=torch.uint8).view(1, 3, 2, 1)

    def with_factors(turn, saturation, exposure, colours=1.0):
        monkeypatch.setattr(boxes, "COLOURS", colours)
        factors = torch.tensor([turn, saturation, exposure]).view(3, 1, 1, 1)
        monkeypatch.setattr(boxes, "_uniform", lambda *_: factors)
        return boxes.recoloured(image, 1.0, seeded(0))[0, :, :, 0].T.tolist()

    assert with_factors(1.0, 0, 0) == [[20, 40, 10], [100] * 3] or with_factors(1.0, 0, 0) == [[40, 10, 20], [100] * 3]
    assert with_factors(0.0, 0, 1, 2.0) == [[20, 40, 80], [200] * 3]
    assert with_factors(0.0, 0, 1, 3.0) == [[30, 60, 120], [255] * 3]
    luma = 0.299 * 10 + 0.587 * 20 + 0.114 * 40
    assert with_factors(0.0, 1, 0, 2.0) == [[round(2 * c - luma) for c in (10, 20, 40)], [100] * 3]
    assert with_factors(0.0, -1, 0, 1e9) == [[round(luma)] * 3, [100] * 3]


def test_colours_leave_boxes_and_other_images_alone():
    images, targets = painted(2)
    new, same = boxes.augment(images, targets, seeded(0), colour=1.0)
    assert torch.equal(same, targets) and not torch.equal(new, images)
    assert torch.equal(boxes.recoloured(images, 0.0, seeded(0)), images)


@given(st.integers(0, 2**32), st.booleans(), st.floats(0, 4), st.floats(0, 2), st.floats(0, 1), st.integers(1, 5))
def test_shapes_padding_and_boxes_inside(seed, flip, scale, colour, mosaic, batch):
    images, targets = painted(seed, batch)
    switches = {"flip": flip, "scale": scale, "colour": colour, "mosaic": mosaic}
    new, moved = boxes.augment(images, targets, seeded(seed), **switches)
    again = boxes.augment(images, targets, seeded(seed), **switches)
    assert torch.equal(new, again[0]) and torch.equal(moved, again[1]), "the same from the same generator"
    assert new.shape == images.shape and new.dtype == torch.uint8 and moved.shape == targets.shape
    padding = moved[moved[..., 0] < 0]
    assert (padding == boxes.PADDING).all()
    left = moved[moved[..., 0] >= 0]
    assert not len(left) or (left[:, 1:5].min() >= 0 and left[:, 1:5].max() <= SIZE)
    assert ((left[:, 3:5] - left[:, 1:3]) >= boxes.SMALLEST).all() or not (scale or mosaic)


def test_without_objects():
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    for rows in (0, 4):
        targets = torch.full((3, rows, 6), boxes.PADDING)
        _, same = boxes.augment(images, targets, seeded(0), flip=True, scale=1.0, colour=1.0, mosaic=0.5)
        assert torch.equal(same, targets)


def test_nothing_asked_for_changes_nothing():
    images, targets = painted(3)
    same = boxes.augment(images, targets, seeded(0))
    assert torch.equal(same[0], images) and torch.equal(same[1], targets)


@pytest.mark.parametrize(("settings", "message"), [((-1, 0, 0), "scale"), ((0, 3, 0), "colour"), ((0, 0, 1.1), "mosaic")])
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=f"--{message} must lie in"):
        boxes.check(*settings)
