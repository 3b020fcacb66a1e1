"""The loss of a detector: which predictions answer for which object, and how far off they are."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt.detection.head import Head, to_boxes
from fptt.models.spyv4 import ANCHORS, STRIDES

FITTING = 4.0  # an anchor answers for objects up to so many times wider, narrower, higher or lower: the reach of ``Head``
EPSILON = 1e-7  # keeps quotients finite


class DetectionLoss(nn.Module):
    """box (1 - CIoU) + objectness + classes, the first and last over the predictions that answer for an object.

    An object is answered for by every anchor whose sides fit its own within a factor of ``FITTING``, or else by the one that
    fits best, in the cell that holds its centre and in the two nearest beside it (Wang et al. 2021, arXiv 2011.08036). Their
    boxes are held to it by the complete IoU (Zheng et al. 2020, arXiv 1911.08287), their classes by the cross-entropy of each;
    the objectness of all predictions is held to the CIoU of what they answer for, and to 0 without. Each sum is divided by the
    number of answers in the batch (Ge et al. 2021, arXiv 2107.08430).

    Difficult objects are not learnt: nothing answers for them. All shapes are static and nothing reaches the host, so that the
    step compiles.

    Args:
        head: the meaning of the predictions.
        smoothing: label smoothing: an object's class counts 1 - smoothing/2, all others smoothing/2.
        box, objectness, classes: weights of the three terms.
    """

    def __init__(self, head: Head, *, smoothing: float = 0.0, box: float = 5.0, objectness: float = 1.0, classes: float = 1.0):
        super().__init__()
        self.head, self.smoothing = head, smoothing
        self.box, self.objectness, self.classes = box, objectness, classes

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss (scalar) of ``output`` [batch, boxes, 5 + classes].

        Args:
            target: [batch, objects, (label, x1, y1, x2, y2, difficult)] in pixels; rows of padding have label -1.
        """
        index, answers = self.assign(target)
        per_object = index.shape[1] // target.shape[1]
        answered = output.gather(1, index.unsqueeze(2).expand(-1, -1, output.shape[2]))
        boxes = to_boxes(answered[..., :4], self.head.cell[index], self.head.stride[index], self.head.anchor[index])
        label, wanted, _ = target.repeat_interleave(per_object, dim=1).split((1, 4, 1), dim=2)
        anywhere = boxes.new_tensor((0.0, 0.0, 1.0, 1.0)).expand_as(wanted)  # in place of what is no object: a box with an area
        wanted = torch.where(answers.unsqueeze(2), wanted, anywhere)
        ciou = complete_iou(boxes, wanted)

        number = answers.sum().clamp(min=1)
        box = ((1 - ciou) * answers).sum() / number
        overlap = (ciou.detach().clamp(0, 1) * answers).to(output.dtype)
        best = torch.zeros_like(output[..., 4]).scatter_reduce(1, index, overlap, "amax")
        objectness = F.binary_cross_entropy_with_logits(output[..., 4], best, reduction="sum") / number
        is_class = label.long() == torch.arange(self.head.classes, device=label.device)
        truth = is_class.to(output.dtype) * (1 - self.smoothing) + self.smoothing / 2
        per_class = F.binary_cross_entropy_with_logits(answered[..., 5:], truth, reduction="none").sum(2)
        return self.box * box + self.objectness * objectness + self.classes * (per_class * answers).sum() / number

    def assign(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Each object's candidates among the predictions, and which of them do answer: int64 and bool [batch, candidates].

        Candidates of one object follow each other: heads, anchors, then the centre's cell, one beside and one above or below.
        """
        boxes = target[..., 1:5]
        sides = boxes[..., 2:] - boxes[..., :2]
        real = (target[..., 0] >= 0) & (target[..., 5] == 0) & (sides > 0).all(2)
        ratio = sides.clamp(min=1e-3)[:, :, None, None] / self.head.anchors  # [batch, objects, heads, anchors, 2]
        misfit = torch.maximum(ratio, 1 / ratio).amax(4)
        fits = (misfit < FITTING) | (misfit == misfit.amin((2, 3), keepdim=True))

        anchors = torch.arange(ANCHORS, device=target.device).view(1, 1, -1, 1)
        indices, answers, start = [], [], 0
        for number, (stride, cells) in enumerate(zip(STRIDES, self.head.cells, strict=True)):
            centre = (boxes[..., :2] + boxes[..., 2:]) / 2 / stride
            own = centre.floor().clamp(0, cells - 1)
            nearer = torch.where(centre - own < 0.5, -1.0, 1.0)
            beside = torch.stack((own[..., 0] + nearer[..., 0], own[..., 1]), dim=-1)
            above = torch.stack((own[..., 0], own[..., 1] + nearer[..., 1]), dim=-1)
            place = torch.stack((own, beside, above), dim=2)  # [batch, objects, 3, (column, row)]
            inside = ((place >= 0) & (place < cells)).all(3)
            column, row = place.clamp(0, cells - 1).long().unsqueeze(2).unbind(4)
            indices.append(start + (anchors * cells + row) * cells + column)
            answers.append((real.unsqueeze(2) & fits[:, :, number]).unsqueeze(3) & inside.unsqueeze(2))
            start += ANCHORS * cells**2
        return torch.stack(indices, dim=2).flatten(1), torch.stack(answers, dim=2).flatten(1)


def complete_iou(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Complete IoU [...] of each of ``boxes`` [..., 4] with one of ``wanted`` [..., 4]: Zheng et al. 2020, arXiv 1911.08287.

    IoU - (distance of the centres / diagonal of the hull)² - a v, where v is the squared difference of the aspect ratios'
    angles in units of a right angle, and its weight a = v / (1 - IoU + v) a constant to the gradient. The value is that of
    ``torchvision.ops.complete_box_iou_loss``, which picks out the boxes that overlap: a step with shapes that depend on
    the data does not compile.
    """
    low, high = torch.maximum(boxes[..., :2], wanted[..., :2]), torch.minimum(boxes[..., 2:], wanted[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    sides, wanted_sides = boxes[..., 2:] - boxes[..., :2], wanted[..., 2:] - wanted[..., :2]
    iou = shared / (sides.prod(-1) + wanted_sides.prod(-1) - shared + EPSILON)
    hull = torch.maximum(boxes[..., 2:], wanted[..., 2:]) - torch.minimum(boxes[..., :2], wanted[..., :2])
    apart = (boxes[..., :2] + boxes[..., 2:] - wanted[..., :2] - wanted[..., 2:]) / 2
    angle = torch.atan2(wanted_sides[..., 0], wanted_sides[..., 1]) - torch.atan2(sides[..., 0], sides[..., 1])
    v = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = v / (1 - iou + v + EPSILON)
    return iou - apart.square().sum(-1) / (hull.square().sum(-1) + EPSILON) - weight * v
