"""Spiking networks of one neuron kind: layers, a linear map and a readout; here those of dense or recurrent layers."""

from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from fptt import layers
from fptt.kernels import dispatch
from fptt.layers import Layer, LayerState
from fptt.neurons import LeakyReadout, make_neuron

Readout = Literal["liquid", "learned", "fixed", "membrane"]


class SequenceState(NamedTuple):
    """States of the layers, bottom first, and of the readout (None for the membrane readout)."""

    layers: tuple[LayerState, ...]
    readout: Tensor | None


class LayeredModel(nn.Module):
    """What all spiking networks share: layers, a linear map and a readout, stepped: ``output, state = model(x_t, state)``.

    Args:
        inputs: shape of ``x_t`` [batch, *inputs].
        layers: see ``fptt.layers``; bottom first.
        features: size of the last layer, all its dimensions together.
        outputs: size of ``output`` [batch, outputs].
        readout: see ``SequenceModel``.
    """

    def __init__(self, inputs: tuple[int, ...], layers: list[Layer], features: int, outputs: int, readout: Readout):
        super().__init__()
        self.inputs, self.outputs = tuple(inputs), outputs
        self.layers = nn.ModuleList(layers)
        linear = nn.Linear(features, outputs)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.output: nn.Module = linear
        self.readout = None if readout == "membrane" else LeakyReadout(outputs, readout)

    def initial_state(self, x: Tensor) -> SequenceState:
        """The state before the first input ``x`` [batch, *inputs]."""
        states = []
        for layer in self.layers:
            states.append(layer.initial_state(x))  # type: ignore[operator]
            x = layer.blank(x)  # type: ignore[operator]
        return SequenceState(tuple(states), None if self.readout is None else x.new_zeros(x.shape[0], self.outputs))

    def forward(self, x: Tensor, state: SequenceState | None = None) -> tuple[Tensor, SequenceState]:
        if x.shape[1:] != self.inputs:
            raise ValueError(f"expected an input of shape [batch, {', '.join(map(str, self.inputs))}], got {list(x.shape)}")
        states, readout = self.initial_state(x) if state is None else state
        after = []
        for layer, layer_state in zip(self.layers, states, strict=True):
            x, layer_state = layer(x, layer_state)
            after.append(layer_state)
        if self.readout is None:
            return self.output(after[-1].neuron.v), SequenceState(tuple(after), None)
        if readout is not None and dispatch.applies_to_readout(self.output, self.readout, x):
            output = readout = dispatch.readout_step(self.output, self.readout, x, readout)
        else:
            output, readout = self.readout(self.output(x), readout)
        return output, SequenceState(tuple(after), readout)

    def through(self, steps: Tensor, state: SequenceState) -> tuple[Tensor, SequenceState, Tensor] | None:
        """``forward`` for all of ``steps`` [steps, batch, *inputs] at once, where there is a faster way than one by one.

        Returns the output and the state after the last of them, and the sum of their firing rates; None where there is none.
        """
        found = dispatch.through(self, steps, state)
        if found is None:
            return None
        output, after, readout, rate = found
        return output, SequenceState(tuple(LayerState(*layer) for layer in after), readout), rate


class SequenceModel(LayeredModel):
    """Layers of spiking neurons and a linear readout, stepped: ``output, state = model(x_t, state)``.

    ``x_t`` is [batch, inputs], ``output`` [batch, outputs].

    Args:
        inputs, outputs: sizes of the input and of the output.
        hidden: number of neurons of each layer, bottom first.
        neuron: "ltc", "alif" or "lif".
        recurrent: every layer feeds its spikes back to itself.
        norm_steps: steps of batch norm through time in every layer, or None.
        norm_recurrent: whether the recurrent currents have one as well, as those of the input do.
        readout: leak of the integrator that reads the last layer's spikes ("liquid", "learned", "fixed"), or "membrane":
            a linear map of the last layer's membrane potential.
        gamma: initial scale of the batch norms.
        neuron_options: options of ``make_neuron`` (``b0``, ``reset``, ``adaptive``, ...).
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        *,
        neuron: str = "ltc",
        recurrent: bool = True,
        norm_steps: int | None = None,
        norm_recurrent: bool = True,
        readout: Readout = "liquid",
        gamma: float = 0.1,
        **neuron_options: Any,
    ):
        sizes = (inputs, *hidden)
        norm: dict[str, Any] = {"norm_steps": norm_steps, "norm_recurrent": norm_recurrent, "gamma": gamma}
        stack = [
            layers.dense(before, make_neuron(neuron, n, **neuron_options), n, recurrent=recurrent, **norm)
            for before, n in zip(sizes, hidden, strict=False)
        ]
        super().__init__((inputs,), stack, sizes[-1], outputs, readout)
