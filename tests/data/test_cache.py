"""Frames on disk: made once, whole or not at all, for exactly these settings; read without being loaded."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import event_files
from event_files import some_events
from fptt import InputError
from fptt.data import cache, event_sets, store
from fptt.data.cache import Framing
from fptt.data.event_sets import Clip, EventSet


def clips(number=6, **changes):
    return [Clip(some_events(400, 12, 10, seed=i)._replace(**changes), i % 3, i >= 4, i, f"clip {i}") for i in range(number)]


def made(rows, files=(("a", (1, 2)),), name="tiny"):
    return EventSet(name, list(files), lambda: iter(rows))


def refuse():
    raise AssertionError("read again")


def test_frames_come_back_and_are_made_once(tmp_path):
    rows, framing = clips(), Framing("count", 5)
    first = cache.load(made(rows), framing, tmp_path)
    assert first.x.dtype == torch.uint8 and first.x.shape == (6, 5, 2, 10, 12)
    for i, clip in enumerate(rows):
        assert np.array_equal(first.x[i].numpy(), framing(clip.events))
    assert first.y.tolist() == [0, 1, 2, 0, 1, 2] and first.group.tolist() == list(range(6))
    assert first.test.tolist() == [False] * 4 + [True] * 2
    again = cache.load(EventSet("tiny", made(rows).files, refuse), framing, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "settings.json").read_text())["recordings"] == 6


def test_frames_stay_in_the_file(tmp_path):
    x = cache.load(made(clips()), Framing("count", 5), tmp_path).x
    mapped = np.load(next(tmp_path.iterdir()) / "x.npy", mmap_mode="r+")
    mapped[3] = 77
    mapped.flush()
    assert (x[3] == 77).all(), "what is read comes from the file"


@pytest.mark.parametrize(
    ("events", "framing"),
    [
        (made(clips()), Framing("count", 6)),
        (made(clips()), Framing("bins", 5)),
        (made(clips()), Framing("duration", 5)),
        (made(clips()), Framing("count", 5, polarity="merged")),
        (made(clips()), Framing("count", 5, shrink=2)),
        (made(clips(), [("a", (1, 3))]), Framing("count", 5)),
        (made(clips(), [("b", (1, 2))]), Framing("count", 5)),
        (made(clips(), name="other"), Framing("count", 5)),
    ],
)
def test_every_setting_has_frames_of_its_own(tmp_path, events, framing):
    cache.load(made(clips()), Framing("count", 5), tmp_path)
    cache.load(events, framing, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_shrunk_frames_hold_every_event():
    events = some_events(300, 11, 9)
    small = Framing("bins", 4, shrink=4)(events)
    assert small.shape == (4, 2, 3, 3) and small.sum() == 300
    whole = np.pad(Framing("bins", 4)(events), ((0, 0), (0, 0), (0, 3), (0, 1)))
    assert np.array_equal(small, whole.reshape(4, 2, 3, 4, 3, 4).sum((3, 5)))


def busy(count):
    return event_files.Events(np.arange(count), *np.zeros((2, count), np.int16), np.ones(count, bool), 12, 10)


@pytest.mark.parametrize("polarity", ["two", "merged", "signed"])
def test_counts_beyond_8_bits_widen_the_file(tmp_path, polarity):
    rows = [*clips(3), Clip(busy(40_000), 0, False, 3, "busy"), *clips(2)]
    framing = Framing("count", 1, polarity=polarity)
    x = cache.load(made(rows), framing, tmp_path).x
    assert x.dtype == torch.int16 and x[3].max() == 32_767
    for i in (0, 1, 2, 4, 5):
        assert np.array_equal(x[i].numpy(), framing(rows[i].events).astype(np.int64))
    assert not list(tmp_path.glob("*/*.wide"))


def test_signed_counts(tmp_path):
    x = cache.load(made(clips()), Framing("count", 3, polarity="signed"), tmp_path).x
    assert x.dtype == torch.int8 and x.min() < 0 < x.max()
    assert np.array_equal(x[2].numpy(), Framing("count", 3, polarity="signed")(clips()[2].events))


def interrupted():
    yield from clips(3)
    raise KeyboardInterrupt


def damaged():
    yield from clips(3)
    raise InputError("clip 3 is damaged")


@pytest.mark.parametrize(("source", "error"), [(interrupted, KeyboardInterrupt), (damaged, InputError)])
def test_nothing_is_left_of_frames_that_were_not_finished(tmp_path, source, error):
    with pytest.raises(error):
        cache.load(EventSet("tiny", [], source), Framing(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("written", [0, 3_000, 7_000])
def test_a_full_disk(tmp_path, monkeypatch, written):
    """The disk takes so many bytes of frames and no more."""
    original = store.Growing.append

    def append(self, frames):
        if self.file.tell() + frames.size > written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, frames)

    monkeypatch.setattr(store.Growing, "append", append)
    with pytest.raises(InputError, match="the disk is full.*FPTT_CACHE") as error:
        cache.load(made(clips()), Framing("count", 5), tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_really_full_device(tmp_path):
    """/dev/full refuses every byte when the file is flushed."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space"), store.Growing(Path("/dev/full")) as file:
        for clip in clips():
            file.append(Framing("count", 20)(clip.events))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write frames to .*FPTT_CACHE"):
        cache.load(made(clips()), Framing(), tmp_path / "file")


