"""Eligibility traces of the synapses of any elementwise neuron, by autograd on one step of the neuron (see ``eprop``)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt import state as states
from fptt.errors import InputError
from fptt.state import State


class Eligibility(NamedTuple):
    """Traces by the names of synapses and gates; none before the first step.

    ``state`` [tensors of the neuron's state, batch, outputs, inputs + bias], of what each neuron carries on, and for the last
    layer ``filtered`` [batch, outputs, inputs + bias], that of its spikes as the readout remembers them.
    """

    state: dict[str, Tensor]
    filtered: dict[str, Tensor]


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

    The graph is the model's own. To the state after it the hooks add sums that are zero, (W_ji - W_ji) D_j[t]
    eligibility_ji[t-1], whose gradient with respect to W_ji is that of the past.
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
            d, currents = self.derivatives(unit, *arguments)
            past: dict[str, Tensor] = {}
            for name, p in currents.items():
                self.after.state[name] = torch.einsum("kbo,bi->kboi", p, self.inputs[name])
                if name in self.before.state:
                    rates = p.shape[2] // z.shape[1]  # a gate may serve several: output o is that of neuron o modulo neurons
                    past[name] = torch.einsum("klbo,lboi->kboi", d.repeat(1, 1, 1, rates), self.before.state[name])
                    self.after.state[name] += past[name]
            for k in range(len(after)) if self.wiring.membrane else [place]:
                after[k] = after[k] + self.weights({name: e[k] for name, e in past.items()}, after[k])
            if unit is self.wiring.last:
                self.spikes = after[place], place
            remaining = iter(after)
            return after[place], states.map_state(lambda _: next(remaining), state)

        return hook

    def derivatives(self, unit: Unit, current: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """D [after, before, batch, neurons], and p [after, batch, outputs] by synapse and gate, of the neuron run by itself.

        Elementwise as it is then, one backward pass for each tensor of the state gives all neurons their derivatives.
        """
        own = states.map_state(lambda t: t.detach().requires_grad_(), state)
        alone = current.detach().requires_grad_()
        self.alone = True
        _, after = unit.module.forward(alone, own)
        self.alone = False
        gates = [name for name in unit.gates if name in self.currents]
        wanted = [alone, *(self.currents[name] for name in gates), *states.leaves(own)]
        columns = [torch.stack(column) for column in zip(*(rows(leaf, wanted) for leaf in states.leaves(after)), strict=True)]
        p = dict(zip(gates, columns[1:], strict=False))
        names = [name for name in unit.synapses if name in self.currents]
        for name, share in zip(names, rows(current, [self.currents[name] for name in names]), strict=True):
            p[name] = columns[0] * share
        return torch.stack(columns[1 + len(gates) :], 1), p

    def enter_readout(self, module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        """A hook before the map to the readout, which still remembers kappa of what it was given before."""
        if self.spikes is None or arguments[0] is not self.spikes[0]:
            raise InputError("eprop needs a readout that reads the last layer's output and nothing else")
        z, place = self.spikes
        past = {name: self.wiring.kappa * e for name, e in self.before.filtered.items()}
        for name in (*self.wiring.last.synapses, *self.wiring.last.gates):
            self.after.filtered[name] = self.after.state[name][place] + past.get(name, 0)
        return (z + self.weights(past, z),)

    def weights(self, eligibility: dict[str, Tensor], like: Tensor) -> Tensor:
        """Zeros ``like`` [batch, neurons], whose gradients with respect to weights and biases are ``eligibility``."""
        total = torch.zeros_like(like)
        for name, e in eligibility.items():
            synapse = self.wiring.synapses[name]
            w = synapse.weight if synapse.bias is None else torch.cat((synapse.weight, synapse.bias.unsqueeze(1)), 1)
            total = total + torch.einsum("boi,oi->bo", e, w - w.detach()).unflatten(1, (-1, like.shape[1])).sum(1)
        return total


def with_one(synapse: Any, x: Tensor) -> Tensor:
    """The input ``x`` of a synapse, cut from the graph, and a 1 where it has a bias."""
    return x.detach() if synapse.bias is None else F.pad(x.detach(), (0, 1), value=1.0)


def rows(value: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    """The derivatives of an elementwise ``value`` with respect to each of ``wanted``; zero where there is none."""
    if not value.requires_grad or not wanted:
        return [torch.zeros_like(t) for t in wanted]
    found = torch.autograd.grad(value, wanted, torch.ones_like(value), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)]


def random_feedback(feedback: Tensor) -> Callable[..., Tensor]:
    """A hook for a synapse: what goes back to its input goes through ``feedback`` in place of the weights."""

    def hook(synapse: Any, arguments: tuple[Tensor], y: Tensor) -> Tensor:
        back = F.linear(arguments[0], feedback.to(y))
        return F.linear(arguments[0].detach(), synapse.weight, synapse.bias) + (back - back.detach())

    return hook
