import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fptt.data.adding import adding


@given(st.integers(2, 60), st.integers(0, 1000))
@settings(deadline=None)
def test_one_mark_in_each_half_and_their_numbers_sum(length, seed):
    samples = adding(20, length, torch.Generator().manual_seed(seed))
    numbers, marks = samples.x.unbind(2)
    assert set(marks.unique().tolist()) <= {0.0, 1.0}
    assert (marks[:, : length // 2].sum(1) == 1).all() and (marks[:, length // 2 :].sum(1) == 1).all()
    expected = [sum(numbers[i, t].item() for t in marks[i].nonzero().flatten()) for i in range(20)]
    assert samples.y.squeeze(1).tolist() == pytest.approx(expected)
    assert torch.equal(samples.x, adding(20, length, torch.Generator().manual_seed(seed)).x)


def test_every_position_may_be_marked_and_the_mean_scores_a_sixth():
    samples = adding(5000, 7, torch.Generator().manual_seed(0))
    assert samples.x[..., 1].sum(0).min() > 1000
    assert (samples.y - 1).square().mean().item() == pytest.approx(1 / 6, rel=0.1)


@pytest.mark.parametrize("length", [1, 0])
def test_too_short(length):
    with pytest.raises(ValueError, match="at least 2 time steps"):
        adding(3, length, torch.Generator())