def test_two_at_once(tmp_path):
    """Another process finishes the same frames first."""

    def slower():
        cache.load(made(clips()), Framing("count", 5), tmp_path)
        yield from clips()

    x = cache.load(EventSet("tiny", made([]).files, slower), Framing("count", 5), tmp_path).x
    assert len(x) == 6 and len(list(tmp_path.iterdir())) == 1


def test_frames_are_for_everybody_whom_the_umask_lets(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        cache.load(made(clips()), Framing("count", 5), tmp_path)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o750]

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(np, "load", forbidden)
    with pytest.raises(InputError, match="is somebody else's .*have it made readable"):
        cache.load(made(clips()), Framing("count", 5), tmp_path)


@pytest.mark.parametrize("name", ["x.npy", "y.npy"])
def test_damaged_frames(tmp_path, name):
    cache.load(made(clips()), Framing("count", 5), tmp_path)
    path = next(tmp_path.iterdir()) / name
    path.write_bytes(path.read_bytes()[:140])
    with pytest.raises(InputError, match="is damaged.*delete it") as error:
        cache.load(made(clips()), Framing("count", 5), tmp_path)
    assert "\n" not in str(error.value)


def test_sets_without_recordings_or_with_several_sensors(tmp_path):
    with pytest.raises(InputError, match="holds no recordings"):
        cache.load(made([]), Framing(), tmp_path)
    with pytest.raises(InputError, match="recording 6 has frames .20, 2, 10, 13., those before"):
        cache.load(made(clips() + clips(1, width=13)), Framing(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_frames_beside_the_recordings_are_no_part_of_the_set(tmp_path):
    event_files.write_folder(tmp_path, event_files.gesture_files(2, 1)[0])
    for _ in range(2):
        cache.load(event_sets.dvs_gesture(tmp_path / "DvsGesture"), Framing(number=2), tmp_path / "DvsGesture" / "frames")
    assert len(list((tmp_path / "DvsGesture" / "frames").iterdir())) == 1


def test_a_changed_recording_is_read_again(tmp_path):
    event_files.write_folder(tmp_path, event_files.gesture_files(1, 1)[0] | {"DvsGesture/trials_to_train.txt": b""})
    (tmp_path / "DvsGesture" / "trials_to_test.txt").write_text("")
    first = cache.load(event_sets.dvs_gesture(tmp_path), Framing(number=2), tmp_path / "frames").x
    (tmp_path / "DvsGesture" / "user01_lab.aedat").write_bytes(event_files.aedat3(some_events(900, seed=8, span=100_000)))
    second = cache.load(event_sets.dvs_gesture(tmp_path), Framing(number=2), tmp_path / "frames").x
    assert not torch.equal(first, second)
