"""PASCAL VOC: the real subset, a tiny set of the same layout, and everything that can be wrong with one."""

import pytest
import torch

from fptt.data import voc


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("squares")


@pytest.mark.parametrize(
    ("train", "sizes"),
    [("07 train", (579, 186, 1000)), ("07 trainval", (765, 0, 1000))],
)
def test_the_real_subset_of_2007(data, torchvision, cache, train, sizes):
    sets = voc.sets(data, 32, train, cache)
    assert tuple(len(one) for one in sets) == sizes
    for one in sets:
        every = one.y[one.y[..., 0] >= 0]
        boxes = every[:, 1:5]
        assert boxes.numel() == 0 or (boxes.min() >= 0 and boxes.max() <= 32)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((one.y[..., 0] >= 0).any(1)).all(), "every image of VOC holds an object"
    assert sets[0].x[torch.arange(3)].shape == (3, 3, 32, 32)
