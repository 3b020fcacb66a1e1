"""What a variation changes, and what it must leave."""

import pytest
import torch

from fptt import InputError
from fptt.data import augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.randint(0, 9, (64, 6, 2, 12, 10), generator=generator()).to(torch.uint8)


def test_nothing_is_varied_that_is_not_asked_for(x):
    assert torch.equal(augment.varied(x, generator()), x.float())


EVERY = {"flip": True, "shift": 3, "rotate": 20.0, "drop": True, "jitter": 0.3}


@pytest.mark.parametrize("name", [*EVERY, "all"])
def test_every_variation_follows_its_generator_and_differs_between_samples(x, name):
    options = EVERY if name == "all" else {name: EVERY[name]}
    alike = x[:1].expand(64, -1, -1, -1, -1)
    y = augment.varied(alike, generator(1), **options)
    assert y.shape == x.shape and y.dtype == torch.float32 and (y >= 0).all()
    assert torch.equal(y, augment.varied(alike, generator(1), **options))
    assert not torch.equal(y, augment.varied(alike, generator(2), **options))
    assert len({sample.numpy().tobytes() for sample in y}) > 1
    if name in ("flip", "shift", "rotate"):
        moved = augment.varied(alike[:, :1].expand_as(x), generator(1), **options)
        assert (moved == moved[:, :1]).all(), "all frames of a sample alike"


def test_a_rotation_turns_about_the_centre_without_distortion():
    frames = torch.zeros(200, 1, 1, 21, 41)
    frames[..., 10, 28] = 1  # 8 pixels right of the centre
    frames[..., 10, 20] = 5
    y = augment.rotated(frames, 90.0, generator())
    assert (y[..., 10, 20] == 5).all()
    _, _, _, row, column = (y == 1).nonzero(as_tuple=True)
    radius = ((row - 10.0) ** 2 + (column - 20.0) ** 2).sqrt()
    assert (radius - 8).abs().max() <= 1.0
    assert row.min() <= 3 and row.max() >= 17, "to both sides, up to a quarter turn"


def test_event_drop_takes_a_time_a_box_or_single_events_or_nothing():
    x = torch.ones(4000, 10, 2, 20, 20)
    y = augment.event_dropped(x, generator())
    kept = y.flatten(1).mean(1)
    untouched = kept == 1
    frames = y.flatten(2).amax(2).sum(1)
    times = (frames < 10) & ~untouched
    whole = y.amin((1, 2))
    boxes = ~untouched & ~times & torch.isclose(kept, whole.flatten(1).mean(1))
    anywhere = ~untouched & ~times & ~boxes
    for kind in (untouched, times, boxes, anywhere):
        assert kind.float().mean() == pytest.approx(0.25, abs=0.05)
    assert kept[times].min() >= 0.1 and kept[times].mean() == pytest.approx(0.5, abs=0.05)
    assert kept[boxes].min() >= 1 - 0.35**2 and kept[boxes].max() < 1
    assert kept[anywhere].min() >= 0.08 and kept[anywhere].max() <= 0.92


def test_time_jitter_keeps_every_event_and_moves_it_by_one_frame(x):
    y = augment.time_jittered(x.float(), 0.5, generator())
    torch.testing.assert_close(y.sum(1), x.float().sum(1))
    single = torch.zeros(50, 5, 1, 1, 1)
    single[:, 2] = 8
    moved = augment.time_jittered(single, 0.5, generator())
    assert (moved[:, (0, 4)] == 0).all() and (moved[:, 2] >= 4).all() and (moved[:, 2] < 8).all()
    assert ((moved[:, 1] > 0) ^ (moved[:, 3] > 0)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [((12, 0, 0), "--shift"), ((-1, 0, 0), "--shift"), ((0, 181, 0), "--rotate"), ((0, 0, 2), "--jitter")],
)
def test_settings_outside_their_range(settings, message):
    with pytest.raises(InputError, match=message):
        augment.check(*settings, size=12)
