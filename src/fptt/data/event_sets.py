"""The recorded data sets: where their files lie, and the labelled recordings in them, read from the original files."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fptt.data import archives, formats
from fptt.data.events import Events, between, checked
from fptt.errors import InputError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Clip(NamedTuple):
    """One labelled recording."""

    events: Events
    label: int  # counted from 0
    test: bool  # of the official test set
    group: int  # the person who is seen or speaks, or the recording's number within its class
    name: str


class EventSet(NamedTuple):
    """A data set: its files with size and time of change, and a function that reads its clips one after the other."""

    name: str
    files: list[tuple[str, tuple[int, int]]]
    clips: Callable[[], Iterator[Clip]]


def nmnist(root: Path) -> EventSet:
    """N-MNIST (Orchard et al. 2015): Train/DIGIT/NUMBER.bin and Test/..., as folders or as the two zips."""
    home = _home(
        root, ("NMNIST", "N-MNIST", "nmnist"), lambda path: any(path.glob("[Tt]rain*/0")) or any(path.glob("[Tt]rain.zip"))
    )
    sources = [archives.find(home, (part, part.lower()), f"N-MNIST's {part}") for part in ("Train", "Test")]

    def clips() -> Iterator[Clip]:
        for source, test in zip(sources, (False, True), strict=True):
            for name, content in archives.files(source, lambda name: name.endswith(".bin")):
                digit = archives.parts(name)[-2:-1]
                if not digit or not re.fullmatch(r"\d", digit[0]):
                    raise InputError(f"{source}/{name} does not lie in a folder named by its digit")
                yield Clip(formats.nmnist(content, f"{source}/{name}"), int(digit[0]), test, _number(name), name)

    return EventSet("nmnist", [file for source in sources for file in archives.listing(source)], clips)


def dvs_gesture(root: Path) -> EventSet:
    """DVS128 Gesture (Amir et al. 2017): DvsGesture.tar.gz or its folder, with the original AEDAT 3.1 recordings.

    Each recording shows one person; NAME_labels.csv says which gesture (1 to 11) is made from when to when.
    trials_to_train.txt and trials_to_test.txt are the official split; without them every recording is for training.
    """
    home = _home(root, ("DvsGesture", "DVS128Gesture"), lambda path: any(path.glob("*_labels.csv")))

    def clips() -> Iterator[Clip]:
        notes = {
            archives.parts(name)[-1]: content.decode(errors="replace")
            for name, content in archives.files(home, lambda name: name.endswith((".csv", ".txt")))
        }
        trials = {name: notes.get(f"trials_to_{name}.txt", "").split() for name in ("train", "test")}
        if both := set(trials["train"]) & set(trials["test"]):
            raise InputError(f"{home}: {min(both)} is named for training and for testing")
        wanted = set(trials["train"] + trials["test"])
        missing = set(wanted)
        for path, content in archives.files(home, lambda name: name.endswith(".aedat")):
            name = archives.parts(path)[-1]
            if wanted and name not in wanted:
                continue
            table = name.replace(".aedat", "_labels.csv")
            if table not in notes:
                raise InputError(f"{home}/{path} has no label file {table}")
            events = formats.aedat(content, f"{home}/{path}")
            for number, (label, start, end) in enumerate(_labels(notes[table], f"{home}/{table}")):
                clip = between(events, start, end)
                if not len(clip.t):
                    raise InputError(
                        f"{home}/{table} does not match its recording: no event from {start} to {end}, "
                        f"where gesture {number + 1} should be"
                    )
                yield Clip(clip, label, name in trials["test"], _number(name), f"{name}:{number}")
            missing.discard(name)
        if missing:
            raise InputError(f"{home} lacks {len(missing)} recordings that its trials name, the first {min(missing)}")

    files = [file for file in archives.listing(home) if file[0].endswith((".aedat", ".csv", ".txt", *archives.SUFFIXES))]
    return EventSet("dvs-gesture", files, clips)


def _labels(text: str, name: str) -> list[tuple[int, int, int]]:
    """(label counted from 0, start, end) of every line of a label file, times in microseconds."""
    rows = []
    head, *lines = text.split("\n")
    if head.strip() != "class,startTime_usec,endTime_usec":
        raise InputError(f"{name} is damaged: it does not start with class,startTime_usec,endTime_usec")
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        try:
            label, start, end = (int(field) for field in line.split(","))
        except ValueError:
            raise InputError(f"{name} is damaged: line {number} is not three integers") from None
        if not 1 <= label <= 11 or start >= end or start < 0:
            raise InputError(f"{name} is damaged: line {number} is gesture {label} (of 1 to 11) from {start} to {end}")
        rows.append((label - 1, start, end))
    if not rows:
        raise InputError(f"{name} is empty: it names no gesture")
    return rows


def cifar10_dvs(root: Path) -> EventSet:
    """CIFAR10-DVS (Li et al. 2017): a folder or zip of AEDAT 2.0 recordings for each of the ten classes.

    Columns and rows are ``exchanged``, as in SpikingJelly's reader of this set. No official split exists.
    """
    home = _home(root, ("CIFAR10DVS", "CIFAR10-DVS", "cifar10-dvs"), lambda path: any(path.glob("airplane*")))
    sources = [archives.find(home, (name,), f"CIFAR10-DVS's class {name}") for name in CIFAR10]

    def clips() -> Iterator[Clip]:
        for label, source in enumerate(sources):
            for name, content in archives.files(source, lambda name: name.endswith(".aedat")):
                events = exchanged(formats.aedat(content, f"{source}/{name}"))
                yield Clip(events, label, False, _number(name), name)

    return EventSet("cifar10-dvs", [file for source in sources for file in archives.listing(source)], clips)


def exchanged(events: Events) -> Events:
    """Columns as rows, and rows as columns."""
    return events._replace(x=events.y, y=events.x, width=events.height, height=events.width)


def shd(root: Path) -> EventSet:
    """Spiking Heidelberg Digits (Cramer et al. 2020): shd_train.h5 and shd_test.h5, or their zips; 700 channels, 20 classes.

    A channel is a column of a sensor of one row, all events ON.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"SHD needs the package h5py: pip install 'fptt[events]' ({error})") from None
    home = _home(root, ("SHD", "shd", "hsd"), lambda path: any(path.glob("shd_train*")))
    sources = [archives.find(home, (f"shd_{part}.h5",), f"SHD's shd_{part}.h5") for part in ("train", "test")]

    def clips() -> Iterator[Clip]:
        for source, test in zip(sources, (False, True), strict=True):
            content = source if source.suffix == ".h5" else io.BytesIO(next(archives.files(source, _is_h5), ("", b""))[1])
            try:
                with h5py.File(content, "r") as file:
                    times, units = file["spikes/times"], file["spikes/units"]
                    labels, speakers = np.asarray(file["labels"]), np.asarray(file["extra/speaker"])
                    for i in range(len(labels)):
                        t = np.rint(np.asarray(times[i], np.float64) * 1e6).astype(np.int64)
                        order, x = np.argsort(t, kind="stable"), np.asarray(units[i]).astype(np.int16)
                        events = Events(t[order], x[order], np.zeros_like(x), np.ones(len(x), bool), 700, 1)
                        name = f"{source}, recording {i},"
                        if not 0 <= labels[i] < 20:
                            raise InputError(f"{name} has label {labels[i]}; SHD has 0 to 19")
                        yield Clip(checked(events, name), int(labels[i]), test, int(speakers[i]), name)
            except (OSError, KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{source} is damaged ({' '.join(str(error).split())}): download it again") from None

    return EventSet("shd", [file for source in sources for file in archives.listing(source)], clips)


def _is_h5(name: str) -> bool:
    return name.endswith(".h5")


def _home(root: Path, names: tuple[str, ...], is_home: Callable[[Path], bool]) -> Path:
    """The set's folder or archive below ``root``, or ``root`` itself where it holds the set's files."""
    try:
        return archives.find(root, names, names[0])
    except InputError:
        if root.is_dir() and is_home(root):
            return root
        raise


def _number(name: str) -> int:
    """The last number in a file's name without its folders, such as the person's or the recording's; 0 for none."""
    numbers = re.findall(r"\d+", archives.parts(name)[-1])
    return int(numbers[-1]) if numbers else 0
