"""Matrix products in fewer digits, everything else in float32."""

import subprocess
import sys

import pytest
import torch

from fptt import state as states
from fptt.benchmark import Point, Sequences
from fptt.models.sequence import SequenceModel
from fptt.training.precision import Mixed, in_precision


@pytest.fixture(autouse=True)
def matmul_precision():
    yield
    torch.set_float32_matmul_precision("highest")


def test_products_are_rounded_and_states_and_outputs_are_float32():
    model, cpu = SequenceModel(3, (8,), 4), torch.device("cpu")
    assert in_precision(model, "float32", cpu) is model
    rounded = in_precision(model, "bfloat16", cpu)
    assert isinstance(rounded, Mixed)
    x = torch.randn(5, 3)
    state = model.initial_state(x)
    output, after = model(x, state)
    other, mixed = rounded(x, state)
    assert all(leaf.dtype == torch.float32 for leaf in (other, *states.leaves(mixed)))
    assert not torch.equal(other, output)
    torch.testing.assert_close(other, output, atol=0.02, rtol=0.02)
    assert [leaf.shape for leaf in states.leaves(mixed)] == [leaf.shape for leaf in states.leaves(after)]


def test_tf32_is_a_setting_of_the_process():
    for precision, expected in (("tf32", "high"), ("float32", "highest")):
        in_precision(torch.nn.Linear(1, 1), precision, torch.device("cpu"))
        assert torch.get_float32_matmul_precision() == expected


def test_what_trains_flushes_denormal_numbers():
    """torch keeps them unless told otherwise."""
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot be told")
    tiny = torch.full((3,), 2e-40)
    try:
        assert (0.5 * tiny != 0).all()
        Sequences(Point(time_steps=2, batch_size=3, width=4, layers=1, compiled=False))
        assert (0.5 * tiny == 0).all()
    finally:
        torch.set_flush_denormal(False)


FLUSHED_BY_ALL = """
import sys
import torch
from fptt.cli import main
from fptt.tasks.digits import Digits

torch.set_num_threads(2)
sets = Digits.sets
Digits.sets = lambda self: (torch.ones(1 << 20).mul_(2), sets(self))[1]  # as images are pooled, say
assert main(["train", "digits", "--epochs", "1", "--hidden", "4", "--threads", "2", "--no-compile", "--out", sys.argv[1]]) == 0
sys.exit(int(torch.full((1 << 20,), 1e-30).mul_(1e-10).any()))
"""


def test_threads_started_by_the_data_flush_denormal_numbers_too(tmp_path):
    """The second thread of a product keeps what it began with: training is told to flush before the data begin it."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot be told")
    command = [sys.executable, "-c", FLUSHED_BY_ALL, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_benchmark_in_bfloat16_trains_the_weights_of_the_network():
    sequences = Sequences(Point(time_steps=2, batch_size=3, width=4, layers=1, compiled=False, precision="bfloat16"))
    assert isinstance(sequences.trainer.model, Mixed) and sequences.parameters > 0
    before = [p.detach().clone() for p in sequences.trainer.model.parameters()]
    sequences.run()
    assert any(not torch.equal(a, b) for a, b in zip(before, sequences.trainer.model.parameters(), strict=True))
