"""Networks of other libraries as models that are stepped: ``output, state = model(x_t, state)``.

SpikingJelly's neurons, sinabs' and, with ``init_hidden=True``, snnTorch's keep their state in themselves. ``Stepped`` puts the
state that it is given into them, runs the network for one step, and takes the state out again, so that nothing is hidden any
more: every rule trains such a network, and it is compiled, streamed and saved like one of fptt. Norse's ``SequentialState`` is
stepped as it is, and so is a network of snnTorch whose forward takes and returns ``mem``.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fptt.errors import InputError
from fptt.state import State


class Memory(NamedTuple):
    """What a module keeps from step to step: its last spikes (None for one without), and what it remembers by name."""

    z: Tensor | None
    values: dict[str, Any]


class Stepped(nn.Module):
    """``network``, which keeps its state in itself, with its state made explicit.

        model, state = Stepped(network), None
        for x_t in sequence:
            output, state = model(x_t, fptt.detach(state))

    The state is a dict: a ``Memory`` for each module that has one, by its name in the network. Between steps the modules
    themselves are as before a first step.

    Args:
        network: takes ``x_t`` [batch, ...]; of SpikingJelly in single-step mode, of sinabs without recurrent layers.
        output: what of the network's result is the output; default: the result itself, which must be a tensor. After an
            snnTorch neuron with ``output=True``, ``lambda result: result[1]`` is its potential.
        time_axis: give the network a time axis of length 1 behind that of the batch, as layers of sinabs want it that are not
            named ``...Squeeze``, and take it off the output again.

    Raises:
        InputError: for a network that has no state of these kinds, or one that cannot be stepped.
    """

    def __init__(self, network: nn.Module, output: Callable[[Any], Tensor] | None = None, *, time_axis: bool = False):
        super().__init__()
        self.network, self.output, self.time_axis = network, output, time_axis
        self.stateful: dict[str, Any] = {name: module for name, module in network.named_modules() if names(module)}
        if not self.stateful:
            raise InputError(
                f"{type(network).__name__} has no module that keeps its state in itself, as those of SpikingJelly, sinabs, and "
                "snnTorch with init_hidden=True do; a network that takes and returns its state is stepped without Stepped"
            )
        for name, module in network.named_modules():
            if getattr(module, "step_mode", "s") != "s":
                raise InputError(f"'{name}' is in multi-step mode: set step_mode='s' in the whole network")
            if name in self.stateful and hasattr(module, "rec_connect"):
                raise InputError(f"'{name}' forgets its last spikes from call to call, and so cannot be stepped")
        self._put({name: Memory(None, beginning(module)) for name, module in self.stateful.items()})

    def initial_state(self, x: Tensor) -> State:
        """The state before the first input ``x`` [batch, ...], whose shapes are found by a step that leaves nothing behind."""
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        with torch.no_grad():
            _, after = self._run(x, {name: Memory(None, beginning(module)) for name, module in self.stateful.items()})
            for buffer, value in buffers:
                buffer.data.copy_(value)  # unseen by graphs of steps before
        state = {}
        for name, module in self.stateful.items():
            z, values = after[name]
            start = {key: begun(values[key], value) for key, value in beginning(module).items()}
            state[name] = Memory(None if z is None else torch.zeros_like(z), start)
        return state

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        return self._run(x, self.initial_state(x) if state is None else state)

    def _run(self, x: Tensor, state: dict[str, Memory]) -> tuple[Tensor, State]:
        spikes: dict[str, Tensor] = {}
        before = self._take(spikes)
        with ExitStack() as undo:
            undo.callback(self._put, before)
            for name, module in self.stateful.items():
                if spiking(module):
                    undo.enter_context(module.register_forward_hook(keep(spikes, name)))
            self._put(state)
            result = self.network(x.unsqueeze(1) if self.time_axis else x)
            after = self._take(spikes)
        output = result if self.output is None else self.output(result)
        if not isinstance(output, Tensor):
            raise InputError(
                f"{type(self.network).__name__} returns a {type(output).__name__}, not a tensor: say which part of it is the "
                "output, as in Stepped(network, output=lambda result: result[1])"
            )
        return output.squeeze(1) if self.time_axis else output, after

    def _take(self, spikes: dict[str, Tensor]) -> dict[str, Memory]:
        return {
            name: Memory(spikes.get(name), {key: getattr(module, key) for key in names(module)})
            for name, module in self.stateful.items()
        }

    def _put(self, state: dict[str, Memory]) -> None:
        for name, memory in state.items():
            for key, value in memory.values.items():
                setattr(self.stateful[name], key, value)


def names(module: nn.Module) -> list[str]:
    """What ``module`` itself remembers, in a fixed order."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(module).__mro__}
    if "spikingjelly" in libraries:
        return list(getattr(module, "_memories", ()))
    if "snntorch" in libraries:
        return sorted(module._non_persistent_buffers_set) if getattr(module, "init_hidden", False) else []
    if "sinabs" in libraries and hasattr(module, "is_state_initialised"):
        return [name for name, _ in module.named_buffers(recurse=False)]
    return []


def beginning(module: Any) -> dict[str, Any]:
    """What ``module`` remembers before its first step: numbers, None, or empty tensors, which it replaces itself."""
    if hasattr(module, "_memories_rv"):
        return {name: module._memories_rv[name] for name in names(module)}
    return {name: getattr(module, name).new_zeros(0) for name in names(module)}


def begun(after: Any, start: Any) -> Any:
    """``start`` as a tensor of the shape that it has after a step, where it has one and is known."""
    if not isinstance(after, Tensor) or start is None:
        return start
    if isinstance(start, Tensor):
        return torch.zeros_like(after) if start.numel() == 0 else start.expand_as(after)
    return torch.full_like(after, start)


def spiking(module: Any) -> bool:
    """Whether what a neuron gives are spikes: those have a surrogate gradient."""
    kinds = ("surrogate_function", "spike_grad", "surrogate_grad_fn")  # of SpikingJelly, snnTorch, sinabs
    return any(getattr(module, kind, None) is not None for kind in kinds)


def keep(spikes: dict[str, Tensor], name: str) -> Callable[..., None]:
    """A hook: remember what a neuron gives; the first part of a tuple, which snnTorch's are where ``output=True``."""

    def hook(module: nn.Module, arguments: Any, result: Any) -> None:
        spikes[name] = result[0] if isinstance(result, tuple) else result

    return hook
