"""Images of any shape as squares, as detectors take them: scaled to fit, centred, grey around; and boxes back again."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fptt.errors import InputError

GREY = 128  # around the image, as in YOLO (Redmon & Farhadi 2018)


def letterbox(image: Tensor, size: int) -> tuple[Tensor, float, tuple[int, int]]:
    """``image`` [3, height, width], uint8, as a square [3, size, size]; with its scale and its (left, top) corner in there.

    The longer side becomes ``size``, the shorter one is rounded to whole pixels; bilinear, antialiased, for which torch wants
    whole numbers to lie on the CPU. A point of the image lies at ``scale`` times its coordinates, plus the corner:
    ``letterboxed``, ``unletterbox``. Raises InputError for a square of less than 2 pixels.
    """
    if size < 2:
        raise InputError(f"images must have at least 2 pixels to a side, got {size}")
    height, width = image.shape[-2:]
    scale = size / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    left, top = (size - columns) // 2, (size - rows) // 2
    square = torch.full((*image.shape[:-2], size, size), GREY, dtype=image.dtype)
    resized = F.interpolate(image[None], (rows, columns), mode="bilinear", antialias=True)[0]
    square[..., top : top + rows, left : left + columns] = resized
    return square, scale, (left, top)


def letterboxed(boxes: Tensor, scale: float, corner: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] of an image as (x1, y1, x2, y2), in pixels of its square."""
    return boxes * scale + boxes.new_tensor((*corner, *corner))


def unletterbox(boxes: Tensor, scale: float, corner: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] of a square as (x1, y1, x2, y2), in pixels of the image that ``letterbox`` put there."""
    return (boxes - boxes.new_tensor((*corner, *corner))) / scale
