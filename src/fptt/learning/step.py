"""The fast path of FPTT: forward, backward and update of one time step as a single compiled graph.

Nothing is written twice: the eager code of model, loss, ``FPTT`` and its base optimizer is run once under a tracer, and what
it did is compiled by torch's Inductor. Two things differ from the eager step. Weights, averages, multipliers and the base
optimizer's moments lie in flat buffers, of which the parameters and the optimizers' states are views, so that the update is
two sweeps over memory and not hundreds of small loops. And nothing is checked anew at each call but shapes and settings.

It serves FPTT with one update per time step around an optimizer that treats every weight alike (``ELEMENTWISE``). A model must
keep the protocol: what it remembers is in its state, its parameters and its buffers. Everything else trains eagerly.
"""

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch._inductor
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from fptt import state as states
from fptt.learning.fptt import FPTT
from fptt.learning.losses import StepLoss
from fptt.state import State

ELEMENTWISE = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.NAdam,
    torch.optim.RAdam,
)
COUNTERS = ("step", "mu_product")  # states that are one number for all weights; in double precision, as eager code has them
ALIGNMENT = 16  # weights: 64 bytes, a vector register
LIMIT = 8  # graphs of one trainer; more would mean that a setting changes at every step

aten = torch.ops.aten
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {  # norms that Inductor can fuse with what produces their argument
    aten._foreach_norm.Scalar: lambda tensors, *_, **__: [t.square().sum().sqrt() for t in tensors],
    aten.linalg_vector_norm.default: lambda t, *_, **__: t.square().sum().sqrt(),
}


class StepResult(NamedTuple):
    """What a step leaves, detached: the output, the bare criterion, the firing rate and the state after the step."""

    output: Tensor
    criterion: Tensor
    firing_rate: Tensor
    state: State


