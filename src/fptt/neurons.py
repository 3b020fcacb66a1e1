"""Neurons: pure step functions on a named-tuple state, and the thin modules that hold their parameters.

All times are in steps. One function steps every spiking neuron; LIF, ALIF and LTC differ only in where the inverse
membrane time constant ``inv_tau_m`` and the adaptation's retention ``rho`` come from: a constant, a learned constant,
or a gate on the input and the neuron's own state (liquid; Yin, Corradi & Bohté 2023, arXiv 2112.11231).
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt import surrogate
from fptt.errors import InputError

ADAPTATION_STRENGTH = 1.8  # Yin et al. 2021, arXiv 2103.12593, eq. 4

Reset = Literal["hard", "soft"]
multi_gaussian_spike = surrogate.get("multi_gaussian")


class NeuronState(NamedTuple):
    """Membrane potential ``v``, spikes ``z`` and adaptation ``b``, each [batch, ...]; ``b`` is None for a fixed threshold."""

    v: Tensor
    z: Tensor
    b: Tensor | None


def spiking_step(
    current: Tensor,
    state: NeuronState,
    inv_tau_m: Tensor | float,
    rho: Tensor | float | None = None,
    *,
    b0: float = 0.1,
    reset: Reset = "hard",
    spike: surrogate.SpikeFunction = multi_gaussian_spike,
) -> tuple[Tensor, NeuronState]:
    """One step of a leaky integrate-and-fire neuron with an optionally adaptive threshold.

        b     <- rho b + (1 - rho) z
        theta  = b0 + 1.8 b
        v     <- v + inv_tau_m (current - v)
        z      = H(v - theta)
        v     <- (1 - z) v        hard reset, or v - z theta for a soft one; neither is detached

    Args:
        current: input current, [batch, ...].
        state: the state before the step, of the current's shape.
        inv_tau_m: inverse membrane time constant per step, in (0, 1).
        rho: retention of the adaptation per step, in (0, 1); None keeps the threshold fixed at ``b0``.
        b0: baseline threshold.
        reset: "hard" (to zero) or "soft" (by subtraction of the threshold).
        spike: a function of ``fptt.surrogate``.

    Returns:
        The spikes, and the state after the step.
    """
    v, z, b = state
    theta: Tensor | float = b0
    if rho is not None:
        assert b is not None, "an adaptive neuron needs a state with b"
        b = rho * b + (1 - rho) * z
        theta = b0 + ADAPTATION_STRENGTH * b
    v = v + inv_tau_m * (current - v)
    z = spike(v - theta)
    v = (1 - z) * v if reset == "hard" else v - z * theta
    return z, NeuronState(v, z, b)


def leaky_step(current: Tensor, v: Tensor, inv_tau: Tensor | float) -> Tensor:
    """One step of a leaky integrator without spikes: v + inv_tau (current - v)."""
    return v + inv_tau * (current - v)


class Constant(nn.Module):
    """A time constant of ``tau`` steps, given as its rate per step: 1/tau; learned (through a logit) or fixed."""

    def __init__(self, features: int, tau: float, learned: bool, spread: float = 0.0):
        super().__init__()
        logit = -torch.log(torch.full((features,), tau - 1.0)) + spread * torch.randn(features)
        self.logit = nn.Parameter(logit) if learned else nn.Buffer(logit)

    def forward(self, current: Tensor, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (current.dim() - 2)  # features are dimension 1: [batch, features, ...]
        return torch.sigmoid(self.logit).view(shape)


def spread_logits(features: int, tau: float) -> Tensor:
    """log(tau_i - 1), [features], with tau_i drawn log-uniformly from 2 to ``tau`` steps: sigma of it is 1 - 1/tau_i.

    A gate with this bias remembers over that range before it has learned to, as chrono initialization has it for LSTM gates
    (Tallec & Ollivier 2018, arXiv 1804.11188, sec. 2, where tau is uniform).
    """
    return torch.log(2 * (tau / 2) ** torch.rand(features) - 1)


class LiquidLinear(nn.Module):
    """sigma(W [current, x]): a rate per step that depends on the input and on a state x, for each of ``states`` such states.

    All are [batch, features]. W is kept as its parts, ``from_current`` of all rates together and ``from_states`` of each: they
    share one product with the current, nothing is concatenated, and no gradient goes to a state that has none.

    Args:
        bias: initial logit of each rate, [features] each; None for 0, a rate of 1/2.
    """

    def __init__(self, features: int, states: int = 1, bias: tuple[Tensor | None, ...] = ()):
        super().__init__()
        self.from_current = nn.Linear(features, states * features)
        self.from_states = nn.ModuleList(nn.Linear(features, features, bias=False) for _ in range(states))
        for part in (self.from_current, *self.from_states):
            nn.init.normal_(part.weight, std=math.sqrt(2 / (3 * features)))  # Xavier, of each whole [features, 2 features]
        nn.init.zeros_(self.from_current.bias)
        for part, logits in zip(self.from_current.bias.detach().chunk(states), bias, strict=False):
            if logits is not None:
                part.copy_(logits)

    def forward(self, current: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        parts = self.from_current(current).chunk(len(states), dim=1)
        return tuple(torch.sigmoid(part + w(x)) for part, w, x in zip(parts, self.from_states, states, strict=True))


class LiquidConv(nn.Module):
    """sigma(BN(conv(current + x))): the same for feature maps [batch, channels, height, width]; ``norm=False`` omits BN.

    ``bias`` [channels] are the initial logits of the rates; None for 0.
    """

    def __init__(self, channels: int, kernel_size: int = 3, norm: bool = True, bias: Tensor | None = None):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        if bias is not None:
            last = self.norm if norm else self.conv
            last.bias.detach().copy_(bias)  # type: ignore[operator, union-attr]

    def forward(self, current: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(self.norm(self.conv(current + x)))


class Rates(nn.ModuleList):
    """Rates from a module of their own each: ``(current, *states) -> tuple of module(current, state)``."""

    def forward(self, current: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(current, x) for module, x in zip(self, states, strict=True))


def constant_retention(rates: nn.Module) -> Tensor | None:
    """1 - 1/tau, [features], where the first of ``rates`` is constant, learned or not; None where it depends on the input."""
    rate = rates[0] if isinstance(rates, Rates) else None
    return 1 - torch.sigmoid(rate.logit) if isinstance(rate, Constant) else None


class Neuron(nn.Module):
    """A spiking neuron: ``z, state = neuron(current, state)``.

    Args:
        rates: module ``(current, v) -> (inv_tau_m,)``, or ``(current, v, b) -> (inv_tau_m, rho)`` where ``adaptive``.
        adaptive: whether the threshold adapts; else it stays at ``b0``.
        b0, reset, spike: as in ``spiking_step``.
        initial_v: "uniform" starts v from U(0, 1), "zero" from 0. In training the draw follows torch's global seed; in
            evaluation it is one fixed pattern shared by all samples, so that results repeat and do not depend on batches.

    Raises:
        InputError: for another ``reset`` or ``initial_v``.
    """

    def __init__(
        self,
        rates: nn.Module,
        adaptive: bool,
        *,
        b0: float = 0.1,
        reset: Reset = "hard",
        spike: surrogate.SpikeFunction = multi_gaussian_spike,
        initial_v: Literal["uniform", "zero"] = "uniform",
    ):
        super().__init__()
        for name, value, known in (("reset", reset, ("hard", "soft")), ("initial_v", initial_v, ("uniform", "zero"))):
            if value not in known:
                raise InputError(f"{name} must be {known[0]} or {known[1]}, got {value!r}")
        self.rates, self.adaptive = rates, adaptive
        self.b0, self.reset, self.spike, self.initial_v = b0, reset, spike, initial_v

    def initial_state(self, current: Tensor) -> NeuronState:
        """v from U(0, 1) or zero, z = 0, b = b0, shaped like ``current`` [batch, features, ...]."""
        z = torch.zeros_like(current)
        if self.initial_v == "zero":
            v = z.clone()
        elif self.training:
            v = torch.rand_like(current)
        else:
            pattern = torch.rand(current.shape[1:], generator=torch.Generator().manual_seed(0))
            v = torch.empty_like(current).copy_(pattern)
        return NeuronState(v, z, torch.full_like(current, self.b0) if self.adaptive else None)

    def retention(self) -> Tensor | None:
        """What stays of v from step to step but for input and reset, [features]; None for a liquid time constant."""
        return constant_retention(self.rates)

    def forward(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        if state is None:
            state = self.initial_state(current)
        rates = self.rates(current, state.v, state.b) if self.adaptive else self.rates(current, state.v)
        return spiking_step(current, state, *rates, b0=self.b0, reset=self.reset, spike=self.spike)


def make_neuron(
    kind: str,
    features: int,
    *,
    convolutional: bool = False,
    adaptive: bool = True,
    tau_m: float | None = None,
    tau_adp: float | None = None,
    gate_norm: bool = True,
    **options: object,
) -> Neuron:
    """A neuron by name: "lif" (fixed constants, fixed threshold), "alif" (learned constants), "ltc" (liquid), or "relu".

    Args:
        features: number of neurons, or of channels where ``convolutional``.
        adaptive: False fixes the threshold of an ALIF or LTC neuron at ``b0``.
        tau_m: membrane time constant of LIF (default 2, that of most libraries) or its initial value for ALIF (20), in steps.
            Those of LTC start around 2 (None), or spread log-uniformly from 2 to this: see ``spread_logits``.
        tau_adp: initial adaptation time constant of ALIF (default 100), in steps; for LTC as ``tau_m``.
        gate_norm: batch norm in the gates of a convolutional LTC neuron.
        options: ``b0``, ``reset``, ``spike``, ``initial_v`` of ``Neuron``.

    Raises:
        InputError: for a time constant of one step or less.
    """
    for name, tau in (("tau_m", tau_m), ("tau_adp", tau_adp)):
        if tau is not None and not tau > 1:
            raise InputError(f"{name} must be more than 1 time step, got {tau}")
    rates: nn.Module
    if kind == "relu":
        return Rectifier()
    adaptive = adaptive and kind != "lif"
    if kind == "lif":
        rates = Rates([Constant(features, tau_m or 2.0, learned=False)])
    elif kind == "alif":
        rates = Rates([Constant(features, tau_m or 20.0, learned=True, spread=0.25)])
        if adaptive:
            rates.append(Retention(Constant(features, tau_adp or 100.0, learned=True, spread=0.25)))
    elif kind == "ltc":
        leak = None if tau_m is None else -spread_logits(features, tau_m)
        retention = None if tau_adp is None or not adaptive else spread_logits(features, tau_adp)
        bias = (leak, retention)[: 1 + adaptive]
        if convolutional:
            rates = Rates(LiquidConv(features, norm=gate_norm, bias=logits) for logits in bias)
        else:
            rates = LiquidLinear(features, len(bias), bias)
    else:
        raise ValueError(f"unknown neuron '{kind}': choose lif, alif, ltc or relu")
    return Neuron(rates, adaptive, **options)  # type: ignore[arg-type]


class Rectifier(Neuron):
    """A leaky rectified unit, for the non-spiking twin of a spiking network: no state, no spikes, ``z = max(I, 0.1 I)``.

    The slope below zero is that of YOLOv4-tiny's units (Wang et al. 2021, arXiv 2011.08036).
    """

    def __init__(self) -> None:
        super().__init__(nn.Identity(), adaptive=False)

    def initial_state(self, current: Tensor) -> Any:
        return None

    def forward(self, current: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return F.leaky_relu(current, 0.1), None


def stretch(model: nn.Module, factor: float) -> None:
    """Multiply every time constant of ``model``, less its one step, by ``factor``, in place: for steps as much finer.

    1/tau = sigma(l), and rho = 1 - 1/tau = sigma(-l) of an adaptation, make tau - 1 = exp(-l): log(factor) is taken from each
    l, of constants and of gates alike, whatever their input.

    Args:
        model: of neurons and leaky readouts, at any depth.
        factor: positive; 4 for sequences cut four times as finely, below 1 for coarser ones.

    Raises:
        InputError: where it has no time constant, and for another factor.
    """
    if not factor > 0:
        raise InputError(f"the factor of time constants must be positive, got {factor}")
    leaks = []
    for module in model.modules():
        if isinstance(module, Neuron):
            leaks += _leaks(module.rates)
        elif isinstance(module, LeakyReadout):
            leaks += _leaks(module.inv_tau)
    if not leaks:
        raise InputError("the network has no time constants of fptt.neurons to stretch")
    with torch.no_grad():
        for logit, sign in leaks:
            logit -= sign * math.log(factor)


def _leaks(rates: nn.Module) -> list[tuple[Tensor, int]]:
    """The constant part of each rate's logit, [features], with 1 for a rate 1/tau and -1 for what it leaves, 1 - 1/tau."""
    if isinstance(rates, LiquidLinear):
        return list(zip(rates.from_current.bias.chunk(len(rates.from_states)), (1, -1), strict=False))
    leaks: list[tuple[Tensor, int]] = []
    for rate, sign in zip(rates, (1, -1), strict=False) if isinstance(rates, Rates) else ():
        if isinstance(rate, LiquidConv):
            leaks.append((rate.conv.bias if isinstance(rate.norm, nn.Identity) else rate.norm.bias, sign))  # type: ignore[arg-type]
        else:
            leaks.append((rate.rate.logit if isinstance(rate, Retention) else rate.logit, 1))  # type: ignore[arg-type]
    return leaks


