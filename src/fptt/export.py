"""A trained network as one file that runs without fptt: a step in the format of ``torch.export``."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fptt
from fptt import state as states
from fptt.errors import InputError


class ExportableStep(nn.Module):
    """``output, *state = step(x_t, restart, *state)``: the protocol with nothing in it but tensors.

    Args:
        model: follows ``output, state = model(x_t, state)`` and has an ``initial_state(x_t)`` that is the same for all samples;
            it is used as it is in evaluation.
        x_t: an example of its input, [batch, ...].
    """

    def __init__(self, model: nn.Module, x_t: Tensor):
        super().__init__()
        self.model = model.eval()
        self.example = states.initialise(model, x_t)
        if self.example is None:
            raise InputError(f"{type(model).__name__} cannot be exported: give it an initial_state(x_t)")
        for number, leaf in enumerate(states.leaves(states.initialise(model, x_t[:1]))):
            self.register_buffer(f"start{number}", leaf.detach())

    def forward(self, x_t: Tensor, restart: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step from ``state``, or where ``restart`` (a bool scalar) is true from the start of a sequence."""
        before = iter([torch.where(restart, self.get_buffer(f"start{n}"), leaf) for n, leaf in enumerate(state)])
        output, after = self.model(x_t, states.map_state(lambda _: next(before), self.example))
        return output, *states.leaves(after)


def export(model: nn.Module, x_t: Tensor, path: Path) -> dict[str, object]:
    """Write the step of ``model`` to ``path`` (.pt2) for any batch size, and return what describes it.

    The file is read with ``torch.export.load(path).module()``; a sequence starts from zeros of the described shapes (-1 is the
    batch) with ``restart`` true. Raises InputError where the file cannot be written or the model cannot be exported.
    """
    step = ExportableStep(model, x_t)
    examples = tuple(states.leaves(step.example))
    batch = torch.export.Dim("batch")

    def dynamic(t: Tensor) -> dict[int, object]:
        return {0: batch} if t.dim() else {}

    arguments = (x_t, torch.tensor(True), *examples)
    shapes: Any = (dynamic(x_t), {}, tuple(dynamic(t) for t in examples))
    try:
        with torch.no_grad():
            program = torch.export.export(step, arguments, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of whatever kind the exporter raises
        raise InputError(f"this network cannot be exported ({(str(error).splitlines() or [''])[0]})") from None

    def described(t: Tensor) -> dict[str, object]:
        return {"shape": [-1, *t.shape[1:]] if t.dim() else [], "dtype": str(t.dtype).removeprefix("torch.")}

    description: dict[str, object] = {
        "version": fptt.__version__,
        "input": described(x_t),
        "state": [described(t) for t in examples],
    }
    try:
        torch.export.save(program, path, extra_files={"fptt.json": json.dumps(description)})
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"cannot write {path} ({(str(error).splitlines() or [''])[0]}): give another --out, ending in .pt2"
        ) from None
    return description
