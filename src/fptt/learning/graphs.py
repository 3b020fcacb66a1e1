"""Eager code of a training as compiled graphs: traced, compiled, kept, and left for the eager code where that cannot be.

Nothing is written twice: the eager code of model, loss, ``FPTT`` and its base optimizer is run once under a tracer, and what
it did is compiled by torch's Inductor. Two things differ from the eager code. Weights, averages, multipliers and the base
optimizer's moments lie in flat buffers, of which the parameters and the optimizers' states are views, so that the update is
two sweeps over memory and not hundreds of small loops. And nothing is checked anew at each call but shapes and settings.

``CompiledUpdate`` is the update by itself; ``fptt.learning.step`` has steps from the input to the update.
"""

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from fptt.learning import products
from fptt.learning.flat import Group
from fptt.learning.fptt import FPTT

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
LARGE = 2**15  # weights: tensors from this size on are swept by themselves, smaller ones together
OPTIONS: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False}
CUDA_OPTIONS: dict[str, Any] = {**OPTIONS, "combo_kernels": True, "shape_padding": False}  # kernels that could be one, are one
JOINED = 64  # gradients: so many are joined on their way into the update, and not by a kernel each
LIMIT = 8  # graphs of one trainer; more would mean that a setting changes at every step

aten = torch.ops.aten
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {  # norms that Inductor can fuse with what produces their argument
    aten._foreach_norm.Scalar: lambda tensors, *_, **__: [t.square().sum().sqrt() for t in tensors],
    aten.linalg_vector_norm.default: lambda t, *_, **__: t.square().sum().sqrt(),
}


