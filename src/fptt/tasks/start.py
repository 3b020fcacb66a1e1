"""Weights to begin with: those of another run, at other time steps if need be."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fptt.errors import InputError
from fptt.neurons import stretch
from fptt.training import checkpoint
from fptt.training.run import Run


def saved_weights(start: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the network of the run ``start``, the averages where it keeps any, and the run's settings.

    Raises InputError where it is not a run, or one whose checkpoint this version cannot read.
    """
    run = Run.open(Path(start))
    saved = checkpoint.load(run.checkpoint)
    try:
        return saved["model"] | (saved["average"] or {}), run.config()[1]
    except (KeyError, TypeError):
        raise InputError(f"--start {start}: its checkpoint is of another version of fptt: train it again") from None


def take_over(model: nn.Module, start: str, factor: float = 1.0) -> None:
    """Give ``model`` the weights of the run ``start``, its time constants stretched by ``factor`` (``fptt.neurons.stretch``).

    A batch norm through time that has more steps, or fewer, takes at each the statistics of the step as far into the sequence.

    Raises InputError for a network of other layers or sizes, or without time constants where ``factor`` is not 1.
    """
    theirs, ours = saved_weights(start)[0], model.state_dict()
    strange = sorted(theirs.keys() ^ ours.keys())
    if strange:
        raise InputError(f"--start {start} is not a network of the same --neuron, --norm and layers: see {strange[0]}")
    for key, value in theirs.items():
        if key.endswith(("running_mean", "running_var")) and value.dim() == 2:  # [time steps, features]
            steps = len(ours[key])
            theirs[key] = value[torch.arange(steps) * len(value) // steps]
        elif key.endswith("trained_steps"):
            theirs[key] = torch.full_like(value, len(ours[key.replace("trained_steps", "running_mean")]))
        if ours[key].shape != theirs[key].shape:
            shapes = f"{list(theirs[key].shape)}, not {list(ours[key].shape)}"
            raise InputError(f"--start {start}: its {key} is {shapes}: give the same --hidden, inputs and classes")
    model.load_state_dict(theirs)
    if factor != 1:
        stretch(model, factor)
