"""Frames of a data set in memory-mapped files: made once for given settings, then read only as far as they are used."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from fptt.data import frames
from fptt.data.event_sets import EventSet
from fptt.data.events import Events
from fptt.errors import InputError

FORMAT = 1  # of the files; raised when what makes them changes
HEADER = 128  # bytes of an .npy header, with room for any number of samples


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
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    place = folder / f"{events.name}-{key}"
    if not place.is_dir():
        _make(events, framing, settings, place)
    try:
        x = np.load(place / "x.npy", mmap_mode="c")
        rest = [torch.from_numpy(np.load(place / f"{name}.npy")) for name in ("y", "test", "group")]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{place} is damaged ({error}): delete it; it is made again from the recordings") from None
    return Cached(torch.from_numpy(x), *rest)


def _fingerprint(events: EventSet) -> str:
    return hashlib.sha256(json.dumps(events.files).encode()).hexdigest()


def _make(events: EventSet, framing: Framing, settings: dict[str, Any], place: Path) -> None:
    """Write the frames into a folder of another name, which is renamed when it is complete."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".tmp", dir=place.parent))
    except OSError as error:
        raise InputError(
            f"cannot write frames to {place.parent} ({error.strerror}): set $FPTT_CACHE to another folder"
        ) from None
    try:
        labels = []
        with _bar(events.name) as advance, _Frames(temporary / "x.npy") as file:
            for clip in events.clips():
                file.append(framing(clip.events))
                labels.append((clip.label, clip.test, clip.group))
                advance()
        if not labels:
            raise InputError(f"{events.name} holds no recordings")
        y, test, group = zip(*labels, strict=True)
        np.save(temporary / "y.npy", np.array(y, np.int64))
        np.save(temporary / "test.npy", np.array(test, bool))
        np.save(temporary / "group.npy", np.array(group, np.int64))
        (temporary / "settings.json").write_text(json.dumps({**settings, "recordings": len(y)}, indent=2) + "\n")
        os.replace(temporary, place)
    except OSError as error:
        if place.is_dir():
            return  # another process was faster
        full = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise InputError(
            f"cannot write frames to {place.parent} ({full}): free some space, set $FPTT_CACHE to another folder, "
            "or make smaller frames with --shrink"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Frames:
    """An .npy file that grows by one entry at a time, of the smallest integers that hold them all."""

    def __init__(self, path: Path):
        self.path, self.file = path, path.open("w+b")
        self.shape: tuple[int, ...] = ()
        self.number = 0
        self.dtype: np.dtype[Any] = np.dtype(np.int8)

    def __enter__(self) -> "_Frames":
        self.file.write(bytes(HEADER))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.number, *self.shape)}
                self.file.seek(0)
                np.lib.format.write_array_header_1_0(self.file, header)
                assert self.file.tell() == HEADER
        finally:
            self.file.close()

    def append(self, frames: NDArray[Any]) -> None:
        if not self.number:
            self.shape = frames.shape
            self.dtype = np.dtype(np.int8 if frames.dtype.kind == "i" else np.uint8)
        if frames.shape != self.shape:
            raise InputError(f"recording {self.number} has frames {list(frames.shape)}, those before {list(self.shape)}")
        limits = np.iinfo(self.dtype)
        if frames.max() > limits.max or frames.min() < limits.min:
            if self.dtype != np.int16:
                self._widen()
            frames = frames.clip(max=np.iinfo(np.int16).max)
        self.file.write(frames.astype(self.dtype).tobytes())
        self.number += 1

    def _widen(self) -> None:
        """The entries so far as 16-bit integers."""
        narrow, self.file = self.file, self.path.with_suffix(".wide").open("w+b")
        with narrow:
            self.file.write(bytes(HEADER))
            narrow.seek(HEADER)
            while part := narrow.read(2**24):
                self.file.write(np.frombuffer(part, self.dtype).astype(np.int16).tobytes())
        os.replace(self.path.with_suffix(".wide"), self.path)
        self.dtype = np.dtype(np.int16)


@contextmanager
def _bar(name: str) -> Iterator[Any]:
    """A count of recordings on the terminal while frames are made."""
    columns = (TextColumn("frames of {task.description}"), BarColumn(), TextColumn("{task.completed:,} recordings"))
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(name, total=None)
        yield lambda: progress.advance(bar)
