"""Images with boxes varied at random, in training only: mirrored, zoomed and cut, mixed by fours, recoloured.

Images are uint8 [batch, 3, size, size]. Their targets are float32 [batch, objects, 6], in each row (label, x1, y1, x2, y2,
difficult), the box in pixels; rows of padding have label -1. All random numbers come from the batch's generator.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fptt.data.letterbox import GREY
from fptt.errors import InputError

PADDING = -1.0  # in rows of targets that are no object
VISIBLE = 0.25  # share of its area that a cut box must keep, and ...
SMALLEST = 2.0  # ... pixels of its shorter side, to remain an object
ASPECT = 1.3  # zoomed images are up to so much wider or higher; darknet's jitter is 0.3 (Bochkovskiy et al. 2020, YOLOv4)
CENTRE = (0.2, 0.8)  # where the four images of a mosaic meet, in sizes; YOLOv4's least offset is 0.2
HUE, COLOURS = 0.1, 1.5  # YOLOv4's greatest change of hue, in turns, and of saturation and exposure, as a factor
LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue: ITU-R BT.601


def augment(
    images: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    flip: bool = False,
    scale: float = 0.0,
    colour: float = 0.0,
    mosaic: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Images and targets of the same shapes after every variation that is asked for.

    Boxes follow their pixels and are clipped; those that keep less than a quarter of their area, or are narrower than 2 pixels,
    are dropped. Where a mosaic holds more objects than there are rows, the smallest are left out.

    Args:
        flip: left to right, at even odds.
        scale: images become up to 1 + ``scale`` times larger, a part of them remaining, or smaller, with grey around.
        colour: how much hue, saturation and exposure change; 1 as in YOLOv4.
        mosaic: probability that an image shows four of the batch, itself among them.
    """
    check(scale, colour, mosaic)
    if scale or mosaic:
        images, targets = _recomposed(images, targets, scale, mosaic, generator)
    if flip:
        images, targets = mirrored(images, targets, torch.rand(len(images), generator=generator) < 0.5)
    return recoloured(images, colour, generator) if colour else images, targets


def check(scale: float, colour: float, mosaic: float) -> None:
    """Raises InputError for settings that images cannot be varied by."""
    if not 0 <= scale <= 4:
        raise InputError(f"--scale must lie in [0, 4], got {scale}")
    if not 0 <= colour <= 2:
        raise InputError(f"--colour must lie in [0, 2], got {colour}")
    if not 0 <= mosaic <= 1:
        raise InputError(f"--mosaic must lie in [0, 1], got {mosaic}")


