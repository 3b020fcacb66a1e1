"""What a detector saw, kept so that another threshold chooses from it without running the network again."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fptt import state as states
from fptt.data.letterbox import letterbox
from fptt.detection import Detections
from fptt.detection.detector import Detector, in_image
from fptt.detection.head import best, candidates
from fptt.models.spyv4 import DetectorState

LEAST = 0.05  # score of what is kept


class Look(NamedTuple):
    """All that may be in an image, and which neurons fired; on the CPU."""

    candidates: Detections  # in pixels of the network's input, however much they overlap
    shape: tuple[int, int]  # height, width of the image
    scale: float  # of the image in the input, as of fptt.data.letterbox
    corner: tuple[int, int]  # the same
    maps: dict[str, Tensor]  # of each spiking layer, [rows, columns]: spikes per step of all its channels together
    rates: dict[str, float]  # of each spiking layer: spikes per neuron and step
    firing_rate: float  # of all of them: spikes per neuron and step; NaN for a network without spikes

    def found(self, threshold: float, iou: float) -> Detections:
        """What ``Detector`` finds with these settings, in pixels of the image; ``threshold`` from ``LEAST``."""
        return in_image(best(self.candidates, threshold=threshold, iou=iou), self.shape, self.scale, self.corner)


@torch.inference_mode()
def look(detector: Detector, image: Tensor, steps: int = 1, state: DetectorState | None = None) -> tuple[Look, DetectorState]:
    """What ``detector`` sees after ``steps`` steps on ``image`` (uint8 [3, height, width]), ``state=None`` being the start."""
    square, scale, corner = letterbox(image.cpu(), detector.model.size)
    x = square[None].to(detector.device).float() / 255
    maps: dict[str, Any] = {}
    rates: dict[str, float] = {}
    firing_rate = 0.0
    for _ in range(steps):
        output, state = detector.forward(x, state)
        for name, z in detector.spikes(state).items():
            cells = z[0].sum(0).cpu() / steps
            maps[name] = maps.get(name, 0) + cells
            rates[name] = rates.get(name, 0) + cells.sum().item() / z[0].numel()
        firing_rate += states.firing_rate(state).item() / steps
    assert state is not None
    (found,) = candidates(output, detector.head, LEAST)
    found = Detections(*(part.cpu() for part in found))
    height, width = image.shape[-2:]
    return Look(found, (height, width), scale, corner, maps, rates, firing_rate), state
