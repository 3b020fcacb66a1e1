"""Files of PASCAL VOC's layout, Annotations/NAME.xml and JPEGImages/NAME.jpg: what they say, checked against each other."""

from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import torch
from torch import Tensor

from fptt.data.images import torchvision
from fptt.data.letterbox import letterbox, letterboxed
from fptt.errors import InputError


class Object(NamedTuple):
    """One annotated object: the name of its class, its box in pixels of the image, and whether it is too difficult to count."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class Annotation(NamedTuple):
    """What a file of Annotations/ says of an image: its objects, and its (width, height) if given."""

    objects: list[Object]
    size: tuple[int, int] | None


def path_of(image: Path) -> Path:
    """The annotation of an image."""
    return image.parent.parent / "Annotations" / f"{image.stem}.xml"


def read(path: Path) -> Annotation:
    """What the annotation of one image says. Raises InputError, naming the file, where it is missing or damaged.

    Boxes in the file are 1-based and inclusive; here they are (xmin - 1, ymin - 1, xmax, ymax), in continuous coordinates.
    """
    try:
        from defusedxml import ElementTree
    except ImportError as error:
        raise InputError(f"PASCAL VOC needs the package defusedxml: pip install 'fptt[vision]' ({error})") from None
    try:
        root = ElementTree.parse(path, forbid_dtd=True).getroot()
        if root.tag != "annotation":
            raise ValueError(f"it is a list of {root.tag}, not an annotation")
        objects = [_object(node) for node in root.findall("object")]
        size = None if root.find("size") is None else (int(_text(root, "size/width")), int(_text(root, "size/height")))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})") from None
    except (ParseError, ValueError, LookupError) as error:  # what defusedxml refuses is a ValueError
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())}): repair it") from None
    return Annotation(objects, size)


def _object(node: Element) -> Object:
    name = _text(node, "name")
    xmin, ymin, xmax, ymax = (float(_text(node, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    if not (np.isfinite((xmin, ymin, xmax, ymax)).all() and xmin <= xmax and ymin <= ymax):
        raise ValueError(f"the box of '{name}' runs from ({xmin:g}, {ymin:g}) to ({xmax:g}, {ymax:g})")
    return Object(name, (xmin - 1, ymin - 1, xmax, ymax), (node.findtext("difficult") or "").strip() == "1")


def _text(node: Element, path: str) -> str:
    text = (node.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"its {node.tag} lacks {path}")
    return text


def letterboxed_sample(path: Path, size: int, classes: tuple[str, ...]) -> tuple[Tensor, Tensor, int]:
    """An image as a square [3, size, size], its objects [objects, 6] in there, and how many of their boxes were clipped.

    A row of objects is (label, x1, y1, x2, y2, difficult), the label counted from 0 in ``classes``. Raises InputError, naming
    the file, where the image or its annotation cannot be read, they disagree in size, a class is unknown, or nothing of a box
    lies within the image.
    """
    source, io = path_of(path), torchvision("PASCAL VOC").io
    noted = read(source)
    try:
        image = io.decode_image(str(path), io.ImageReadMode.RGB)
    except (OSError, RuntimeError, ValueError):
        raise InputError(f"{path} cannot be read as an image: replace it") from None
    height, width = image.shape[1:]
    if noted.size not in (None, (width, height)):
        raise InputError(f"{source} is of an image of {noted.size}, but {path} has (width, height) {(width, height)}")
    square, scale, corner = letterbox(image, size)
    rows, clipped = [], 0
    for name, box, difficult in noted.objects:
        if name not in classes:
            raise InputError(f"{source}: unknown class '{name}', not one of {', '.join(classes)}")
        inside = tuple(min(max(side, 0.0), limit) for side, limit in zip(box, (width, height) * 2, strict=True))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise InputError(f"{source}: the box of '{name}', {box}, lies outside its image of {width} x {height}")
        clipped += inside != box
        rows.append([classes.index(name), *letterboxed(torch.tensor(inside), scale, corner).tolist(), float(difficult)])
    return square, torch.tensor(rows, dtype=torch.float32).view(-1, 6), clipped
