"""Arrays on disk that are made once for given settings: whole or not at all, then memory-mapped."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from fptt.errors import InputError

HEADER = 128  # bytes of an .npy header, with room for any number of entries


def made(
    folder: Path, name: str, settings: dict[str, Any], write: Callable[[Path], dict[str, Any]], *, what: str, smaller: str
) -> Path:
    """The folder of arrays that ``settings`` make, below ``folder``: called ``name`` and a digest of them.

    If it is not there, ``write`` fills a folder of another name, which is renamed when it is complete; settings.json in it
    holds ``settings`` and the facts that ``write`` returns.
    Raises InputError where ``what`` is made cannot be written; the advice says what makes them ``smaller``. Whatever ``write``
    raises, nothing is left.
    """
    place = folder / f"{name}-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}"
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.{secrets.token_hex(4)}.tmp")
        temporary.mkdir()  # for everybody to read whom the umask lets, as files are
    except OSError as error:
        raise InputError(
            f"cannot write {what} to {place.parent} ({error.strerror}): set $FPTT_CACHE to another folder"
        ) from None
    try:
        facts = write(temporary)
        (temporary / "settings.json").write_text(json.dumps({**settings, **facts}, indent=2) + "\n")
        os.replace(temporary, place)
    except OSError as error:
        if place.is_dir():
            return place  # another process was faster
        full = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise InputError(
            f"cannot write {what} to {place.parent} ({full}): free some space, set $FPTT_CACHE to another folder, "
            f"or make smaller {what} with {smaller}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def arrays(place: Path, names: Sequence[str], source: str) -> list[Tensor]:
    """The arrays ``place``/NAME.npy; the first stays in its file. Raises InputError where one is damaged."""
    try:
        first, *rest = (np.load(place / f"{name}.npy", mmap_mode="c" if name == names[0] else None) for name in names)
    except PermissionError as error:
        raise InputError(f"{place} is somebody else's ({error.strerror}): have it made readable, or set $FPTT_CACHE") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{place} is damaged ({error}): delete it; it is made again from the {source}") from None
    return [torch.from_numpy(array) for array in (first, *rest)]


@contextmanager
def bar(title: str, unit: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A count on the terminal of what is made; the function that it gives counts one more."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn(f"{{task.completed:,}} {unit}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


class Growing:
    """An .npy file that grows by one entry at a time, of the smallest integers of 8 or 16 bits that hold them all.

    A disk that is full is an error of this file's ``append``, not a crash as of a memory-mapped one.
    """

    def __init__(self, path: Path):
        self.path, self.file = path, path.open("w+b")
        self.shape: tuple[int, ...] = ()
        self.number = 0
        self.dtype: np.dtype[Any] = np.dtype(np.int8)

    def __enter__(self) -> "Growing":
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
