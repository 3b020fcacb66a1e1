"""What the raw predictions of a detector mean: boxes and class scores, and back."""

import torch
from torch import Tensor, nn

from fptt.detection import Detections
from fptt.models.spyv4 import ANCHORS, STRIDES

# Width and height in pixels of an input of 416 x 416, those of the coarse head first: the research code of Yin et al. 2023
# (byin-cwi/sFPTT, yolo_demo_show/nets/snn_yolo_v4_less.py).
REFERENCE_ANCHORS = (((81, 82), (135, 169), (344, 319)), ((10, 14), (23, 27), (37, 58)))
REFERENCE_SIZE = 416


class Head(nn.Module):
    """Where the boxes of ``SPYv4``'s predictions lie: for each of its rows the cell, the cell's stride and the anchor.

    A prediction (t_x, t_y, t_w, t_h, objectness, classes...) of the cell (column, row) with an anchor (w, h) means, with σ the
    logistic function, the box of centre and size

        x = stride (column + 2 σ(t_x) - 0.5)      y alike: the centre may lie half a cell outside
        width = w (2 σ(t_w))²                     height alike: up to four times the anchor

    with probability σ(objectness) σ(class) (Wang et al. 2021, arXiv 2011.08036; the research code has e^t_w in place of the
    square, which early in training may grow without bounds).

    Args:
        classes: number of kinds of objects.
        size: height and width of the input in pixels, a multiple of 32.
        anchors: [2 heads, 3, (width, height)] in pixels of that input, the coarse head's first; default those of the
            research code, scaled.

    Raises:
        ValueError: for anchors of another shape or that are not positive.
    """

    def __init__(self, classes: int, size: int, anchors: Tensor | None = None):
        super().__init__()
        if anchors is None:
            anchors = torch.tensor(REFERENCE_ANCHORS, dtype=torch.float32) * (size / REFERENCE_SIZE)
        anchors = torch.as_tensor(anchors, dtype=torch.float32)
        if anchors.shape != (len(STRIDES), ANCHORS, 2) or not (anchors > 0).all():
            raise ValueError(f"anchors must be positive and of shape {[len(STRIDES), ANCHORS, 2]}, got {list(anchors.shape)}")
        self.classes, self.size = classes, size
        self.cells = tuple(size // stride for stride in STRIDES)
        rows, strides, sizes = [], [], []
        for stride, cells, shapes in zip(STRIDES, self.cells, anchors, strict=True):
            y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
            rows.append(torch.stack((x, y), dim=-1).view(1, -1, 2).expand(ANCHORS, -1, -1).reshape(-1, 2))
            strides.append(torch.full((ANCHORS * cells**2, 1), float(stride)))
            sizes.append(shapes.repeat_interleave(cells**2, dim=0))
        self.anchors = nn.Buffer(anchors, persistent=False)
        self.cell = nn.Buffer(torch.cat(rows).float(), persistent=False)  # [boxes, (column, row)]
        self.stride = nn.Buffer(torch.cat(strides), persistent=False)  # [boxes, 1]
        self.anchor = nn.Buffer(torch.cat(sizes), persistent=False)  # [boxes, (width, height)]

    def decode(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [batch, boxes, 4] in pixels and scores [batch, boxes, classes] of ``output`` [batch, boxes, 5 + classes]."""
        boxes = to_boxes(output[..., :4], self.cell, self.stride, self.anchor)
        return boxes, torch.sigmoid(output[..., 4:5]) * torch.sigmoid(output[..., 5:])

    def encode(self, boxes: Tensor, index: Tensor) -> Tensor:
        """The raw values [n, 4] with which the predictions ``index`` [n] mean ``boxes`` [n, 4]; infinite out of their reach."""
        return from_boxes(boxes, self.cell[index], self.stride[index], self.anchor[index])


def to_boxes(raw: Tensor, cell: Tensor, stride: Tensor, anchor: Tensor) -> Tensor:
    """Boxes [..., 4] of raw values [..., 4]; cell [..., 2], stride [..., 1] and anchor [..., 2] as in ``Head``."""
    value = 2 * torch.sigmoid(raw)
    centre = (cell + value[..., :2] - 0.5) * stride
    half = value[..., 2:].square() * anchor / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def from_boxes(boxes: Tensor, cell: Tensor, stride: Tensor, anchor: Tensor) -> Tensor:
    """The inverse of ``to_boxes``."""
    first, last = boxes[..., :2], boxes[..., 2:]
    centre = (first + last) / 2 / stride - cell + 0.5
    return torch.logit(torch.cat((centre, ((last - first) / anchor).sqrt()), dim=-1) / 2)


def detections(output: Tensor, head: Head, *, threshold: float = 0.3, iou: float = 0.45, most: int = 100) -> list[Detections]:
    """What was found in each image of ``output`` [batch, boxes, 5 + classes]: the ``best`` of its ``candidates``."""
    return [best(found, iou=iou, most=most) for found in candidates(output, head, threshold)]


def candidates(output: Tensor, head: Head, threshold: float) -> list[Detections]:
    """All boxes with a score above ``threshold`` in each image of ``output``, however much they overlap."""
    found = []
    for boxes, scores in zip(*head.decode(output.detach().float()), strict=True):
        rows, labels = (scores > threshold).nonzero(as_tuple=True)
        found.append(Detections(boxes[rows], scores[rows, labels], labels))
    return found


def best(found: Detections, *, threshold: float = 0.0, iou: float = 0.45, most: int = 100) -> Detections:
    """Those of ``found`` that stay, by falling score.

    Args:
        threshold: least score.
        iou: of two boxes of one class that overlap by more (intersection over union), the better one stays.
        most: at most so many.
    """
    from torchvision.ops import batched_nms

    found = Detections(*(part[found.scores > threshold] for part in found))
    kept = batched_nms(*found, iou)[:most]
    return Detections(*(part[kept] for part in found))
