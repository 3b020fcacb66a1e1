"""The adding problem: two marked numbers, far apart, to be summed at the end."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fptt.data.adding import adding
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.models.sequence import Readout
from fptt.tasks.base import Base, Recipes, Schedule, Task, option


@dataclass
class Adding(Task):
    """Sequences of T numbers, two of them marked; the target is their sum, the measure the mean squared error.

    An epoch is ``iterations`` batches of fresh sequences.
    """

    name: ClassVar[str] = "adding"
    metric: ClassVar[Literal["accuracy", "mse"]] = "mse"
    inputs: ClassVar[int] = 2
    outputs: ClassVar[int] = 1

    length: int = option(200, "time steps T of a sequence")
    iterations: int = option(100, "batches per epoch, each of fresh sequences")
    held_out: int = option(1000, "sequences of the validation set, and of the test set")

    # Yin et al. 2023: one LTC layer of 128 with a fixed threshold of 0.5, read from its membrane potential; Adam 3e-3,
    # clip 1, batch 128, 10 parts, alpha and beta 0.5. With the published loss weights (p + 1) / parts nothing is learnt so; the
    # authors' code has weights up to nine times heavier. alpha below is set for the published ones.
    recipes: ClassVar[Recipes] = {"paper": {"length": 1000, "epochs": 100, "alpha": 0.5, "schedule": "constant"}}
    epochs: int = option(20, "passes of so many iterations")
    parts: int | None = option(10, "updates per sequence (FPTT-K)")
    optimizer: Base = option("adam", "base optimizer")
    alpha: float = option(0.002, "strength of FPTT's regulariser, relative to the scale of the loss")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    b0: float = option(0.5, "baseline threshold")
    adaptive: bool = option(False, "adaptive threshold (ALIF and LTC)")
    readout: Readout = option("membrane", "leak of the readout, or 'membrane' for a linear map of the last membrane potential")

    def __post_init__(self) -> None:
        if self.length < 2:
            raise InputError(f"--length must be at least 2 time steps, got {self.length}")
        cut = self.rule not in ("bptt", "online-bptt")
        if cut and self.parts is not None and self.parts > self.length:
            self.parts = self.length
        super().__post_init__()

    @property
    def time_steps(self) -> int:
        return self.length

    def sets(self) -> tuple[Samples, Samples, Samples]:
        def made(samples: int, number: int, name: str) -> Samples:
            return adding(samples, self.length, torch.Generator().manual_seed(2**40 + number), name)

        return made(0, 0, "train"), made(self.held_out, 1, "validation"), made(self.held_out, 2, "test")

    def training_set(self, train: Samples, epoch: int) -> Samples:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return adding(self.iterations * self.batch_size, self.length, generator)

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.transpose(0, 1)
