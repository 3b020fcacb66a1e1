"""SPYv4, the spiking object detector: the topology of YOLOv4-tiny made of convolutional spiking layers, with two heads."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt import layers
from fptt.errors import InputError
from fptt.layers import Layer, LayerState
from fptt.neurons import LeakyReadout, make_neuron

STRIDES = (32, 16)  # pixels per cell of the coarse and of the fine head
ANCHORS = 3  # boxes that each cell of a head predicts

PRIOR = 0.01  # probability of an object in a box before any training (Lin et al. 2017, arXiv 1708.02002, section 3.3)

DetectorReadout = Literal["last", "liquid"]


class DetectorState(NamedTuple):
    """States of the layers, in the order of ``SPYv4.layers``, and of the two heads (None for the readout "last")."""

    layers: tuple[LayerState, ...]
    readouts: tuple[Tensor | None, ...]


class SPYv4(nn.Module):
    """YOLOv4-tiny of spiking neurons, stepped: ``output, state = model(x_t, state)``.

    ``x_t`` is an image [batch, 3, size, size] with values in [0, 1]; ``output`` [batch, boxes, 5 + classes] are raw
    predictions for every anchor of every cell: first the coarse head (stride 32), then the fine one (stride 16), each in the
    order anchor, row, column. ``fptt.detection.head`` says what they mean.

    Each layer is convolution, batch norm, neuron; what goes from layer to layer are spikes. With the defaults these are the
    13.96 million weights and, at 416 x 416, 6.19 million neurons of Yin et al. 2023.

    Args:
        classes: number of kinds of objects.
        size: height and width of the input in pixels, a multiple of 32.
        width: factor of all numbers of channels, which are rounded to multiples of 8.
        neuron: "ltc", "alif", "lif", or "relu": leaky rectified units without a state, the network's non-spiking twin.
        readout: "last" (what a head's convolution says of the present spikes) or "liquid" (leaky integrators of that).
        norm_steps: steps of batch norm through time in every layer (1: the same for all steps); None for no norm at all.
        dropout: share of the input's channels that is silenced at each training step (the reference has 0.1).
        neuron_options: options of ``make_neuron``; the reference's threshold is fixed at 1.

    ``settings`` are those of the arguments that its outputs in evaluation depend on, ``classes`` left out, as plain values.

    Raises:
        InputError: for a size that is no positive multiple of 32, or a width that is not positive.
    """

    def __init__(
        self,
        classes: int = 20,
        size: int = 416,
        *,
        width: float = 1.0,
        neuron: str = "ltc",
        readout: DetectorReadout = "last",
        norm_steps: int | None = 1,
        dropout: float = 0.0,
        **neuron_options: Any,
    ):
        super().__init__()
        neuron_options = {"b0": 1.0, "adaptive": False, **neuron_options}
        if size < STRIDES[0] or size % STRIDES[0]:
            raise InputError(f"size must be a positive multiple of {STRIDES[0]} pixels, got {size}")
        if not width > 0:
            raise InputError(f"width must be positive, got {width}")
        self.classes, self.size, self.width, self.readout = classes, size, width, readout
        made_with = {"size": size, "width": width, "neuron": neuron, "readout": readout, "norm_steps": norm_steps}
        self.settings: dict[str, Any] = made_with | {
            k: v for k, v in neuron_options.items() if k not in ("spike", "tau_m", "tau_adp")
        }
        self.dropout = nn.Dropout2d(dropout)
        self.layers = nn.ModuleDict()

        def channels(reference: int) -> int:
            return max(8, round(reference * width / 8) * 8)

        def add(name: str, inputs: int, features: int, **options: Any) -> int:
            cell = make_neuron(
                neuron,
                features,
                convolutional=True,
                gate_norm=norm_steps is not None,
                **neuron_options,
            )
            self.layers[name] = layers.convolutional(inputs, cell, features, norm_steps=norm_steps, **options)
            return features

        features = add("stem1", 3, channels(32), stride=2)
        features = add("stem2", features, channels(64), stride=2)
        for number in (1, 2, 3):
            wide = channels(32 * 2**number)
            add(f"block{number}_1", features, wide, bias=False)
            add(f"block{number}_2", wide // 2, wide // 2, bias=False)
            add(f"block{number}_3", wide // 2, wide // 2, bias=False)
            add(f"block{number}_4", wide, wide, kernel_size=1, bias=False)
            features = 2 * wide
        features = add("top", features, channels(512))
        neck = add("neck", features, channels(256), kernel_size=1)
        coarse = add("coarse", neck, channels(512))
        up = add("up", neck, channels(128), kernel_size=1, pool=nn.Upsample(scale_factor=2))
        fine = add("fine", up + wide, channels(256))

        outputs = ANCHORS * (5 + classes)
        self.heads = nn.ModuleList(self._head(features, outputs) for features in (coarse, fine))
        liquid = [LeakyReadout(outputs, convolutional=True) for _ in self.heads] if readout == "liquid" else []
        self.readouts = nn.ModuleList(liquid)

    def _head(self, features: int, outputs: int) -> nn.Conv2d:
        """A head that at first finds nothing: with probability ``PRIOR`` an object anywhere, and any class alike."""
        head = nn.Conv2d(features, outputs, 1)
        nn.init.normal_(head.weight, std=0.01)
        bias = torch.zeros(ANCHORS, 5 + self.classes)
        bias[:, 4] = math.log(PRIOR / (1 - PRIOR))
        bias[:, 5:] = -math.log(max(1, self.classes - 1))
        assert head.bias is not None
        head.bias.data.copy_(bias.flatten())
        return head

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells along a side of each head's grid, the coarse one first."""
        return tuple(self.size // stride for stride in STRIDES)

    def initial_state(self, x: Tensor) -> DetectorState:
        """The state before the first input ``x`` [batch, 3, size, size]."""
        states = []

        def start(layer: Layer, x: Tensor) -> Tensor:
            states.append(layer.initial_state(x))
            return layer.blank(x)

        self.joined(x, start)
        outputs = ANCHORS * (5 + self.classes)
        liquid = self.readout == "liquid"
        readouts = tuple(x.new_zeros(len(x), outputs, cells, cells) if liquid else None for cells in self.cells)
        return DetectorState(tuple(states), readouts)

    def forward(self, x: Tensor, state: DetectorState | None = None) -> tuple[Tensor, DetectorState]:
        if x.shape[1:] != (3, self.size, self.size):
            raise ValueError(f"expected images of shape [batch, 3, {self.size}, {self.size}], got {list(x.shape)}")
        before = self.initial_state(x) if state is None else state
        after: list[LayerState] = []

        def step(layer: Layer, x: Tensor) -> Tensor:
            z, layer_state = layer(x, before.layers[len(after)])
            after.append(layer_state)
            return z

        maps = self.joined(self.dropout(x), step)
        outputs, readouts = [], []
        for number, (head, z) in enumerate(zip(self.heads, maps, strict=True)):
            output, readout = head(z), None
            if self.readout == "liquid":
                output, readout = self.readouts[number](output, before.readouts[number])
            outputs.append(output.unflatten(1, (ANCHORS, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3))
            readouts.append(readout)
        return torch.cat(outputs, dim=1), DetectorState(tuple(after), tuple(readouts))

    def joined(self, x: Tensor, step: Callable[[Layer, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """How the layers are joined: the maps that the coarse and the fine head read, where ``z = step(layer, x)``.

        Each block is that of CSPNet (Wang et al. 2020, arXiv 1911.11929): half of a first layer's channels go through two
        more, all are gathered, and pooled.
        """
        named: dict[str, Any] = dict(self.layers.items())
        x = step(named["stem2"], step(named["stem1"], x))
        for number in (1, 2, 3):
            first, second, third, fourth = (named[f"block{number}_{part}"] for part in (1, 2, 3, 4))
            route = step(first, x)
            inner = step(second, route.chunk(2, dim=1)[1])
            gathered = step(fourth, torch.cat((step(third, inner), inner), dim=1))
            x = F.max_pool2d(torch.cat((route, gathered), dim=1), 2)
        neck = step(named["neck"], step(named["top"], x))
        coarse = step(named["coarse"], neck)
        up = step(named["up"], neck)
        return coarse, step(named["fine"], torch.cat((up, gathered), dim=1))
