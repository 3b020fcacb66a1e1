"""The loss of one time step: the task's criterion, weighted by the step, and the auxiliary distillation term."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Criterion = Callable[[Tensor, Tensor], Tensor]
Weights = Literal["linear", "uniform", "cubic"]
POWER: dict[Weights, int] = {"uniform": 0, "linear": 1, "cubic": 3}
AuxiliaryKind = Literal["none", "uniform", "table"]


def step_weights(parts: int, shape: Weights = "linear") -> Tensor:
    """Weight of the criterion after each of ``parts`` parts, [parts]: "linear" (p + 1) / parts, its "cubic", or "uniform" 1."""
    return (torch.arange(1, parts + 1) / parts) ** POWER[shape]


class Auxiliary(nn.Module):
    """CE(q, softmax(output)), where q is what the network is expected to know by then (Kag & Saligrama 2021, sec. 4).

    "uniform" takes q = 1/classes. "table" keeps, for each part and true class, a running mean of the network's own
    predictions, which starts uniform: early steps are drawn to what is typical of them and not to certainty.

    Args:
        momentum: weight of a new batch in the table.
    """

    def __init__(self, parts: int, classes: int, kind: AuxiliaryKind = "table", momentum: float = 0.1):
        super().__init__()
        self.kind, self.momentum = kind, momentum
        self.table = nn.Buffer(torch.full((parts, classes, classes), 1.0 / classes))

    def forward(self, output: Tensor, target: Tensor, part: Tensor) -> Tensor:
        """Mean over the batch for ``output`` [batch, classes], ``target`` [batch] and ``part``, an int64 scalar tensor."""
        log_p = F.log_softmax(output, dim=1)
        row = self.table.index_select(0, part.view(1)).squeeze(0)
        loss = -(row[target] * log_p).sum(1).mean()
        if self.kind == "table" and self.training:
            with torch.no_grad():
                members = (target.unsqueeze(1) == torch.arange(len(row), device=target.device)).to(log_p.dtype)
                count = members.sum(0).unsqueeze(1)
                mean = members.T @ log_p.detach().exp() / count.clamp(min=1)
                row = torch.where(count > 0, torch.lerp(row, mean, self.momentum), row)
                self.table.index_copy_(0, part.view(1), row.unsqueeze(0))
        return loss


class StepLoss(nn.Module):
    """weight(part) criterion(output, target) + (1 - weight(part)) auxiliary(output, target).

    Args:
        criterion: maps output and target to a scalar, such as ``torch.nn.functional.cross_entropy``.
        parts: number of parts, each with one loss at its end; as many as time steps in plain FPTT, 1 in BPTT.
        weights: see ``step_weights``.
        auxiliary: an ``Auxiliary`` of as many parts, or None.
    """

    def __init__(self, criterion: Criterion, parts: int, weights: Weights = "linear", auxiliary: Auxiliary | None = None):
        super().__init__()
        self.criterion, self.auxiliary = criterion, auxiliary
        self.weights = nn.Buffer(step_weights(parts, weights), persistent=False)

    def forward(self, output: Tensor, target: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """The objective of this part, and the bare criterion (detached) for reports; both scalars."""
        weight = self.weights.index_select(0, part.view(1)).squeeze(0)
        criterion = self.criterion(output, target)
        objective = weight * criterion
        if self.auxiliary is not None:
            objective = objective + (1 - weight) * self.auxiliary(output, target, part)
        return objective, criterion.detach()