def mirrored(images: Tensor, targets: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The images that are ``chosen``, bool [batch], flipped left to right, with their boxes."""
    x1, x2 = images.shape[-1] - targets[..., 3], images.shape[-1] - targets[..., 1]
    flipped = torch.stack((targets[..., 0], x1, targets[..., 2], x2, *targets[..., 4:].unbind(-1)), -1)
    moved = chosen[:, None, None] & (targets[..., :1] >= 0)
    return torch.where(chosen[:, None, None, None], images.flip(-1), images), torch.where(moved, flipped, targets)


def recoloured(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each image with another hue, saturation and exposure: a linear map of its red, green and blue.

    Hue turns about the axis of greys, which it leaves as they are; saturation is the distance from the grey of equal luma.
    """
    turn, saturation, exposure = _uniform((3, len(images), 1, 1), -1, 1, generator)
    angle = 2 * math.pi * HUE * strength * turn
    grey, cross = torch.full((3, 3), 1 / 3), torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = angle.cos() * torch.eye(3) + (1 - angle.cos()) * grey + angle.sin() * cross  # Rodrigues' formula
    luma = torch.tensor(LUMA).expand(3, 3)
    saturate = luma + COLOURS ** (strength * saturation) * (torch.eye(3) - luma)
    colours = COLOURS ** (strength * exposure) * saturate @ hue
    return (colours @ images.flatten(2).float()).round_().clamp_(0, 255).to(torch.uint8).view_as(images)


class Pieces(NamedTuple):
    """Parts of images and where they go: a ``window`` of the image ``source`` fills a ``place`` of the new image ``goal``."""

    source: Tensor  # int64 [...], number of the image in its batch
    goal: Tensor  # the same
    window: Tensor  # int64 [..., 4], in whole pixels (x1, y1, x2, y2)
    place: Tensor  # the same


def _recomposed(
    images: Tensor, targets: Tensor, scale: float, mosaic: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Every image made anew: of itself, larger or smaller, or of four pieces."""
    batch, size = len(images), images.shape[-1]
    mixed = torch.rand(batch, generator=generator) < mosaic
    single, four = _zoomed(batch, size, scale, generator), _mosaic(batch, size, scale, generator)
    pieces = Pieces(*(torch.cat((one[~mixed], more[mixed].flatten(0, 1))) for one, more in zip(single, four, strict=True)))
    return _pasted(images, pieces), _moved(targets, pieces)


def _zoomed(batch: int, size: int, scale: float, generator: torch.Generator) -> Pieces:
    """One piece of each image: a random window of it in the whole new one, or the whole of it at a random place."""
    zoom = (1 + scale) ** _uniform((batch, 1), -1, 1, generator)
    aspect = (ASPECT if scale else 1) ** _uniform((batch, 1), -0.5, 0.5, generator)
    factor = zoom * torch.cat((aspect, 1 / aspect), 1)
    window = _somewhere((size / factor).clamp(max=size), size, generator)
    place = _somewhere((size * factor).clamp(max=size), size, generator)
    return Pieces(torch.arange(batch), torch.arange(batch), window, place)


def _mosaic(batch: int, size: int, scale: float, generator: torch.Generator) -> Pieces:
    """Four pieces [batch, 4] around a random point, of each image and three others: windows of the shape of their place."""
    centre = _uniform((batch, 2), *CENTRE, generator).mul(size).round().long()
    (x, y), zero, full = centre.unbind(1), torch.zeros(batch, dtype=torch.int64), torch.full((batch,), size)
    corners = ((zero, zero, x, y), (x, zero, full, y), (zero, y, x, full), (x, y, full, full))
    place = torch.stack([torch.stack(corner, 1) for corner in corners], 1)
    sides = (place[..., 2:] - place[..., :2]).float()
    largest = size / sides.amax(-1, keepdim=True)
    window = _somewhere(sides * largest / (1 + scale) ** torch.rand(batch, 4, 1, generator=generator), size, generator)
    goal = torch.arange(batch)[:, None].expand(-1, 4)
    others = torch.randint(0, batch, (batch, 3), generator=generator)
    return Pieces(torch.cat((goal[:, :1], others), 1), goal, window, place)


def _somewhere(sides: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Rectangles [..., 4] of ``sides`` [..., 2], rounded, at random places within ``size``."""
    whole = sides.round().long().clamp(2, size)
    start = (torch.rand(sides.shape, generator=generator) * (size - whole + 1)).long()
    return torch.cat((start, start + whole), -1)


def _pasted(images: Tensor, pieces: Pieces) -> Tensor:
    """New images of all ``pieces``, grey elsewhere; bilinear, antialiased."""
    new = torch.full_like(images, GREY)
    for source, goal, window, place in zip(*(part.tolist() for part in pieces), strict=True):
        (x1, y1, x2, y2), (left, top, right, bottom) = window, place
        piece = images[source, None, :, y1:y2, x1:x2]
        new[goal, :, top:bottom, left:right] = F.interpolate(
            piece, (bottom - top, right - left), mode="bilinear", antialias=True
        )[0]
    return new


def _moved(targets: Tensor, pieces: Pieces) -> Tensor:
    """The objects of the new images, largest first: what is left of those that their pieces show."""
    old = targets[pieces.source]
    window, place = (part.float()[:, None].unflatten(-1, (2, 2)).unbind(2) for part in (pieces.window, pieces.place))
    ratio = (place[1] - place[0]) / (window[1] - window[0])
    whole = [(corner - window[0]) * ratio + place[0] for corner in (old[..., 1:3], old[..., 3:5])]
    seen = [corner.clamp(place[0], place[1]) for corner in whole]
    sides = seen[1] - seen[0]
    area = sides.prod(-1)
    kept = (old[..., 0] >= 0) & (area >= VISIBLE * (whole[1] - whole[0]).prod(-1)) & (sides.amin(-1) >= SMALLEST)
    rows, goal, area = torch.cat((old[..., :1], *seen, old[..., 5:]), -1)[kept], pieces.goal[kept.nonzero()[:, 0]], area[kept]
    order = area.argsort(descending=True)
    order = order[goal[order].argsort(stable=True)]
    rows, goal = rows[order], goal[order]
    rank = torch.arange(len(goal)) - torch.searchsorted(goal, goal)  # within its image
    fits = rank < targets.shape[1]
    new = torch.full_like(targets, PADDING)
    new[goal[fits], rank[fits]] = rows[fits]
    return new


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
