"""Average precision: of PASCAL VOC, by all points or by some recalls, and of COCO.

The rules of VOC are those of its development kit (Everingham et al. 2010, doi 10.1007/s11263-009-0275-4): detections of a class
are taken in order of their score; each belongs to the object of its class that it overlaps most; it is right where their IoU
reaches the threshold and no detection before it had that object, wrong otherwise. Of a difficult object it is neither.

Boxes have continuous coordinates: the IoU of VOC's inclusive pixels (xmin, ymin, xmax, ymax), whose sides are xmax - xmin + 1
and ymax - ymin + 1, is that of (xmin - 1, ymin - 1, xmax, ymax).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fptt.detection import Detections
from fptt.errors import InputError


class Curve(NamedTuple):
    """Of one class, float64 [n]: ``scores`` of its detections, best first, those of difficult objects left out; ``precision``,
    the share that is right of the detections down to each; ``recall``, the share of the objects that these find."""

    scores: Tensor
    precision: Tensor
    recall: Tensor


class AveragePrecision(NamedTuple):
    """``per_class`` float64 [classes], NaN for a class without objects that are not difficult; ``mean`` of the others, NaN if
    there are none; ``curves``, one for each class."""

    mean: float
    per_class: Tensor
    curves: tuple[Curve, ...]


class CocoAveragePrecision(NamedTuple):
    """Means over the classes: at an IoU of 0.5, and over ten thresholds from 0.50 to 0.95; NaN without objects."""

    at_50: float
    at_50_to_95: float


def average_precision(
    detections: Sequence[Detections],
    targets: Sequence[Tensor],
    classes: int,
    *,
    iou: float = 0.5,
    points: int | Literal["all"] = "all",
) -> AveragePrecision:
    """Average precision of the ``detections`` in each image, by the rules of VOC.

    Of equal scores, the one given first comes first.

    Args:
        targets: of each image, its objects as rows (label, x1, y1, x2, y2, difficult) [objects, 6]; label -1 is padding.
        classes: labels lie from 0 to ``classes`` - 1.
        iou: the threshold, reached or passed by what is right.
        points: precision is made to fall (at each recall, it is the best at that or any higher one) and averaged: over all
            recalls, "all", as in VOC from 2010 on; or at so many, evenly from 0 to 1: 11 as in VOC to 2009, 101 as in COCO.

    Raises InputError for settings outside their range, unknown labels, scores that are NaN, and lists of different length.
    """
    if not 0 < iou <= 1:
        raise InputError(f"the IoU that counts as found must lie in (0, 1], got {iou}")
    if points != "all" and points < 2:
        raise InputError(f"precision is averaged over all points or at 2 or more recalls, got {points}")
    objects = _objects(detections, targets)
    every = torch.cat([torch.zeros(0, 6), *objects])
    kind, difficult = every[:, 0].long(), every[:, 5] > 0
    scores, label, overlap, nearest = _paired(detections, objects).T
    if scores.isnan().any():
        raise InputError("detections have scores that are not numbers: has the training diverged?")
    for what, labels in (("detections", label), ("objects", kind)):
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            low, high = int(labels.min()), int(labels.max())
            raise InputError(f"labels of {what} must lie from 0 to {classes - 1}, found {low} to {high}")
    hits = (overlap >= iou).nonzero().squeeze(1)
    hit = nearest[hits].long()
    first = torch.full((len(every),), len(scores)).scatter_reduce(0, hit, hits, "amin")
    right, counted = torch.zeros(len(scores), dtype=torch.bool), torch.ones(len(scores), dtype=torch.bool)
    right[hits], counted[hits] = first[hit] == hits, ~difficult[hit]
    number = kind[~difficult].bincount(minlength=classes)
    curves, areas = [], []
    for place in range(classes):
        mine = counted & (label == place)
        found = right[mine].cumsum(0)
        precision = found.double() / torch.arange(1, len(found) + 1)
        curves.append(Curve(scores[mine], precision, found.double() / number[place]))
        areas.append(_area(right[mine], precision, int(number[place]), points))
    per_class = torch.tensor(areas, dtype=torch.float64)
    return AveragePrecision(per_class.nanmean().item(), per_class, tuple(curves))


def coco_average_precision(detections: Sequence[Detections], targets: Sequence[Tensor]) -> CocoAveragePrecision:
    """Average precision by the rules of COCO, computed by faster-coco-eval through torchmetrics; arguments as above.

    It differs from VOC's: precision is averaged over 101 recalls; a detection whose best object is taken may still have another
    one; only the 100 best detections of an image count; difficult objects are treated as COCO's crowds: every detection is left
    out of which such an object covers a share that reaches the threshold.
    """
    objects = _objects(detections, targets)
    try:
        import faster_coco_eval  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision(backend="faster_coco_eval")
    except (ImportError, RuntimeError) as error:
        raise InputError(f"COCO's average precision needs more packages: pip install 'fptt[detection]' ({error})") from None
    metric.warn_on_many_detections = False
    metric.update(
        [{key: value.cpu() for key, value in found._asdict().items()} for found in detections],
        [{"boxes": there[:, 1:5], "labels": there[:, 0].long(), "iscrowd": there[:, 5].long()} for there in objects],
    )
    result = metric.compute()
    return CocoAveragePrecision(*(value if (value := result[key].item()) >= 0 else float("nan") for key in ("map_50", "map")))


def _objects(detections: Sequence[Detections], targets: Sequence[Tensor]) -> list[Tensor]:
    """The rows of ``targets`` that are no padding, for as many images as there are ``detections`` of."""
    if len(detections) != len(targets):
        raise InputError(f"detections of {len(detections)} images do not fit the objects of {len(targets)}")
    return [target[target[:, 0] >= 0].cpu() for target in targets]


def _paired(detections: Sequence[Detections], objects: Sequence[Tensor]) -> Tensor:
    """All detections of all images, best first, float64 [n, 4]: score, label, IoU with the object of its class that it overlaps
    most (-1 where there is none), and the place of that object among those of all images."""
    try:
        from torchvision.ops import box_iou
    except (ImportError, RuntimeError) as error:
        raise InputError(f"average precision needs torchvision: pip install 'fptt[detection]' ({error})") from None
    rows, before = [torch.zeros(0, 4, dtype=torch.float64)], 0
    for found, there in zip(detections, objects, strict=True):
        boxes, scores, labels = (value.double().cpu() for value in found)
        iou = box_iou(boxes, there[:, 1:5].double()).masked_fill(labels.unsqueeze(1) != there[:, 0], -1)
        overlap, place = F.pad(iou, (0, 1), value=-1).max(1)  # one object more, that nothing overlaps: there may be none
        rows.append(torch.stack((scores, labels, overlap, place + before), 1))
        before += len(there)
    pairs = torch.cat(rows)
    return pairs[pairs[:, 0].argsort(descending=True, stable=True)]


def _area(right: Tensor, precision: Tensor, objects: int, points: int | Literal["all"]) -> float:
    """The mean over recalls of precision made to fall; NaN without objects.

    ``right`` [n] says which detections are, best first, and ``precision`` [n] how many of them down to each.
    """
    if not objects:
        return float("nan")
    falling = F.pad(precision.flip(0).cummax(0).values.flip(0), (0, 1))  # 0 at recalls that are not reached
    if points == "all":
        return falling[:-1][right].sum().item() / objects
    found, wanted = right.cumsum(0) * (points - 1), torch.arange(points) * objects  # whole numbers: rounding misses none
    reached = torch.searchsorted(found, wanted)
    return falling[reached].mean().item()
