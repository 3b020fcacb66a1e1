"""A user's own file of sequences."""

import numpy as np
import pytest
import torch

from fptt import InputError
from fptt.data import arrays

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.random((12, 5, 2)), np.arange(12) % 3


def write(tmp_path, **contents):
    np.savez(tmp_path / "own.npz", **contents)
    return tmp_path / "own.npz"


def test_sets_as_they_are_in_the_file(tmp_path):
    path = write(tmp_path, x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4])
    train, validation, test = arrays.load(path, 3, 100)
    assert [len(s) for s in (train, validation, test)] == [9, 3, 4]
    assert torch.equal(test.x, torch.from_numpy(X[:4]).float()) and torch.equal(test.y, torch.from_numpy(Y[:4]))
    assert train.x.dtype == torch.float32 and train.y.dtype == torch.int64


def test_sets_held_out_are_disjoint_and_repeat(tmp_path):
    path = write(tmp_path, x_train=X, y_train=np.arange(12))
    first, again = arrays.load(path, 2, 3), arrays.load(path, 2, 3)
    assert [len(s) for s in first] == [7, 2, 3]
    assert sorted(torch.cat([s.y for s in first]).tolist()) == list(range(12))
    assert all(torch.equal(a.y, b.y) for a, b in zip(first, again, strict=True))


NAN = X.copy()
NAN[7, 3, 1] = np.nan


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"y_train": Y}, "no array x_train; it holds y_train"),
        ({"x_train": X}, "no array y_train"),
        ({"x_train": X[:, :, 0], "y_train": Y}, "x_train must be numbers"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "x_train must be numbers"),
        ({"x_train": X + 1j, "y_train": Y}, "x_train must be numbers.*complex"),
        ({"x_train": X, "y_train": Y[:5]}, "y_train must be 12 integers"),
        ({"x_train": X, "y_train": Y - 1}, "y_train must be 12 integers.*from -1 on"),
        ({"x_train": X, "y_train": Y + 12}, "y_train has label .* with 12 sequences: number the classes from 0"),
        ({"x_train": X.astype(float) * 1e300, "y_train": Y}, "more than float32 does, first in sample"),
        ({"x_train": X, "y_train": Y / 2}, "y_train must be 12 integers"),
        ({"x_train": NAN, "y_train": Y}, "first in sample 7, step 3"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "no array y_test"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y}, "x_test has sequences of shape"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "y_test has label 3"),
        ({"x_train": X, "y_train": Y, "note": np.array([{}], dtype=object)}, "damaged or no .npz"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, contents, message):
    with pytest.raises(InputError, match=message) as error:
        arrays.load(write(tmp_path, **contents), 0, 2)
    assert "\n" not in str(error.value)


def missing(path):
    path.unlink()


def flipped(path):
    np.savez_compressed(path, x_train=X, y_train=Y)
    content = bytearray(path.read_bytes())
    content[100:200] = bytes(100)
    path.write_bytes(content)


def plain_npy(path):
    with path.open("wb") as file:
        np.save(file, X)


@pytest.mark.parametrize(
    "damage",
    [
        missing,
        flipped,
        plain_npy,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("1, 2, 3"),
        lambda path: path.write_bytes(path.read_bytes()[:300]),
    ],
)
def test_unreadable_files(tmp_path, damage):
    path = write(tmp_path, x_train=X, y_train=Y)
    damage(path)
    with pytest.raises(InputError, match="own.npz") as error:
        arrays.load(path, 0, 2)
    assert "\n" not in str(error.value)
