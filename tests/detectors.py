"""Small detectors for tests: one whose layers fire and that finds things in noise, and one that finds what it is told."""

import torch
from torch import nn

from fptt.data.letterbox import letterboxed
from fptt.detection.detector import Detector
from fptt.detection.head import Head
from fptt.models.spyv4 import SPYv4

NAMES = ("ant", "bee", "cat")


def lively(size=64, **options):
    """An untrained SPYv4 with the statistics of batch norms of some noise, and heads that find a little everywhere."""
    torch.manual_seed(0)
    model = SPYv4(len(NAMES), size, width=0.125, **options)
    state = None
    with torch.no_grad():
        for layer in model.layers.values():
            if layer.norm is not None:
                layer.norm.bias.fill_(0.8)
        for _ in range(30):
            _, state = model(torch.rand(2, 3, size, size), state)
        for head in model.heads:
            nn.init.normal_(head.weight, std=1.5)
            nn.init.zeros_(head.bias)
    return model.eval()


def detector(**options):
    """A lively detector of 64 x 64 pixels and 3 steps."""
    training = {"task": "voc", "test_map50": 0.25}
    return Detector(lively(), Head(len(NAMES), 64), NAMES, 3, threshold=0.5, training=training, **options)


class Planted(nn.Module):
    """At every step, however it looks, finds the same objects: rows (x1, y1, x2, y2, score, label) in pixels of its input."""

    def __init__(self, head, rows):
        super().__init__()
        self.size, self.layers, self.settings = head.size, nn.ModuleDict(), {}
        count = int(head.stride.shape[0])
        output = torch.full((1, count, 5 + head.classes), -20.0)
        for *box, score, label in rows:
            raw = head.encode(torch.tensor([box]).expand(count, 4), torch.arange(count))
            best = torch.where(raw.isfinite().all(1), raw.abs().amax(1), torch.inf).argmin()  # whose reach it is well within
            output[0, best, :4] = raw[best]
            output[0, best, 4] = 20.0
            output[0, best, 5 + label] = torch.logit(torch.tensor(score))
        self.output = nn.Buffer(output)

    def initial_state(self, x):
        return (torch.zeros((), dtype=torch.int64),)

    def forward(self, x, state):
        return self.output.expand(len(x), -1, -1), (state[0] + 1,)


def finding(rows, height, width, size=64):
    """A detector that finds ``rows`` (as of ``Planted``, in pixels of an image of ``height`` x ``width``)."""
    head = Head(len(NAMES), size)
    scale = size / max(height, width)
    corner = ((size - round(width * scale)) // 2, (size - round(height * scale)) // 2)
    squared = [(*letterboxed(torch.tensor(box), scale, corner).tolist(), score, label) for *box, score, label in rows]
    return Detector(Planted(head, squared), head, NAMES, 2)
