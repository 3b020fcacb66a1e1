"""Layers: a synapse (dense, recurrent or convolutional), an optional batch norm through time, and a spiking neuron.

Every layer follows the protocol ``z, state = layer(x_t, state)`` with ``state=None`` at the start of a sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt.kernels import dispatch
from fptt.neurons import Neuron, NeuronState


class BatchNormThroughTime(nn.Module):
    """Batch norm whose running statistics are kept for every time step, with one affine map shared by all steps.

    In training a batch is normalised by its own statistics; in evaluation by the running ones of the same step, or of the
    last step trained where the sequence goes on for longer. ``time_steps=1`` is ordinary batch norm.

    Args:
        features: size of dimension 1 of the input [batch, features, ...].
        time_steps: number of steps with statistics of their own.
        gamma: initial scale; the reference uses 0.1 (after Cooijmans et al. 2017, arXiv 1603.09025).
    """

    def __init__(self, features: int, time_steps: int = 1, gamma: float = 1.0, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.time_steps, self.eps, self.momentum = time_steps, eps, momentum
        self.weight = nn.Parameter(torch.full((features,), gamma))
        self.bias = nn.Parameter(torch.zeros(features))
        self.running_mean = nn.Buffer(torch.zeros(time_steps, features))
        self.running_var = nn.Buffer(torch.ones(time_steps, features))
        self.trained_steps = nn.Buffer(torch.ones((), dtype=torch.int64))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Normalise ``x`` [batch, features, ...] at ``step``, an int64 scalar tensor counted from 0."""
        if self.training:
            index = step.clamp(max=self.time_steps - 1)
            self.trained_steps.copy_(torch.maximum(self.trained_steps, index + 1))
        else:
            index = torch.minimum(step, self.trained_steps - 1)
        row = index.view(1)
        mean = self.running_mean.index_select(0, row).squeeze(0)
        var = self.running_var.index_select(0, row).squeeze(0)
        x = F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)
        if self.training:
            self.running_mean.index_copy_(0, row, mean.unsqueeze(0))
            self.running_var.index_copy_(0, row, var.unsqueeze(0))
        return x

    def through(self, x: Tensor, step: Tensor) -> Tensor:
        """``forward`` for all of some steps at once, ``x`` [steps, batch, features], from ``step`` on."""
        index = step + torch.arange(len(x), device=x.device)
        if not self.training:
            index = torch.minimum(index, self.trained_steps - 1)
            mean, var = self.running_mean[index], self.running_var[index]
        else:
            index = index.clamp(max=self.time_steps - 1)
            var, mean = torch.var_mean(x, dim=1, correction=0)
            with torch.no_grad():
                unbiased = var * (x.shape[1] / (x.shape[1] - 1))
                for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                    running.index_copy_(0, index, torch.lerp(running[index], new, self.momentum))
                self.trained_steps.copy_(torch.maximum(self.trained_steps, index[-1] + 1))
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (x - mean.unsqueeze(1)) * scale.unsqueeze(1) + self.bias


class LayerState(NamedTuple):
    """The neuron's state (None for units without), and the next step's index where the layer has a batch norm (else None)."""

    neuron: NeuronState
    step: Tensor | None


