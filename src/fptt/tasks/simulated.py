"""Simulated recordings: images of MNIST or Fashion-MNIST, moved before a simulated event camera. No camera recorded them."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fptt.data import event_sets, images, simulated_set
from fptt.data.samples import Samples
from fptt.data.simulated import Camera
from fptt.errors import InputError
from fptt.tasks.base import Schedule, option
from fptt.tasks.events import EventFrames


@dataclass
class SimulatedEvents(EventFrames):
    """Simulated events: MNIST or Fashion-MNIST images before a simulated event camera that makes N-MNIST's saccades."""

    name: ClassVar[str] = "events-sim"
    sensor: ClassVar[tuple[int, int]] = (34, 34)

    images: Literal["MNIST", "FashionMNIST"] = option("MNIST", "images that pass before the camera")
    training_size: int = option(12_000, "so many of the 60,000 training images, validation among them")
    test_size: int = option(10_000, "so many of the 10,000 test images")
    threshold: float = option(Camera.on, "contrast threshold of the camera, in natural logarithms of brightness")
    mismatch: float = option(Camera.mismatch, "standard deviation of the threshold over the pixels, as a share of it")
    refractory: int = option(Camera.refractory, "microseconds after an event in which a pixel loses further ones")
    noise: float = option(Camera.noise, "events per pixel and second that no contrast caused")

    # No reference; chosen on validation recordings.
    length: int = option(10, "frames, that is time steps, of a recording")
    shift: int = option(2, "in training, move recordings by up to so many pixels of a frame")
    channels: tuple[int, ...] = option((16, 32, 32), "channels of each convolutional layer, bottom first")
    epochs: int = option(10, "passes over the training set")
    batch_size: int = option(64, "samples per update")
    lr: float = option(5e-3, "learning rate")
    alpha: float = option(0.003, "strength of FPTT's regulariser, relative to the scale of the loss")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")

    def __post_init__(self) -> None:
        for name, most in (("training_size", 60_000), ("test_size", 10_000)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"--{name.replace('_', '-')} must lie from 1 to {most}, got {getattr(self, name)}")
        assert self.camera
        super().__post_init__()

    @property
    def camera(self) -> Camera:
        on = off = self.threshold
        return Camera(on=on, off=off, mismatch=self.mismatch, refractory=self.refractory, noise=self.noise)

    def event_set(self) -> event_sets.EventSet:
        """All recordings; simulated on first use, and read as those of a camera are."""
        sizes = (self.training_size, self.test_size)
        target = simulated_set.folder(self.data_folder, self.images, sizes, self.camera)
        if not target.is_dir():
            train, _, test = images.mnist(self.data_folder, 0, kind=self.images)
            chosen = [Samples(s.x[:size], s.y[:size], s.name) for s, size in zip((train, test), sizes, strict=True)]
            simulated_set.make(target, self.images, chosen[0], chosen[1], self.camera)
        return event_sets.nmnist(target)._replace(name=f"simulated-{target.name}")

    def notes(self) -> dict[str, Any]:
        return {**super().notes(), "data": f"simulated events of {self.images} images", "data_split": "that of the images"}
