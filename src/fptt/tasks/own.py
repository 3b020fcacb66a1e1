"""A network of the user's, made by a function in a Python file that the command names."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fptt import state as states
from fptt.errors import InputError


def own_network(place: str, task: Any) -> nn.Module:
    """What the function of ``place``, "FILE.py:FUNCTION", makes of ``task``: ``output, state = network(x_t, state)``.

    The file is executed. The function may use the task's ``inputs``, ``outputs``, ``time_steps`` and other settings; ``x_t`` is
    [batch, *inputs], ``output`` [batch, outputs].

    Raises:
        InputError: for a file, function or network that cannot be used, with the line of the file where it went wrong.
    """
    name, colon, function = place.rpartition(":")
    path = Path(name)
    if not colon or path.suffix != ".py" or not function.isidentifier():
        raise InputError(f"--network {place}: give FILE.py:FUNCTION")
    if not path.is_file():
        raise InputError(f"--network {place}: there is no file {path}")
    module = attempt(place, path, lambda: executed(path))
    make = getattr(module, function, None)
    if not callable(make):
        raise InputError(f"--network {place}: {path} has no function '{function}'")
    network = attempt(place, path, lambda: make(task))
    if not isinstance(network, nn.Module):
        raise InputError(f"--network {place}: {function} must return a torch.nn.Module, not {type(network).__name__}")
    shape = (task.inputs,) if isinstance(task.inputs, int) else task.inputs
    wanted = [2, task.outputs]
    with torch.random.fork_rng():
        x_t = torch.rand(2, *shape)
        training = network.training
        first, second = (attempt(place, path, lambda: two_steps(network.eval(), x_t)) for _ in range(2))
        if not isinstance(first, Tensor) or list(first.shape) != wanted or not first.is_floating_point():
            found = f"{first.dtype} {list(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
            raise InputError(f"--network {place}: the output of a batch of two must be numbers of shape {wanted}, not {found}")
        if not torch.equal(first, second):
            raise InputError(
                f"--network {place}: the same two steps from the start give another output each time. If it keeps its state in "
                "itself, return fptt.interop.Stepped(network)"
            )
        if not first.requires_grad:
            raise InputError(f"--network {place}: it has no weights to train")
        attempt(place, path, lambda: learning(network, x_t))
        network.zero_grad()
        network.train(training)
    return network


def executed(path: Path) -> ModuleType:
    """The module of a file as it is now, which finds the modules beside it; nothing is written there."""
    module = ModuleType(f"own_{path.stem}")
    module.__file__ = str(path.absolute())
    sys.modules[module.__name__] = module  # where torch.compile and dataclasses look for it
    sys.path.insert(0, str(path.absolute().parent))
    try:
        exec(compile(path.read_bytes(), module.__file__, "exec"), module.__dict__)
    finally:
        sys.path.pop(0)
    return module


def learning(network: nn.Module, x_t: Tensor) -> None:
    """Two steps, each gone back through by itself."""
    state = states.initialise(network, x_t)
    for _ in range(2):
        output, state = network(x_t, states.detach(state))
        if output.requires_grad:  # a first answer may depend on nothing yet
            output.sum().backward()


def two_steps(network: nn.Module, x_t: Tensor) -> Any:
    """The output of a second step. Raises TypeError for a network that does not return an output and a state."""
    torch.manual_seed(0)
    state = states.initialise(network, x_t)
    for _ in range(2):
        result = network(x_t, state)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"the network must return (output, state), not {type(result).__name__}")
        output, state = result
    return output


def attempt(place: str, path: Path, action: Callable[[], Any]) -> Any:
    """The result of ``action``, or what it raised in one line."""
    try:
        return action()
    except Exception as error:  # of whatever kind the file raises
        where = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()]
        if isinstance(error, SyntaxError):
            where = [error.lineno]
        line = f"line {where[-1]}: " if where else ""
        said = (str(error).splitlines() or [""])[0]
        raise InputError(f"--network {place}: {line}{type(error).__name__}: {said}") from None
