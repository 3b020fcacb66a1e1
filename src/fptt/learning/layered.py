"""What OTTT and e-prop need of a model beyond ``output, state = model(x_t, state)``: to find its synapses and its neurons.

A *layered* model names its parts:

    model.layers      modules, bottom first, each with
        .synapse        module from the layer's input to a current
        .recurrent      module from the layer's own last spikes to a current, or None
        .neuron         module ``z, state = neuron(current, state)``, where z is one of the tensors of the new state
    model.output      module from the last layer to the readout's current, or to the output itself
    model.readout     module ``output, state = readout(current, state)``, a leaky integrator, or None

``neuron.retention()`` and ``readout.retention()`` give what stays of the potential from step to step, 1 - 1/tau, as a tensor;
None where it depends on the input. All networks of ``fptt.models.sequence`` and ``fptt.models.convolutional`` are layered.
"""

from typing import Any

from torch import Tensor, nn

from fptt.errors import InputError


def check(model: nn.Module, rule: str) -> None:
    """Raises InputError, in the name of ``rule``, unless ``model`` is layered."""
    missing = [name for name in ("layers", "output", "readout") if not hasattr(model, name)]
    for number, layer in enumerate(getattr(model, "layers", ())):
        missing += [f"layers.{number}.{name}" for name in ("synapse", "recurrent", "neuron") if not hasattr(layer, name)]
    if missing:
        raise InputError(
            f"{rule} must know a model's synapses and neurons: {type(model).__name__} has no {missing[0]} "
            "(see fptt.learning.layered); fptt, bptt, tbptt, sltt and online-bptt train any model"
        )


def linear_maps(model: nn.Module, *parts: nn.Module | None) -> dict[str, Any]:
    """The linear and convolutional modules within ``parts`` of ``model``, by their names in it."""
    inside = {id(module) for part in parts if part is not None for module in part.modules()}
    kinds = (nn.Linear, nn.Conv2d)
    return {name: module for name, module in model.named_modules() if id(module) in inside and isinstance(module, kinds)}


def norms(model: nn.Module) -> list[str]:
    """Names of the batch norms of ``model``, of whatever kind: modules that keep running statistics."""
    return [name for name, module in model.named_modules() if hasattr(module, "running_mean")]


def retention(part: Any) -> Tensor | None:
    """``part.retention()``, or None where it has no such method."""
    method = getattr(part, "retention", None)
    return None if method is None else method()


def constant(part: Any) -> float | None:
    """What ``part``, a neuron or a readout, retains per step, where that is one number, the same for all and never learnt."""
    kept = retention(part)
    if kept is None or kept.requires_grad or bool((kept != kept.reshape(-1)[0]).any()):
        return None
    return float(kept.reshape(-1)[0])
