"""Files of a detector's weights: safetensors, with all else that a detector is as JSON in the file's metadata.

Reading one executes nothing that is in it, and gives a network only if every tensor has the shape that its settings ask for.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fptt
from fptt.detection.head import Head
from fptt.detection.packages import needed
from fptt.errors import InputError
from fptt.files import replacing
from fptt.models.spyv4 import SPYv4

FORMAT = 1  # of the metadata; raised when an older fptt could not read a newer file
KEY = "fptt.detector"  # of the metadata


class Content(NamedTuple):
    """What a file of weights holds; ``Detector`` says what each means."""

    model: SPYv4
    head: Head
    names: tuple[str, ...]
    steps: int
    threshold: float
    training: dict[str, Any]


def write(path: Path, content: Content) -> None:
    """Write ``content`` to ``path``, all or nothing; kernels of convolutions in half precision.

    Raises InputError where that cannot be done, and for weights that are not finite.
    """
    safetensors = needed("safetensors.torch", "files of weights")
    tensors = {name: _stored(name, tensor) for name, tensor in content.model.state_dict().items()}
    about = {
        "format": FORMAT,
        "version": fptt.__version__,
        "model": content.model.settings,
        "names": content.names,
        "anchors": content.head.anchors.tolist(),
        "steps": content.steps,
        "threshold": content.threshold,
        "training": {k: v for k, v in content.training.items() if not (isinstance(v, float) and math.isnan(v))},
    }
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.save(tensors, {KEY: json.dumps(about)}))


def read(path: Path) -> Content:
    """What ``write`` wrote. Raises InputError where there is none, or it is damaged or no such file."""
    safetensors = needed("safetensors", "files of weights")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[KEY])
            if about["format"] != FORMAT:
                raise InputError(
                    f"{path} was written by fptt {about['version']} in another format than fptt {fptt.__version__} reads"
                )
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}): give a file of weights or a run folder") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is damaged or no file of weights ({error}); nothing was loaded") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} does not say what it holds: it was not written by fptt; nothing was loaded") from None
    try:
        return _content(about, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise InputError(f"{path} contradicts itself ({reason}); nothing was loaded") from None


def _content(about: dict[str, Any], tensors: dict[str, Tensor]) -> Content:
    names, steps, threshold, training = (about[key] for key in ("names", "steps", "threshold", "training"))
    names = tuple(names)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("names must be those of the classes")
    if not isinstance(steps, int) or steps < 1 or not 0 < threshold < 1 or not isinstance(training, dict):
        raise ValueError("steps must be at least 1, the threshold lie in (0, 1), and training be an object")
    with torch.device("meta"):  # takes no memory, whatever it asks for, before the tensors have been seen to fit
        model = SPYv4(len(names), **about["model"])
        with torch.no_grad():  # a setting of the wrong kind may show in a step alone
            model.eval()(torch.zeros(1, 3, model.size, model.size))
    if model.settings != about["model"]:
        raise ValueError("the network has other settings")
    whole = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model.load_state_dict(whole, assign=True)
    head = Head(len(names), model.size, torch.tensor(about["anchors"]))
    return Content(model, head, names, steps, float(threshold), training)


def _stored(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dim() == 4:  # the kernels: nearly all of the weights
        tensor = tensor.half()
    if not tensor.isfinite().all():
        raise InputError(f"{name} is not finite in half precision: the training diverged; nothing was written")
    return tensor
