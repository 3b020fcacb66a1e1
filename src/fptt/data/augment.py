"""Frames of events varied at random, in training only: each sample as a whole, its frames alike but for what acts in time.

Frames are [batch, time, channels, height, width], counts or scaled counts; random numbers come from the batch's generator.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fptt.data import images
from fptt.errors import InputError

DROPPED = (0.1, 0.9)  # Gu et al. 2021, arXiv 2106.05836: share of the time, or of the events, that is dropped
AREA = (0.05, 0.3)  # the same: share of each side's length, of the box whose events are dropped


def varied(
    x: Tensor,
    generator: torch.Generator,
    *,
    flip: bool = False,
    shift: int = 0,
    rotate: float = 0.0,
    drop: bool = False,
    jitter: float = 0.0,
) -> Tensor:
    """``x`` as float32 after every variation that is asked for, in this order.

    Args:
        flip: left to right, at even odds.
        shift: by up to so many pixels to each side, zeros moving in.
        rotate: about the centre by up to so many degrees to each side.
        drop: see ``event_dropped``.
        jitter: see ``time_jittered``.
    """
    x = x.float()
    x = images.mirrored(x, generator) if flip else x
    x = images.shifted(x, shift, generator) if shift else x
    x = rotated(x, rotate, generator) if rotate else x
    x = event_dropped(x, generator) if drop else x
    return time_jittered(x, jitter, generator) if jitter else x


def check(shift: int, rotate: float, jitter: float, size: int) -> None:
    """Raises InputError for settings that frames of ``size`` pixels cannot be varied by."""
    if not 0 <= shift < size:
        raise InputError(f"--shift must lie from 0 to less than the frames' size, {size}, got {shift}")
    if not 0 <= rotate <= 180:
        raise InputError(f"--rotate must lie from 0 to 180 degrees, got {rotate}")
    if not 0 <= jitter <= 1:
        raise InputError(f"--jitter must lie in [0, 1], got {jitter}")


def rotated(x: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Each sample turned by an angle from U(-degrees, degrees), every pixel taking its nearest one: counts stay counts."""
    height, width = x.shape[-2:]
    angle = _uniform(x, -math.radians(degrees), math.radians(degrees), generator).flatten()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    across, down = sin * height / width, -sin * width / height  # grids run from -1 to 1 on both axes
    turn = torch.stack((cos, across, zero, down, cos, zero), 1).view(-1, 2, 3)
    maps = x.flatten(1, 2)
    grid = F.affine_grid(turn, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="nearest", align_corners=False).view_as(x)


def event_dropped(x: Tensor, generator: torch.Generator) -> Tensor:
    """EventDrop (Gu et al. 2021): each sample stays as it is, or loses a stretch of time, a box, or events anywhere.

    The four are equally likely. Events are dropped anywhere by frame, polarity and pixel.
    """
    batch, time, _, height, width = x.shape
    choice = torch.randint(0, 4, (batch, 1, 1, 1, 1), generator=generator).to(x.device)
    dropped = _stretch(x, time, DROPPED, generator).view(batch, time, 1, 1, 1) & (choice == 1)
    rows, columns = (_stretch(x, size, AREA, generator) for size in (height, width))
    dropped = dropped | ((rows[:, :, None] & columns[:, None, :]).view(batch, 1, 1, height, width) & (choice == 2))
    anywhere = torch.rand(x.shape, generator=generator).to(x.device) < _uniform(x, *DROPPED, generator)
    return x.masked_fill(dropped | (anywhere & (choice == 3)), 0)


def time_jittered(x: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """A share, from U(0, jitter), of each frame moves to the frame before or after it, at even odds; the sum stays."""
    shape = (*x.shape[:2], 1, 1, 1)
    share = jitter * torch.rand(shape, generator=generator).to(x.device)
    later = torch.rand(shape, generator=generator).to(x.device) < 0.5
    forward, back = x * (share * later), x * (share * ~later)
    forward[:, -1], back[:, 0] = 0, 0  # there is no frame to go to
    y = x - forward - back
    y[:, 1:] += forward[:, :-1]
    y[:, :-1] += back[:, 1:]
    return y


def _uniform(x: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number of U(low, high) for each sample, [batch, 1, 1, 1, 1]."""
    return (low + (high - low) * torch.rand(len(x), 1, 1, 1, 1, generator=generator)).to(x.device)


def _stretch(x: Tensor, size: int, shares: tuple[float, float], generator: torch.Generator) -> Tensor:
    """[batch, size]: True for a run of neighbours, at a random place, whose length is a share from U(shares) of ``size``."""
    share = _uniform(x, *shares, generator).view(-1, 1)
    start = _uniform(x, 0, 1, generator).view(-1, 1) * (1 - share)
    place = (torch.arange(size, device=x.device) + 0.5) / size
    return (place >= start) & (place < start + share)
