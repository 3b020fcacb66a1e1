"""Images as tensors in [0, 1]: digits, MNIST and its like, CIFAR-10; ways to vary one, and to turn it into a sequence."""

import pickle
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fptt.data.samples import Samples, split
from fptt.errors import InputError

SIZES = {"MNIST": (60_000, 10_000), "FashionMNIST": (60_000, 10_000), "CIFAR10": (50_000, 10_000)}  # to train, to test


def digits(seed: int = 0) -> tuple[Samples, Samples, Samples]:
    """scikit-learn's 1,797 handwritten digits [8, 8]: 1,297 to train, 200 to validate, 300 to test, split with ``seed``."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = torch.tensor(bundle.images, dtype=torch.float32) / 16
    rest, test = split(Samples(x, torch.tensor(bundle.target)), 300, ("train", "test"), seed)
    return *split(rest, 200, ("train", "validation"), seed), test


def mnist(folder: Path, validation_size: int, seed: int = 0, kind: str = "MNIST") -> tuple[Samples, Samples, Samples]:
    """MNIST or another set of its layout in torchvision, [28, 28]: see ``_from_torchvision``."""
    return _from_torchvision(kind, folder, f"{kind}/raw", shape=(28, 28), validation_size=validation_size, seed=seed)


def cifar10(folder: Path, validation_size: int, seed: int = 0) -> tuple[Samples, Samples, Samples]:
    """CIFAR-10, [3, 32, 32]: see ``_from_torchvision``."""
    shape, below = (32, 32, 3), "cifar-10-batches-py"
    return _from_torchvision("CIFAR10", folder, below, shape=shape, validation_size=validation_size, seed=seed)


def _from_torchvision(
    kind: str, folder: Path, below: str, *, shape: tuple[int, ...], validation_size: int, seed: int
) -> tuple[Samples, Samples, Samples]:
    """Training, validation and test images of a class of torchvision, from ``folder``/``below`` or fetched into ``folder``.

    ``shape`` is that of an image as bytes, colours last. The validation set is drawn from the training images with ``seed``;
    the test images are the official ones. Raises InputError where the files are missing and cannot be fetched, or are
    damaged.
    """
    datasets = torchvision(kind).datasets
    sets = []
    for train in (True, False):
        try:
            data = getattr(datasets, kind)(str(folder), train=train, download=True)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "download" not in str(error):
                raise _damaged(kind, folder / below, first_line(error)) from None
            raise InputError(
                f"{kind} is not under {folder} and could not be fetched ({first_line(error)}): "
                f"give the folder that holds {below} with --data or $FPTT_DATA"
            ) from None
        except (ValueError, IndexError, AssertionError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise _damaged(kind, folder / below, first_line(error)) from None
        x, y = torch.as_tensor(data.data), torch.as_tensor(data.targets)
        expected = (SIZES[kind][not train], *shape)
        if x.shape != expected or len(y) != len(x):
            raise _damaged(kind, folder / below, f"expected images {list(expected)}, found {len(y)} labels and {list(x.shape)}")
        x = x if x.dim() == 3 else x.permute(0, 3, 1, 2)
        sets.append(Samples(x.contiguous().float() / 255, y, "train" if train else "test"))
    return *split(sets[0], validation_size, ("train", "validation"), seed), sets[1]


def torchvision(what: str) -> ModuleType:
    """The package, for ``what`` needs it. Raises InputError where there is none that fits torch."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise InputError(f"{what} needs torchvision: pip install 'fptt[vision]' ({error})") from None
    return torchvision


def _damaged(kind: str, folder: Path, what: str) -> InputError:
    return InputError(f"{kind} under {folder} is damaged ({what}): delete that folder and fetch it again")


def first_line(error: Exception) -> str:
    """What another library says of an error, as part of a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image [..., height, width] of a batch moved by up to ``pixels`` in both directions, zeros moving in."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4)
    across, down = torch.randint(0, 2 * pixels + 1, (2, len(images), 1), generator=generator).to(images.device)
    n = torch.arange(len(images), device=images.device)
    row = down + torch.arange(height, device=images.device)
    column = across + torch.arange(width, device=images.device)
    return padded[n[:, None, None], ..., row[:, :, None], column[:, None, :]].movedim((1, 2), (-2, -1))


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [..., width] of a batch as it is or flipped left to right, at even odds."""
    chosen = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(chosen.view(-1, *[1] * (images.dim() - 1)), images.flip(-1), images)


def rows(images: Tensor) -> Tensor:
    """[batch, height, width] -> [height, batch, width]: one row per time step."""
    return images.transpose(0, 1)


def pixels(images: Tensor) -> Tensor:
    """[batch, height, width] -> [height * width, batch, 1]: one pixel per time step, row by row."""
    return images.flatten(1).T.unsqueeze(-1)


def repeated(images: Tensor, time_steps: int) -> Tensor:
    """[batch, height, width] -> [time_steps, batch, height * width]: the same image as a constant current."""
    return images.flatten(1).expand(time_steps, -1, -1)


def rate_coded(images: Tensor, time_steps: int, generator: torch.Generator | None = None) -> Tensor:
    """The same with Poisson (Bernoulli per step) spikes whose probability is the pixel's brightness in [0, 1].

    They are drawn where ``generator`` is, and thus alike on any device.
    """
    return torch.bernoulli(repeated(images.cpu(), time_steps), generator=generator).to(images.device)


Encoding = Literal["rows", "repeated", "rate"]
