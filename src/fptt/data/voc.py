"""PASCAL VOC 2007 and 2012 (Everingham et al. 2010), and folders of that layout: images in squares, with their objects.

A folder of the layout holds Annotations/NAME.xml, JPEGImages/NAME.jpg and ImageSets/Main/LIST.txt, one NAME a line.
"""

import re
import warnings
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fptt.data import annotations, catalogue, store
from fptt.data.boxes import PADDING
from fptt.data.images import first_line, torchvision
from fptt.data.samples import Rows, Samples
from fptt.errors import InputError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
FORMAT = 1  # of the files; raised when what makes them changes

Training = Literal["07+12 train", "07+12 trainval", "07 train", "07 trainval"]


def sets(root: Path, size: int, train: Training = "07+12 train", cache: Path | None = None) -> tuple[Samples, Samples, Samples]:
    """Images and objects to train, to validate and to test on, from ``root``/VOCdevkit or fetched there by torchvision.

    "07+12 train" trains on the lists ``train`` of 2007 and 2012 and validates on their lists ``val``; "07+12 trainval" trains
    on both and leaves nothing to validate on; "07 ..." are those of 2007 alone. The test set is always that of 2007. Arguments
    and errors otherwise as of ``load``; ``cache`` is by default ``catalogue.cache_folder(root)``.
    """
    years, _, chosen = train.partition(" ")
    lists = (chosen, "val" if chosen == "train" else None, "test")
    folders = [root / "VOCdevkit" / f"VOC20{year}" for year in years.split("+")]
    for folder in folders:
        for name in lists:
            if name and (folder is folders[0] or name != "test"):
                _fetch(root, folder, name)
    return load(folders, lists, size, CLASSES, cache or catalogue.cache_folder(root), tested=folders[:1])


def listed(root: Path, *names: str) -> list[Path]:
    """The images of these lists of 2007 and 2012, as far as they are in ``root``/VOCdevkit; of ``test`` that of 2007."""
    folders = sorted((root / "VOCdevkit").glob("VOC20*"))
    pairs = [(folder, name) for folder in folders for name in names if name != "test" or folder.name == "VOC2007"]
    return list(dict.fromkeys(image for folder, name in pairs for image in _images(folder, name)))


def own(
    folder: Path, size: int, classes: Sequence[str] | None = None, cache: Path | None = None
) -> tuple[Samples, Samples, Samples]:
    """The same of one folder of VOC's layout, from its lists train, val (which may be missing) and test.

    ``classes`` are by default all that are annotated, ``classes_of(folder)``; ``cache`` is ``catalogue.cache_folder()``.
    """
    lists = ("train", "val" if _list(folder, "val").is_file() else None, "test")
    return load([folder], lists, size, classes or classes_of(folder), cache or catalogue.cache_folder())


def classes_of(folder: Path) -> tuple[str, ...]:
    """The names of all objects in the annotations of a folder of VOC's layout, in alphabetical order."""
    found = {thing.name for path in folder.glob("Annotations/*.xml") for thing in annotations.read(path).objects}
    if not found:
        raise InputError(f"{folder / 'Annotations'} names no object: give a folder of VOC's layout")
    return tuple(sorted(found))


