"""The simulated event camera: what must hold for any film, and how its recordings compare with real ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fptt import InputError
from fptt.data.simulated import CORNERS, MARGIN, SACCADE, Camera, saccades, simulate

IDEAL = {"mismatch": 0.0, "refractory": 0, "noise": 0.0}
CAMERA = Camera(**IDEAL)

films = arrays(np.float32, st.tuples(st.integers(2, 6), st.just(3), st.just(4)), elements=st.floats(0, 1, width=32))


def timed(film, interval=1000):
    """A film [frames, height, width] as a batch of one."""
    return ((n * interval, frame[None]) for n, frame in enumerate(film))


def record(film, camera=CAMERA):
    return simulate(timed(film), camera)[0]


def summed(events, on=1.0, off=1.0):
    """What the events of each pixel add up to, [height, width]."""
    total = np.zeros((events.height, events.width))
    np.add.at(total, (events.y, events.x), np.where(events.p, on, -off))
    return total


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
@settings(max_examples=20, deadline=None)
def test_a_static_image_makes_no_events(image):
    events = record(np.stack([image] * 4))
    assert len(events.t) == 0 and (events.width, events.height) == (4, 3)


@given(films, st.floats(0.1, 1), st.floats(0.1, 1))
@settings(max_examples=60, deadline=None)
def test_events_add_up_to_the_change_of_log_brightness_within_a_threshold(film, on, off):
    events = record(film, Camera(on=on, off=off, **IDEAL))
    change = np.log(CAMERA.floor + film[-1].astype(float)) - np.log(CAMERA.floor + film[0].astype(float))
    error = change - summed(events, on, off)
    assert (error <= 1.01 * on).all() and (error >= -1.01 * off).all()


@given(films)
@settings(max_examples=60, deadline=None)
def test_events_are_in_order_on_the_sensor_and_within_the_film(film):
    events = record(film, Camera(mismatch=0.2, noise=5000.0, refractory=300))
    assert (np.diff(events.t) >= 0).all() and len({len(column) for column in events[:4]}) == 1
    if len(events.t):
        assert events.t[0] >= 0 and events.t[-1] <= 1000 * (len(film) - 1)
        assert events.x.min() >= 0 and events.x.max() < 4 and events.y.min() >= 0 and events.y.max() < 3
    assert [column.dtype for column in events[:4]] == [np.int64, np.int16, np.int16, np.bool_]


@given(films)
@settings(max_examples=40, deadline=None)
def test_inverted_contrast_swaps_on_and_off(film):
    levels = CAMERA.floor + film
    inverse = CAMERA.floor * (1 + CAMERA.floor) / levels - CAMERA.floor  # log brightness, mirrored, from 0 to 1 again
    events, swapped = record(film), record(inverse)
    np.testing.assert_allclose(summed(events), -summed(swapped), atol=1)
    assert events.p.sum() == pytest.approx((~swapped.p).sum(), abs=12), "but for a pixel that ends at its threshold"


def test_more_contrast_for_a_threshold_makes_more_events():
    ramp = np.linspace(0, 1, 200, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    height = np.log(1.1 / 0.1)
    for threshold in (0.05, 0.1, 0.3, 0.7):
        events = record(ramp, Camera(on=threshold, **IDEAL))
        assert len(events.t) == 4 * int(height / threshold) and events.p.all()


def test_times_are_interpolated_between_frames():
    """A step from 0 to 1 taken as a line in log brightness: its n-th event lies where the line crosses n thresholds."""
    events = record(np.array([[[0]], [[1]]], np.float32), Camera(on=0.5, **IDEAL))
    assert events.t.tolist() == [int(1000 * n * 0.5 / np.log(11)) for n in (1, 2, 3, 4)]


def test_refractory_pixels_lose_events():
    film = np.array([[[0]], [[1]]], np.float32)
    assert record(film, Camera(on=0.5, **IDEAL | {"refractory": 300})).t.tolist() == [208, 625]


def test_noise_has_its_rate_and_both_polarities():
    film = np.zeros((2, 20, 20), np.float32)
    events = simulate(timed(film, 1_000_000), Camera(noise=10.0))[0]
    assert len(events.t) == pytest.approx(4000, rel=0.1) and events.p.mean() == pytest.approx(0.5, abs=0.05)


def test_thresholds_differ_from_pixel_to_pixel_and_are_the_camera_s():
    on, off = Camera(on=0.2, off=0.4, mismatch=0.1).thresholds(50, 60)
    assert on.shape == (50, 60) and on.mean() == pytest.approx(0.2, rel=0.02) and on.std() == pytest.approx(0.02, rel=0.1)
    assert off.mean() == pytest.approx(0.4, rel=0.02) and abs(np.corrcoef(on.flat, off.flat)[0, 1]) < 0.1
    assert (Camera(mismatch=5.0).thresholds(50, 60)[0] > 0).all()
    assert (Camera(seed=1).thresholds(5, 5)[0] != Camera(seed=2).thresholds(5, 5)[0]).any()


def bar():
    image = np.zeros((1, 28, 28), np.float32)
    image[0, 4:24, 12:16] = 1
    return image


def test_recordings_repeat_and_do_not_depend_on_the_batch():
    ink = np.random.default_rng(0).random((3, 28, 28)).astype(np.float32)
    together, again = simulate(saccades(ink), Camera()), simulate(saccades(ink), Camera())
    alone = simulate(saccades(ink[2:]), Camera(), first=2)[0]
    for one, other in ((together[2], again[2]), (together[2], alone)):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(together[0].t, simulate(saccades(ink), Camera(seed=1))[0].t)


def test_saccades_start_and_end_at_rest_at_the_corners():
    frames = dict(saccades(bar(), dark=False))
    assert list(frames)[-1] == 3 * SACCADE
    for number, (right, down) in enumerate(CORNERS):
        moved = frames[number * SACCADE]
        assert moved.shape == (1, 28 + MARGIN, 28 + MARGIN)
        np.testing.assert_array_equal(moved[0, down : down + 28, right : right + 28], bar()[0])
        assert moved.sum() == bar().sum()
    assert np.allclose(frames[0], 1 - next(saccades(bar()))[1])


def test_ink_that_is_dark_has_off_events_ahead():
    """On the last side the image moves left: there the leading edge is OFF, as in N-MNIST."""
    for dark in (True, False):
        events = simulate(saccades(bar(), dark), CAMERA)[0]
        last = events.t > 2 * SACCADE
        ahead = events.x[last & ~events.p].mean() < events.x[last & events.p].mean()
        assert ahead == dark


@pytest.mark.parametrize("setting", ["on", "off", "floor", "mismatch", "refractory", "noise"])
def test_settings_of_the_camera_outside_their_range(setting):
    with pytest.raises(InputError, match=f"the camera's {setting} must"):
        Camera(**{setting: -1})
