"""What tasks with convolutional networks share: the settings of the network."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from fptt.errors import InputError
from fptt.models.convolutional import ConvolutionalModel, Shape, feature_maps
from fptt.tasks.base import Task, option


@dataclass
class ConvolutionalTask(Task):
    """Frames [batch, channels, height, width] at each time step, through convolutional, then dense layers."""

    inputs: ClassVar[Shape]  # type: ignore[assignment]
    unused: ClassVar[tuple[str, ...]] = ("gamma",)

    channels: tuple[int, ...] = option((16, 32, 64), "channels of each convolutional layer, bottom first")
    pool: tuple[int, ...] = option((2, 2, 2), "max-pooling factor of each convolutional layer; 1 for none")
    hidden: tuple[int, ...] = option((128,), "neurons of each dense layer, bottom first")
    dropout: float = option(0.0, "share of the dense layers' and the readout's inputs silenced at each training step")
    # The first step fires far more than later ones, so that statistics shared by all steps fit none of them: on Fashion-MNIST
    # (15,000 images, 4 epochs) 70.8 % of the validation set with those, 81 % with each batch's own.
    norm: Literal["none", "time", "shared"] = option("time", "batch norm: statistics per time step, or the same for all")
    recurrent: bool = option(False, "recurrent connections within each dense layer")

    def __post_init__(self) -> None:
        if self.neuron in ("lstm", "rnn"):
            raise InputError(f"task '{self.name}' has a convolutional spiking network: choose --neuron ltc, alif or lif")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--dropout must lie in [0, 1), got {self.dropout}")
        feature_maps(self.inputs, self.channels, self.pool)
        super().__post_init__()

    def model(self) -> nn.Module:
        return ConvolutionalModel(
            self.inputs, self.channels, self.hidden, self.outputs, pool=self.pool, dropout=self.dropout, **self.spiking_options
        )
