"""Handwritten digits as sequences: the default task, real data that comes with scikit-learn and needs no download."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fptt.data import images
from fptt.data.samples import Samples
from fptt.tasks.base import Norm, Schedule, Task, option


@dataclass
class Digits(Task):
    """1,797 digits of 8 x 8 pixels (UCI, in scikit-learn), row by row (8 steps) or pixel by pixel (64 steps)."""

    name: ClassVar[str] = "digits"

    order: Literal["rows", "pixels"] = option("rows", "one row or one pixel per time step")

    # No reference: chosen on the validation set.
    epochs: int = option(60, "passes over the training set")
    batch_size: int = option(64, "samples per update")
    hidden: tuple[int, ...] = option((128,), "neurons of each layer, bottom first")
    lr: float = option(1e-2, "learning rate")
    alpha: float = option(0.01, "strength of FPTT's regulariser, relative to the scale of the loss")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    norm: Norm = option("time", "batch norm: statistics per time step (input: not of recurrent currents), or shared")
    calibrate: int = option(20, "after each epoch, take the statistics of batch norms anew from so many batches")

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return 8 if self.order == "rows" else 1

    @property
    def time_steps(self) -> int:
        return 8 if self.order == "rows" else 64

    def sets(self) -> tuple[Samples, Samples, Samples]:
        return images.digits()

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return images.rows(x) if self.order == "rows" else images.pixels(x)
