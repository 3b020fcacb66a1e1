"""Frames of a data set in memory-mapped files: made once for given settings, then read only as far as they are used."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fptt.data import frames, store
from fptt.data.event_sets import EventSet
from fptt.data.events import Events
from fptt.errors import InputError

FORMAT = 1  # of the files; raised when what makes them changes


@dataclass(frozen=True)
class Framing:
    """How a recording becomes frames: every setting that the cached frames depend on.

    Args:
        by: "count" (frames of equally many events), "bins" (of equal duration) or "duration" (of ``microseconds`` each,
            the recording cut or followed by empty frames).
        number: frames of every recording.
        microseconds: see ``by``.
        polarity: "two" channels, OFF and ON; "merged" into one; or "signed", ON minus OFF.
        shrink: so many pixels in each direction become one.
    """

    by: Literal["count", "bins", "duration"] = "count"
    number: int = 20
    microseconds: int = 10_000
    polarity: frames.Polarity = "two"
    shrink: int = 1

    def __call__(self, events: Events) -> NDArray[Any]:
        if self.shrink > 1:
            width, height = self.size(events.width), self.size(events.height)
            events = events._replace(x=events.x // self.shrink, y=events.y // self.shrink, width=width, height=height)
        if self.by == "count":
            return frames.by_count(events, self.number, self.polarity)
        if self.by == "bins":
            return frames.by_bins(events, self.number, self.polarity)
        return frames.by_duration(events, self.microseconds, self.polarity, self.number)

    def size(self, pixels: int) -> int:
        """So many rows or columns of the sensor are this many of a frame."""
        return -(-pixels // self.shrink)


class Cached(NamedTuple):
    """The frames of a data set, one entry per recording, in the order of its files."""

    x: Tensor  # counts [recordings, frames, channels, height, width], uint8, int8 or int16, in a memory-mapped file
    y: Tensor  # labels, int64 [recordings]
    test: Tensor  # whether in the official test set, bool [recordings]
    group: Tensor  # person, or number within the class, int64 [recordings]


def load(events: EventSet, framing: Framing, folder: Path) -> Cached:
    """The frames of ``events``, from ``folder``, where they are made first if they are not there yet.

    Raises InputError where a recording is damaged, or the frames cannot be written; then nothing is left of them.
    """
    settings = {"format": FORMAT, "set": events.name, **asdict(framing), "files": _fingerprint(events)}
    place = store.made(
        folder, events.name, settings, lambda new: _write(events, framing, new), what="frames", smaller="--shrink"
    )
    x, y, test, group = store.arrays(place, ("x", "y", "test", "group"), "recordings")
    return Cached(x, y, test, group)


def _fingerprint(events: EventSet) -> str:
    return hashlib.sha256(json.dumps(events.files).encode()).hexdigest()


def _write(events: EventSet, framing: Framing, folder: Path) -> dict[str, Any]:
    labels = []
    with store.bar(f"frames of {events.name}", "recordings") as advance, store.Growing(folder / "x.npy") as file:
        for clip in events.clips():
            file.append(framing(clip.events))
            labels.append((clip.label, clip.test, clip.group))
            advance()
    if not labels:
        raise InputError(f"{events.name} holds no recordings")
    y, test, group = zip(*labels, strict=True)
    np.save(folder / "y.npy", np.array(y, np.int64))
    np.save(folder / "test.npy", np.array(test, bool))
    np.save(folder / "group.npy", np.array(group, np.int64))
    return {"recordings": len(y)}
