"""What the page shows of a detector and of what it saw: HTML and pictures."""

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import get_args

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fptt import plots
from fptt.data import voc
from fptt.detection import Detections
from fptt.detection.detector import Detector
from fptt.detection.drawing import colour

SPIKES = 255 * torch.tensor(to_rgb(plots.COLOURS[1]))
SMALLEST = 416  # pixels: pictures of smaller networks are enlarged


def about(detector: Detector, weights: str) -> str:
    """Which network this is, on what it was trained and how good it is, as far as its file says so."""
    size, training = detector.model.size, detector.training
    parameters = sum(p.numel() for p in detector.model.parameters()) / 1e6
    lines = [f"{len(detector.names)} classes, {size} x {size} pixels, {parameters:.2f} million weights"]
    if "rule" in training:
        images = f"{training['train_samples']:,} images of " if "train_samples" in training else ""
        source = f"PASCAL VOC {training['images']}" if training["images"] in get_args(voc.Training) else training["images"]
        lines.append(f"trained with {training['rule'].upper()} on {images}{source}")
    precisions = [
        f"mean average precision {100 * training[f'{kind}_map50']:.1f} % on its {kind} set"
        for kind in ("test", "validation")
        if f"{kind}_map50" in training
    ]
    lines += precisions[:1] or ["of unknown precision"]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f"<header class='fptt-about'><h1>What a spiking network sees</h1>"
        f"<ul><li><b>SPYv4</b> {escape(weights)}</li>{items}</ul></header>"
    )


def table(found: Detections, names: Sequence[str]) -> str:
    """A row for each detection, the best first."""
    rows = []
    for box, score, label in zip(*(part.tolist() for part in found), strict=True):
        x1, y1, x2, y2 = (round(side) for side in box)
        rows.append((named(label, names), f"{score:.2f}", bar(score), f"{x1}, {y1}", f"{x2 - x1} x {y2 - y1}"))
    return listed(("class", "score", "", "left, top", "size"), rows)


def counts(found: Sequence[Detections], names: Sequence[str]) -> str:
    """A row for each class, the most frequent first: in how many frames it was found, and its best score."""
    frames: dict[int, list[float]] = {}
    for one in found:
        for label in one.labels.unique().tolist():
            frames.setdefault(label, []).append(one.scores[one.labels == label].max().item())
    rows = [
        (named(label, names), str(len(scores)), bar(len(scores) / len(found)), f"{max(scores):.2f}")
        for label, scores in sorted(frames.items(), key=lambda item: -len(item[1]))
    ]
    return listed(("class", "frames", "", "best score"), rows)


def rates(layers: dict[str, float], firing_rate: float) -> str:
    """A bar for each layer."""
    most = max((*layers.values(), 1e-9))
    rows = [(escape(name), bar(rate / most), f"{rate:.3f}") for name, rate in layers.items()]
    caption = f"<caption>Spikes per neuron and step: {firing_rate:.3f}</caption>"
    return f"<table class='fptt-rates'>{caption}{_body(rows)}</table>"


def listed(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return note("Nothing of such a score.")
    head = "".join(f"<th scope='col'>{text}</th>" for text in heads)
    return f"<div class='fptt-list'><table><thead><tr>{head}</tr></thead>{_body(rows)}</table></div>"


def named(label: int, names: Sequence[str]) -> str:
    return f"<i style='background: rgb{colour(label)}'></i>{escape(names[label])}"


def bar(share: float) -> str:
    return f"<span class='fptt-bar'><span style='width: {100 * share:.1f}%'></span></span>"


def note(text: str) -> str:
    return f"<p class='fptt-note'>{escape(text)}</p>"


def _body(rows: Iterable[Sequence[str]]) -> str:
    cells = (f"<th scope='row'>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in rest) for first, *rest in rows)
    return f"<tbody>{''.join(f'<tr>{row}</tr>' for row in cells)}</tbody>"


def spike_map(square: Tensor, corner: tuple[int, int], cells: Tensor) -> NDArray[np.uint8]:
    """The image in the network's input, uint8 [3, size, size], dark and grey, and over it the spikes of each cell.

    ``cells`` [rows, columns]; the result is [height, width, 3]. The image has its (left, top) ``corner`` in the input.
    """
    (left, top), size = corner, square.shape[-1]
    share = F.interpolate((cells / cells.max().clamp(min=1e-9)).sqrt()[None, None], (size, size))[0]
    picture = 0.45 * square.float().mean(0) * (1 - share) + SPIKES[:, None, None] * share
    picture = picture[:, top : size - top, left : size - left]
    factor = -(-SMALLEST // size)
    return picture.permute(1, 2, 0).round().to(torch.uint8).numpy().repeat(factor, 0).repeat(factor, 1)


def svg(figure: Figure, title: str) -> str:
    """``figure`` as a part of the page, whose text takes the page's colours."""
    buffer = io.StringIO()
    with plt.rc_context(plots.STYLE):
        figure.savefig(buffer, format="svg", transparent=True)
    plt.close(figure)
    text = buffer.getvalue()
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text[text.index("<svg") :], count=2)
    return f"<div class='fptt-figure' role='img' aria-label='{escape(title)}'>{text}</div>"
