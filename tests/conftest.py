"""Fixtures: golden vectors and real data, found through $FPTT_GOLDEN and $FPTT_DATA; tests skip where they are absent."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # who otherwise wait for each other's threads
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))  # read when torch is imported

import torch
import torch._inductor
from torch.utils._python_dispatch import TorchDispatchMode

from fptt import cli
from fptt.kernels import blocks, dispatch


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """There are any, for Hypothesis draws them; a test that trains leaves a process without."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


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


@pytest.fixture
def traced(monkeypatch):
    """Graphs run as they are traced, without the seconds that machine code takes: for tests of what is traced."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiler(function, backend="aot_eager"))
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, whose builds fit one build of torch each."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not fit this torch: {error}")
    return torchvision


@pytest.fixture(scope="session")
def benchmark():
    """benchmark(name) imports a script of benchmarks/."""
    folder = Path(__file__).parent.parent / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)

        def load(name):
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
            return module

        yield load


@pytest.fixture
def small_mnist(monkeypatch):
    """Replaces MNIST and its like by a few random images, labelled by their brighter half."""
    from fptt.data import images
    from fptt.data.samples import Samples

    def mnist(folder, validation_size, seed=0, kind="MNIST", shape=(28, 28)):
        x = torch.rand(24, *shape, generator=torch.Generator().manual_seed(seed))
        upper, lower = (half.flatten(1).sum(1) for half in x.chunk(2, -2))
        y = (upper > lower).long()
        return tuple(Samples(x[n : n + 8], y[n : n + 8], name) for n, name in ((0, "train"), (8, "validation"), (16, "test")))

    monkeypatch.setattr(images, "mnist", mnist)
    monkeypatch.setattr(images, "cifar10", lambda *arguments: mnist(*arguments, shape=(3, 32, 32)))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*words) -> (exit status, stdout, stderr) of the command, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as leaving:  # argparse's own way out
            status = leaving.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def device():
    """Where kernels run: on a GPU, or in the process of kernels/test_interpreted.py; tests skip elsewhere."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not blocks.INSTALLED or not (interpreted or torch.cuda.is_available()):
        pytest.skip("kernels: needs Triton and a GPU; test_interpreted.py runs this without the GPU")
    return "cpu" if interpreted else "cuda"


@pytest.fixture
def eager():
    """eager(function, *arguments) -> its result without kernels."""

    def call(function, *arguments):
        with mock.patch.object(dispatch, "runs", lambda x: False):
            return function(*arguments)

    return call


@pytest.fixture
def kernels(monkeypatch, device):
    """Layers take the kernels wherever these are."""
    monkeypatch.setattr(dispatch, "runs", lambda x: True)


class Reads(TorchDispatchMode):
    """Counts how often the value of a tensor is read by the host: on an accelerator, each is a wait."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


class Silent:
    """A report that says nothing and, if asked to, sends Ctrl-C after one batch (epochs and batches counted from 1)."""

    def __init__(self, stop_after=None):
        self.stop_after, self.rows = stop_after, []

    def batch(self, epoch, batch, batches, totals):
        if (epoch + 1, batch) == self.stop_after:
            signal.raise_signal(signal.SIGINT)

    def epoch(self, row):
        self.rows.append(row)


def assert_close(actual, expected, tolerance=1e-9):
    """Equal to ``tolerance`` relative to the largest expected value."""
    expected = torch.as_tensor(expected)
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    assert error <= tolerance, f"relative error {error:.3g}"
