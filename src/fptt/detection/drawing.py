"""Detections drawn onto their image."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from fptt.detection import Detections

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"  # comes with matplotlib
SMALLEST, SHARE = 11, 32  # height of the text: this share of the image's shorter side, but so many pixels at least
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def drawn(image: Tensor, found: Detections, names: Sequence[str], caption: str = "") -> Tensor:
    """A copy of ``image`` (uint8 [3, height, width]) with a box, a class and a score for all that was ``found``.

    Each class has its colour; the best detections are drawn last; ``caption`` stands in the lower left
    corner.
    """
    from torchvision.utils import draw_bounding_boxes

    size = max(SMALLEST, min(image.shape[-2:]) // SHARE)
    boxes, labels, colours = [], [], []
    for box, score, label in zip(*(part.flip(0).tolist() for part in found), strict=True):
        boxes.append(box)
        labels.append(f"{names[label]} {score:.2f}")
        colours.append(colour(label))
    if caption:  # the box of a text that lies in its own background
        boxes.append([0.0, image.shape[-2] - 1.5 * size - 4, 0.0, image.shape[-2]])
        labels.append(caption)
        colours.append(BLACK)
    if not boxes:
        return image.clone()
    return draw_bounding_boxes(
        image,
        torch.tensor(boxes),
        labels,
        colours,
        width=max(2, size // 6),
        font=str(FONT),
        font_size=size,
        fill_labels=True,
        label_colors=[BLACK if sum(c) > 382 else WHITE for c in colours],
        label_background_colors=colours,
    )


def colour(label: int) -> tuple[int, int, int]:
    """A colour for each class, red, green and blue up to 255: twenty hues, those of neighbours far apart."""
    red, green, blue = colorsys.hsv_to_rgb(0.35 * label % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
