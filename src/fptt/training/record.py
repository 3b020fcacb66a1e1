"""What happens inside a spiking network while one batch of sequences runs through it."""

from typing import Any

import torch
from torch import Tensor, nn

from fptt import state as states
from fptt.neurons import Neuron


@torch.no_grad()
def record(model: nn.Module, sequence: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Step ``model`` through ``sequence`` [time, batch, ...] in evaluation mode.

    Returns:
        The outputs [time, batch, outputs], and for each spiking layer, bottom first, its "v", "z", "inv_tau_m" and, where
        the threshold adapts, "b" and "rho", each [time, batch, neurons].
    """
    neurons = [module for module in model.modules() if isinstance(module, Neuron)]
    rows: list[dict[str, list[Tensor]]] = [{} for _ in neurons]
    handles = []

    def keep(row: dict[str, list[Tensor]], name: str, value: Tensor, batch: int) -> None:
        row.setdefault(name, []).append(value.expand(batch, *value.shape[1:]).flatten(1).cpu())

    for neuron, row in zip(neurons, rows, strict=True):

        def after(_: nn.Module, inputs: Any, output: Any, row: dict[str, list[Tensor]] = row) -> None:
            state = output[1]
            for name in ("v", "z", "b"):
                value = getattr(state, name)
                if value is not None:
                    keep(row, name, value, len(state.v))

        handles.append(neuron.register_forward_hook(after))
        for name in ("inv_tau_m", "rho"):
            gate = getattr(neuron, name)
            if gate is not None:

                def rate(
                    _: nn.Module, inputs: Any, output: Tensor, row: dict[str, list[Tensor]] = row, name: str = name
                ) -> None:
                    output = output if output.dim() > 1 else output.unsqueeze(0)
                    keep(row, name, output, len(inputs[0]))

                handles.append(gate.register_forward_hook(rate))
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