def load(
    folders: Sequence[Path],
    lists: tuple[str, str | None, str],
    size: int,
    classes: Sequence[str],
    cache: Path,
    *,
    tested: Sequence[Path] | None = None,
) -> tuple[Samples, Samples, Samples]:
    """The images that the three ``lists`` of ``folders`` name: to train, to validate (None for no image) and to test on.

    Only those of ``tested`` (None: of all) are tested on.

    Inputs are uint8 [images, 3, size, size], RGB, letterboxed, made once and kept in a memory-mapped file below ``cache``.
    Targets are float32 [images, objects, 6], in each row (label, x1, y1, x2, y2, difficult), the label counted from 0 in
    ``classes``, the box in pixels of the square; rows of padding are -1 all through. Boxes are clipped to their image, with a
    warning.
    Raises InputError, naming the file, where one is missing, damaged or contradicts another, and where an image to train on is
    also one to validate or test on.
    """
    sets: list[list[Path]] = []
    for wanted, use in zip(lists, ("train", "validate", "test"), strict=True):
        among = tested if tested and use == "test" else folders
        images = [] if wanted is None else [name for folder in among for name in _images(folder, wanted)]
        if wanted and not images:
            raise InputError(f"no image to {use} on: {_list(among[-1], wanted)} is missing or empty")
        if sets and (both := set(sets[0]) & set(images)):
            raise InputError(f"{min(both)} is both in {lists[0]}.txt and in {wanted}.txt: train on one, {use} on another")
        sets.append(images)
    every = sorted({image for images in sets for image in images})
    x, y = _stored(every, size, tuple(classes), cache)
    number = {image: i for i, image in enumerate(every)}
    rows = [torch.tensor([number[image] for image in images], dtype=torch.int64) for images in sets]
    train, validation, test = (
        Samples(Rows(x, row), y[row], name) for row, name in zip(rows, ("train", "validation", "test"), strict=True)
    )
    return train, validation, test


def _list(folder: Path, name: str) -> Path:
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def _images(folder: Path, name: str) -> list[Path]:
    """The images of a list, each once; none where the folder lacks the list."""
    try:
        lines = _list(folder, name).read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {_list(folder, name)} ({error})") from None
    return list(dict.fromkeys(_image(folder / "JPEGImages", line.strip()) for line in lines if line.strip()))


def _image(folder: Path, line: str) -> Path:
    """The image that a line names, which may be followed by whether a class is in it (1, 0 or -1); a name may have spaces."""
    whole = folder / f"{line}.jpg"
    return whole if " " not in line or whole.is_file() else folder / (re.sub(r"\s+(-1|0|1)$", "", line) + ".jpg")


def _fetch(root: Path, folder: Path, name: str) -> None:
    """Have torchvision fetch VOC's list ``name`` and its images, unless the list is there."""
    if _list(folder, name).is_file():
        return
    datasets = torchvision("PASCAL VOC").datasets
    year = folder.name.removeprefix("VOC")
    try:
        datasets.VOCDetection(str(root), year, name, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"PASCAL VOC {year} {name} is not under {root} and could not be fetched ({first_line(error)}): "
            "give the folder that holds VOCdevkit with --data or $FPTT_DATA"
        ) from None


def _stored(images: list[Path], size: int, classes: tuple[str, ...], cache: Path) -> tuple[Tensor, Tensor]:
    """Squares and targets of ``images``, made anew if any file has changed."""
    files = sha256()
    for path in (file for image in images for file in (image, annotations.path_of(image))):
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(f"{path} is missing ({error.strerror}): a list names it") from None
        files.update(f"{'/'.join(path.parts[-3:])} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    settings = {"format": FORMAT, "set": "voc", "size": size, "classes": classes, "files": files.hexdigest()}
    write = partial(_write, images, size, classes)
    place = store.made(cache, "voc", settings, write, what="images", smaller="--size")
    x, y = store.arrays(place, ("x", "y"), "images")
    return x, y


def _write(images: list[Path], size: int, classes: tuple[str, ...], folder: Path) -> dict[str, Any]:
    targets, clipped = [], 0
    with store.bar("letterboxing", "images", len(images)) as advance, store.Growing(folder / "x.npy") as file:
        for path in images:
            square, target, outside = annotations.letterboxed_sample(path, size, classes)
            file.append(square.numpy())
            targets.append(target)
            clipped += outside
            advance()
    if clipped:
        warnings.warn(f"fptt: {clipped} boxes reached beyond their images and were clipped", stacklevel=4)
    np.save(folder / "y.npy", nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=PADDING).numpy())
    return {"images": len(images), "objects": sum(len(target) for target in targets), "clipped": clipped}
