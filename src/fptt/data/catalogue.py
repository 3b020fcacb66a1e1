"""The data sets that the tasks use: what they are, their licences, and where they lie."""

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fptt.data.event_sets import EventSet
from fptt.errors import InputError


@dataclass(frozen=True)
class DataSet:
    name: str
    tasks: tuple[str, ...]
    contents: str
    licence: str
    get: str
    path: str | None  # below the data folder; None where the set comes with a package
    reader: str | None = None  # of recordings of events: module:function from the data folder to an EventSet
    boxes: bool = False  # whether its samples are images of PASCAL VOC's layout, with boxes


DATA_SETS = (
    DataSet("digits", ("digits",), "1,797 images, 8 x 8", "CC BY 4.0 (UCI)", "comes with scikit-learn", None),
    DataSet("adding", ("adding",), "made on the fly", "-", "nothing to get", None),
    DataSet(
        "MNIST",
        ("rmnist", "smnist", "psmnist", "mnist"),
        "60,000 + 10,000 images, 28 x 28",
        "CC BY-SA 3.0 (LeCun, Cortes, Burges)",
        "fetched by torchvision on first use, or put the four idx files in MNIST/raw",
        "MNIST/raw",
    ),
    DataSet(
        "Fashion-MNIST",
        ("fashion",),
        "60,000 + 10,000 images, 28 x 28",
        "MIT (Zalando)",
        "fetched by torchvision on first use, or put the four idx files in FashionMNIST/raw",
        "FashionMNIST/raw",
    ),
    DataSet(
        "CIFAR-10",
        ("cifar10",),
        "50,000 + 10,000 colour images, 32 x 32",
        "no licence given (Krizhevsky)",
        "fetched by torchvision on first use, or put the batch files in cifar-10-batches-py",
        "cifar-10-batches-py",
    ),
    DataSet(
        "PASCAL VOC",
        ("voc",),
        "16,551 images of 2007 and 2012 to train, 4,952 of 2007 to test, 20 classes",
        "flickr's terms of use (Everingham et al.)",
        "fetched by torchvision on first use, or put VOCdevkit, with VOC2007 and VOC2012, in the data folder",
        "VOCdevkit",
        boxes=True,
    ),
    DataSet(
        "N-MNIST",
        ("nmnist",),
        "60,000 + 10,000 recordings, 34 x 34",
        "CC BY-SA 4.0 (Orchard et al.)",
        "put Train.zip and Test.zip of garrickorchard.com/datasets/n-mnist, or their folders, in NMNIST",
        "NMNIST",
        "fptt.data.event_sets:nmnist",
    ),
    DataSet(
        "DVS128 Gesture",
        ("dvs-gesture",),
        "1,464 clips of 11 gestures, 128 x 128",
        "CC BY 4.0 (Amir et al., IBM)",
        "put DvsGesture.tar.gz of research.ibm.com/dvsgesture, or its folder DvsGesture, in the data folder",
        "DvsGesture",
        "fptt.data.event_sets:dvs_gesture",
    ),
    DataSet(
        "CIFAR10-DVS",
        ("cifar10-dvs",),
        "10,000 recordings, 128 x 128",
        "CC BY 4.0 (Li et al.)",
        "put the ten zips of doi.org/10.6084/m9.figshare.4724671, or their folders, in CIFAR10DVS",
        "CIFAR10DVS",
        "fptt.data.event_sets:cifar10_dvs",
    ),
    DataSet(
        "SHD",
        ("shd",),
        "8,156 + 2,264 spoken digits, 700 channels",
        "CC BY 4.0 (Cramer et al.)",
        "put shd_train.h5 and shd_test.h5 of zenkelab.org/datasets, or their zips, in SHD",
        "SHD",
        "fptt.data.event_sets:shd",
    ),
    DataSet(
        "simulated events",
        ("events-sim",),
        "recordings of MNIST and Fashion-MNIST, simulated, 34 x 34",
        "that of the images",
        "simulated from the images on first use",
        "simulated",
        "fptt.data.simulated_set:every",
    ),
)


def folder(given: str | Path | None = None) -> Path:
    """The folder of the data sets: ``given``, else $FPTT_DATA, else ~/.cache/fptt."""
    return Path(given or os.environ.get("FPTT_DATA") or Path.home() / ".cache" / "fptt").expanduser()


def cache_folder(given: str | Path | None = None) -> Path:
    """The folder of frames made from recordings: $FPTT_CACHE, else ``frames`` in the folder of the data sets."""
    return Path(os.environ.get("FPTT_CACHE") or folder(given) / "frames").expanduser()


def status(root: Path) -> list[dict[str, Any]]:
    """One row per data set: its description, and whether, where and how large it is under ``root``."""
    rows = []
    for item in DATA_SETS:
        path = None if item.path is None else root / item.path
        if path is not None and not path.is_dir() and (archive := path.with_name(path.name + ".tar.gz")).is_file():
            path = archive
        files = [] if path is None else [file for file in (path, *path.rglob("*")) if file.is_file()]
        rows.append(
            {
                "name": item.name,
                "tasks": list(item.tasks),
                "contents": item.contents,
                "licence": item.licence,
                "get": item.get,
                "path": "the package" if path is None else str(path),
                "found": path is None or bool(files),
                "megabytes": round(sum(file.stat().st_size for file in files) / 2**20, 1),
            }
        )
    return rows


def find(name: str, root: Path) -> tuple[DataSet, Path | None]:
    """The data set that is called ``name``, or has a task of that name, and where it lies; None if in a package.

    Raises InputError for an unknown name, and where nothing of the set is found.
    """
    wanted = name.lower()
    item = next((item for item in DATA_SETS if wanted in (item.name.lower(), *item.tasks)), None)
    if item is None:
        raise InputError(f"unknown data set '{name}': choose one of {', '.join(item.name for item in DATA_SETS)}")
    if item.path is None:
        return item, None
    row = next(row for row in status(root) if row["name"] == item.name)
    if not row["found"]:
        raise InputError(f"{item.name} is not in {root}: {item.get}")
    return item, Path(row["path"])


def recordings(item: DataSet, root: Path) -> EventSet:
    """The recordings of a data set that has a ``reader``. Raises InputError where they are not complete."""
    assert item.reader, f"{item.name} has no recordings"
    module, function = item.reader.split(":")
    events: EventSet = getattr(import_module(module), function)(root)
    return events
