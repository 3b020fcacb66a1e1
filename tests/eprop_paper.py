"""The recurrent network of e-prop's paper (Bellec et al. 2020), as a user would write it: without any of fptt's classes."""

from typing import NamedTuple

import torch
from torch import nn

from fptt import surrogate


class PaperState(NamedTuple):
    v: torch.Tensor
    z: torch.Tensor
    a: torch.Tensor


class PaperNeuron(nn.Module):
    """Bellec et al.'s ALIF: v <- alpha v + I - z v_th, a <- rho a + z, z = H(v - v_th - beta a); the reset has no gradient."""

    ALPHA, RHO, BETA, THRESHOLD = 0.8, 0.9, 0.3, 0.6

    def __init__(self):
        super().__init__()
        self.spike = surrogate.get("triangular")

    def forward(self, current, state):
        v, z, a = state
        a = self.RHO * a + z
        v = self.ALPHA * v + current - z.detach() * self.THRESHOLD
        z = self.spike(v - self.THRESHOLD - self.BETA * a)
        return z, PaperState(v, z, a)


class PaperReadout(nn.Module):
    KAPPA = 0.7

    def forward(self, current, y):
        y = self.KAPPA * y + current
        return y, y

    def retention(self):
        return torch.tensor([self.KAPPA], dtype=torch.float64)


class Paper(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        layer = nn.Module()
        layer.synapse, layer.recurrent, layer.neuron = nn.Linear(2, 5, bias=False), nn.Linear(5, 5, bias=False), PaperNeuron()
        self.layers, self.output, self.readout = nn.ModuleList([layer]), nn.Linear(5, 3), PaperReadout()
        self.double()
        with torch.no_grad():
            layer.synapse.weight.mul_(2)

    def initial_state(self, x):
        zero = x.new_zeros(len(x), 5)
        return PaperState(zero, zero, zero), x.new_zeros(len(x), 3)

    def forward(self, x, state):
        (layer,), (neuron, y) = self.layers, state
        z, neuron = layer.neuron(layer.synapse(x) + layer.recurrent(neuron.z), neuron)
        output, y = self.readout(self.output(z), y)
        return output, (neuron, y)
