"""Stretches of time steps as CUDA graphs: one launch for all their kernels, which are smaller than what launching each costs.

A graph reads and writes the same memory at every replay: what it is given is copied to where it reads, and what it returns is
overwritten by its next replay.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fptt import state as states
from fptt.learning.graphs import warn_of_eager_training
from fptt.state import State

TOGETHER = 28  # time steps of a graph; more would spare little, and recording them takes longer
RECORDED = "recorded as a CUDA graph"
LONGEST = 1024  # time steps of a part that goes through backpropagation as one graph


def captures(x: Tensor) -> bool:
    """Whether what is done with tensors like ``x`` can be recorded."""
    return x.is_cuda


class NotCaptured(Exception):
    """Why a graph cannot be recorded."""


class Captured:
    """``function(*arguments)`` recorded once; calling it replays what it did on a GPU.

    ``function`` must have been run before, with arguments alike: what is set up at a first call cannot be recorded.

    Raises:
        NotCaptured: where it does what a graph cannot, such as to read a tensor's value.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]):
        self.inputs = [torch.empty_like(t).copy_(t) if isinstance(t, Tensor) else t for t in arguments]
        self.device = next(t.device for t in self.inputs if isinstance(t, Tensor))  # not always the current one
        self.graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(self.graph, stream=stream_of(self.device)):
                self.outputs = function(*self.inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # torch 2.11 leaves the other, and a generator that waits for the recording's end
            generator = torch.cuda.default_generators[self.device.index]
            generator.graphsafe_set_state(generator.clone_state())
            raise NotCaptured(str(error)) from error

    def __call__(self, *arguments: Any) -> Any:
        kept, given = ([t for t in tensors if isinstance(t, Tensor)] for tensors in (self.inputs, arguments))
        torch._foreach_copy_(kept, given)
        with torch.cuda.device(self.device):
            self.graph.replay()
        return self.outputs


@functools.cache
def stream_of(device: torch.device) -> torch.cuda.Stream:
    """A stream on which to record what is done on ``device``."""
    return torch.cuda.Stream(device)


def stretches(time_steps: int, ends: Collection[int] = ()) -> Iterator[tuple[int, int]]:
    """First and last time step of each stretch; none goes on beyond one of ``ends``."""
    start = 0
    for t in range(time_steps):
        if t + 1 - start == TOGETHER or t in ends or t == time_steps - 1:
            yield start, t
            start = t + 1


def numbered(count: int, device: torch.device) -> Tensor:
    """0, 1, 2, ... as [count, 2], of which the first column counts: each number is aligned as compiled code expects it."""
    return torch.arange(count, device=device).unsqueeze(1).repeat(1, 2)


def part_ends(time_steps: int, parts: int) -> list[int]:
    """The last time step of each part; the parts are as equal as can be and the last one always ends the sequence."""
    return [(p + 1) * time_steps // parts - 1 for p in range(parts)]


class CapturedParts:
    """``parts(sequence, target)``: the parts of a sequence as graphs, from their steps to their gradients or FPTT's update.

    Args:
        trainer: a ``SequenceTrainer``, each part of which is a pass of the whole batch and an update.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.alike: Any = None  # what the recorded parts depend on
        self.graphs: dict[int, tuple[Captured, list[Tensor | None]]] = {}  # by length, with the gradients that they leave
        self.works = True

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.trainer.optimizer.param_groups for p in group["params"]]

    def recorded(self, sequence: Tensor, target: Tensor) -> bool:
        """Whether parts like these have been run before, so that they could be recorded."""
        trainer = self.trainer
        whole = trainer.accumulate == 1 and trainer.sampled is None and trainer.recompute is None
        if not whole or trainer.updates != trainer.parts or -(-len(sequence) // trainer.parts) > LONGEST or not self.works:
            return False
        updater = trainer.updater
        if not hasattr(trainer.model, "initial_state"):  # then its first state is none, and unlike the others
            return False
        if updater is not None and updater.works and not (updater.groups and all(group.whole for group in updater.groups)):
            self.alike = None  # weights and states have no place yet, or no longer
            return False
        places = [*self.parameters, *trainer.model.buffers(), *trainer.loss.buffers()]
        settings = None if updater is None else updater.hyper()
        training = *(module.training for module in trainer.model.modules()), trainer.loss.training
        learning = [p.requires_grad for p in self.parameters]
        alike = sequence.shape, sequence.dtype, target.shape, training, settings, learning, *(t.data_ptr() for t in places)
        if alike != self.alike:
            self.alike, self.graphs = alike, {}
            return False
        return True

    def __call__(self, sequence: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Output, criterion and sum of the firing rates; None where the parts are yet to be run for the first time."""
        if not self.recorded(sequence, target):
            return None
        trainer = self.trainer
        numbers = numbered(trainer.parts, sequence.device)
        leaves, structure = pytree.tree_flatten(states.initialise(trainer.model, sequence[0]))
        total = torch.zeros((), device=sequence.device)
        ends = part_ends(len(sequence), trainer.parts)
        pieces = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))
        with trainer.updater or nullcontext():
            try:
                for part, (first, last) in enumerate(pieces):
                    if last - first not in self.graphs:
                        arguments = [sequence[first : last + 1], numbers[part], target, *leaves]
                        graph = Captured(functools.partial(self.part, structure), arguments)
                        self.graphs[last - first] = graph, [p.grad for p in self.parameters]
            except NotCaptured as error:
                self.works = False
                warn_of_eager_training(error, RECORDED)
                return None
            for part, (first, last) in enumerate(pieces):
                graph, gradients = self.graphs[last - first]
                output, criterion, rate, *leaves = graph(sequence[first : last + 1], numbers[part], target, *leaves)
                total += rate
                if trainer.updater is None:
                    for p, gradient in zip(self.parameters, gradients, strict=True):
                        p.grad = gradient
                    trainer.optimizer.step()
        return output.clone(), criterion.clone(), total

    def part(self, structure: Any, steps: Tensor, number: Tensor, target: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """What is recorded of a part."""
        trainer = self.trainer
        for p in self.parameters:
            p.grad = None
        state = pytree.tree_unflatten(list(leaves), structure)
        objective, criterion, output, state, rate = trainer.part(steps, state, target, number[0], compiled=True)
        after, structure_after = pytree.tree_flatten(state)
        if structure_after != structure:
            raise NotCaptured("its state changes its structure from part to part")
        objective.backward()
        if trainer.updater is not None and not trainer.updater.apply():
            raise NotCaptured("the update is not compiled")
        return output, criterion, rate, *after


class CapturedInference:
    """``output, state, rate = inference(sequence, state)``: all steps of a sequence without learning.

    Args:
        infer: ``(x_t, state) -> (output, state, firing rate)``.
        model: whose way ``through`` several steps is taken where it has one.
    """

    def __init__(self, infer: Callable[[Tensor, State], tuple[Tensor, State, Tensor]], model: nn.Module | None = None):
        self.infer, self.through = infer, getattr(model, "through", None)
        self.graphs: dict[Any, Captured | None] = {}  # None: run once
        self.structures: dict[Any, Any] = {}  # of the states that they leave
        self.works = True

    def several(self, key: Any, steps: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """What is recorded of a stretch."""
        state, rates = pytree.tree_unflatten(list(leaves), key[0]), []
        for x_t in steps.unbind():
            output, state, z = self.infer(x_t, state)
            rates.append(z)
        after, self.structures[key] = pytree.tree_flatten(state)
        return output, torch.stack(rates).sum(), *after

    def recorded(self, key: Any, function: Callable[..., Any], arguments: list[Tensor]) -> Callable[..., Any]:
        """``function`` as a graph where that can be had."""
        try:
            graph = self.graphs[key] = self.graphs[key] or Captured(function, arguments)
        except NotCaptured as error:
            self.works = False
            warn_of_eager_training(error, RECORDED)
            return function
        return graph

    @torch.no_grad()
    def __call__(self, sequence: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        """``sequence`` [time, batch, ...]; returns the last output, the last state and the sum of the firing rates."""
        leaves, structure = pytree.tree_flatten(state)
        total = torch.zeros((), device=sequence.device)

        for first, last in stretches(len(sequence)):
            arguments = [sequence[first : last + 1].contiguous(), *leaves]
            if self.through is not None:
                found = self.through(arguments[0], pytree.tree_unflatten(leaves, structure))
                if found is not None:
                    output, state, rate = found
                    leaves, structure = pytree.tree_flatten(state)
                    total += rate
                    continue
            key = structure, *(getattr(t, "shape", t) for t in arguments)
            run: Callable[..., Any] = functools.partial(self.several, key)
            if key not in self.graphs:
                self.graphs[key] = None
            elif self.works:
                run = self.recorded(key, run, arguments)
            output, rate, *leaves = run(*arguments)
            structure = self.structures[key]
            total += rate
        return output.clone(), states.map_state(torch.clone, pytree.tree_unflatten(leaves, structure)), total