class Retention(nn.Module):
    """1 - rate: turns a decay rate per step into the share that remains."""

    def __init__(self, rate: nn.Module):
        super().__init__()
        self.rate = rate

    def forward(self, current: Tensor, x: Tensor) -> Tensor:
        return 1 - self.rate(current, x)


class LeakyReadout(nn.Module):
    """A leaky integrator without spikes: ``v, v = readout(current, v)``; v starts at zero.

    Args:
        features: number of outputs.
        leak: "liquid" (1/tau = sigma(W [current, v])), "learned" or "fixed".
        tau: time constant of a fixed leak, initial one of a learned leak, in steps.
        convolutional: the outputs are channels of maps, and a liquid leak depends on the channels of the same place.
    """

    def __init__(
        self,
        features: int,
        leak: Literal["liquid", "learned", "fixed"] = "liquid",
        tau: float = 2.0,
        *,
        convolutional: bool = False,
    ):
        super().__init__()
        if leak != "liquid":
            self.inv_tau: nn.Module = Rates([Constant(features, tau, learned=leak == "learned")])
        elif convolutional:
            self.inv_tau = Rates([LiquidConv(features, kernel_size=1, norm=False)])
        else:
            self.inv_tau = LiquidLinear(features)

    def initial_state(self, current: Tensor) -> Tensor:
        return torch.zeros_like(current)

    def retention(self) -> Tensor | None:
        """What stays of v from step to step, [features]; None for a liquid leak."""
        return constant_retention(self.inv_tau)

    def forward(self, current: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = self.initial_state(current) if v is None else v
        v = leaky_step(current, v, *self.inv_tau(current, v))
        return v, v