class Layer(nn.Module):
    """``current = norm(synapse(x)) [+ recurrent_norm(recurrent(z))]``, then the neuron.

    Args:
        synapse: module from the input [batch, ...] to a current [batch, features, ...].
        neuron: see ``fptt.neurons.Neuron``.
        recurrent: module from the layer's own last spikes to a current, or None.
        norm, recurrent_norm: ``BatchNormThroughTime`` of the two currents, or None.
        pool: module applied to the current after the norm, or None.
    """

    def __init__(
        self,
        synapse: nn.Module,
        neuron: Neuron,
        *,
        recurrent: nn.Module | None = None,
        norm: BatchNormThroughTime | None = None,
        recurrent_norm: BatchNormThroughTime | None = None,
        pool: nn.Module | None = None,
    ):
        super().__init__()
        self.synapse, self.neuron, self.recurrent = synapse, neuron, recurrent
        self.norm, self.recurrent_norm, self.pool = norm, recurrent_norm, pool

    @torch.no_grad()
    def blank(self, x: Tensor) -> Tensor:
        """Zeros shaped like the current of the input ``x``, and with its channels last where that has them.

        A pass of the synapse on one sample finds the shape.
        """
        current = self.synapse(x[:1])
        current = current if self.pool is None else self.pool(current)
        zeros = current.new_zeros(len(x), *current.shape[1:])
        if current.dim() == 4 and not current.is_contiguous():
            zeros = zeros.contiguous(memory_format=torch.channels_last)
        return zeros

    def initial_state(self, x: Tensor) -> LayerState:
        """The state before the first input ``x``."""
        dispatch.probe(x)
        step = None if self.norm is None else torch.zeros((), dtype=torch.int64, device=x.device)
        return LayerState(self.neuron.initial_state(self.blank(x)), step)

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        neuron, step = self.initial_state(x) if state is None else state
        if dispatch.applies(self, x, neuron):
            neuron = dispatch.layer_step(self, x, neuron)
            return neuron.z, LayerState(neuron, None)
        current = self.synapse(x)
        if self.norm is not None:
            current = self.norm(current, step)
        if self.recurrent is not None:
            feedback = self.recurrent(neuron.z)
            current = current + (feedback if self.recurrent_norm is None else self.recurrent_norm(feedback, step))
        if self.pool is not None:
            current = self.pool(current)
        z, neuron = self.neuron(current, neuron)
        return z, LayerState(neuron, None if step is None else step + 1)


def dense(
    inputs: int,
    neuron: Neuron,
    features: int,
    *,
    recurrent: bool = False,
    norm_steps: int | None = None,
    norm_recurrent: bool = True,
    gamma: float = 0.1,
) -> Layer:
    """A dense layer of ``features`` neurons, recurrent on request.

    Args:
        inputs: size of the input [batch, inputs].
        norm_steps: steps of batch norm through time (one on the input's and one on the recurrent current); None for none.
        norm_recurrent: False for none on the recurrent current.
        gamma: initial scale of those norms.
    """
    synapse = nn.Linear(inputs, features)
    nn.init.xavier_normal_(synapse.weight)
    nn.init.zeros_(synapse.bias)
    feedback = None
    if recurrent:
        feedback = nn.Linear(features, features, bias=False)
        nn.init.orthogonal_(feedback.weight)

    def norm() -> BatchNormThroughTime | None:
        return None if norm_steps is None else BatchNormThroughTime(features, norm_steps, gamma)

    return Layer(
        synapse, neuron, recurrent=feedback, norm=norm(), recurrent_norm=norm() if recurrent and norm_recurrent else None
    )


def convolutional(
    inputs: int,
    neuron: Neuron,
    channels: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    bias: bool = True,
    norm_steps: int | None = 1,
    pool: nn.Module | None = None,
) -> Layer:
    """A convolutional layer: convolution, batch norm (``norm_steps=1``: the same for all steps), pooling, neuron.

    Its kernels, and so its maps and states, have their channels last in memory, as processors convolve them faster.

    Args:
        inputs: channels of the input [batch, inputs, height, width]; padding keeps the size for odd kernels.
    """
    synapse = nn.Conv2d(inputs, channels, kernel_size, stride, padding=kernel_size // 2, bias=bias)
    nn.init.xavier_uniform_(synapse.weight)
    if synapse.bias is not None:
        nn.init.zeros_(synapse.bias)
    norm = None if norm_steps is None else BatchNormThroughTime(channels, norm_steps)
    return Layer(synapse, neuron, norm=norm, pool=pool).to(memory_format=torch.channels_last)
