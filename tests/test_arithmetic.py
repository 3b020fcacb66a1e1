"""What a device is said to compute with, and what is done on one that lacks it."""

import platform
import warnings
from pathlib import Path

import pytest
import torch

from fptt import arithmetic
from fptt.arithmetic import busy_threads, has_bfloat16, open_device, usable
from fptt.detection.detector import Detector
from fptt.detection.folding import BFloat16
from fptt.errors import InputError
from fptt.tasks.digits import Digits
from fptt.training.loop import Trainer
from fptt.training.precision import Mixed
from fptt.training.run import Run

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["with", "without"])
def bfloat16(request, monkeypatch):
    """Whether the processor has it."""
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda device: request.param)
    return request.param


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="this machine does not list its instructions"
)
def test_a_processor_has_the_instructions_that_it_lists():
    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_bfloat16(CPU) == ("avx512_bf16" in flags or "amx_bf16" in flags)


@pytest.mark.parametrize("capability, has", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_it_since_ampere(monkeypatch, capability, has):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16(torch.device("cuda")) is has


def test_what_the_device_lacks_is_computed_in_float32_with_a_warning(bfloat16):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [usable(p, CPU) for p in ("float32", "tf32")] == ["float32", "tf32"]
        assert not caught
        assert usable("bfloat16", CPU) == ("bfloat16" if bfloat16 else "float32")
    assert [str(w.message) for w in caught] == (
        [] if bfloat16 else ["fptt: this processor has no instructions for bfloat16, it computes in float32 instead"]
    )


@pytest.mark.filterwarnings("ignore:fptt. this processor")
def test_a_training_is_in_the_precision_that_its_summary_says(bfloat16, tmp_path):
    trainer = Trainer(Digits(precision="bfloat16", hidden=(4,), compile=False), Run(tmp_path))
    assert isinstance(trainer.stepped, Mixed) is bfloat16
    train, _, test = trainer.task.sets()
    assert trainer.summary(train, test).get("precision") == (None if bfloat16 else "float32")


@pytest.mark.filterwarnings("ignore:fptt. this processor")
def test_a_detector_is_not_rounded_where_that_takes_longer(bfloat16):
    packaged = Detector.load(precision="bfloat16")
    assert any(isinstance(module, BFloat16) for module in packaged.network.modules()) is bfloat16


def test_a_device_that_is_not_there_is_named():
    assert open_device("cpu") == CPU
    for name in ("abacus", "cuda:99"):
        with pytest.raises(InputError, match=f"^--device {name} cannot be used"):
            open_device(name)


@pytest.fixture
def sixteen_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    yield
    torch.set_num_threads(before)


def test_a_second_thread_is_for_networks_that_keep_it_busy():
    small, large = torch.nn.Linear(100, 100), torch.nn.Linear(1000, 1000)
    assert busy_threads(small, 1000, 16) == 1  # 0.06 of 10^9 operations
    assert [busy_threads(large, batch, 16) for batch in (100, 500, 10**6)] == [2, 12, 16]
    assert busy_threads(torch.nn.Sequential(small, torch.nn.Conv2d(1, 1, 3)), 1, 16) == 16


@pytest.mark.parametrize(
    "settings, expected",
    [({}, 1), ({"hidden": (1024,), "batch_size": 200}, 16), ({"threads": 0}, 16), ({"threads": 3}, 3)],
    ids=str,
)
def test_a_training_computes_with_as_many_threads_as_it_is_told_or_keeps_busy(sixteen_threads, tmp_path, settings, expected):
    Trainer(Digits(**{"hidden": (4,), "compile": False, **settings}), Run(tmp_path))
    assert torch.get_num_threads() == expected
