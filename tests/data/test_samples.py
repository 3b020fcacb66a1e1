import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fptt import InputError
from fptt.data import samples
from fptt.data.samples import Rows, Samples, split


def numbered(n, name="set"):
    return Samples(torch.arange(float(n)).unsqueeze(1), torch.arange(n), name)


@given(st.integers(1, 40), st.integers(1, 45), st.booleans(), st.booleans())
def test_batches_hand_out_every_sample_once(n, size, shuffled, drop_last):
    if drop_last and size > n:
        return
    generator = torch.Generator().manual_seed(n) if shuffled else None
    batches = list(numbered(n).batches(size, shuffle=generator, drop_last=drop_last))
    assert len(batches) == numbered(n).number_of_batches(size, drop_last)
    seen = torch.cat([y for _, y in batches]).tolist()
    assert torch.equal(torch.cat([x for x, _ in batches]).squeeze(1), torch.tensor(seen).float()), "inputs keep their targets"
    assert len(set(seen)) == len(seen) == (n - n % size if drop_last else n)
    assert shuffled or seen == list(range(len(seen)))
    assert not drop_last or all(len(x) == size for x, _ in batches)


def test_shuffling_follows_the_seed():
    orders = [next(y for _, y in numbered(50).batches(50, shuffle=torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_sample_that_is_not_finite_is_named(bad):
    x = torch.zeros(20, 3, 2)
    x[13, 1, 0] = bad
    with pytest.raises(InputError, match="validation set: sample 13 "):
        list(Samples(x, torch.zeros(20), "validation").batches(6, shuffle=torch.Generator().manual_seed(0)))


def test_batch_larger_than_the_set():
    with pytest.raises(InputError, match="--batch-size 9 is larger than the train set of 8"):
        list(numbered(8, "train").batches(9, drop_last=True))
    assert len(list(numbered(8).batches(9))) == 1, "an evaluation takes what there is"


def test_mismatched_lengths():
    with pytest.raises(InputError, match="train: 3 inputs but 2 targets"):
        Samples(torch.zeros(3), torch.zeros(2), "train")


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))), st.integers(0, 9))
def test_split_is_a_seeded_partition(case, seed):
    n, size = case
    first, second = split(numbered(n), size, ("a", "b"), seed)
    assert (len(second), first.name, second.name) == (size, "a", "b")
    assert sorted(first.y.tolist() + second.y.tolist()) == list(range(n))
    assert torch.equal(split(numbered(n), size, ("a", "b"), seed)[1].y, second.y)


@pytest.mark.parametrize("size", [8, 9, -1])
def test_split_leaves_something(size):
    with pytest.raises(InputError, match=f"cannot take {size} of 8 samples for b"):
        split(numbered(8), size, ("a", "b"))


def test_a_set_goes_to_a_device_where_it_fits(monkeypatch):
    device, x, y = torch.device("meta"), torch.rand(4, 2), torch.arange(4)
    here = Samples(x, y, "train")
    there = here.to(device)
    assert there.x.is_meta and there.y.is_meta and there.name == "train"
    in_a_file = Samples(Rows(x, torch.arange(4)), y)
    assert in_a_file.to(device) is in_a_file
    monkeypatch.setattr(samples, "NEAR", x.nbytes - 1)
    assert here.to(device) is here
