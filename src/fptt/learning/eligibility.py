"""Eligibility traces of the synapses of any elementwise neuron, by autograd on one step of the neuron (see ``eprop``)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fptt import state as states
from fptt.errors import InputError
from fptt.state import State


class Eligibility(NamedTuple):
    """Traces by the names of synapses and gates; none before the first step.

    ``state`` has one [batch, outputs, inputs + bias] for each tensor of the neuron's state, None for one that the next step of
    the neuron does not depend on; ``filtered`` of that shape is that of the last layer's spikes as the readout has them.
    """

    state: dict[str, tuple[Tensor | None, ...]]
    filtered: dict[str, Tensor]


class Derivatives(NamedTuple):
    """Of one step of a neuron run by itself; None where nothing depends.

    ``d`` [after][before], each [batch, neurons]; ``p`` by synapse and gate [after], each [batch, outputs].
    """

    d: list[list[Tensor | None]]
    p: dict[str, list[Tensor | None]]


class Unit(NamedTuple):
    """A neuron module, or the readout: the synapses that feed it and the gates within it, by their names in the model."""

    module: nn.Module
    synapses: tuple[str, ...]
    gates: tuple[str, ...]


class Wiring(NamedTuple):
    """What e-prop knows of a model."""

    units: list[Unit]  # bottom first, the readout after the layers
    last: Unit  # the last layer
    synapses: dict[str, Any]  # modules by name, gates too
    output: Any  # module from the last layer to the readout
    membrane: bool  # the output is that of this module itself, which may read all of the last layer's state
    kappa: float  # what the readout retains
    feedback: dict[str, Tensor]  # random matrices by synapse


class Step:
    """One step of e-prop: what its hooks see on the way through the model.

    The graph is the model's own. To the state after it the hooks add zeros (``Past``), whose gradient with respect to W_ji is
    D_j[t] eligibility_ji[t-1], that of the past.
    """

    def __init__(self, wiring: Wiring, before: Eligibility):
        self.wiring, self.before = wiring, before
        self.after = Eligibility({}, {})
        self.inputs: dict[str, Tensor] = {}  # s of each synapse and gate, with a 1 for the bias
        self.currents: dict[str, Tensor] = {}  # what each synapse gave, and each gate where a neuron runs by itself
        self.alone = False  # whether one does
        self.spikes: tuple[Tensor, int] | None = None  # of the last layer, and their place in its state

    def watch(self, enter: Callable[[Any], Any]) -> None:
        """Register the hooks, each through ``enter``."""
        synapses = self.wiring.synapses
        for unit in self.wiring.units:
            for name in unit.gates:
                enter(synapses[name].register_forward_hook(self.gate(name)))
            for name in unit.synapses:
                enter(synapses[name].register_forward_hook(self.synapse(name)))
            enter(unit.module.register_forward_hook(self.neuron(unit)))
        for name, feedback in self.wiring.feedback.items():
            enter(synapses[name].register_forward_hook(random_feedback(feedback), prepend=True))
        if self.wiring.kappa:
            enter(self.wiring.output.register_forward_pre_hook(self.enter_readout))

    def synapse(self, name: str) -> Callable[..., Tensor]:
        """A hook: remember input and output."""

        def hook(module: Any, arguments: tuple[Tensor], y: Tensor) -> Tensor:
            if name in self.inputs:
                raise InputError(f"eprop keeps one eligibility for each synapse, but '{name}' is called twice in a step")
            self.inputs[name] = with_one(module, arguments[0])
            self.currents[name] = y if y.requires_grad else y.detach().requires_grad_()
            return self.currents[name]

        return hook

    def gate(self, name: str) -> Callable[..., Tensor]:
        """A hook: where the neuron runs by itself, remember as well, and let pass only the diagonal back to the input."""

        def hook(module: Any, arguments: tuple[Tensor], y: Tensor) -> Tensor:
            if not self.alone:
                return y
            (x,) = arguments
            diagonal = module.weight.detach().unflatten(0, (-1, x.shape[1])).diagonal(dim1=1, dim2=2)
            back = (x.unsqueeze(1) * diagonal).flatten(1)
            self.inputs[name] = with_one(module, x)
            self.currents[name] = y.detach() + (back - back.detach())
            return self.currents[name]

        return hook

    def neuron(self, unit: Unit) -> Callable[..., Any]:
        """A hook: the eligibilities of all synapses that feed the neuron, and their weights added to its state."""

        def hook(module: nn.Module, arguments: tuple[Tensor, State], result: tuple[Tensor, State]) -> tuple[Tensor, State]:
            z, state = result
            after = list(states.leaves(state))
            place = next((k for k, leaf in enumerate(after) if leaf is z), None)
            if place is None:
                raise InputError(f"eprop needs the output of {type(module).__name__} to be one of the tensors of its state")
            if arguments[1] is None:
                raise InputError("eprop needs a state before the first step: give the model a method initial_state(x_t)")
            d, p = self.derivatives(unit, *arguments)
            self.carry(d, p, place, unit is self.wiring.last and self.wiring.kappa > 0)
            for k in range(len(after)) if self.wiring.membrane else [place]:
                for name, rates in p.items():
                    if name in self.before.state and any(r is not None for r in d[k]):
                        e = self.after.state[name][k]
                        if e is None:
                            e = trace(d[k], self.before.state[name], rates[k], self.inputs[name], self.currents[name].shape[1])
                        after[k] = after[k] + self.past(after[k], name, e, rates[k])
            if unit is self.wiring.last:
                self.spikes = after[place], place
            remaining = iter(after)
            return after[place], states.map_state(lambda _: next(remaining), state)

        return hook

    def carry(self, d: list[list[Tensor | None]], p: dict[str, list[Tensor | None]], place: int, filtered: bool) -> None:
        """The traces after the step, of all that feeds one neuron module; ``place`` is that of its spikes in its state."""
        known = {name: self.before.state[name] for name in p if name in self.before.state}
        for column, *traces in zip(zip(*d, strict=True), *known.values(), strict=True):
            if any(r is not None for r in column) and any(e is None for e in traces):
                raise InputError("eprop needs a neuron that depends on the same tensors of its state at every step")
        kept = [any(row[k] is not None for row in d) for k in range(len(d))]
        for name, rates in p.items():
            s, traces, outputs = self.inputs[name], known.get(name, ()), self.currents[name].shape[1]
            after = [trace(d[k], traces, rates[k], s, outputs) if kept[k] else None for k in range(len(d))]
            self.after.state[name] = tuple(after)
            if filtered:
                e, fading = after[place], self.before.filtered.get(name)
                if e is None:
                    e = trace(d[place], traces, rates[place], s, outputs)
                self.after.filtered[name] = e if fading is None else torch.add(e, fading, alpha=self.wiring.kappa)

    def derivatives(self, unit: Unit, current: Tensor, state: State) -> Derivatives:
        """D and p of the neuron run by itself.

        Elementwise as it is then, one backward pass for each tensor of the state gives all neurons their derivatives.
        """
        own = states.map_state(lambda t: t.detach().requires_grad_(), state)
        alone = current.detach().requires_grad_()
        self.alone = True
        _, after = unit.module.forward(alone, own)
        self.alone = False
        gates = [name for name in unit.gates if name in self.currents]
        names = [name for name in unit.synapses if name in self.currents]
        wanted = [alone, *(self.currents[name] for name in gates), *states.leaves(own)]
        found = [rows(leaf, wanted) for leaf in states.leaves(after)]
        p = {name: [row[1 + j] for row in found] for j, name in enumerate(gates)}
        for name, share in zip(names, rows(current, [self.currents[name] for name in names]), strict=True):
            p[name] = [None if row[0] is None or share is None else row[0] * share for row in found]
        return Derivatives([row[1 + len(gates) :] for row in found], p)

    def enter_readout(self, module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        """A hook before the map to the readout, which still remembers kappa of what it was given before."""
        if self.spikes is None or arguments[0] is not self.spikes[0]:
            raise InputError("eprop needs a readout that reads the last layer's output and nothing else")
        z, _ = self.spikes
        for name, e in self.before.filtered.items():
            z = z + self.wiring.kappa * self.past(z, name, e)
        return (z,)

    def past(self, value: Tensor, name: str, e: Tensor, p: Tensor | None = None) -> Tensor:
        """Zeros like ``value`` [batch, neurons], with the gradient of the past with respect to the weights of a synapse.

        The past is the eligibility ``e``, less the p s of the present where ``p`` is given.
        """
        synapse = self.wiring.synapses[name]
        present = () if p is None else (p, self.inputs[name])
        zeros: Tensor = Past.apply(value, synapse.weight, synapse.bias, e, *present)
        return zeros


class Past(torch.autograd.Function):
    """Zeros like ``value``, whose gradient with respect to a synapse's weights sums ``e - p s`` over the batch."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, bias: Tensor | None, *traces: Tensor) -> Tensor:
        ctx.save_for_backward(*traces)
        ctx.bias = bias is not None
        return torch.zeros_like(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        e, *present = ctx.saved_tensors
        grad = per_output(grad, e.shape[1])
        total = torch.einsum("bo,boi->oi", grad, e)
        if present:
            p, s = present
            total -= (grad * p).T @ s
        weight, bias = (total[:, :-1], total[:, -1]) if ctx.bias else (total, None)
        return None, weight, bias, None, *(None for _ in present)


def trace(d: list[Tensor | None], traces: tuple[Tensor | None, ...], p: Tensor | None, s: Tensor, outputs: int) -> Tensor:
    """Sum over l of D_l trace_l, plus p s: [batch, outputs, inputs + bias], without what is structurally zero."""
    total: Tensor | None = None
    for rate, e in zip(d, traces, strict=False):
        if rate is not None and e is not None:
            rate = per_output(rate, outputs).unsqueeze(2)
            total = rate * e if total is None else total.addcmul_(rate, e)
    if p is not None:
        p, s = p.unsqueeze(2), s.unsqueeze(1)
        total = p * s if total is None else total.addcmul_(p, s)
    return s.new_zeros(len(s), outputs, s.shape[-1]) if total is None else total


def per_output(x: Tensor, outputs: int) -> Tensor:
    """``x`` [batch, neurons] for all outputs of a gate that may serve several: output o is that of neuron o modulo neurons."""
    return x if x.shape[1] == outputs else x.repeat(1, outputs // x.shape[1])


def with_one(synapse: Any, x: Tensor) -> Tensor:
    """The input ``x`` of a synapse, cut from the graph, and a 1 where it has a bias."""
    return x.detach() if synapse.bias is None else F.pad(x.detach(), (0, 1), value=1.0)


def rows(value: Tensor, wanted: list[Tensor]) -> list[Tensor | None]:
    """The derivatives of an elementwise ``value`` with respect to each of ``wanted``; None where there is none."""
    if not value.requires_grad or not wanted:
        return [None] * len(wanted)
    return list(torch.autograd.grad(value, wanted, torch.ones_like(value), retain_graph=True, allow_unused=True))


def random_feedback(feedback: Tensor) -> Callable[..., Tensor]:
    """A hook for a synapse: what goes back to its input goes through ``feedback`` in place of the weights."""

    def hook(synapse: Any, arguments: tuple[Tensor], y: Tensor) -> Tensor:
        back = F.linear(arguments[0], feedback.to(y))
        return F.linear(arguments[0].detach(), synapse.weight, synapse.bias) + (back - back.detach())

    return hook
