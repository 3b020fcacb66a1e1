"""The fast path of rules that learn at every time step: forward, backward and update of a step as a single compiled graph.

``CompiledStep`` serves FPTT with one update per time step around an optimizer that treats every weight alike, and
``CompiledGradient`` other updates (SLTT, OTTT, e-prop; FPTT around Muon, say), up to the gradients. A model must keep the
protocol: what it remembers is in its state, its parameters and its buffers. Everything else trains eagerly. How eager code
becomes a graph, and what happens where it cannot, is in ``fptt.learning.graphs``.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from fptt import state as states
from fptt.learning.captured import RECORDED, Captured, NotCaptured, captures, numbered, stretches
from fptt.learning.graphs import Compiled, warn_of_eager_training
from fptt.learning.losses import StepLoss
from fptt.state import State


class StepResult(NamedTuple):
    """What a step leaves, detached: the output, the bare criterion, the firing rate and the state after the step."""

    output: Tensor
    criterion: Tensor
    firing_rate: Tensor
    state: State


class Trained(NamedTuple):
    """What one sequence left behind, as tensors on its device: nothing is copied to the host while it trains."""

    output: Tensor  # [batch, ...] after the last step
    loss: Tensor  # the criterion at the last step, scalar
    firing_rate: Tensor  # spikes per neuron and step, mean over the sequence, scalar


class CompiledStep(Compiled):
    """``step.through(sequence, state, target)``: every step learns, through one graph for each combination of shapes.

    The first step of a training runs eagerly: it creates the optimizers' states. So does every step after a state of another
    structure than the last one's, such as none at all. Where a graph cannot be had (no compiler, a model that cannot be traced,
    an optimizer that is not elementwise), one warning says so and all steps run eagerly.

    Args:
        model, loss, optimizer: as for ``SequenceTrainer``.
    """

    def __init__(self, model: nn.Module, loss: StepLoss, optimizer: Optimizer):
        super().__init__(optimizer)
        self.model, self.loss = model, loss
        self.structure: Any = None  # of the state after the last eager step
        self.settled: set[Any] = set()  # what graphs that serve every step of a sequence depend on, and where that lies
        self.captured: dict[Any, Captured] = {}

    def through(self, sequence: Tensor, state: State, target: Tensor, updates: Collection[int] = ()) -> Trained:
        """Learn from every step of ``sequence`` [time, batch, ...], each of which is a part of the loss.

        ``updates`` are the steps after which the optimizer steps, where learning from a step is not an update itself.
        """
        rate = torch.zeros((), device=sequence.device)
        if captures(sequence):
            sequence = sequence.contiguous()  # as the steps are in a graph's memory
        for last in self.replay(sequence, state, target, updates) or self.steps(sequence, state, target, updates):
            rate += last[2]
        return Trained(last[0].clone(), last[1].clone(), rate / len(sequence))

    def replay(
        self, sequence: Tensor, state: State, target: Tensor, updates: Collection[int]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]] | None:
        """``steps`` on a GPU, a stretch of them at a time: the last one's output and criterion, and the sum of firing rates.

        None elsewhere, and where no step of these shapes has been compiled and run before.
        """
        if not (self.settled and all(group.whole for group in self.groups)):
            return None
        leaves, structure = pytree.tree_flatten(state)
        key = (structure, self.hyper(), *map(signature, (sequence[0], target, *leaves))), self.addresses()
        if key not in self.settled:
            return None
        numbers = numbered(len(sequence), sequence.device)
        pieces = list(stretches(len(sequence), updates))
        try:
            with self:
                for first, last in pieces:
                    if (key, last - first) not in self.captured:
                        arguments = sequence[first : last + 1], numbers[first : last + 1], target, *leaves
                        self.captured[key, last - first] = Captured(functools.partial(self._several, key[0]), arguments)
        except NotCaptured as error:
            warn_of_eager_training(error, RECORDED)
            self.settled = set()
            return None

        def replay() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            state = leaves
            with self:
                for first, last in pieces:
                    graph = self.captured[key, last - first]
                    output, criterion, z, *state = graph(sequence[first : last + 1], numbers[first : last + 1], target, *state)
                    if last in updates:
                        self.optimizer.step()
                        self.optimizer.zero_grad(set_to_none=False)
                    yield output, criterion, z

        return replay()

    def addresses(self) -> tuple[int, ...]:
        """Where a graph finds what it reads and writes beside its arguments."""
        return tuple(t.data_ptr() for t in pytree.tree_leaves(self.static()) if isinstance(t, Tensor))

    @torch.no_grad()
    def _several(self, key: Any, steps: Tensor, numbers: Tensor, target: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """What is recorded of a stretch."""
        passed = []
        for x_t, number in zip(steps.unbind(), numbers.unbind(), strict=True):
            output, criterion, _, *leaves = self.graphs[key](x_t, target, number[0], *leaves, *self.tensors)
            passed.append(pytree.tree_unflatten(list(leaves), key[0]))
        return output, criterion, states.firing_rates(passed), *leaves

    def steps(
        self, sequence: Tensor, state: State, target: Tensor, updates: Collection[int] = ()
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """``through``, one step at a time: the output, the bare criterion and the firing rate of each."""
        numbers = numbered(len(sequence), sequence.device)[:, 0]
        leaves, structure = pytree.tree_flatten(state)
        run: Callable[..., Any] | None = None
        key: Any = None
        settled = False  # the graph leaves a state of the shapes that it takes, and serves all steps to come
        with self:
            for t in range(len(sequence)):  # a tensor that is iterated over makes all its views beforehand
                arguments = [sequence[t], target, numbers[t], *leaves]
                if not settled:
                    before = key
                    key, run = self.graph_for(structure, arguments)
                    settled = run is not None and key == before
                    if settled and captures(sequence):
                        self.settled.add((key, self.addresses()))
                if run is None:
                    state = pytree.tree_unflatten(leaves, structure)
                    output, criterion, z, state = self.between(sequence[t], state, target, numbers[t])
                    leaves, structure = pytree.tree_flatten(state)
                else:
                    with torch.no_grad():
                        output, criterion, z, *leaves = run(*arguments, *self.tensors)
                        if z is None:
                            z = states.firing_rate(pytree.tree_unflatten(leaves, structure))
                if t in updates:
                    self.optimizer.step()
                    self.optimizer.zero_grad(set_to_none=False)
                yield output, criterion, z

    def graph_for(self, structure: Any, arguments: list[Any]) -> tuple[Any, Callable[..., Any] | None]:
        """What the graph depends on, and the graph; None where the step is to run eagerly."""
        if not self.ready or structure != self.structure:
            return None, None
        x_t, target, _, *leaves = arguments
        key = (structure, self.settings, *map(signature, (x_t, target, *leaves)))
        return key, self.graph(key, functools.partial(self._step, structure), arguments)

    def between(self, *arguments: Any) -> StepResult:
        """An eager step among compiled ones."""
        self.__exit__()
        result = self.eager(*arguments)
        _, self.structure = pytree.tree_flatten(result.state)
        if self.ready:
            self.__enter__()
        elif self.works:
            self.prepare()
        return result

    @property
    def ready(self) -> bool:
        """Whether graphs can be had, as far as is known."""
        return bool(self.groups)

    def eager(self, x_t: Tensor, state: State, target: Tensor, part: Tensor) -> StepResult:
        """One step, plainly: the truth that the graphs are tested against."""
        self.optimizer.zero_grad()
        result = self.backward(x_t, state, target, part)
        self.optimizer.step()
        return result

    def backward(self, x_t: Tensor, state: State, target: Tensor, part: Tensor) -> StepResult:
        """The step up to its gradients, plainly; they add to those that the parameters have."""
        output, state = self.model(x_t, states.detach(state))
        objective, criterion = self.loss(output, target, part)
        objective.backward()
        return StepResult(output.detach(), criterion, states.firing_rate(state), states.detach(state))

    def static(self) -> Any:
        modules = (self.model, self.loss)
        return self.learnt(), [dict(module.named_buffers()) for module in modules]

    def learnt(self) -> Any:
        """The tensors that a graph learns with, as they are given to ``weights`` and ``learn``."""
        return super().static()

    def weights(self, learnt: Any) -> dict[int, Tensor]:
        """The weights by ``id`` of their parameters."""
        weights: dict[int, Tensor] = {}
        for group, tensors in zip(self.groups, learnt, strict=True):
            weights |= zip(map(id, group.flat.parameters), group.flat.views(tensors["weights"]), strict=True)
        return weights

    def learn(self, learnt: Any, gradients: dict[int, Tensor]) -> None:
        """What is done with the gradients, by ``id`` of their parameters."""
        self.update(learnt, gradients)

    def hyper(self) -> tuple[Any, ...]:
        return *(module.training for module in self.model.modules()), self.loss.training, *super().hyper()

    def start_anew(self) -> None:
        super().start_anew()
        self.structure, self.settled, self.captured = None, set(), {}

    def _step(self, structure: Any, arguments: list[Any], static: Any) -> tuple[Any, ...]:
        """``eager`` with all tensors given: what is traced."""
        x_t, target, part, *leaves = arguments
        learnt, buffers = static
        weights = {key: weight.detach().requires_grad_() for key, weight in self.weights(learnt).items()}
        names = {name: weights[id(p)] for name, p in self.model.named_parameters() if id(p) in weights}
        unused = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        unused = [p for p in unused if id(p) not in weights]
        with torch.enable_grad():
            state = pytree.tree_unflatten(leaves, structure)
            output, state = _called(self.model, {**names, **buffers[0]}, buffers[0], (x_t, state))
            objective, criterion = _called(self.loss, buffers[1], buffers[1], (output, target, part))
            wanted = torch.autograd.grad(objective, [*weights.values(), *unused], allow_unused=True)
        gradients = dict(zip(weights, wanted, strict=False))
        if any(g is None for g in gradients.values()) or any(g is not None for g in wanted[len(weights) :]):
            raise NotImplementedError("not the same parameters have a gradient at each step")
        self.learn(learnt, gradients)
        after, structure_after = pytree.tree_flatten(states.detach(state))
        if structure_after != structure:
            raise NotImplementedError("its state changes its structure from step to step")
        rate = None if captures(x_t) else states.firing_rate(state)  # there it is taken of several steps together
        return output.detach(), criterion, rate, *after


class CompiledGradient(CompiledStep):
    """``step.through(sequence, state, target, updates)``: of a step only the gradients, which add up in the weights' ``grad``.

    For rules that update otherwise than FPTT, and for any optimizer; its first ``zero_grad`` is the caller's. Parameters that
    the first step has given no gradient have none.
    """

    def __init__(self, model: nn.Module, loss: StepLoss, optimizer: Optimizer):
        super().__init__(model, loss, optimizer)
        self.parameters: list[Tensor] = []
        self.sums: list[Tensor] = []

    def __enter__(self) -> "CompiledGradient":
        if self.parameters and self.learning() != self.learns:
            self.start_anew()
        for p, total in zip(self.parameters, self.sums, strict=True):
            if p.grad is not total:  # any more
                p.grad = total.zero_() if p.grad is None else total.copy_(p.grad)
        super().__enter__()
        return self

    @property
    def ready(self) -> bool:
        return bool(self.sums)

    def prepare(self) -> None:
        """Take over the gradients of a first step."""
        self.learns = self.learning()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.sums = [p.grad for p in self.parameters if p.grad is not None]
        self.__enter__()

    def start_anew(self) -> None:
        super().start_anew()
        self.parameters = self.sums = []

    def give_up(self, error: Exception) -> None:
        super().give_up(error)
        self.parameters = self.sums = []

    def eager(self, x_t: Tensor, state: State, target: Tensor, part: Tensor) -> StepResult:
        return self.backward(x_t, state, target, part)

    def learnt(self) -> Any:
        return [p.detach() for p in self.parameters], self.sums

    def weights(self, learnt: Any) -> dict[int, Tensor]:
        return dict(zip(map(id, self.parameters), learnt[0], strict=True))

    def learn(self, learnt: Any, gradients: dict[int, Tensor]) -> None:
        for p, total in zip(self.parameters, learnt[1], strict=True):
            total += gradients[id(p)]


def _called(module: nn.Module, tensors: dict[str, Tensor], buffers: dict[str, Tensor], arguments: Any) -> Any:
    """``module(*arguments)`` with ``tensors`` in place of its own; buffers that it replaces are written back."""

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *arguments: Any) -> Any:
            result = self.module(*arguments)
            for name, after in self.module.named_buffers():
                if after is not buffers[name]:
                    buffers[name].copy_(after)
            return result

    return torch.func.functional_call(Watched(), {f"module.{name}": t for name, t in tensors.items()}, arguments)


def signature(value: Any) -> Any:
    """What a graph depends on of one of its arguments."""
    return (value.shape, value.dtype, value.device, value.stride()) if isinstance(value, Tensor) else value
