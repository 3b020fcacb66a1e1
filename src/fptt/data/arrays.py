"""A user's own sequences, from one NumPy .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from fptt.data.samples import Samples, split
from fptt.errors import InputError


def load(path: Path, validation_size: int, test_size: int, seed: int = 0) -> tuple[Samples, Samples, Samples]:
    """Sequences ``x_train`` [samples, time, features] with labels ``y_train`` [samples], integers counted from 0.

    ``x_test`` and ``y_test`` are the test set where the file has them; else ``test_size`` samples are held out with
    ``seed``, as ``validation_size`` are in either case. Raises InputError, naming the array, for anything else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give --file an .npz file with x_train and y_train") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} is damaged or no .npz file ({type(error).__name__}): write it again with numpy.savez"
        ) from None
    train = _samples(path, arrays, "train")
    if "x_test" in arrays or "y_test" in arrays:
        test = _samples(path, arrays, "test")
        if test.x.shape[1:] != train.x.shape[1:]:
            raise InputError(
                f"{path}: x_test has sequences of shape {list(test.x.shape[1:])}, x_train {list(train.x.shape[1:])}"
            )
        if int(test.y.max()) > int(train.y.max()):
            raise InputError(f"{path}: y_test has label {int(test.y.max())}, which y_train lacks")
    else:
        train, test = split(train, test_size, ("train", "test"), seed)
    return *split(train, validation_size, ("train", "validation"), seed), test


def _samples(path: Path, arrays: dict[str, np.ndarray], name: str) -> Samples:
    for key in (f"x_{name}", f"y_{name}"):
        if key not in arrays:
            raise InputError(f"{path} has no array {key}; it holds {', '.join(arrays) or 'nothing'}")
    x, y = arrays[f"x_{name}"], arrays[f"y_{name}"]
    if x.ndim != 3 or 0 in x.shape or x.dtype.kind not in "fiub":
        raise InputError(
            f"{path}: x_{name} must be numbers [samples, time, features], none of them 0; it is {x.dtype} {list(x.shape)}"
        )
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0:
        raise InputError(
            f"{path}: y_{name} must be {len(x)} integers from 0, one label per sequence; it is {y.dtype} {list(y.shape)}"
            + (f", from {y.min()} on" if y.dtype.kind == "i" and y.size else "")
        )
    if name == "train" and y.max() >= len(y):
        raise InputError(f"{path}: y_train has label {y.max()} with {len(y)} sequences: number the classes from 0 without gaps")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        sample, step = np.argwhere(~np.isfinite(x))[0][:2]
        found = f"x_{name} holds NaN, infinity or more than float32 does, first in sample {sample}, step {step}"
        raise InputError(f"{path}: {found}: repair or remove it")
    return Samples(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)), name)
