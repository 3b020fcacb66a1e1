"""Recordings of event cameras."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fptt.errors import InputError

JITTER = 1000  # microseconds by which cameras' buffers may deliver events out of order


class Events(NamedTuple):
    """One recording, or a part of one: n events in order of time, from a sensor of ``width`` x ``height`` pixels."""

    t: NDArray[np.int64]  # microseconds of the recording's own clock, [n], never decreasing
    x: NDArray[np.int16]  # column, 0 to width - 1, [n]
    y: NDArray[np.int16]  # row from the top, 0 to height - 1, [n]
    p: NDArray[np.bool_]  # polarity: True where it became brighter (ON), [n]
    width: int
    height: int


def checked(events: Events, name: str) -> Events:
    """The events of recording ``name`` after a check: there are some, all lie on the sensor and are in order of time.

    They may come in other integer types. Events that are out of order by no more than 1 ms, as buffers of cameras leave
    them, are sorted. Raises InputError for anything worse.
    """
    t, x, y, p, width, height = events
    if not len(t):
        raise InputError(f"{name} holds no events: it is a header without a recording")
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    if outside.any():
        first = int(outside.argmax())
        raise InputError(
            f"{name} is damaged: event {first} at column {x[first]}, row {y[first]} is outside the sensor of {width} x {height}"
        )
    t = t.astype(np.int64)
    late = np.maximum.accumulate(t) - t
    if late.any():
        if late.max() > JITTER:
            first = int((late > JITTER).argmax())
            raise InputError(f"{name} is damaged: event {first} is {late[first]} microseconds earlier than one before it")
        order = np.argsort(t, kind="stable")
        t, x, y, p = t[order], x[order], y[order], p[order]
    return Events(t, x.astype(np.int16), y.astype(np.int16), p.astype(bool), width, height)


def between(events: Events, start: int, end: int) -> Events:
    """The events with ``start`` <= t < ``end`` (microseconds); a view, nothing is copied."""
    part = slice(*np.searchsorted(events.t, (start, end)))
    return events._replace(t=events.t[part], x=events.x[part], y=events.y[part], p=events.p[part])
