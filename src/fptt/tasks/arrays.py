"""Your own sequences with one label each, from an .npz file."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fptt.data import arrays
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.tasks.base import Norm, Schedule, Task, option


@dataclass
class Arrays(Task):
    """Sequences x_train [samples, time, features] and labels y_train [samples] (and x_test, y_test) of an .npz file."""

    name: ClassVar[str] = "arrays"

    file: str | None = option(None, ".npz file with x_train, y_train and, if there are any, x_test, y_test")
    validation_size: int = option(0, "so many training sequences are held out for validation")
    test_size: int = option(0, "so many training sequences are held out for testing, where the file has no x_test")

    epochs: int = option(30, "passes over the training set")
    batch_size: int = option(64, "samples per update")
    alpha: float = option(0.01, "strength of FPTT's regulariser, relative to the scale of the loss")
    lr: float = option(1e-2, "learning rate")
    schedule: Schedule = option("cosine", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    norm: Norm = option("time", "batch norm: statistics per time step (input: not of recurrent currents), or shared")

    def __post_init__(self) -> None:
        if self.file is None:
            raise InputError("task 'arrays' needs --file: an .npz file with x_train and y_train")
        super().__post_init__()

    @cached_property
    def _sets(self) -> tuple[Samples, Samples, Samples]:
        loaded = arrays.load(Path(self.file or ""), self.validation_size, self.test_size)
        if not len(loaded[2]):
            raise InputError(f"{self.file} has no x_test: hold samples out with --test-size")
        return loaded

    def sets(self) -> tuple[Samples, Samples, Samples]:
        return self._sets

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return self._sets[0].x.shape[2]

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return int(max(samples.y.max() for samples in self._sets if len(samples))) + 1

    @property
    def time_steps(self) -> int:
        return self._sets[0].x.shape[1]

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.transpose(0, 1)
