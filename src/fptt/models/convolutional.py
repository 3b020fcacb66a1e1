"""Convolutional spiking networks: feature maps, dense or recurrent layers of the same neuron kind, and a readout."""

from itertools import pairwise
from math import prod
from typing import Any

from torch import nn

from fptt import layers
from fptt.errors import InputError
from fptt.models.sequence import LayeredModel, Readout
from fptt.neurons import make_neuron

Shape = tuple[int, int, int]  # channels, height, width


def feature_maps(inputs: Shape, channels: tuple[int, ...], pool: tuple[int, ...]) -> list[Shape]:
    """Shapes of the input and of every layer's map after its pooling, bottom first.

    Raises InputError for no layers, for layers and pooling factors that do not match, and where nothing is left of a map.
    """
    if not channels or min(channels) < 1:
        raise InputError(f"channels needs at least one convolutional layer of at least one channel, got {list(channels)}")
    if len(pool) != len(channels) or min(pool) < 1:
        raise InputError(f"pool needs one factor from 1 for each of {len(channels)} convolutional layers, got {list(pool)}")
    shapes = [inputs]
    for features, factor in zip(channels, pool, strict=True):
        _, height, width = shapes[-1]
        shapes.append((features, height // factor, width // factor))
        if min(shapes[-1]) < 1:
            raise InputError(f"pool {list(pool)} leaves nothing of a map of {height} x {width}: lower a factor to 1")
    return shapes


class ConvolutionalModel(LayeredModel):
    """3 x 3 convolutional layers, dense layers and a readout, stepped: ``output, state = model(x_t, state)``.

    ``x_t`` is [batch, channels, height, width], ``output`` [batch, outputs]. Each convolutional layer is convolution, batch
    norm, max-pooling, neuron; the last map is flattened. The networks of Yin et al. 2023 (arXiv 2112.11231): for static
    images LTC channels 32-128-256(-512) and two dense layers; for DVS128 Gesture and CIFAR10-DVS LTC channels
    64-128-128-256-256-512 and one recurrent layer of 512, with b0 0.5.

    Args:
        inputs: channels, height and width of the input.
        channels: of each convolutional layer, bottom first.
        hidden: neurons of each dense layer, bottom first; none are needed.
        outputs: size of the output.
        pool: max-pooling factor of each convolutional layer; 1 for none.
        neuron: "ltc", "alif" or "lif".
        recurrent: every dense layer feeds its spikes back to itself.
        norm_steps: steps of batch norm through time in every layer (1: the same for all steps); None for no norm at all, in
            the gates of LTC neurons neither.
        dropout: share of a dense layer's inputs, and of the readout's, that is silenced in training. What is silenced is drawn
            anew at every step, from torch's global seed, and is no part of the state; the compiled step follows the same seed
            but draws other numbers than the eager one.
        readout: as for ``SequenceModel``.
        neuron_options: options of ``make_neuron`` (``b0``, ``reset``, ``adaptive``, ...).

    Raises:
        InputError: see ``feature_maps``.
    """

    def __init__(
        self,
        inputs: Shape,
        channels: tuple[int, ...],
        hidden: tuple[int, ...],
        outputs: int,
        *,
        pool: tuple[int, ...],
        neuron: str = "ltc",
        recurrent: bool = False,
        norm_steps: int | None = 1,
        dropout: float = 0.0,
        readout: Readout = "liquid",
        **neuron_options: Any,
    ):
        maps = feature_maps(inputs, channels, pool)
        stack = []
        for (before, *_), (features, *_), factor in zip(maps, maps[1:], pool, strict=False):
            cell = make_neuron(neuron, features, convolutional=True, gate_norm=norm_steps is not None, **neuron_options)
            pooling = nn.MaxPool2d(factor) if factor > 1 else None
            stack.append(layers.convolutional(before, cell, features, norm_steps=norm_steps, pool=pooling))
        sizes = (prod(maps[-1]), *hidden)
        for before, n in pairwise(sizes):
            cell = make_neuron(neuron, n, **neuron_options)
            stack.append(layers.dense(before, cell, n, recurrent=recurrent, norm_steps=norm_steps, gamma=1.0))
        super().__init__(inputs, stack, sizes[-1], outputs, readout)

        def flattened(linear: nn.Module) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), linear)

        for layer in stack[len(channels) :]:
            layer.synapse = flattened(layer.synapse)
        self.output = flattened(self.output)
