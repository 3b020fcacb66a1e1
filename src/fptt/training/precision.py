"""Numbers of fewer digits where they cost little: in matrix products and convolutions."""

from typing import Literal

import torch
from torch import Tensor, nn

from fptt import state as states
from fptt.errors import InputError
from fptt.learning.rules import Rule
from fptt.state import State

Precision = Literal["float32", "tf32", "bfloat16"]


def prepare_cpu(threads: int = 0) -> None:
    """Set how many ``threads`` this process computes with (0 leaves torch's choice), and that numbers below 1.2e-38 are zero.

    Decaying traces, averages and surrogate gradients pass through such numbers, and Intel's processors take a hundred times as
    long over each of them: training is two to three times slower with them, and the longer it lasts the more. Threads that have
    been started already are not told: call this before anything is computed.
    """
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)


class Mixed(nn.Module):
    """``model`` with matrix products and convolutions in bfloat16; weights, states and outputs stay in float32."""

    def __init__(self, model: nn.Module, device: str):
        super().__init__()
        self.model, self.device = model, device

    def initial_state(self, x: Tensor) -> State:
        return states.initialise(self.model, x)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        with torch.autocast(self.device, torch.bfloat16):
            output, state = self.model(x, state)
        return output.float(), states.map_state(lambda t: t.float() if t.is_floating_point() else t, state)


def check_precision(precision: Precision, rule: Rule) -> None:
    """Raises InputError for a rule that cannot be trained in so few digits."""
    if precision == "bfloat16" and rule in ("ottt", "eprop"):
        raise InputError(f"the rule {rule} adds up traces, for which bfloat16 is too coarse: leave --precision at float32")


def in_precision(model: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """``model`` as it is to be stepped; "tf32" is a setting of the process, for matrix products of a GPU."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return Mixed(model, device.type) if precision == "bfloat16" else model
