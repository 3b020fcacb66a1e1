"""The state of any model that is stepped: ``output, state = model(x_t, state)``.

A state is a pytree: tensors in named tuples, tuples, lists or dicts, with None where a part has no state.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

State = Any


def map_state(function: Callable[[Tensor], Any], state: State) -> State:
    """Apply ``function`` to every tensor of ``state`` and keep its structure."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, tuple):
        parts = [map_state(function, part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if isinstance(state, list):
        return [map_state(function, part) for part in state]
    if isinstance(state, dict):
        return {key: map_state(function, part) for key, part in state.items()}
    return state


def detach(state: State) -> State:
    """The same state, cut from the graph of the steps before it: what makes learning online."""
    return map_state(Tensor.detach, state)


def initialise(model: nn.Module, x_t: Tensor) -> State:
    """The state before the first input ``x_t`` [batch, ...]: the model's own ``initial_state(x_t)``, or None.

    None always means "start" in the protocol; models that can say so explicitly spare a compiled step its second graph.
    """
    initial = getattr(model, "initial_state", None)
    return None if initial is None else initial(x_t)


def leaves(state: State) -> Iterator[Tensor]:
    """Every tensor of ``state``, in a fixed order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (tuple, list)):
        for part in state:
            yield from leaves(part)
    elif isinstance(state, dict):
        for key in state:
            yield from leaves(state[key])


def save(state: State) -> list[Tensor]:
    """``state`` as a plain list of tensors that ``torch.load(weights_only=True)`` reads back; see ``restore``."""
    return [leaf.detach().clone() for leaf in leaves(state)]


def restore(saved: list[Tensor], like: State) -> State:
    """The inverse of ``save``: ``like`` is any state of the same model, whose structure is taken over.

    Raises ValueError where the number or the shapes of the tensors differ.
    """
    shapes = [tuple(leaf.shape) for leaf in leaves(like)]
    if shapes != [tuple(leaf.shape) for leaf in saved]:
        raise ValueError(f"saved state does not fit this model: expected tensors of shapes {shapes}")
    remaining = iter(saved)
    return map_state(lambda leaf: next(remaining).to(leaf), like)


def spikes(state: State) -> Iterator[Tensor]:
    """The spikes ``z`` of every spiking layer in ``state``, in order: each [batch, ...]."""
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        for name, part in zip(state._fields, state, strict=True):
            if name == "z" and isinstance(part, Tensor):
                yield part
            else:
                yield from spikes(part)
    elif isinstance(state, (tuple, list)):
        for part in state:
            yield from spikes(part)
    elif isinstance(state, dict):
        for part in state.values():
            yield from spikes(part)


def firing_rates(several: Sequence[State]) -> Tensor:
    """The sum of the firing rates of some states of a model: on a GPU, at a fraction of what each costs by itself."""
    layers = [z.detach() for state in several for z in spikes(state)]
    if not layers:
        return torch.stack([firing_rate(state) for state in several]).sum()
    numbers = torch._foreach_norm(layers, 1, dtype=torch.promote_types(layers[0].dtype, torch.float32))  # of zeros and ones
    return torch.stack(numbers).sum() * (len(several) / sum(z.numel() for z in layers))


def firing_rate(state: State) -> Tensor:
    """Spikes per neuron and step, over all spiking layers (scalar tensor, on the device; NaN for a model without spikes)."""
    layers = [z.detach() for z in spikes(state)]
    if not layers:
        return torch.full((), float("nan"), device=next((leaf.device for leaf in leaves(state)), None))
    return torch.stack([z.sum() for z in layers]).sum() / sum(z.numel() for z in layers)
