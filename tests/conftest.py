"""Fixtures: golden vectors and real data, found through $FPTT_GOLDEN and $FPTT_DATA; tests skip where they are absent."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def golden():
    """golden(name) -> dict of float64 tensors computed with the research code."""

    def load(name):
        folder = os.environ.get("FPTT_GOLDEN")
        if not folder:
            pytest.skip("golden vectors: set FPTT_GOLDEN to the folder that holds them")
        with np.load(Path(folder) / f"{name}.npz") as file:
            return {key: file[key].item() if file[key].ndim == 0 else torch.from_numpy(file[key]) for key in file.files}

    return load


@pytest.fixture
def data():
    """The folder of real data sets."""
    folder = os.environ.get("FPTT_DATA")
    if not folder:
        pytest.skip("real data: set FPTT_DATA to the folder that holds the data sets")
    return Path(folder)


def assert_close(actual, expected, tolerance=1e-9):
    """Equal to ``tolerance`` relative to the largest expected value."""
    expected = torch.as_tensor(expected)
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    assert error <= tolerance, f"relative error {error:.3g}"
