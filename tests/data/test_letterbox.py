"""Squares: where the image lies in them, and boxes there and back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fptt.data.letterbox import GREY, letterbox, letterboxed, unletterbox

side = st.integers(1, 700)


@given(side, side, st.integers(2, 500), st.integers(0, 2**32))
def test_boxes_there_and_back(height, width, size, seed):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    square, scale, corner = letterbox(image, size)
    assert square.shape == (3, size, size) and square.dtype == torch.uint8
    corners = torch.rand(20, 2, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([width, height])
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    inside = letterboxed(boxes, scale, corner)
    assert inside.min() >= 0 and inside.max() <= size * (1 + 1e-6)
    assert torch.allclose(unletterbox(inside, scale, corner), boxes, atol=1e-3)


@given(side, side, st.integers(2, 500))
def test_the_image_lies_in_the_middle_and_grey_around(height, width, size):
    square, scale, (left, top) = letterbox(torch.zeros(3, height, width, dtype=torch.uint8), size)
    rows, columns = (square[0] == 0).any(1).nonzero().flatten(), (square[0] == 0).any(0).nonzero().flatten()
    assert (left, top) == (int(columns[0]), int(rows[0]))
    assert int((square == 0).sum()) == 3 * len(rows) * len(columns) and set(square.unique().tolist()) <= {0, GREY}
    assert max(len(rows), len(columns)) == size
    for found, given_ in ((len(rows), height), (len(columns), width)):
        assert abs(found - max(1.0, given_ * scale)) <= 0.5
        first = (size - found) // 2
        assert first in (left, top)


def test_a_square_of_its_own_size_is_left_as_it_is():
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    square, scale, corner = letterbox(image, 64)
    assert torch.equal(square, image) and scale == 1 and corner == (0, 0)


def test_what_a_box_holds_stays_in_it():
    """A white patch on black, 40 x 20 of 200 x 100, shrunk to half and moved down."""
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    image[:, 30:50, 60:100] = 255
    square, scale, corner = letterbox(image, 100)
    assert letterboxed(torch.tensor([60.0, 30.0, 100.0, 50.0]), scale, corner).tolist() == [30, 40, 50, 50]
    assert (square[:, 40:50, 30:50].float().mean() > 240) and square[:, 25:39].max() < 15 and square[:, :25].min() == GREY


def test_small_details_do_not_alias():
    """Columns of black and white, ten times too fine for the square, become an even grey."""
    image = (torch.arange(1000) % 2 * 255).to(torch.uint8).expand(3, 1000, 1000)
    square, _, _ = letterbox(image, 100)
    assert square.min() > 120 and square.max() < 136
