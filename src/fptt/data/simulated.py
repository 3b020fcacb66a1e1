"""Simulated event recordings: real images, moved in front of a simulated event camera. Called simulated wherever they appear.

The camera follows ESIM (Rebecq, Gehrig & Scaramuzza, CoRL 2018) and v2e (Hu, Liu & Delbruck, CVPR workshops 2021,
arXiv 2006.07722): a pixel compares the logarithm of its brightness with the level at its last event and fires as often as the
difference holds its contrast threshold. The motion is that of N-MNIST (Orchard et al. 2015, doi 10.3389/fnins.2015.00437):
three saccades along a triangle.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fptt.data.events import Events
from fptt.errors import InputError

# Corners of the path, pixels to the right and down, and the time for each side. Measured on 1,000 recordings of N-MNIST: their
# events move by about so much, with a peak of their rate every 100 ms; 34 pixels leave 6 around an image of 28.
CORNERS = ((0, 0), (3, 6), (6, 0), (0, 0))
MARGIN = 6  # pixels
SACCADE = 100_000  # microseconds
FRAME = 2_500  # microseconds between rendered frames: at its fastest an image moves 0.3 pixels in them
ROUNDING = 1e-3  # share of a threshold: a change that ends just at the threshold always fires, whatever float32 made of it


@dataclass(frozen=True)
class Camera:
    """What the simulated camera is like.

    Args:
        on, off: contrast thresholds, in natural logarithms of brightness. The default gives MNIST about as many events as
            N-MNIST has: 4,200 and 4,130 for each image on average.
        floor: added to the brightness, in [0, 1], before the logarithm: what a black pixel still receives.
        mismatch: standard deviation of the thresholds from pixel to pixel, as a share of them; v2e's is 0.03 of 0.2.
        refractory: microseconds after an event in which the pixel's further events are lost, as in ESIM.
        noise: events per pixel and second that no contrast caused, of either polarity.
        seed: of the mismatch and of the noise.
    """

    on: float = 0.44
    off: float = 0.44
    floor: float = 0.1
    mismatch: float = 0.15
    refractory: int = 1000
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("on", "off", "floor"):
            if not getattr(self, name) > 0:
                raise InputError(f"the camera's {name} must be positive, got {getattr(self, name)}")
        for name in ("mismatch", "refractory", "noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"the camera's {name} must not be negative, got {getattr(self, name)}")

    def thresholds(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of ON and OFF events at every pixel, each [height, width]; none is below a tenth of the mean."""
        random = np.random.default_rng((self.seed, 0))
        spread = np.maximum(0.1, 1 + self.mismatch * random.standard_normal((2, height, width)))
        return (self.on * spread[0]).astype(np.float32), (self.off * spread[1]).astype(np.float32)


def simulate(frames: Iterable[tuple[int, NDArray[np.float32]]], camera: Camera, first: int = 0) -> list[Events]:
    """What ``camera`` records of each of a batch of films.

    Between two frames a pixel's log brightness is a straight line, and its events lie where the line crosses a threshold.

    Args:
        frames: pairs of a time in microseconds, rising, and the brightness then: [batch, height, width], from 0.
        first: number of the first film, from which its noise is drawn: batches of any size give the same recordings.
    """
    nothing = np.zeros(0, np.int64)
    rows: list[tuple[NDArray[Any], ...]] = [(nothing, nothing, nothing > 0)]  # of each crossing: pixel, time, polarity
    iterator = iter(frames)
    start, frame = next(iterator)
    batch, height, width = frame.shape
    before_time, before = start, np.log(camera.floor + frame).reshape(batch, -1)
    reference, last = before.copy(), np.full(before.shape, np.iinfo(np.int64).min // 2)
    on, off = (threshold.reshape(-1) for threshold in camera.thresholds(height, width))
    for time, frame in iterator:
        level = np.log(camera.floor + frame).reshape(batch, -1)
        change = level - reference
        threshold = np.where(change > 0, on, -off)
        crossings = (change / threshold + ROUNDING).astype(np.int64)
        pixels = np.flatnonzero(crossings)
        for number in range(1, int(crossings.max()) + 1):
            pixels = pixels[crossings.flat[pixels] >= number]
            size, y0 = threshold.flat[pixels], before.flat[pixels]
            rise = level.flat[pixels] - y0
            share = np.divide(reference.flat[pixels] + number * size - y0, rise, out=np.ones_like(y0), where=rise != 0)
            t = before_time + (np.clip(share, 0, 1) * (time - before_time)).astype(np.int64)
            fires = t - last.flat[pixels] >= camera.refractory
            last.flat[pixels[fires]] = t[fires]
            rows.append((pixels[fires], t[fires], size[fires] > 0))
        reference += crossings * threshold
        before, before_time = level, time
    pixel, t, p = (np.concatenate(column) for column in zip(*rows, strict=True))
    film, pixel = np.divmod(pixel, height * width)
    found = []
    for number in range(batch):
        random = np.random.default_rng((camera.seed, 1, first + number))
        count = random.poisson(camera.noise * height * width * (before_time - start) / 1e6)
        own = film == number
        columns = (
            np.concatenate((t[own], random.integers(start, before_time, count))),
            np.concatenate((pixel[own], random.integers(0, height * width, count))),
            np.concatenate((p[own], random.random(count) < 0.5)),
        )
        order = np.argsort(columns[0], kind="stable")
        times, places, polarities = (column[order] for column in columns)
        y, x = np.divmod(places, width)
        found.append(Events(times, x.astype(np.int16), y.astype(np.int16), polarities, width, height))
    return found


def saccades(ink: NDArray[np.float32], dark: bool = True) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Frames, as ``simulate`` reads them, of images that move along N-MNIST's triangle for 300 ms.

    Each side is covered with minimum jerk (Flash & Hogan 1985): s^3 (10 - 15 s + 6 s^2), at rest at both ends.

    Args:
        ink: [batch, height, width] in [0, 1]; the frames are ``MARGIN`` larger.
        dark: the ink is dark on a light ground. So it is in N-MNIST, where OFF events run ahead of a moving digit.
    """
    for time in range(0, (len(CORNERS) - 1) * SACCADE + 1, FRAME):
        side = min(time // SACCADE, len(CORNERS) - 2)
        s = time / SACCADE - side
        covered = s**3 * (10 - 15 * s + 6 * s**2)
        (x0, y0), (x1, y1) = CORNERS[side : side + 2]
        moved = _shifted(ink, x0 + covered * (x1 - x0), y0 + covered * (y1 - y0))
        yield time, 1 - moved if dark else moved


def _shifted(images: NDArray[np.float32], right: float, down: float) -> NDArray[np.float32]:
    """[batch, height, width] on zeros, ``MARGIN`` larger, moved by 0 to ``MARGIN`` pixels; bilinear between pixels."""
    batch, height, width = images.shape
    moved = np.zeros((batch, height + MARGIN, width + MARGIN), np.float32)
    for row, row_share in _neighbours(down):
        for column, column_share in _neighbours(right):
            moved[:, row : row + height, column : column + width] += np.float32(row_share * column_share) * images
    return moved


def _neighbours(position: float) -> list[tuple[int, float]]:
    """The whole pixels on both sides of ``position`` and their shares of it."""
    whole = int(position)
    return [(n, share) for n, share in ((whole, 1 - position + whole), (whole + 1, position - whole)) if share > 0]
