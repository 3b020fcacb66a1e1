"""A recording as it would come from a camera: slice by slice, with the labels that are known for them."""

import csv
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fptt.data.events import Events, between
from fptt.errors import InputError

COLUMNS = ("label", "start_us", "end_us")
GESTURE_COLUMNS = ("class", "startTime_usec", "endTime_usec")  # DVS128 Gesture's label files, which count classes from 1


class Slice(NamedTuple):
    """The events of one time step of a stream, and the time at which it ended, microseconds of the recording's clock."""

    end: int
    events: Events


def slices(events: Events, *, microseconds: int | None = None, count: int | None = None) -> Iterator[Slice]:
    """Slices of ``microseconds`` each from the first event on, or of ``count`` events each; one of the two must be given.

    A slice of time may be empty. Events at the end that do not fill a slice of ``count`` are left out.
    """
    if (microseconds is None) == (count is None):
        raise InputError("a stream is cut by time or by number of events: give one of the two")
    if (microseconds or count or 0) < 1:
        raise InputError(f"a slice needs at least one microsecond or event, got {microseconds or count}")
    if count is not None:
        for end in range(count, len(events.t) + 1, count):
            part = slice(end - count, end)
            some = events._replace(t=events.t[part], x=events.x[part], y=events.y[part], p=events.p[part])
            yield Slice(int(events.t[end - 1]), some)
        return
    assert microseconds is not None
    for start in range(int(events.t[0]), int(events.t[-1]) + 1, microseconds):
        yield Slice(start + microseconds, between(events, start, start + microseconds))


def paced(stream: Iterable[Slice], first: int) -> Iterator[Slice]:
    """Each slice when it would have ended on a clock that shows ``first`` now; one that is late comes at once."""
    began = time.monotonic()
    for piece in stream:
        time.sleep(max(0.0, (piece.end - first) / 1e6 - (time.monotonic() - began)))
        yield piece


class Labels:
    """What is known of a recording: ``labels.at(time)`` is the label then, or None.

    ``Labels.read(text, classes)`` reads one label for all of the recording, or the path of a CSV file with the columns label
    (counted from 0), start_us and end_us (microseconds of the recording's clock), or with those of DVS128 Gesture. Raises
    InputError for anything else and for labels that are not among ``classes``.
    """

    def __init__(self, rows: list[tuple[int, float, float]]):
        self.rows = rows

    @classmethod
    def read(cls, text: str, classes: int) -> "Labels":
        try:
            rows = [(int(text), -np.inf, np.inf)]
        except ValueError:
            rows = cls._table(Path(text))
        for label, _, _ in rows:
            if not 0 <= label < classes:
                raise InputError(f"label {label} of {text}: the network knows the classes 0 to {classes - 1}")
        return cls(rows)

    @staticmethod
    def _table(path: Path) -> list[tuple[int, float, float]]:
        try:
            with path.open(newline="") as file:
                table = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot read labels from {path} ({type(error).__name__}): give a number or a CSV file") from None
        head = tuple(word.strip() for word in table[0]) if table else ()
        if head not in (COLUMNS, GESTURE_COLUMNS):
            raise InputError(f"{path} must start with the line {','.join(COLUMNS)} or {','.join(GESTURE_COLUMNS)}")
        rows: list[tuple[int, float, float]] = []
        for number, line in enumerate(table[1:], 2):
            try:
                label, start, end = map(int, line)
            except ValueError:
                raise InputError(f"{path}, line {number}: expected three whole numbers, found {','.join(line)!r}") from None
            if end <= start:
                raise InputError(f"{path}, line {number}: label {label} is to hold from {start} to {end}, which is no time")
            rows.append((label - (head == GESTURE_COLUMNS), start, end))
        if not rows:
            raise InputError(f"{path} names no label: give at least one line of {','.join(head)}")
        return rows

    def at(self, moment: int) -> int | None:
        """The label at ``moment``, microseconds; the first where several hold."""
        return next((label for label, start, end in self.rows if start <= moment < end), None)
