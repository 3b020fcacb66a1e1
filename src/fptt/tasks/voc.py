"""Object detection: SPYv4 on PASCAL VOC, or on a user's folder of its layout."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fptt.data import boxes, voc
from fptt.data.samples import Samples
from fptt.detection import Detections, weight_file
from fptt.detection.average_precision import average_precision
from fptt.detection.detector import PACKAGED
from fptt.detection.head import REFERENCE_ANCHORS, REFERENCE_SIZE, Head, detections
from fptt.detection.loss import DetectionLoss
from fptt.errors import InputError
from fptt.learning.losses import Criterion
from fptt.models.spyv4 import ANCHORS, STRIDES, DetectorReadout, SPYv4
from fptt.tasks.base import Base, Schedule, Task, option
from fptt.tasks.start import saved_weights
from fptt.training.metrics import Metric, Totals

CONFIDENCE = 0.005  # least score that counts in an average precision, which needs the doubtful ones too
OVERLAP = 0.5  # IoU above which two boxes of a class are taken for one
MOST = 100  # detections of an image


@dataclass
class VOC(Task):
    """PASCAL VOC: twenty kinds of objects and where they are, the same image at each of T steps.

    The settings are those of Yin et al. 2023, for a GPU, where the paper or its code gives them: YOLOv4-tiny's topology at
    416 x 416, 8 steps, alpha 0.1, beta 0.5, clipping at 1.
    """

    name: ClassVar[str] = "voc"
    metric: ClassVar[Metric] = "map50"
    unused: ClassVar[tuple[str, ...]] = ("network", "hidden", "recurrent", "auxiliary", "gamma", "stretch")

    train: voc.Training = option("07+12 trainval", "images to train on; '... train' holds their 'val' out for validation")
    folder: str | None = option(None, "in place of VOC, a folder of its layout with classes of your own")
    training_size: int | None = option(None, "train on no more than so many of them")
    test: Literal["test", "train"] = option("test", "test on VOC's test set, or on the images trained on, to see them learnt")
    size: int = option(416, "height and width of the input in pixels, a multiple of 32")
    width: float = option(1.0, "factor of all numbers of channels")
    anchors: tuple[float, ...] = option(
        tuple(side for head in REFERENCE_ANCHORS for anchor in head for side in anchor),
        "width and height of three anchors of the coarse head, then of the fine one, for an input of 416 x 416",
    )
    length: int = option(8, "time steps T of an image")
    neuron: Literal["ltc", "alif", "lif", "relu"] = option(  # type: ignore[assignment]
        "ltc", "kind of neuron; relu: leaky rectified units, the network's non-spiking twin"
    )
    readout: DetectorReadout = option(  # type: ignore[assignment]
        "last", "what the heads say at the present step, or 'liquid': leaky integrators of that"
    )
    norm: Literal["none", "time", "shared"] = option("time", "batch norm: statistics per time step, or the same for all")
    b0: float = option(1.0, "baseline threshold")
    adaptive: bool = option(False, "adaptive threshold (ALIF and LTC)")
    start: str | None = option(
        None,
        "what to take the weights over from: a run, a file of weights (.safetensors), or 'packaged', the file that fptt has; "
        "of the non-spiking twin, the synapses; of a detector of another number of classes, all but the heads",
    )
    dropout: float = option(0.0, "share of the image's colour channels silenced at each training step (reference: 0.1)")
    smoothing: float = option(0.05, "label smoothing of the classes")
    flip: bool = option(True, "in training, mirror images at random")
    scale: float = option(0.5, "in training, enlarge or shrink images by up to this factor above 1")
    colour: float = option(0.5, "in training, vary hue, saturation and exposure; 1 as in YOLOv4")
    mosaic: float = option(0.5, "in training, probability that an image is put together of four")

    epochs: int = option(100, "passes over the training set")
    batch_size: int = option(16, "images per update")
    optimizer: Base = option("adam", "base optimizer")
    lr: float = option(1e-3, "learning rate")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    warmup: int = option(1, "epochs over which the learning rate rises linearly to its value")

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"--length must be at least 1 time step, got {self.length}")
        if self.size < STRIDES[0] or self.size % STRIDES[0]:
            raise InputError(f"--size must be a positive multiple of {STRIDES[0]} pixels, got {self.size}")
        if not self.width > 0:
            raise InputError(f"--width must be positive, got {self.width}")
        for name in ("dropout", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} must lie in [0, 1), got {getattr(self, name)}")
        if len(self.anchors) != 2 * ANCHORS * len(STRIDES) or not min(self.anchors) > 0:
            raise InputError(f"--anchors must be twelve positive numbers, got {list(self.anchors)}")
        boxes.check(self.scale, self.colour, self.mosaic)
        super().__post_init__()

    @property
    def time_steps(self) -> int:
        return self.length

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return voc.CLASSES if self.folder is None else voc.classes_of(Path(self.folder))

    @cached_property
    def head(self) -> Head:
        anchors = torch.tensor(self.anchors).view(len(STRIDES), ANCHORS, 2) * (self.size / REFERENCE_SIZE)
        return Head(len(self.classes), self.size, anchors)

    def sets(self) -> tuple[Samples, Samples, Samples]:
        if self.folder is None:
            train, validation, test = voc.sets(self.data_folder, self.size, self.train)
        else:
            train, validation, test = voc.own(Path(self.folder), self.size, self.classes)
        if self.training_size is not None:
            train = train.take(torch.arange(min(self.training_size, len(train))), "train")
        return train, validation, test if self.test == "test" else train.take(torch.arange(0), "test")

    def augmented(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return boxes.augment(x, y, generator, flip=self.flip, scale=self.scale, colour=self.colour, mosaic=self.mosaic)

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return (x.float() / 255).expand(self.length, *x.shape)

    def model(self) -> nn.Module:
        options = {key: value for key, value in self.spiking_options.items() if key != "recurrent"}
        return SPYv4(len(self.classes), self.size, width=self.width, dropout=self.dropout, **options)

    def prepare(self, model: nn.Module) -> None:
        if self.start is not None:
            assert isinstance(model, SPYv4)
            take_over(model, self.start)

    @cached_property
    def criterion(self) -> Criterion:
        return DetectionLoss(self.head, smoothing=self.smoothing)

    def totals(self, training: bool) -> Totals:
        return Totals(None) if training else DetectionTotals(self.head)

    def notes(self) -> dict[str, Any]:
        return {"images": self.train if self.folder is None else self.folder, "size": self.size, "length": self.length}


def take_over(model: SPYv4, start: str) -> None:
    """Synapses, heads and batch norms of ``start``, and its neurons' parameters where they are of the same kind.

    ``start`` is a run folder, a file of weights, or "packaged". They are the averages where a run keeps any. Every step starts
    from the statistics of the last. Heads for another number of classes stay as they are, with a warning.

    Raises InputError for a network of another kind or width.
    """
    theirs, settings = weights(start)
    ours = model.state_dict()
    alike = settings.get("neuron") == model.settings["neuron"]
    shared = {
        key: value
        for key, value in theirs.items()
        if (".neuron." not in key or (alike and key in ours)) and ("readouts." not in key or key in ours)
    }
    if not shared.keys() <= ours.keys():
        raise InputError(f"--start {start} is not a detector with the same --norm")
    heads = [key for key in shared if key.startswith(("heads.", "readouts."))]
    other_classes = any(len(ours[key]) != len(shared[key]) for key in heads)
    for key in heads if other_classes else ():
        del shared[key]
    for key, value in shared.items():
        if key.endswith(("running_mean", "running_var")) and value.dim() == 2:  # [time steps, channels]
            shared[key] = value[-1:].expand(len(ours[key]), -1)
        elif key.endswith("trained_steps"):
            shared[key] = ours[key]
    wrong = [key for key, value in shared.items() if ours[key].shape != value.shape]
    if wrong:
        raise InputError(f"--start {start}: its {wrong[0]} does not fit: give a detector of the same --width")
    if other_classes:
        warnings.warn(f"fptt: --start {start} has another number of classes: the heads are trained anew", stacklevel=2)
    if alike and settings.get("b0") != model.settings["b0"]:
        warnings.warn(
            f"fptt: --start {start} was trained with --b0 {settings.get('b0')}, which suits its weights", stacklevel=2
        )
    model.load_state_dict({**ours, **shared})


def weights(start: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the detector at ``start``, of ``take_over``, and the settings that it was made with."""
    if start == "packaged" or start.endswith(".safetensors"):
        content = weight_file.read(PACKAGED if start == "packaged" else Path(start))
        return content.model.state_dict(), content.model.settings
    return saved_weights(start)


class DetectionTotals(Totals):
    """Mean loss and firing rate, and the mean average precision at an IoU of 0.5 of all images together.

    It is taken in the letterboxed images: a box overlaps another there as it does in the images themselves.
    """

    def __init__(self, head: Head):
        super().__init__(None)
        self.head = head
        self.found: list[Detections] = []
        self.targets: list[Tensor] = []

    def add(self, output: Tensor, target: Tensor, loss: Tensor, firing_rate: Tensor) -> None:
        super().add(output, target, loss, firing_rate)
        self.found += detections(output, self.head, threshold=CONFIDENCE, iou=OVERLAP, most=MOST)
        self.targets += target.cpu()

    def result(self) -> dict[str, float]:
        precision = average_precision(self.found, self.targets, self.head.classes)
        return super().result() | {"map50": precision.mean}
