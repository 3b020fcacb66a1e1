"""FPTT with liquid neurons written plainly, as the paper's equations and pseudo-code read: the yardstick of the library.

Every gate is one linear map of a concatenation, the regulariser is built through autograd, every parameter is updated in a
Python loop, and the firing rate is copied to the host at every step. Weights and updates are those of the library.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt import surrogate
from fptt.models.sequence import SequenceModel

spike = surrogate.get("multi_gaussian")


def concatenated(*parts: nn.Linear) -> nn.Linear:
    """One linear map of the concatenated inputs of ``parts``, of which only the first has a bias."""
    weight = torch.cat([part.weight.detach() for part in parts], dim=1)
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(parts[0].bias)
    return linear


def gates(rates: Any) -> list[nn.Linear]:
    """One linear map of [current, state] for each rate of a ``LiquidLinear``."""
    maps = []
    for number, from_state in enumerate(rates.from_states):
        n = from_state.in_features
        of_current = slice(number * n, (number + 1) * n)
        linear = nn.Linear(2 * n, n, dtype=from_state.weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.cat([rates.from_current.weight[of_current], from_state.weight], dim=1))
            linear.bias.copy_(rates.from_current.bias[of_current])
        maps.append(linear)
    return maps


class NaiveLayer(nn.Module):
    """A recurrent layer of LTC neurons."""

    def __init__(self, layer: Any):
        super().__init__()
        neuron = layer.neuron
        self.b0 = neuron.b0
        self.synapse = concatenated(layer.synapse, layer.recurrent)
        self.tau_m, self.tau_adp = gates(neuron.rates)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        v, z, b = state
        current = self.synapse(torch.cat([x, z], dim=1))
        inv_tau_m = torch.sigmoid(self.tau_m(torch.cat([current, v], dim=1)))
        rho = torch.sigmoid(self.tau_adp(torch.cat([current, b], dim=1)))
        b = rho * b + (1 - rho) * z
        theta = self.b0 + 1.8 * b
        v = v + inv_tau_m * (current - v)
        z = spike(v - theta)
        return z, ((1 - z) * v, z, b)


class NaiveNetwork(nn.Module):
    """A recurrent LTC ``SequenceModel`` without batch norm and with a liquid readout, with the same values."""

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.layers = nn.ModuleList(NaiveLayer(layer) for layer in model.layers)
        self.output = concatenated(model.output)
        readout: Any = model.readout
        (self.tau,) = gates(readout.inv_tau)

    def forward(self, x: Tensor, states: list[tuple[Tensor, ...]], out: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, state)
            after.append(state)
        current = self.output(x)
        inv_tau = torch.sigmoid(self.tau(torch.cat([current, out], dim=1)))
        return out + inv_tau * (current - out), after


class NaiveFPTT:
    """``train(sequence, target)`` trains on one batch of sequences, one update per time step, and returns the firing rate."""

    alpha, beta, max_norm = 0.1, 0.5, 1.0

    def __init__(self, model: SequenceModel, **settings: Any):
        self.start = model.initial_state
        self.model = NaiveNetwork(model).to(next(model.parameters()).device)
        self.base = torch.optim.Adamax(self.model.parameters(), **settings)
        self.averages = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.lambdas = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}

    def regulariser(self) -> Tensor:
        total: Any = 0.0
        for name, w in self.model.named_parameters():
            total = total - (w * self.lambdas[name]).sum()
            total = total + 0.5 * self.alpha * torch.square(w - self.averages[name]).sum()
        return total

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.base.step()
        with torch.no_grad():
            for name, w in self.model.named_parameters():
                average, lambda_ = self.averages[name], self.lambdas[name]
                lambda_.add_(-self.alpha * (w - average))
                average.mul_(1 - self.beta)
                average.add_(self.beta * w - (self.beta / self.alpha) * lambda_)

    def __call__(self, sequence: Tensor, target: Tensor) -> float:
        start = self.start(sequence[0])
        state: Any = [tuple(layer.neuron) for layer in start.layers]
        output: Any = start.readout
        rate = 0.0
        for t, x_t in enumerate(sequence):
            state = [tuple(s.detach() for s in layer) for layer in state]
            output, state = self.model(x_t, state, output.detach())
            loss = (t + 1) / len(sequence) * F.cross_entropy(output, target) + self.regulariser()
            self.base.zero_grad()
            loss.backward()
            self.update()
            rate += torch.cat([z for _, z, _ in state], dim=1).mean().item()
        return rate / len(sequence)
