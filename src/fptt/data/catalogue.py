"""The data sets that the tasks use: what they are, their licences, and where they lie."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DataSet:
    name: str
    tasks: tuple[str, ...]
    contents: str
    licence: str
    get: str
    path: str | None  # below the data folder; None where the set comes with a package


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
)


def folder(given: str | Path | None = None) -> Path:
    """The folder of the data sets: ``given``, else $FPTT_DATA, else ~/.cache/fptt."""
    return Path(given or os.environ.get("FPTT_DATA") or Path.home() / ".cache" / "fptt").expanduser()


def status(root: Path) -> list[dict[str, Any]]:
    """One row per data set: its description, and whether, where and how large it is under ``root``."""
    rows = []
    for item in DATA_SETS:
        path = None if item.path is None else root / item.path
        files = [file for file in path.rglob("*") if file.is_file()] if path is not None and path.is_dir() else []
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
