"""A trained detector at work: images in, boxes out; or a stream of frames, with its state carried on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fptt import state as states
from fptt.arithmetic import usable
from fptt.data.letterbox import letterbox, unletterbox
from fptt.detection import Detections, weight_file
from fptt.detection.folding import Precision, folded
from fptt.detection.head import Head, detections
from fptt.errors import InputError
from fptt.models.spyv4 import DetectorState, SPYv4

PACKAGED = Path(__file__).parent / "weights" / "spyv4-voc.safetensors"


class Detector:
    """Finds objects with a trained network.

        detector = Detector.load()
        [found] = detector([image])  # uint8 [3, height, width], RGB
        print([detector.names[label] for label in found.labels])

    An image is scaled to fit the network's square input; boxes are in pixels of the image, and inside it. The network runs in
    evaluation: results repeat, and do not depend on what else is in a batch.

    Args:
        model: the network, with the weights to use; it stays as it is, and ``save`` writes it.
        head: what its outputs mean.
        names: of the classes, in the order of its outputs.
        steps: time steps to show an image for.
        threshold, iou: of ``fptt.detection.head.detections``.
        training: how the network was trained and how good it is, as a run's summary says it.
        device: of torch, to run on.
        precision: see ``fptt.detection.folding.folded``; "float32", with a warning, where ``device`` has no bfloat16.
        compile: run through ``torch.compile``: the first step takes half a minute, all others about three quarters of the time.
    """

    def __init__(
        self,
        model: SPYv4,
        head: Head,
        names: Sequence[str],
        steps: int,
        *,
        threshold: float = 0.3,
        iou: float = 0.45,
        training: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
    ):
        self.model, self.names, self.steps, self.training = model, tuple(names), steps, training or {}
        self.threshold, self.iou = threshold, iou
        self.device = torch.device(device)
        self.network: Any = folded(model, usable(precision, self.device)).to(self.device)
        self.head = head.to(self.device)
        self._step: Any = _compiled(self.network) if compile else self.network

    @classmethod
    def load(cls, path: Path | str | None = None, **options: Any) -> "Detector":
        """A detector from a file of weights, by default the one that comes with fptt; ``options`` are those of ``Detector``.

        Raises InputError where there is no such file, or it is damaged.
        """
        if path is None and not PACKAGED.is_file():
            raise InputError("this fptt comes without trained weights: give a file of weights or a run folder")
        content = weight_file.read(PACKAGED if path is None else Path(path))
        return cls(*content[:4], **{"threshold": content.threshold, "training": content.training, **options})

    def save(self, path: Path | str) -> None:
        """Write a file for ``load``: weights in half precision, and everything else that it needs."""
        content = weight_file.Content(self.model, self.head, self.names, self.steps, self.threshold, self.training)
        weight_file.write(Path(path), content)

    def __call__(self, images: Sequence[Tensor], steps: int | None = None) -> list[Detections]:
        """What is in each of ``images`` (uint8 [3, height, width], of any sizes), looked at for ``steps`` steps."""
        return self._look(images, None, steps or self.steps)[0]

    def step(self, frame: Tensor, state: DetectorState | None = None, steps: int = 1) -> tuple[Detections, DetectorState]:
        """What is in the next ``frame`` (uint8 [3, height, width]) of a stream, and the state to go on from.

        ``state=None`` starts; ``steps`` is how often the network steps on the frame.
        """
        found, state = self._look([frame], state, steps)
        return found[0], state

    @torch.inference_mode()
    def forward(self, x: Tensor, state: DetectorState | None, steps: int = 1) -> tuple[Tensor, DetectorState]:
        """The network's raw ``output`` after ``steps`` steps on ``x`` [batch, 3, size, size] in [0, 1], and its state."""
        if state is None:
            state = self.network.initial_state(x)
        try:
            for _ in range(steps):
                output, state = self._step(x, state)
        except torch._dynamo.exc.TorchDynamoException as error:  # a compiler that is missing or fails
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InputError(f"the network cannot be compiled here ({reason}): leave that out") from None
        return output, state

    @torch.inference_mode()
    def _look(
        self, images: Sequence[Tensor], state: DetectorState | None, steps: int
    ) -> tuple[list[Detections], DetectorState]:
        squares, scales, corners = zip(*(letterbox(image.cpu(), self.model.size) for image in images), strict=True)
        output, state = self.forward(torch.stack(squares).to(self.device).float() / 255, state, steps)
        found = detections(output, self.head, threshold=self.threshold, iou=self.iou)
        places = zip(found, images, scales, corners, strict=True)
        return [in_image(one, image.shape[-2:], scale, corner) for one, image, scale, corner in places], state

    def spikes(self, state: DetectorState) -> dict[str, Tensor]:
        """The spikes [batch, channels, height, width] of every layer at the last step; empty for a network without any."""
        return dict(zip(self.model.layers, states.spikes(state), strict=False))

    def firing_rates(self, state: DetectorState) -> dict[str, float]:
        """Spikes per neuron of every layer at the last step."""
        return {name: z.mean().item() for name, z in self.spikes(state).items()}


def _compiled(network: Any) -> Any:
    """``network`` through ``torch.compile``, its weights frozen: laid out once in the order in which they are read."""
    import torch._inductor.config  # seconds, which those who do not compile need not wait

    return torch._inductor.config.patch(freezing=True)(torch.compile(network, dynamic=False))


def in_image(found: Detections, shape: Sequence[int], scale: float, corner: tuple[int, int]) -> Detections:
    """``found`` in a square, in pixels of the image there, of ``shape`` (height, width), and clipped to it."""
    height, width = shape
    boxes = unletterbox(found.boxes, scale, corner)
    return found._replace(boxes=boxes.clamp(boxes.new_zeros(()), boxes.new_tensor((width, height, width, height))))
