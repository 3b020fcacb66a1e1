"""Static images through convolutional networks: MNIST, Fashion-MNIST and CIFAR-10, each image a constant current."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fptt.data import images
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.models.convolutional import Shape
from fptt.tasks.base import Recipes, Schedule, option
from fptt.tasks.convolutional import ConvolutionalTask


@dataclass
class MNIST(ConvolutionalTask):
    """MNIST: the same image at each of T steps; what counts is the output after the last."""

    name: ClassVar[str] = "mnist"
    inputs: ClassVar[Shape] = (1, 28, 28)

    # Yin et al. 2023: LTC channels 32-128-256(-512), max-pooling, two dense layers, T = 20, batch 128, Adamax, b0 0.1. The size
    # of the dense layer is ours.
    recipes: ClassVar[Recipes] = {
        "paper": {
            **{"channels": (32, 128, 256), "hidden": (512,), "length": 20, "epochs": 200, "lr": 3e-3, "alpha": 0.1},
            **{"schedule": "steps", "shift": 0, "flip": False},
        }
    }
    # The settings below are for one core; learning rate and norm rest on short pilots and their validation accuracy.
    length: int = option(4, "time steps T of a sequence")
    shift: int = option(2, "in training, move images by up to so many pixels; 0 for none")
    flip: bool = option(False, "in training, flip images left to right at random")
    validation_size: int = option(5000, "of the training images, so many are held out for validation; 0 for none")
    training_size: int | None = option(None, "train on no more than so many of the remaining images")

    epochs: int = option(10, "passes over the training set")
    lr: float = option(1e-2, "learning rate")
    alpha: float = option(0.003, "strength of FPTT's regulariser, relative to the scale of the loss")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"--length must be at least 1 time step, got {self.length}")
        if not 0 <= self.shift < min(self.inputs[1:]):
            raise InputError(f"--shift must lie from 0 to {min(self.inputs[1:]) - 1} pixels, got {self.shift}")
        super().__post_init__()

    @property
    def time_steps(self) -> int:
        return self.length

    def load(self) -> tuple[Samples, Samples, Samples]:
        return images.mnist(self.data_folder, self.validation_size)

    def sets(self) -> tuple[Samples, Samples, Samples]:
        train, validation, test = self.load()
        return Samples(train.x[: self.training_size], train.y[: self.training_size], "train"), validation, test

    def augmented(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = images.shifted(x, self.shift, generator) if self.shift else x
        return images.mirrored(x, generator) if self.flip else x, y

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.reshape(-1, *self.inputs).expand(self.length, -1, -1, -1, -1)


@dataclass
class FashionMNIST(MNIST):
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): ten kinds of clothes, the same image at each of T steps."""

    name: ClassVar[str] = "fashion"

    shift: int = option(1, "in training, move images by up to so many pixels; 0 for none")
    flip: bool = option(True, "in training, flip images left to right at random")

    def load(self) -> tuple[Samples, Samples, Samples]:
        return images.mnist(self.data_folder, self.validation_size, kind="FashionMNIST")


@dataclass
class CIFAR10(FashionMNIST):
    """CIFAR-10: ten kinds of things in colour, the same image at each of T steps."""

    name: ClassVar[str] = "cifar10"
    inputs: ClassVar[Shape] = (3, 32, 32)  # type: ignore[assignment]

    # No reference, and not trained yet: a start for a GPU.
    recipes: ClassVar[Recipes] = {}
    channels: tuple[int, ...] = option((64, 128, 256), "channels of each convolutional layer, bottom first")
    shift: int = option(4, "in training, move images by up to so many pixels; 0 for none")
    epochs: int = option(50, "passes over the training set")

    def load(self) -> tuple[Samples, Samples, Samples]:
        return images.cifar10(self.data_folder, self.validation_size)
