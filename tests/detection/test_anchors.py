"""Anchors recover what was planted and fit real boxes as well as is known of VOC."""

from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fptt import InputError
from fptt.detection.anchors import k_means, size_iou

sizes_of_boxes = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=4, max_size=40).filter(
    lambda rows: len(set(rows)) >= 4
)


def test_the_iou_of_sizes_is_that_of_boxes_with_one_centre(torchvision):
    sizes = 1 + 99 * torch.rand(20, 2, dtype=torch.float64)
    boxes = torch.cat([200 - sizes / 2, 200 + sizes / 2], 1)
    torch.testing.assert_close(size_iou(sizes, sizes[:7]), torchvision.ops.box_iou(boxes, boxes[:7]))


@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_are_recovered(seed):
    planted = torch.tensor([[10.0, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]])  # of YOLOv4-tiny
    generator = torch.Generator().manual_seed(seed)
    spread = (0.08 * torch.randn(300, 6, 2, generator=generator)).exp()
    found = k_means((planted * spread).flatten(0, 1), 6, seed=seed)
    torch.testing.assert_close(found.sizes, planted, rtol=0.03, atol=0)
    assert 0.85 < found.mean_iou < 0.95


@given(sizes_of_boxes, st.integers(2, 4), st.randoms())
@settings(deadline=None)
def test_any_boxes_in_any_order(rows, number, random):
    sizes = torch.tensor(rows, dtype=torch.float32)
    found = k_means(sizes, number, restarts=2)
    assert found.sizes.shape == (number, 2) and found.sizes.isfinite().all()
    assert (found.sizes.prod(1).diff() >= 0).all()
    assert found.mean_iou >= k_means(sizes, 1).mean_iou
    best = size_iou(sizes.double(), found.sizes.double()).amax(1)
    assert found.mean_iou == pytest.approx(best.mean().item())
    random.shuffle(rows)
    again = k_means(torch.tensor(rows, dtype=torch.float32), number, restarts=2)
    assert torch.equal(again.sizes, found.sizes) and again.mean_iou == found.mean_iou


@pytest.mark.parametrize("seed", range(5))
def test_a_centre_without_boxes_goes_to_the_box_that_fits_worst(seed):
    """The median of all, 10 x 10, is nearest to none of them once a wide and a high one have become centres."""
    sizes = torch.tensor([[10.0, 100]] * 5 + [[100.0, 10]] * 6 + [[10.0, 80]])
    found = k_means(sizes, 3, seed=seed, restarts=1)
    assert sorted(found.sizes.tolist()) == [[10, 80], [10, 100], [100, 10]] and found.mean_iou == 1


@pytest.mark.parametrize(
    ("sizes", "number", "message"),
    [
        ([[3, 4], [3, 4], [5, 6]], 3, "3 anchors need as many boxes of different size, found 2"),
        ([[3, 4], [0, 4]], 1, "positive"),
        ([[3, 4], [float("nan"), 4]], 1, "positive"),
        ([[3, 4, 5]], 1, r"got \[1, 3\]"),
        ([[3, 4]], 0, "at least one cluster"),
    ],
)
def test_sizes_that_make_no_anchors(sizes, number, message):
    with pytest.raises(InputError, match=message):
        k_means(torch.tensor(sizes), number)


def test_anchors_of_voc_fit_as_well_as_is_known(data):
    """Redmon & Farhadi 2017, arXiv 1612.08242, table 1: mean IoU 0.61 with 5 anchors and 0.672 with 9, on all of VOC 2007."""
    sizes = []
    for year in ("VOC2007", "VOC2012"):
        folder = data / "VOCdevkit" / year
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there")
        for name in (folder / "ImageSets/Main/trainval.txt").read_text().split():
            image = ElementTree.parse(folder / f"Annotations/{name}.xml")
            longer = max(float(image.findtext(f"size/{side}")) for side in ("width", "height"))
            for box in image.iterfind("object/bndbox"):
                left, top, right, bottom = (float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
                sizes.append([(right - left + 1) * 416 / longer, (bottom - top + 1) * 416 / longer])
    found = {number: k_means(torch.tensor(sizes), number) for number in (1, 5, 6, 9)}
    for number, anchors in found.items():
        print(f"{number}: mean IoU {anchors.mean_iou:.4f}, {[tuple(map(round, size)) for size in anchors.sizes.tolist()]}")
    assert found[1].mean_iou < 0.35
    assert [found[number].mean_iou for number in (5, 6, 9)] == pytest.approx([0.61, 0.64, 0.68], abs=0.015)
    assert found[6].sizes[0].max() < 32 and found[6].sizes[-1].min() > 208
