"""Events summed into frames, as arrays [frames, channels, height, width] of counts."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fptt.data.events import Events
from fptt.errors import InputError

Polarity = Literal["two", "merged", "signed"]
Scale = Literal["none", "max", "binary"]
LARGEST = 2**31  # counts of one recording's frames that may be asked for
AT_ONCE = 2**20  # counts summed at once


def by_count(events: Events, number: int, polarity: Polarity = "two") -> NDArray[Any]:
    """``number`` frames of n // number events each; the last also takes the rest.

    uint16 [number, 2, height, width] with OFF events in channel 0 and ON events in channel 1; one channel of their sum
    where ``polarity`` is "merged"; int16 and one channel of ON minus OFF where it is "signed".
    """
    _at_least_one(number, "frame")
    ends = np.arange(1, number + 1) * (len(events.t) // number)
    ends[-1] = len(events.t)
    return _summed(events, ends, polarity)


def by_bins(events: Events, number: int, polarity: Polarity = "two") -> NDArray[Any]:
    """``number`` frames of equal duration, whole microseconds, from the first event on; the last also takes the rest."""
    _at_least_one(number, "frame")
    return by_duration(events, max(1, int(events.t[-1] - events.t[0]) // number), polarity, number, rest=True)


def by_duration(
    events: Events, microseconds: int, polarity: Polarity = "two", number: int | None = None, rest: bool = False
) -> NDArray[Any]:
    """Frames of ``microseconds`` each from the first event on, so many that all events are in them.

    With ``number``, exactly so many: a longer recording is cut (or its ``rest`` left to the last frame), after a shorter one
    the frames are empty.
    """
    _at_least_one(microseconds, "microsecond")
    span = int(events.t[-1] - events.t[0])
    frames = span // microseconds + 1 if number is None else number
    _at_least_one(frames, "frame")
    ends = np.searchsorted(events.t, events.t[0] + microseconds * np.arange(1, frames + 1)) if _fits(events, frames) else None
    if ends is None:
        raise InputError(
            f"{frames:,} frames of {events.width} x {events.height} pixels are too many to hold: "
            f"the recording lasts {span / 1e6:.1f} s; take frames of more than {microseconds} microseconds"
        )
    if rest:
        ends[-1] = len(events.t)
    return _summed(events, ends, polarity)


def normalised(frames: Tensor, scale: Scale) -> Tensor:
    """float32 frames [..., channels, height, width]: counts as they are ("none"), divided by each frame's largest ("max"),
    or 1 where there was any event ("binary"; the sign is kept)."""
    frames = frames.float()
    if scale == "binary":
        return frames.sign()
    if scale == "max":
        return frames / frames.abs().amax((-3, -2, -1), keepdim=True).clamp(min=1)
    return frames


def _summed(events: Events, ends: NDArray[Any], polarity: Polarity) -> NDArray[Any]:
    """One frame per entry of ``ends``: of the events from the end of the frame before (0 for the first) to this one."""
    channels, pixels = (2 if polarity == "two" else 1), events.width * events.height
    dtype = np.int16 if polarity == "signed" else np.uint16
    frames = np.empty((len(ends), channels, events.height, events.width), dtype)
    for first, last in _groups(len(ends), max(1, AT_ONCE // (2 * pixels))):
        start, end = ends[first - 1] if first else 0, ends[last - 1]
        position = np.repeat(np.arange(last - first), np.diff(ends[first:last], prepend=start)) * (2 * pixels)
        position += events.p[start:end] * pixels
        position += events.y[start:end] * np.int64(events.width)
        position += events.x[start:end]
        counts = np.bincount(position, minlength=(last - first) * 2 * pixels).reshape(last - first, 2, -1)
        if polarity != "two":
            off, on = counts[:, :1], counts[:, 1:]
            counts = on + off if polarity == "merged" else on - off
        limits = np.iinfo(dtype)
        frames[first:last] = counts.clip(limits.min, limits.max).reshape(last - first, *frames.shape[1:])
    return frames


def _groups(number: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, number, size):
        yield first, min(first + size, number)


def _fits(events: Events, frames: int) -> bool:
    return frames * 2 * events.width * events.height <= LARGEST


def _at_least_one(number: int, what: str) -> None:
    if number < 1:
        raise InputError(f"frames need at least one {what}, got {number}")
