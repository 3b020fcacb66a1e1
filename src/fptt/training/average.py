"""Averages: of weights, to evaluate what a rule has learnt that goes on moving with every batch, and of statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """average <- decay average + (1 - decay) weights at every ``update``, the first of which takes the weights as they are.

    Args:
        model: the network whose parameters are averaged.
        decay: in (0, 1); about 1 / (1 - decay) updates are remembered.

    ``averages`` are those of each parameter by its name; there are none before the first update.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.parameters = dict(model.named_parameters())
        self._average = get_ema_multi_avg_fn(decay)
        self.averages: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        if self.averages:
            self._average(list(self.averages.values()), list(self.parameters.values()), None)
        else:
            self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    def load(self, averages: dict[str, Tensor]) -> None:
        """Go on from the ``averages`` of a network of the same parameters. Raises KeyError for others."""
        self.averages = {name: averages[name].to(p.device) for name, p in self.parameters.items() if averages}

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within this context the parameters hold their averages; afterwards their own values again."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.restart_from_average()
        try:
            yield
        finally:
            self._put(own)

    def restart_from_average(self) -> None:
        """Set the weights to their averages, or leave them as they are before the first update."""
        self._put(self.averages)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)


class RunningMean:
    """The mean of what ``tensors`` have held at each ``update``; ``put`` writes it into them."""

    def __init__(self, tensors: list[Tensor]):
        self.tensors, self.means = tensors, [torch.zeros_like(tensor) for tensor in tensors]
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        if self.tensors:
            torch._foreach_lerp_(self.means, self.tensors, 1 / self.updates)

    @torch.no_grad()
    def put(self) -> None:
        if self.updates and self.tensors:
            torch._foreach_copy_(self.tensors, self.means)
