"""Flat buffers of tensors that lie in memory in any order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fptt.learning.flat import Flat, in_memory


@st.composite
def anyhow(draw):
    """A tensor without gaps whose dimensions lie in memory in any order."""
    shape = draw(st.lists(st.integers(1, 4), min_size=0, max_size=4))
    order = draw(st.permutations(range(len(shape))))
    return torch.randn([shape[d] for d in order]).permute([order.index(d) for d in range(len(shape))])


@given(st.lists(anyhow(), min_size=1, max_size=3))
def test_what_is_joined_is_found_again_in_the_order_of_the_parameters(parameters):
    flat = Flat(parameters)
    given_in_any_order = [p.contiguous() for p in parameters]
    views = flat.views(flat.join(given_in_any_order))
    for p, view in zip(parameters, views, strict=True):
        assert torch.equal(view, p)
        assert view.permute(in_memory(p)).is_contiguous()
    buffer = flat.buffer()
    for p, view in zip(parameters, flat.views(buffer), strict=True):
        view.copy_(p)
    assert torch.equal(buffer, flat.join(parameters))


@given(st.lists(st.integers(1, 3), min_size=4, max_size=4), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_kernels_keep_their_layout_exactly(shape, layout):
    kernel = torch.empty(shape, memory_format=layout)
    flat = Flat([kernel])
    assert flat.views(flat.buffer())[0].stride() == kernel.stride()


def test_a_tensor_with_gaps_lies_in_the_order_of_its_dimensions():
    assert in_memory(torch.zeros(4, 3)[:, ::2]) == [0, 1]
    assert in_memory(torch.zeros(1, 3).expand(4, 3)) == [0, 1]
    assert in_memory(torch.zeros(4, 3).T) == [1, 0]
