"""Checkpoints: everything training must remember, in one file that loads without running code (``weights_only``)."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from fptt.errors import InputError
from fptt.training.run import write_atomically


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (state dicts and plain values) to ``path``, all or nothing."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"cannot write the checkpoint {path} ({error.strerror}): free some space, then --resume") from None


def load(path: Path, device: str = "cpu") -> dict[str, Any]:
    """What ``save`` wrote. Raises InputError where there is none, or it is damaged or not a checkpoint; executes nothing."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"no checkpoint at {path}: the run stopped before its first epoch ended, or it was not kept: train it anew"
        ) from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} is damaged or no checkpoint of fptt ({type(error).__name__}); nothing was loaded") from None
    if not isinstance(content, dict) or "model" not in content:
        raise InputError(f"{path} is not a checkpoint of fptt: it holds no model; nothing was loaded")
    return content
