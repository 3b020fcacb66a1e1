"""fptt: online training of spiking neural networks with Forward Propagation Through Time.

    optimizer = fptt.FPTT(torch.optim.Adamax(model.parameters(), lr=3e-3), alpha=0.1, beta=0.5)

Names are imported on first use, so that ``import fptt`` (and the command's ``--help``) does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fptt.errors import InputError as InputError
    from fptt.learning.fptt import FPTT as FPTT
    from fptt.loading import load as load
    from fptt.state import detach as detach

__version__ = "0.1.0"

_HOMES = {"FPTT": "fptt.learning.fptt", "detach": "fptt.state", "InputError": "fptt.errors", "load": "fptt.loading"}
__all__ = ["FPTT", "InputError", "__version__", "detach", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fptt' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
