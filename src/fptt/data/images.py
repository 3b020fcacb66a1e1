"""Images as tensors in [0, 1]: scikit-learn's digits, MNIST; and the ways to turn an image into a sequence."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fptt.data.samples import Samples, split
from fptt.errors import InputError


def digits(seed: int = 0) -> tuple[Samples, Samples, Samples]:
    """scikit-learn's 1,797 handwritten digits [8, 8]: 1,297 to train, 200 to validate, 300 to test, split with ``seed``."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = torch.tensor(bundle.images, dtype=torch.float32) / 16
    rest, test = split(Samples(x, torch.tensor(bundle.target)), 300, ("train", "test"), seed)
    return *split(rest, 200, ("train", "validation"), seed), test


def mnist(folder: Path, validation_size: int, seed: int = 0, kind: str = "MNIST") -> tuple[Samples, Samples, Samples]:
    """MNIST or another set of its layout in torchvision, [28, 28], from ``folder`` or fetched into it.

    The validation set is drawn from the 60,000 training images with ``seed``; the 10,000 test images are the official ones.
    Raises InputError where the files are missing and cannot be fetched, or are damaged.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise InputError(f"{kind} needs torchvision: pip install 'fptt[vision]' ({error})") from None
    sets = []
    for train in (True, False):
        try:
            data = getattr(datasets, kind)(str(folder), train=train, download=True)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "download" not in str(error):
                raise _damaged(kind, folder, _first_line(error)) from None
            raise InputError(
                f"{kind} is not under {folder} and could not be fetched ({_first_line(error)}): "
                f"give the folder that holds {kind}/raw with --data or $FPTT_DATA"
            ) from None
        except (ValueError, IndexError, AssertionError, KeyError, TypeError) as error:
            raise _damaged(kind, folder, _first_line(error)) from None
        x, y = data.data.float() / 255, data.targets
        expected = 60_000 if train else 10_000
        if len(x) != expected or x.shape[1:] != (28, 28) or len(y) != expected:
            found = f"expected {expected} images of 28 x 28, found {len(y)} labels and images {list(x.shape)}"
            raise _damaged(kind, folder, found)
        sets.append(Samples(x, y, "train" if train else "test"))
    return *split(sets[0], validation_size, ("train", "validation"), seed), sets[1]


def _damaged(kind: str, folder: Path, what: str) -> InputError:
    return InputError(f"{kind} under {folder}/{kind}/raw is damaged ({what}): delete that folder and fetch it again")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def rows(images: Tensor) -> Tensor:
    """[batch, height, width] -> [height, batch, width]: one row per time step."""
    return images.transpose(0, 1)


def pixels(images: Tensor, permutation: Tensor | None = None) -> Tensor:
    """[batch, height, width] -> [height * width, batch, 1]: one pixel per time step, in the order of ``permutation``."""
    flat = images.flatten(1)
    flat = flat if permutation is None else flat[:, permutation]
    return flat.T.unsqueeze(-1)


def repeated(images: Tensor, time_steps: int) -> Tensor:
    """[batch, height, width] -> [time_steps, batch, height * width]: the same image as a constant current."""
    return images.flatten(1).expand(time_steps, -1, -1)


def rate_coded(images: Tensor, time_steps: int, generator: torch.Generator | None = None) -> Tensor:
    """The same with Poisson (Bernoulli per step) spikes whose probability is the pixel's brightness in [0, 1]."""
    return torch.bernoulli(repeated(images, time_steps), generator=generator)


Encoding = Literal["rows", "repeated", "rate"]
