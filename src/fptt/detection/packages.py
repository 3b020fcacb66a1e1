"""Packages that only detection needs."""

from importlib import import_module
from typing import Any

from fptt.errors import InputError


def needed(module: str, purpose: str) -> Any:
    """The ``module``. Raises InputError where it cannot be imported, saying for what purpose it is needed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{purpose} need more packages: pip install 'fptt[detection]' ({error})") from None