class Flat:
    """Tensors that are equally shaped for each of some parameters, kept in one buffer of which they become views."""

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.offsets = [0]
        for p in parameters:
            self.offsets.append(self.offsets[-1] + -(-p.numel() // ALIGNMENT) * ALIGNMENT)

    def buffer(self) -> Tensor:
        return self.parameters[0].new_zeros(self.offsets[-1]).detach()

    def views(self, buffer: Tensor) -> list[Tensor]:
        return [buffer[a : a + p.numel()].view(p.shape) for p, a in zip(self.parameters, self.offsets, strict=False)]

    def join(self, tensors: list[Tensor]) -> Tensor:
        """A new buffer holding ``tensors``, with zeros between them."""
        pieces = []
        for t, start, end in zip(tensors, self.offsets, self.offsets[1:], strict=False):
            pieces.append(t.reshape(-1))
            if end - start > t.numel():
                pieces.append(t.new_zeros(end - start - t.numel()))
        return torch.cat(pieces)


class Group:
    """A parameter group whose weights and optimizer states are views of flat buffers.

    ``tensors`` is what a graph reads and writes: the weights, each optimizer's states by name, and the learning rate.
    """

    def __init__(self, optimizer: FPTT, number: int):
        self.optimizers = (optimizer, optimizer.base)
        self.number = number
        self.flat = Flat([p for p in self.settings["params"] if p in optimizer.state])  # those that have had a gradient
        first = self.flat.parameters[0]
        if any(p.dtype != first.dtype or p.device != first.device for p in self.flat.parameters):
            raise NotImplementedError("its parameters have several dtypes or devices")
        self.tensors: dict[str, Any] = {
            "weights": self.flat.buffer(),
            "states": [{key: self.like(key, value) for key, value in o.state[first].items()} for o in self.optimizers],
            "lr": torch.zeros((), dtype=torch.float64, device=first.device),
        }

    @property
    def settings(self) -> dict[str, Any]:
        return self.optimizers[0].param_groups[self.number]

    def like(self, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().double() if key in COUNTERS else self.flat.buffer()

    def attach(self) -> None:
        """Make parameters and states views of the buffers, taking over their values where they are not (any more)."""
        self.tensors["lr"].fill_(float(self.settings["lr"]))
        for p, view in zip(self.flat.parameters, self.flat.views(self.tensors["weights"]), strict=True):
            if p.data_ptr() != view.data_ptr():
                view.copy_(p.detach())
                p.data = view
        for optimizer, buffers in zip(self.optimizers, self.tensors["states"], strict=True):
            for key, buffer in buffers.items():
                if not isinstance(buffer, Tensor):
                    continue
                if key in COUNTERS:
                    buffer.copy_(optimizer.state[self.flat.parameters[0]][key])
                    continue
                for p, view in zip(self.flat.parameters, self.flat.views(buffer), strict=True):
                    if optimizer.state[p][key].data_ptr() != view.data_ptr():
                        view.copy_(optimizer.state[p][key])
                        optimizer.state[p][key] = view

    def release(self) -> None:
        """Write back what is not a view: the counters."""
        for optimizer, buffers in zip(self.optimizers, self.tensors["states"], strict=True):
            for key, buffer in buffers.items():
                if key in COUNTERS:
                    for p in self.flat.parameters:
                        optimizer.state[p][key].copy_(buffer)


class CompiledStep:
    """``step(x_t, state, target, part)``: ``eager_step`` through one compiled graph for each combination of shapes.

    The first step of a training runs eagerly: it creates the optimizers' states. Where a graph cannot be had (no compiler, a
    model that cannot be traced, an optimizer that is not elementwise), one warning says so and all steps run eagerly.
    Use within ``with step:``, which takes over weights and learning rates before a sequence and hands back counters after it.

    Args:
        model, loss, optimizer: as for ``SequenceTrainer``.
    """

    def __init__(self, model: nn.Module, loss: StepLoss, optimizer: Optimizer):
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.works = True
        self.groups: list[Group] = []
        self.graphs: dict[Any, Callable[..., Any]] = {}
        self.tensors: list[Any] = []
        self.settings: Any = None

    def __enter__(self) -> "CompiledStep":
        for group in self.groups:
            group.attach()
        self.tensors, _ = pytree.tree_flatten(self.static())
        self.settings = (self.model.training, self.loss.training, self.hyper())
        return self

    def __exit__(self, *_: object) -> None:
        for group in self.groups:
            group.release()

    def __call__(self, x_t: Tensor, state: State, target: Tensor, part: Tensor) -> StepResult:
        if self.works and not self.groups:
            self.prepare()
        if not self.groups:
            return self.eager(x_t, state, target, part)
        leaves, structure = pytree.tree_flatten(state)
        key = (structure, self.settings, *map(signature, (x_t, target, *leaves)))
        if key not in self.graphs:
            try:
                if len(self.graphs) == LIMIT:
                    raise NotImplementedError(f"{LIMIT} graphs for different shapes or settings are enough")
                self.graphs[key] = self.compile(structure, x_t, target, part, leaves)
            except Exception as error:  # of whatever kind the tracer or the compiler raise
                self.give_up(error)
                return self(x_t, state, target, part)
        with torch.no_grad():
            output, criterion, rate, *leaves = self.graphs[key](x_t, target, part, *leaves, *self.tensors)
        return StepResult(output, criterion, rate, pytree.tree_unflatten(leaves, structure))

    def eager(self, x_t: Tensor, state: State, target: Tensor, part: Tensor) -> StepResult:
        """One step, plainly: the truth that the graphs are tested against."""
        self.optimizer.zero_grad()
        output, state = self.model(x_t, states.detach(state))
        objective, criterion = self.loss(output, target, part)
        objective.backward()
        self.optimizer.step()
        return StepResult(output.detach(), criterion, states.firing_rate(state), states.detach(state))

    def prepare(self) -> None:
        """Lay weights and states out flat, once a first step has created them."""
        optimizer = self.optimizer
        try:
            if not isinstance(optimizer, FPTT) or type(optimizer.base) not in ELEMENTWISE:
                raise NotImplementedError(f"{type(getattr(optimizer, 'base', optimizer)).__name__} is not elementwise")
            used = [any(p in optimizer.state for p in group["params"]) for group in optimizer.param_groups]
            self.groups = [Group(optimizer, number) for number, is_used in enumerate(used) if is_used]
            self.__enter__()
        except (NotImplementedError, KeyError) as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        self.works = False
        self.__exit__()
        self.groups = []
        warn_of_eager_training(error)

    def static(self) -> Any:
        """Every tensor that a graph reads or writes beside its arguments."""
        modules = (self.model, self.loss)
        return [group.tensors for group in self.groups], [dict(module.named_buffers()) for module in modules]

    def hyper(self) -> tuple[Any, ...]:
        """The settings that a graph has built in."""
        groups = self.optimizer.param_groups
        return tuple(value for group in groups for key, value in group.items() if key not in ("params", "lr"))

    def compile(self, structure: Any, x_t: Tensor, target: Tensor, part: Tensor, leaves: list[Any]) -> Callable[..., Any]:
        """Trace ``eager_step`` on copies of everything it changes, and compile the trace."""
        _, static_structure = pytree.tree_flatten(self.static())
        examples = [x_t, target, part, *map(copied, leaves), *map(copied, self.tensors)]
        count = len(leaves)

        def step(x_t: Tensor, target: Tensor, part: Tensor, *rest: Any) -> Any:
            leaves, tensors = list(rest[:count]), list(rest[count:])
            groups, buffers = pytree.tree_unflatten(tensors, static_structure)
            result = self.trace(groups, buffers, (x_t, pytree.tree_unflatten(leaves, structure)), (target, part))
            after, structure_after = pytree.tree_flatten(result.state)
            if structure_after != structure:
                raise NotImplementedError("its state changes its structure from step to step")
            return result.output, result.criterion, result.firing_rate, *after

        with mock.patch("torch.compiler.is_compiling", lambda: True):  # optimizers then keep their counters on the device
            graph = make_fx(step, decomposition_table=DECOMPOSITIONS)(*examples)
        for node in reversed(list(graph.graph.nodes)):
            if "profiler" in str(node.target):
                graph.graph.erase_node(node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return torch._inductor.compile(graph, examples)

    def trace(self, groups: list[dict[str, Any]], buffers: list[dict[str, Tensor]], inputs: Any, targets: Any) -> StepResult:
        """``eager`` with the weights, states and buffers given."""
        weights: dict[int, Tensor] = {}
        for group, tensors in zip(self.groups, groups, strict=True):
            for p, view in zip(group.flat.parameters, group.flat.views(tensors["weights"]), strict=True):
                weights[id(p)] = view.detach().requires_grad_()
        names = {name: weights[id(p)] for name, p in self.model.named_parameters() if id(p) in weights}
        unused = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        unused = [p for p in unused if id(p) not in weights]
        with torch.enable_grad():
            output, state = _called(self.model, {**names, **buffers[0]}, buffers[0], inputs)
            objective, criterion = _called(self.loss, buffers[1], buffers[1], (output, *targets))
            wanted = torch.autograd.grad(objective, [*weights.values(), *unused], allow_unused=True)
        gradients = dict(zip(weights, wanted, strict=False))
        if any(g is None for g in gradients.values()) or any(g is not None for g in wanted[len(weights) :]):
            raise NotImplementedError("not the same parameters have a gradient at each step")
        assert isinstance(self.optimizer, FPTT)
        base, optimizer = copy.copy(self.optimizer.base), copy.copy(self.optimizer)
        base.param_groups, base.state, optimizer.state = [], defaultdict(dict), defaultdict(dict)
        for group, tensors in zip(self.groups, groups, strict=True):
            w = tensors["weights"]
            w.grad = group.flat.join([gradients[id(p)] for p in group.flat.parameters])
            extra: dict[str, Any] = {key: key != "fused" for key in ("capturable", "foreach", "fused") if key in group.settings}
            base.param_groups.append({**group.settings, "params": [w], "lr": tensors["lr"], **extra})
            optimizer.state[w], base.state[w] = tensors["states"]
        optimizer.base, optimizer.param_groups = base, base.param_groups
        optimizer.step()
        return StepResult(output.detach(), criterion, states.firing_rate(state), states.detach(state))


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


def warn_of_eager_training(error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [""])[0]
    cause = f"{type(error).__name__}: {reason}"
    warnings.warn(f"fptt: the training step is not compiled, training goes on without ({cause})", stacklevel=4)


def or_eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile(function)``, or ``function`` itself, with one warning, from the moment on that it cannot be compiled."""
    current = torch.compile(function)

    def call(*arguments: Any) -> Any:
        nonlocal current
        if current is function:
            return function(*arguments)
        try:
            return current(*arguments)
        except Exception as error:  # of whatever kind the compiler raises; the function's own is raised again
            current = function
            result = function(*arguments)
            warn_of_eager_training(error)
            return result

    return call


def signature(value: Any) -> Any:
    """What a graph depends on of one of its arguments."""
    return (value.shape, value.dtype, value.device, value.stride()) if isinstance(value, Tensor) else value


def copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
