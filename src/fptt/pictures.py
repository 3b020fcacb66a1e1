"""Pictures of samples: images, with boxes, and frames of events, ON and OFF in two colours, on a sheet or as a film."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from torch import Tensor

from fptt import plots
from fptt.errors import InputError

ON, OFF = plots.COLOURS[0], plots.COLOURS[1]
SMALLEST = 240  # pixels: films of smaller sensors are enlarged


def coloured(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """[frames, channels, height, width] as [frames, height, width, 3], on white.

    Two channels are counts of OFF and ON events; one is brightness in [0, 1] or, where it goes beyond, counts of either; three
    are red, green and blue. Counts are darkest from the 99th percentile of those that are not zero.
    """
    frames = np.asarray(frames, np.float64)
    if frames.shape[1] == 3:
        return (255 * frames.clip(0, 1)).transpose(0, 2, 3, 1).astype(np.uint8)
    if frames.shape[1] == 1:
        if frames.min() >= 0 and frames.max() <= 1:
            return np.repeat((255 * (1 - frames)).transpose(0, 2, 3, 1), 3, 3).astype(np.uint8)
        frames = np.concatenate((-frames, frames), 1)
    frames = frames.clip(0)
    counts = frames[frames > 0]
    depth = (frames / (np.percentile(counts, 99) if len(counts) else 1)).clip(0, 1) ** 0.5
    ink = [1 - np.array(to_rgb(colour)) for colour in (OFF, ON)]
    picture = 1 - sum(depth[:, channel, :, :, None] * ink[channel] for channel in (0, 1))
    return (255 * picture.clip(0, 1)).astype(np.uint8)


def boxed(image: Tensor, boxes: Tensor, captions: Sequence[str]) -> NDArray[np.uint8]:
    """An image, uint8 [3, height, width], as [height, width, 3], with ``boxes`` [n, 4] drawn in and a caption in each.

    Boxes are (x1, y1, x2, y2) in pixels; equal captions have the same colour.
    """
    from torchvision.utils import draw_bounding_boxes

    order = list(dict.fromkeys(captions))
    colours = [plots.COLOURS[order.index(caption) % len(plots.COLOURS)] for caption in captions]
    if len(boxes):
        font = {"font": findfont("DejaVu Sans"), "font_size": 12, "label_colors": "white", "label_background_colors": colours}
        image = draw_bounding_boxes(image, boxes, list(captions), colours, width=2, fill_labels=True, **font)
    return image.permute(1, 2, 0).numpy()


def sheet(pictures: NDArray[np.uint8], captions: Sequence[str], title: str = "", columns: int = 8) -> Figure:
    """``pictures`` [number, height, width, 3] in rows, each with its caption."""
    columns = min(columns, len(pictures))
    rows, shape = -(-len(pictures) // columns), pictures.shape[1:3]
    size = 1.4 if columns > 1 else 3.0
    with plt.rc_context({**plots.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(size * columns, (size * shape[0] / shape[1] + 0.25) * rows + 0.4),
            squeeze=False,
            layout="constrained",
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, picture, caption in zip(axes.flat, pictures, captions, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(caption, fontsize=8)
        figure.suptitle(title, fontsize=10)
    return figure


def film(pictures: NDArray[np.uint8], path: Path, milliseconds: float) -> None:
    """Write ``pictures`` as a GIF that repeats, each shown for so long. Raises InputError where that cannot be done."""
    from PIL import Image

    factor = max(1, -(-SMALLEST // max(pictures.shape[1:3])))
    images = [Image.fromarray(picture.repeat(factor, 0).repeat(factor, 1)) for picture in pictures]
    try:
        images[0].save(path, save_all=True, append_images=images[1:], duration=max(20, round(milliseconds)), loop=0)
    except OSError as error:
        raise InputError(f"cannot write the film {path} ({error}): give another --out") from None
