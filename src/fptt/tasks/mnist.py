"""MNIST as sequences: R-MNIST (rows, repeated, rate-coded), S-MNIST (pixel by pixel) and PS-MNIST (permuted)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fptt.data import images
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.tasks.base import Norm, Recipes, Schedule, Task, option


@dataclass
class MNISTSequence(Task):
    """What the three tasks share: the data, two LTC layers of 256 with batch norm through time."""

    validation_size: int = option(5000, "of the 60,000 training images, so many are held out for validation; 0 for none")
    training_size: int | None = option(None, "train on no more than so many of the remaining images")
    hidden: tuple[int, ...] = option((256, 256), "neurons of each layer, bottom first")
    norm: Norm = option("time", "batch norm: statistics per time step (input: not of recurrent currents), or shared")

    def sets(self) -> tuple[Samples, Samples, Samples]:
        train, validation, test = images.mnist(self.data_folder, self.validation_size)
        return Samples(train.x[: self.training_size], train.y[: self.training_size], "train"), validation, test


@dataclass
class RowMNIST(MNISTSequence):
    """R-MNIST: an image row by row (28 steps of 28), repeated as a constant current, or rate-coded (T steps of 784)."""

    name: ClassVar[str] = "rmnist"

    encoding: images.Encoding = option("rows", "rows, repeated (constant current) or rate (Poisson spikes)")
    length: int = option(20, "time steps of the encodings 'repeated' and 'rate'")

    # No reference for rows; chosen on the validation set.
    epochs: int = option(12, "passes over the training set")
    batch_size: int = option(125, "samples per update")
    lr: float = option(1e-2, "learning rate")
    alpha: float = option(0.01, "strength of FPTT's regulariser, relative to the scale of the loss")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"--length must be at least 1 time step, got {self.length}")
        super().__post_init__()

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return 28 if self.encoding == "rows" else 784

    @property
    def time_steps(self) -> int:
        return 28 if self.encoding == "rows" else self.length

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.encoding == "rows":
            return images.rows(x)
        if self.encoding == "repeated":
            return images.repeated(x, self.length)
        return images.rate_coded(x, self.length, generator)


@dataclass
class SequentialMNIST(MNISTSequence):
    """S-MNIST: 784 steps of one pixel."""

    name: ClassVar[str] = "smnist"
    inputs: ClassVar[int] = 1

    pool: int = option(1, "average the pixels over squares of so many first: 2 leaves 14 x 14, 196 steps")
    pool_steps: int = option(1, "then average over so many consecutive time steps: 4 leaves 196 of 784")

    # Yin et al. 2023: Adamax 3e-3, alpha 0.1, beta 0.5, clip 1, batch 512, lr / 10 after epochs 10, 30, 50, 75, 90. A tenth of
    # that alpha learns faster, and weights that adapt to a batch leave batch norms' statistics behind: hence alpha, calibrate.
    # For an hour or two of a processor: smaller layers, fewer updates, time constants spread from the start
    # (results/time-constants), statistics of 784 steps from more batches (results/calibration.json); for half an hour, a
    # quarter of the steps as well.
    recipes: ClassVar[Recipes] = {
        "paper": {"alpha": 0.1, "epochs": 250, "calibrate": 0},
        "one-core": {
            "hidden": (128, 128),
            "parts": 28,
            "batch_size": 100,
            "epochs": 6,
            "lr": 0.01,
            "schedule": "cosine",
            "tau_m": 20.0,
            "tau_adp": 800.0,
            "calibrate": 100,
        },
        "14x14": {
            "pool": 2,
            "hidden": (128, 128),
            "parts": 14,
            "batch_size": 100,
            "epochs": 6,
            "lr": 0.01,
            "schedule": "cosine",
            "tau_m": 20.0,
            "tau_adp": 200.0,
        },
    }
    epochs: int = option(100, "passes over the training set")
    batch_size: int = option(512, "samples per update")
    schedule: Schedule = option("steps", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    alpha: float = option(0.01, "strength of FPTT's regulariser, relative to the scale of the loss")
    calibrate: int = option(10, "after each epoch, take the statistics of batch norms anew from so many batches")

    def __post_init__(self) -> None:
        if self.pool < 1 or 28 % self.pool:
            raise InputError(f"--pool must divide the 28 pixels of a row (1, 2, 4, 7, 14 or 28), got {self.pool}")
        if self.pool_steps < 1 or self.pixels % self.pool_steps:
            raise InputError(f"--pool-steps must divide the {self.pixels} pixels of a sequence, got {self.pool_steps}")
        super().__post_init__()

    @property
    def pixels(self) -> int:
        """Pixels of an image as it is presented."""
        return (28 // self.pool) ** 2

    @property
    def time_steps(self) -> int:
        return self.pixels // self.pool_steps

    def order(self, x: Tensor) -> Tensor:
        """Pixels [pixels, batch, 1], row by row, in the order in which they are presented."""
        return x

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        x = self.order(images.pixels(nn.functional.avg_pool2d(x, self.pool)))
        return x.unflatten(0, (-1, self.pool_steps)).mean(1)


@dataclass
class PermutedMNIST(SequentialMNIST):
    """PS-MNIST: S-MNIST in one fixed random order of the pixels, drawn with its own seed and saved with the run."""

    name: ClassVar[str] = "psmnist"
    recipes: ClassVar[Recipes] = {
        "paper": SequentialMNIST.recipes["paper"],
        "one-core": {**SequentialMNIST.recipes["one-core"], "lr": 0.005},
        "14x14": {**SequentialMNIST.recipes["14x14"], "epochs": 12},
    }

    permutation_seed: int = option(0, "seed of the order of the pixels")

    @property
    def permutation(self) -> Tensor:
        """The order of the pixels, int64 [pixels]."""
        return torch.randperm(self.pixels, generator=torch.Generator().manual_seed(self.permutation_seed))

    def order(self, x: Tensor) -> Tensor:
        return x[self.permutation]
