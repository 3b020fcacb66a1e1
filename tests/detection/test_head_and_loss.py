"""What predictions mean, which of them answer for an object, and the gradient of the loss."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fptt.detection.head import REFERENCE_ANCHORS, Head, detections, to_boxes
from fptt.detection.loss import DetectionLoss
from fptt.models.spyv4 import SPYv4

torchvision = pytest.importorskip("torchvision", reason="boxes need torchvision")

SIZE, CLASSES = 128, 4


def head():
    return Head(CLASSES, SIZE)


def target(*rows, objects=5):
    """Rows (label, x1, y1, x2, y2[, difficult]) of one image, padded."""
    padded = torch.full((1, objects, 6), -1.0)
    padded[..., 1:] = 0
    for number, row in enumerate(rows):
        padded[0, number, : len(row)] = torch.tensor(row, dtype=torch.float32)
    return padded


def test_as_many_predictions_as_the_network_makes():
    output, _ = SPYv4(CLASSES, SIZE, width=0.1)(torch.rand(1, 3, SIZE, SIZE))
    boxes, scores = head().decode(output)
    assert boxes.shape == (1, output.shape[1], 4)
    assert scores.shape == (1, output.shape[1], CLASSES)
    with pytest.raises(ValueError, match="anchors must be positive"):
        Head(CLASSES, SIZE, torch.zeros(2, 3, 2))


def test_a_prediction_of_zeros_is_its_anchor_in_the_middle_of_its_cell():
    boxes, scores = head().decode(torch.zeros(1, 3 * (16 + 64), 5 + CLASSES))
    coarse, fine = (
        boxes[0, 16 + 4 + 1],
        boxes[0, 48 + 2 * 64 + 8 * 3 + 5],
    )  # second anchor, row 1, column 1; third, row 3, column 5
    scale = SIZE / 416
    for box, (width, height), centre in (
        (coarse, REFERENCE_ANCHORS[0][1], (48, 48)),
        (fine, REFERENCE_ANCHORS[1][2], (88, 56)),
    ):
        half = torch.tensor((width, height)) * scale / 2
        torch.testing.assert_close(box, torch.cat((torch.tensor(centre) - half, torch.tensor(centre) + half)))
    assert torch.equal(scores, torch.full_like(scores, 0.25))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_boxes_come_back_from_their_raw_values(seed):
    generator = torch.Generator().manual_seed(seed)
    h = head().double()
    index = torch.randint(len(h.cell), (20,), generator=generator)
    raw = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    boxes = to_boxes(raw, h.cell[index], h.stride[index], h.anchor[index])
    torch.testing.assert_close(h.encode(boxes, index), raw, rtol=1e-9, atol=1e-9)
    again = to_boxes(h.encode(boxes, index), h.cell[index], h.stride[index], h.anchor[index])
    torch.testing.assert_close(again, boxes, rtol=1e-12, atol=1e-12)


def answering(h, objects):
    index, answers = DetectionLoss(h).assign(objects)
    return index[answers].tolist()


def test_an_object_is_answered_for_where_it_is_and_only_there():
    h = head()
    rows = answering(h, target((1, 40.0, 40.0, 70.0, 70.0)))  # centre (55, 55)
    assert len(set(rows)) == len(rows) >= 3
    for row in rows:
        distance = (h.cell[row] + 0.5) * h.stride[row] - 55
        assert distance.abs().max() <= h.stride[row]  # its own cell or one beside
        ratio = 30 / h.anchor[row]
        assert torch.maximum(ratio, 1 / ratio).max() < 4
        assert torch.isfinite(h.encode(torch.tensor([[40.0, 40.0, 70.0, 70.0]]), torch.tensor([row]))).all()  # within its reach
    own = [row for row in rows if (h.cell[row] * h.stride[row] <= 55).all() and ((h.cell[row] + 1) * h.stride[row] > 55).all()]
    assert own


def test_odd_objects_have_an_answer_too_and_others_none():
    h = head()
    assert answering(h, target((0, 0.0, 0.0, 128.0, 2.0)))  # 64 times wider than high: no anchor fits
    assert answering(h, target((0, 126.0, 126.0, 128.0, 128.0)))  # in the corner
    assert not answering(h, target())
    assert not answering(h, target((0, 10.0, 10.0, 50.0, 50.0, 1)))  # difficult
    assert not answering(h, target((0, 10.0, 10.0, 10.0, 50.0)))  # without an area


def planted(h, objects):
    """An output that says exactly what ``objects`` [1, n, 6] are, and is sure of it."""
    index, answers = DetectionLoss(h).assign(objects)
    output = torch.full((1, len(h.cell), 5 + CLASSES), -12.0)
    output[..., :4] = 0
    per_object = index.shape[1] // objects.shape[1]
    for number in answers[0].nonzero().flatten().tolist():
        row, label = index[0, number], int(objects[0, number // per_object, 0])
        output[0, row, :4] = h.encode(objects[0, number // per_object, 1:5][None], row[None])[0]
        output[0, row, 4], output[0, row, 5:], output[0, row, 5 + label] = 12.0, -12.0, 12.0
    return output


OBJECTS = target((1, 20.0, 30.0, 60.0, 90.0), (3, 80.0, 10.0, 120.0, 40.0))


def test_the_right_answer_costs_nothing_and_is_found():
    h = head()
    output = planted(h, OBJECTS)
    loss = DetectionLoss(h)
    assert loss(output, OBJECTS) < 0.01 < loss(torch.zeros_like(output), OBJECTS)
    (found,) = detections(output, h)
    assert found.labels.tolist() == [1, 3] or found.labels.tolist() == [3, 1]
    order = found.labels.argsort()
    torch.testing.assert_close(found.boxes[order], OBJECTS[0, :2, 1:5], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("wrong", ["moved", "class", "missed", "invented"])
def test_every_mistake_costs(wrong):
    h = head()
    output, loss = planted(h, OBJECTS), DetectionLoss(h)
    right = loss(output, OBJECTS)
    other = OBJECTS.clone()
    if wrong == "moved":
        other[0, 0, 1:5] += 2.0
    elif wrong == "class":
        other[0, 0, 0] = 2
    elif wrong == "invented":
        other = target(OBJECTS[0, 0].tolist())
    else:
        other[0, 2] = torch.tensor([0, 90.0, 90.0, 120.0, 120.0, 0])
    assert loss(output, other) > right + 0.1


def test_label_smoothing_asks_for_less_certainty():
    h = head()
    output = planted(h, OBJECTS)
    assert DetectionLoss(h, smoothing=0.1)(output, OBJECTS) > DetectionLoss(h)(output, OBJECTS) + 0.1


def complete_iou(boxes, wanted, weight=None):
    """IoU - distance² / diagonal² - weight v, written plainly; the weight of the aspect ratio is no function of the boxes."""
    low, high = torch.maximum(boxes[:, :2], wanted[:, :2]), torch.minimum(boxes[:, 2:], wanted[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    sides, wanted_sides = boxes[:, 2:] - boxes[:, :2], wanted[:, 2:] - wanted[:, :2]
    iou = shared / (sides.prod(1) + wanted_sides.prod(1) - shared)
    hull = torch.maximum(boxes[:, 2:], wanted[:, 2:]) - torch.minimum(boxes[:, :2], wanted[:, :2])
    apart = (boxes[:, :2] + boxes[:, 2:] - wanted[:, :2] - wanted[:, 2:]) / 2
    angle = torch.atan(wanted_sides[:, 0] / wanted_sides[:, 1]) - torch.atan(sides[:, 0] / sides[:, 1])
    v = 4 / torch.pi**2 * angle**2
    weight = v / (1 - iou + v) if weight is None else weight
    return iou - apart.square().sum(1) / hull.square().sum(1) - weight * v, weight


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    h = Head(2, 32).double()
    objects = target((1, 4.0, 6.0, 20.0, 28.0), (0, 15.0, 2.0, 30.0, 9.0)).double()
    output = torch.randn(1, len(h.cell), 7, dtype=torch.float64, requires_grad=True)
    loss = DetectionLoss(h, smoothing=0.1)
    index, answers = loss.assign(objects)
    rows = index[0][answers[0]]
    wanted = objects.repeat_interleave(index.shape[1] // objects.shape[1], dim=1)[0][answers[0]]
    classes = torch.nn.functional.one_hot(wanted[:, 0].long(), 2).double() * 0.9 + 0.05
    with torch.no_grad():
        held, weight = complete_iou(h.decode(output)[0][0][rows], wanted[:, 1:5])
        held = torch.zeros(len(h.cell), dtype=torch.float64).scatter_reduce(0, rows, held.clamp(0, 1), "amax")

    def plain(output):
        """The loss written plainly; what it takes as constants, the objectness wanted and the weight of v, are kept."""
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
        ciou, _ = complete_iou(h.decode(output)[0][0][rows], wanted[:, 1:5], weight)
        terms = 5 * (1 - ciou).sum(), cross_entropy(output[0, :, 4], held, reduction="sum")
        return (sum(terms) + cross_entropy(output[0, rows, 5:], classes, reduction="sum")) / len(rows)

    torch.testing.assert_close(plain(output), loss(output, objects), rtol=1e-6, atol=1e-6)  # torchvision adds 1e-7 to areas
    (gradient,) = torch.autograd.grad(loss(output, objects), output)
    with torch.no_grad():
        for number in range(output.numel()):
            step = torch.zeros_like(output)
            step.view(-1)[number] = 1e-6
            difference = (plain(output + step) - plain(output - step)) / 2e-6
            torch.testing.assert_close(gradient.view(-1)[number], difference, rtol=1e-5, atol=1e-7)
    assert (gradient[0, rows, :4] != 0).all()


def test_of_boxes_that_overlap_the_best_of_each_class_stays():
    """As ``torchvision.ops.nms`` on each class alone."""
    torch.manual_seed(1)
    h = head()
    output = 2 * torch.randn(2, len(h.cell), 5 + CLASSES)
    boxes, scores = h.decode(output)
    for image, found in enumerate(detections(output, h, threshold=0.2, iou=0.4, most=10_000)):
        for label in range(CLASSES):
            candidates = scores[image, :, label] > 0.2
            kept = torchvision.ops.nms(boxes[image][candidates], scores[image, candidates, label], 0.4)
            ours = found.labels == label
            torch.testing.assert_close(found.boxes[ours], boxes[image][candidates][kept])
        assert (found.scores.diff() <= 0).all()
    assert [len(found.scores) for found in detections(output, h, threshold=0.2, most=3)] == [3, 3]
