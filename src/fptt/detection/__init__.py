"""Object detection: boxes from a network's maps, their loss, and how detections are measured."""

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """Found in one image, best first: ``boxes`` [n, 4] as (x1, y1, x2, y2) in pixels, ``scores`` [n], ``labels`` int64 [n]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