class Compiled:
    """What the compiled step and the compiled update share: flat groups, graphs, and the way back to eager code."""

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.works = True
        self.groups: list[Group] = []
        self.graphs: dict[Any, Callable[..., Any]] = {}
        self.tensors: list[Any] = []
        self.settings: Any = None
        self.learns: tuple[bool, ...] = ()  # as of ``learning``

    def __enter__(self) -> "Compiled":
        if self.groups and not (self.learning() == self.learns and all(group.whole for group in self.groups)):
            self.start_anew()  # a weight was frozen, say, or the optimizer's states are gone: eager steps settle that
        for group in self.groups:
            group.attach()
        self.tensors, _ = pytree.tree_flatten(self.static())
        self.settings = self.hyper()
        return self

    def __exit__(self, *_: object) -> None:
        for group in self.groups:
            group.release()

    def learning(self) -> tuple[bool, ...]:
        """Which weights learn."""
        return tuple(p.requires_grad for group in self.optimizer.param_groups for p in group["params"])

    def start_anew(self) -> None:
        """As before the first step."""
        self.groups, self.graphs = [], {}

    def prepare(self) -> None:
        """Lay weights and states out flat, once a first step has created them."""
        optimizer = self.optimizer
        self.learns = self.learning()
        try:
            if not isinstance(optimizer, FPTT) or type(optimizer.base) not in ELEMENTWISE:
                raise NotImplementedError(f"{type(getattr(optimizer, 'base', optimizer)).__name__} is not elementwise")
            for number, settings in enumerate(optimizer.param_groups):
                used = [p for p in settings["params"] if p in optimizer.state and p.requires_grad]  # that have had a gradient
                apart = [not p.is_cuda and p.numel() >= LARGE for p in used]
                together = [p for p, alone in zip(used, apart, strict=True) if not alone]
                for parameters in (*([p] for p, alone in zip(used, apart, strict=True) if alone), together):
                    if parameters:
                        self.groups.append(Group(optimizer, number, parameters))
            self.__enter__()
        except (NotImplementedError, KeyError, TypeError) as error:  # of the last kind where a device has no double precision
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        self.works = False
        self.__exit__()
        self.groups = []
        warn_of_eager_training(error)

    def static(self) -> Any:
        """Every tensor that a graph reads or writes beside its arguments."""
        return [group.tensors for group in self.groups]

    def hyper(self) -> tuple[Any, ...]:
        """The settings that a graph has built in."""
        own = [getattr(self.optimizer, name, None) for name in ("max_norm", "linear", "decay")]
        groups = self.optimizer.param_groups
        values = [v for group in groups for key, v in group.items() if key not in ("params", "lr", "param_names")]
        return *self.learning(), *(tuple(value) if isinstance(value, list) else value for value in (*own, *values))

    def graph(self, key: Any, function: Callable[..., Any], arguments: list[Any]) -> Callable[..., Any] | None:
        """The graph of ``function(arguments, static)``; None, and no graph ever after, where it cannot be had."""
        if key not in self.graphs:
            try:
                if len(self.graphs) == LIMIT:
                    raise NotImplementedError(f"{LIMIT} graphs for different shapes or settings are enough")
                self.graphs[key] = self.compile(function, arguments)
            except Exception as error:  # of whatever kind the tracer or the compiler raise
                self.give_up(error)
                return None
        return self.graphs[key]

    def compile(self, function: Callable[..., Any], arguments: list[Any]) -> Callable[..., Any]:
        """Trace ``function`` on copies of everything it changes, and compile the trace."""
        import torch._inductor  # seconds, which those who do not compile need not wait
        from torch.fx.experimental.proxy_tensor import make_fx

        _, structure = pytree.tree_flatten(self.static())
        count = len(arguments)

        def flat(*tensors: Any) -> Any:
            return function(list(tensors[:count]), pytree.tree_unflatten(list(tensors[count:]), structure))

        examples = [copied(t) for t in (*arguments, *self.tensors)]
        on_gpu = any(isinstance(t, Tensor) and t.is_cuda for t in examples)
        few = all(len(group.flat.parameters) <= JOINED for group in self.groups)
        own = {"force_pointwise_cat": few} if on_gpu else products.options()
        options = {**(CUDA_OPTIONS if on_gpu else OPTIONS), **own}
        with mock.patch("torch.compiler.is_compiling", lambda: True):  # optimizers then keep their counters on the device
            graph = make_fx(flat, decomposition_table=DECOMPOSITIONS)(*examples)
        for node in reversed(list(graph.graph.nodes)):
            if "profiler" in str(node.target):
                graph.graph.erase_node(node)
            elif _is_number(node) and (not on_gpu or node.meta["val"].dtype == torch.float64):
                _compute_once(graph.graph, node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, to itself
            return torch._inductor.compile(graph, examples, options=options)

    def update(self, groups: list[dict[str, Any]], gradients: dict[int, Tensor]) -> None:
        """``optimizer.step()`` on flat tensors, for the gradients by ``id`` of their parameters."""
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


class CompiledUpdate(Compiled):
    """``CompiledUpdate(optimizer).step()``: ``optimizer.step()`` as one graph, for a training loop of your own.

    The first step runs eagerly: it creates the optimizers' states. Weights and states stay where they are found, in the
    parameters and in ``optimizer.state``; between steps they, and the settings, may be read, changed, saved and loaded.
    What cannot be compiled runs eagerly from then on, with one warning.

    Args:
        optimizer: an ``FPTT`` around one of ``ELEMENTWISE``.
    """

    @torch.no_grad()
    def step(self) -> None:
        if self.works and not self.groups and self.optimizer.state:
            self.prepare()
        done = False
        if self.groups:
            with self:
                done = bool(self.groups) and self.apply()
        if not done:
            self.optimizer.step()

    @torch.no_grad()
    def apply(self) -> bool:
        """``step`` within ``with self``; False where it is left to the optimizer."""
        gradients = {id(p): p.grad for group in self.groups for p in group.flat.parameters}
        if gradients.keys() != {id(p) for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None}:
            self.give_up(NotImplementedError("not the same parameters have a gradient at each step"))
            return False
        arguments = list(gradients.values())
        run = self.graph(self.settings, self._update, arguments)
        if run is not None:
            run(*arguments, *self.tensors)
        return run is not None

    def _update(self, gradients: list[Tensor], static: Any) -> tuple[Tensor, ...]:
        parameters = [p for group in self.groups for p in group.flat.parameters]
        self.update(static, {id(p): g for p, g in zip(parameters, gradients, strict=True)})
        return ()


def warn_of_eager_training(error: Exception, missing: str = "compiled") -> None:
    reason = (str(error).strip().splitlines() or [""])[0]
    cause = f"{type(error).__name__}: {reason}"
    warnings.warn(f"fptt: the training step is not {missing}, training goes on without ({cause})", stacklevel=4)


def or_eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile(function)``, or ``function`` itself, with one warning, from the moment on that it cannot be compiled."""
    current: Callable[..., Any] | None = None

    def call(*arguments: Any) -> Any:
        nonlocal current
        if current is function:
            return function(*arguments)
        if current is None:
            current = torch.compile(function, options=products.options())
        try:
            return current(*arguments)
        except Exception as error:  # of whatever kind the compiler raises; the function's own is raised again
            current = function
            result = function(*arguments)
            warn_of_eager_training(error)
            return result

    return call


def _is_number(node: Any) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, Tensor) and value.dim() == 0


def _compute_once(graph: torch.fx.Graph, number: torch.fx.Node) -> None:
    """Keep the compiler from computing ``number`` (a bias correction, say) anew for every few elements that it scales.

    What is viewed by its strides has to lie in memory, and is therefore computed once.
    """
    for user in list(number.users):
        if any(isinstance(t, Tensor) and t.dim() for t in pytree.tree_leaves(user.meta.get("val"))):
            with graph.inserting_before(user):  # numbers change in place: as it is then
                user.replace_input_with(number, graph.call_function(aten.as_strided.default, (number, [], [])))


def copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
