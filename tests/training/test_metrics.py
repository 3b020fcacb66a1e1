import math

import pytest
import torch

from fptt.training.metrics import Totals, machine, peak_memory_mb


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_means_are_over_samples_not_over_batches(metric):
    totals = Totals(metric)
    if metric == "accuracy":
        output, target = torch.eye(3)[[0, 1, 2, 0, 1]], torch.tensor([0, 1, 0, 0, 1])
        score = 4 / 5
    else:
        output, target = torch.tensor([[0.0], [1], [2], [3], [4]]), torch.zeros(5, 1)
        score = (0 + 1 + 4 + 9 + 16) / 5
    for rows, loss, rate in ((slice(0, 1), 2.0, 0.1), (slice(1, 5), 4.0, 0.2)):
        totals.add(output[rows], target[rows], torch.tensor(loss), torch.tensor(rate))
    assert totals.result() == pytest.approx({"loss": (2 + 4 * 4) / 5, metric: score, "firing_rate": 0.9 / 5})


def test_nothing_added_is_not_a_number():
    assert all(math.isnan(value) for value in Totals("mse").result().values())


def test_memory_and_machine():
    device = torch.device("cpu")
    before = peak_memory_mb(device)
    block = torch.ones(64, 2**20 // 4)
    assert before > 20 and peak_memory_mb(device) >= block.numel() * 4 / 2**20
    assert "cores" in machine(device)
