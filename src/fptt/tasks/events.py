"""Recordings of event cameras, summed into frames: N-MNIST, DVS128 Gesture, CIFAR10-DVS; and the spoken digits of SHD."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fptt.data import augment, cache, catalogue, event_sets, frames
from fptt.data.events import Events
from fptt.data.samples import Rows, Samples
from fptt.errors import InputError
from fptt.tasks.base import Schedule, Task, option
from fptt.tasks.convolutional import ConvolutionalTask

Framed = Literal["count", "bins", "duration"]


@dataclass
class Recorded(Task):
    """What all of them share: how recordings become frames, and which of them are for training, validation and testing."""

    sensor: ClassVar[tuple[int, int]]  # width, height

    by: Framed = option("count", "frames of equally many events (count), of equal duration (bins), or of --microseconds each")
    length: int = option(20, "frames, that is time steps, of a recording")
    microseconds: int = option(10_000, "duration of a frame by duration")
    polarity: frames.Polarity = option("two", "channels: OFF and ON (two), their sum (merged), or ON minus OFF (signed)")
    scale: frames.Scale = option("none", "counts as they are, divided by each frame's largest (max), or 1 for any (binary)")
    shrink: int = option(1, "so many pixels in each direction become one")
    validation: float = option(0.1, "share of the training recordings that is held out for validation; 0 for none")

    def __post_init__(self) -> None:
        for name in ("length", "microseconds", "shrink"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.validation < 1:
            raise InputError(f"--validation must lie in [0, 1), got {self.validation}")
        super().__post_init__()

    @property
    def time_steps(self) -> int:
        return self.length

    @property
    def framing(self) -> cache.Framing:
        return cache.Framing(self.by, self.length, self.microseconds, self.polarity, self.shrink)

    @cached_property
    def recordings(self) -> cache.Cached:
        """The frames of all recordings, made on first use."""
        return cache.load(self.event_set(), self.framing, catalogue.cache_folder(self.data))

    def event_set(self) -> event_sets.EventSet:
        """The original recordings."""
        raise NotImplementedError

    def seen(self, events: Events) -> Events:
        """A recording from a file as ``event_set`` has it; unless a set turns them, as it is."""
        return events

    def sets(self) -> tuple[Samples, Samples, Samples]:
        test = self.test_recordings()
        train = (~test).nonzero().flatten()
        held_out = self.held_out(train)
        chosen = ((train[~held_out], "train"), (train[held_out], "validation"), (test.nonzero().flatten(), "test"))
        sets = [Samples(Rows(self.recordings.x, rows), self.recordings.y[rows], name) for rows, name in chosen]
        if not len(sets[0]):
            raise InputError(f"--validation {self.validation} leaves no recordings for training: lower it")
        return sets[0], sets[1], sets[2]

    def test_recordings(self) -> Tensor:
        """Which recordings are for testing, bool [recordings]: by default those of the official test set."""
        return self.recordings.test

    def held_out(self, train: Tensor) -> Tensor:
        """Which of the recordings ``train`` are for validation, bool [train]: drawn at random, the same for every seed."""
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        return order < round(self.validation * len(train))

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return frames.normalised(x, self.scale).transpose(0, 1)

    def notes(self) -> dict[str, Any]:
        own = "the set's own" if self.recordings.test.any() else "none, all recordings are for training"
        return {"frames": f"{self.length} by {self.by}", "data_split": own}


@dataclass
class EventFrames(Recorded, ConvolutionalTask):
    """Frames of an event camera through a convolutional network; training frames may be varied."""

    flip: bool = option(False, "in training, flip recordings left to right at random")
    shift: int = option(0, "in training, move recordings by up to so many pixels of a frame")
    rotate: float = option(0.0, "in training, turn recordings by up to so many degrees")
    drop: bool = option(False, "in training, drop events at random (EventDrop)")
    jitter: float = option(0.0, "in training, move so large a share of a frame's events to a neighbouring frame")

    def __post_init__(self) -> None:
        super().__post_init__()
        augment.check(self.shift, self.rotate, self.jitter, min(self.inputs[1:]))

    @property
    def inputs(self) -> tuple[int, int, int]:  # type: ignore[override]
        width, height = (self.framing.size(side) for side in self.sensor)
        return 2 if self.polarity == "two" else 1, height, width

    def augmented(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = {key: getattr(self, key) for key in ("flip", "shift", "rotate", "drop", "jitter")}
        return augment.varied(x, generator, **chosen), y


@dataclass
class NMNIST(EventFrames):
    """N-MNIST (Orchard et al. 2015): 60,000 + 10,000 handwritten digits before a moving event camera, 34 x 34 pixels."""

    name: ClassVar[str] = "nmnist"
    sensor: ClassVar[tuple[int, int]] = (34, 34)

    # No reference; chosen on 100 of 1,000 training recordings. All 60,000 need a tenth of the epochs.
    length: int = option(8, "frames, that is time steps, of a recording")
    shift: int = option(2, "in training, move recordings by up to so many pixels of a frame")
    rotate: float = option(10.0, "in training, turn recordings by up to so many degrees")
    epochs: int = option(30, "passes over the training set")
    batch_size: int = option(25, "samples per update")
    lr: float = option(5e-3, "learning rate")
    alpha: float = option(0.003, "strength of FPTT's regulariser, relative to the scale of the loss")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")

    def event_set(self) -> event_sets.EventSet:
        return event_sets.nmnist(self.data_folder)


@dataclass
class DVSGesture(EventFrames):
    """DVS128 Gesture (Amir et al. 2017): 11 gestures of 29 people under three lights; 1,176 clips to train, 288 to test."""

    name: ClassVar[str] = "dvs-gesture"
    outputs: ClassVar[int] = 11
    sensor: ClassVar[tuple[int, int]] = (128, 128)

    # Yin et al. 2023: T = 20 frames by event count, LTC channels 64-128-128-256-256-512 and a recurrent layer of 512, b0 0.5;
    # Adamax 3e-3, batch 16, alpha 0.1, beta 0.5, clip 1, cosine.
    channels: tuple[int, ...] = option((64, 128, 128, 256, 256, 512), "channels of each convolutional layer, bottom first")
    pool: tuple[int, ...] = option((2, 2, 2, 2, 2, 2), "max-pooling factor of each convolutional layer; 1 for none")
    hidden: tuple[int, ...] = option((512,), "neurons of each dense layer, bottom first")
    recurrent: bool = option(True, "recurrent connections within each dense layer")
    b0: float = option(0.5, "baseline threshold")
    epochs: int = option(100, "passes over the training set")
    batch_size: int = option(16, "samples per update")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    validation: float = option(0.0, "share of the training people who are held out for validation; 0 for none")

    def event_set(self) -> event_sets.EventSet:
        return event_sets.dvs_gesture(self.data_folder)

    def held_out(self, train: Tensor) -> Tensor:
        """All clips of some people, the same for every seed: who is seen in training is not seen in validation."""
        groups = self.recordings.group[train]
        people = groups.unique()
        order = torch.randperm(len(people), generator=torch.Generator().manual_seed(0))
        return torch.isin(groups, people[order[: round(self.validation * len(people))]])


@dataclass
class CIFAR10DVS(DVSGesture):
    """CIFAR10-DVS (Li et al. 2017): 1,000 moving CIFAR-10 images of each of ten classes before an event camera."""

    name: ClassVar[str] = "cifar10-dvs"
    outputs: ClassVar[int] = 10

    # Yin et al. 2023: T = 100, the network of DVS128 Gesture, batch 32, 50 epochs. No official split exists.
    length: int = option(100, "frames, that is time steps, of a recording")
    epochs: int = option(50, "passes over the training set")
    batch_size: int = option(32, "samples per update")
    validation: float = option(0.0, "share of the training recordings that is held out for validation; 0 for none")
    split: Literal["random", "contiguous"] = option("random", "test on a random tenth of each class, or on its last tenth")
    split_seed: int = option(0, "seed of the random split")

    def event_set(self) -> event_sets.EventSet:
        return event_sets.cifar10_dvs(self.data_folder)

    def seen(self, events: Events) -> Events:
        return event_sets.exchanged(events)

    def test_recordings(self) -> Tensor:
        """A tenth of each class, in the order of the recordings' numbers: the last, or one drawn with ``split_seed``.

        numpy's RandomState draws it, whose numbers are promised never to change.
        """
        test = torch.zeros(len(self.recordings.y), dtype=torch.bool)
        random = np.random.RandomState(self.split_seed)
        for label in range(self.outputs):
            rows = (self.recordings.y == label).nonzero().flatten()
            rows = rows[self.recordings.group[rows].argsort(stable=True)]
            if self.split == "random":
                rows = rows[torch.from_numpy(random.permutation(len(rows)))]
            test[rows[len(rows) - len(rows) // 10 :]] = True
        return test

    held_out = Recorded.held_out

    def notes(self) -> dict[str, Any]:
        drawn = f"random 9:1 per class, seed {self.split_seed}"
        return {
            **super().notes(),
            "data_split": drawn if self.split == "random" else "contiguous: last tenth of each class to test",
        }


@dataclass
class SHD(Recorded):
    """Spiking Heidelberg Digits (Cramer et al. 2020): spoken digits in two languages as spikes of 700 channels, 20 classes."""

    name: ClassVar[str] = "shd"
    inputs: ClassVar[int] = 700
    outputs: ClassVar[int] = 20
    sensor: ClassVar[tuple[int, int]] = (700, 1)

    # No reference in Yin et al. 2023, and untried for want of the data: 100 steps of 14 ms hold the longest recording.
    by: Framed = option("duration", "steps of equally many spikes (count), of equal duration (bins), or of --microseconds each")
    length: int = option(100, "time steps of a recording")
    microseconds: int = option(14_000, "duration of a step by duration")
    polarity: frames.Polarity = option("merged", "leave it: spikes of SHD have no polarity")
    hidden: tuple[int, ...] = option((256, 256), "neurons of each layer, bottom first")
    epochs: int = option(40, "passes over the training set")
    alpha: float = option(0.01, "strength of FPTT's regulariser, relative to the scale of the loss")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    norm: Literal["none", "time", "shared"] = option("time", "batch norm: statistics per time step, or the same for all")

    def __post_init__(self) -> None:
        if self.polarity != "merged" or self.shrink != 1:
            raise InputError("task 'shd' has spikes of 700 channels without polarity: leave --polarity and --shrink")
        super().__post_init__()

    def event_set(self) -> event_sets.EventSet:
        return event_sets.shd(self.data_folder)

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return super().encode(x, generator).flatten(2)
