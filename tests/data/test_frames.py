"""Frames: sums of events, equal to those of other libraries."""

import numpy as np
import pytest
import torch

from event_files import some_events
from fptt import InputError
from fptt.data import frames
from fptt.data.events import Events, between

EVENTS = some_events(5003, 20, 12)


def reference(events, ends):
    """One event after the other."""
    result = np.zeros((len(ends), 2, events.height, events.width), int)
    frame = 0
    for i in range(ends[-1]):
        while i >= ends[frame]:
            frame += 1
        result[frame, int(events.p[i]), events.y[i], events.x[i]] += 1
    return result


@pytest.mark.parametrize("number", [1, 2, 7, 20, 5003, 6000])
def test_by_count(number):
    ends = [(i + 1) * (5003 // number) for i in range(number - 1)] + [5003]
    ours = frames.by_count(EVENTS, number)
    assert ours.dtype == np.uint16 and np.array_equal(ours, reference(EVENTS, ends))


@pytest.mark.parametrize("groups", [1, 3 * 480, 10**9])
def test_frames_are_summed_in_groups(groups, monkeypatch):
    expected = frames.by_count(EVENTS, 11)
    monkeypatch.setattr(frames, "AT_ONCE", groups)
    assert np.array_equal(frames.by_count(EVENTS, 11), expected)


@pytest.mark.parametrize("number", [1, 3, 10, 100])
def test_by_bins(number):
    width = int(EVENTS.t[-1] - EVENTS.t[0]) // number
    ends = [int((EVENTS.t < EVENTS.t[0] + width * (i + 1)).sum()) for i in range(number - 1)] + [5003]
    assert np.array_equal(frames.by_bins(EVENTS, number), reference(EVENTS, ends))


def test_by_duration_holds_every_event_and_is_cut_or_filled():
    ours = frames.by_duration(EVENTS, 70_000)
    assert len(ours) == int(EVENTS.t[-1] - EVENTS.t[0]) // 70_000 + 1 and ours.sum() == 5003
    for i, frame in enumerate(ours):
        part = between(EVENTS, EVENTS.t[0] + 70_000 * i, EVENTS.t[0] + 70_000 * (i + 1))
        assert np.array_equal(frame, reference(part, [len(part.t)])[0])
    assert np.array_equal(frames.by_duration(EVENTS, 70_000, number=4), ours[:4])
    longer = frames.by_duration(EVENTS, 70_000, number=40)
    assert np.array_equal(longer[: len(ours)], ours) and not longer[len(ours) :].any()


def test_polarities():
    two = frames.by_count(EVENTS, 4).astype(int)
    assert np.array_equal(frames.by_count(EVENTS, 4, "merged"), two.sum(1, keepdims=True))
    assert np.array_equal(frames.by_count(EVENTS, 4, "signed")[:, 0], two[:, 1] - two[:, 0])


def test_normalised():
    counts = torch.from_numpy(frames.by_bins(EVENTS, 6, "signed"))
    assert torch.equal(frames.normalised(counts, "none"), counts.float())
    assert torch.equal(frames.normalised(counts, "binary"), counts.sign().float())
    scaled = frames.normalised(counts, "max")
    assert torch.equal(scaled.abs().amax((1, 2, 3)), torch.ones(6))
    torch.testing.assert_close(scaled[2] * counts[2].abs().max(), counts[2].float())
    assert not frames.normalised(torch.zeros(2, 1, 3, 3), "max").isnan().any()


def test_counts_beyond_16_bits_stay_at_the_largest():
    many = Events(np.zeros(70_000, np.int64), *np.zeros((2, 70_000), np.int16), np.ones(70_000, bool), 1, 1)
    assert frames.by_count(many, 1)[0, 1].item() == 65_535 and frames.by_count(many, 1, "signed").item() == 32_767
    assert frames.by_bins(many, 3)[:, 1].ravel().tolist() == [65_535, 0, 0], "all at one instant"


@pytest.mark.parametrize("make", [frames.by_count, frames.by_bins, frames.by_duration])
def test_at_least_one(make):
    with pytest.raises(InputError, match="at least one"):
        make(EVENTS, 0)


def test_more_frames_than_fit():
    with pytest.raises(InputError, match="too many to hold"):
        frames.by_duration(EVENTS._replace(t=EVENTS.t * 10**9), 10)


def test_spikingjelly(monkeypatch):
    utils = spikingjelly(monkeypatch)
    named = {key: getattr(EVENTS, key) for key in "txyp"}
    for by, ours in (("number", frames.by_count), ("time", frames.by_bins)):
        for number in (1, 7, 20):
            theirs = utils.integrate_events_by_fixed_frames_number(named, by, number, 12, 20)
            assert np.array_equal(ours(EVENTS, number), theirs), (by, number)


def test_tonic():
    transforms = pytest.importorskip("tonic.transforms")
    table = np.rec.fromarrays(EVENTS[:4], names="t,x,y,p")
    # tonic divides events into equal numbers and drops the rest
    whole = Events(*(values[:5000] for values in EVENTS[:4]), 20, 12)
    theirs = transforms.ToFrame((20, 12, 2), n_event_bins=20)(table[:5000])
    assert np.array_equal(frames.by_count(whole, 20), theirs)
    ours = frames.by_bins(EVENTS, 10)
    assert np.array_equal(ours[:-1], transforms.ToFrame((20, 12, 2), n_time_bins=10)(table)[:-1])
    theirs = transforms.ToFrame((20, 12, 2), time_window=70_000)(table)
    assert np.array_equal(frames.by_duration(EVENTS, 70_000)[: len(theirs)], theirs)


def spikingjelly(monkeypatch):
    """spikingjelly.datasets.utils; importing the package asks for torchaudio, which its frames do not use."""
    import importlib
    import sys
    from types import ModuleType

    pytest.importorskip("spikingjelly")
    try:
        return importlib.import_module("spikingjelly.datasets.utils")
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.startswith("spikingjelly.datasets")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    try:
        return importlib.import_module("spikingjelly.datasets.utils")
    except Exception as error:
        pytest.skip(f"spikingjelly.datasets cannot be imported here: {error}")
