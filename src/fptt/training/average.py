"""A moving average of weights, to evaluate what a rule without averages of its own has learnt."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """average <- decay average + (1 - decay) weights at every ``update``, the first of which takes the weights as they are.

    Args:
        parameters: the weights.
        decay: in (0, 1); about 1 / (1 - decay) updates are remembered.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters = list(parameters)
        self._average = get_ema_multi_avg_fn(decay)
        self.averages: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        if self.averages:
            self._average(self.averages, self.parameters, None)
        else:
            self.averages = [p.detach().clone() for p in self.parameters]

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within this context the parameters hold their averages; afterwards their own values again."""
        own = [p.detach().clone() for p in self.parameters]
        self.restart_from_average()
        try:
            yield
        finally:
            self._put(own)

    def restart_from_average(self) -> None:
        """Set the weights to their averages, or leave them as they are before the first update."""
        self._put(self.averages)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for p, value in zip(self.parameters, values, strict=False):
            p.copy_(value)
