"""What happens inside a spiking network while one batch of sequences runs through it."""

from typing import Any

import torch
from torch import Tensor, nn

from fptt import state as states
from fptt.neurons import Neuron, Rectifier


@torch.no_grad()
def record(model: nn.Module, sequence: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Step ``model`` through ``sequence`` [time, batch, ...] in evaluation mode.

    Returns:
        The outputs [time, batch, outputs], and for each spiking layer, bottom first, its "v", "z", "inv_tau_m" and, where
        the threshold adapts, "b" and "rho", each [time, batch, neurons].
    """
    neurons = [module for module in model.modules() if isinstance(module, Neuron) and not isinstance(module, Rectifier)]
    rows: list[dict[str, list[Tensor]]] = [{} for _ in neurons]
    handles = []
    for neuron, row in zip(neurons, rows, strict=True):
        gates: dict[str, Tensor] = {}  # of the present step: they run before the neuron they belong to is done

        def gate(_: nn.Module, inputs: Any, output: tuple[Tensor, ...], gates: dict[str, Tensor] = gates) -> None:
            gates.update(zip(("inv_tau_m", "rho"), output, strict=False))

        handles.append(neuron.rates.register_forward_hook(gate))

        def after(
            _: nn.Module,
            inputs: Any,
            output: Any,
            row: dict[str, list[Tensor]] = row,
            gates: dict[str, Tensor] = gates,
        ) -> None:
            state = output[1]
            for name, value in {"v": state.v, "z": state.z, "b": state.b, **gates}.items():
                if value is not None:
                    row.setdefault(name, []).append(value.expand_as(state.v).flatten(1).cpu())

        handles.append(neuron.register_forward_hook(after))
    training = model.training
    model.eval()
    try:
        state, outputs = states.initialise(model, sequence[0]), []
        for x_t in sequence:
            output, state = model(x_t, state)
            outputs.append(output.cpu())
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return torch.stack(outputs), [{name: torch.stack(values) for name, values in row.items()} for row in rows]
