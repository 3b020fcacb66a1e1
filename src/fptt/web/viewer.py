"""What happens behind the page: pictures, videos and cameras are looked at, and what was seen is drawn anew as sliders move."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fptt import plots
from fptt.data.letterbox import letterbox
from fptt.detection.detector import Detector
from fptt.detection.drawing import drawn
from fptt.detection.looks import Look, look
from fptt.detection.video import Video, picture, video_writer
from fptt.errors import InputError
from fptt.models.spyv4 import DetectorState
from fptt.web import views

MEGAPIXELS = 50  # of an image, at most
LONGEST = 1600  # pixels of a picture that is shown

Pixels = NDArray[np.uint8]  # [height, width, 3]


class Seen(NamedTuple):
    """An image, uint8 [3, height, width], what was seen in it, and the network's state afterwards."""

    image: Tensor
    shown: Tensor  # the image, no larger than fits on a page
    look: Look
    state: DetectorState | None


@dataclass
class Film:
    """A video and what was seen in its frames so far."""

    path: Path
    total: int | None  # how many frames it has, where that is known
    looks: list[Look] = field(default_factory=list)
    stopped: bool = False  # by the person: no more frames are looked at
    dropped: bool = False  # by the person: it is not to be seen again
    ended: bool = False  # no more frames will come


class Viewer:
    """Looks with ``detector``, at one picture at a time; what it gives belongs to one session and is kept there.

    Videos are written to ``folder``. What the methods are given and cannot use is an InputError.
    """

    def __init__(self, detector: Detector, folder: Path):
        self.detector, self.folder = detector, folder
        self.network, self.plotting = Lock(), Lock()
        size = detector.model.size
        first = self.look(torch.zeros(3, size, size, dtype=torch.uint8))
        self.found(first, detector.threshold, detector.iou)  # what is slow the first time is done before anybody waits
        self.layers = {name: tuple(cells.shape) for name, cells in first.look.maps.items()}  # those that spike: rows, columns

    def look(self, image: Tensor, steps: int = 1, state: DetectorState | None = None) -> Seen:
        """What is seen after ``steps`` steps, from ``state`` on or afresh."""
        with self.network:
            seen = look(self.detector, image, steps, state)
        return Seen(image, shrunk(image), *seen)

    def camera(self, pixels: Pixels, before: Seen | None) -> Seen:
        """The next picture of a camera: one step on from ``before``."""
        return self.look(torch.from_numpy(pixels.copy()).permute(2, 0, 1), 1, before and before.state)

    def found(self, seen: Seen, threshold: float, iou: float) -> tuple[Pixels, str]:
        """The image with its detections, and their table."""
        found, names = seen.look.found(threshold, iou), self.detector.names
        scaled = found._replace(boxes=found.boxes * (seen.shown.shape[-1] / seen.image.shape[-1]))
        return drawn(seen.shown, scaled, names).permute(1, 2, 0).numpy(), views.table(found, names)

    def spikes(self, seen: Seen, layer: str) -> Pixels:
        """Where in the network's input the neurons of ``layer`` fired."""
        square, _, corner = letterbox(seen.image, self.detector.model.size)
        return views.spike_map(square, corner, seen.look.maps[layer])

    def film(self, path: Path, most: int) -> Iterator[tuple[Film, Seen]]:
        """The first ``most`` frames of a video, one step each; every time all that was seen, and the last of it."""
        video = Video(str(path), path.name)
        film, state = Film(path, video.stream.frames or None), None
        try:
            for frame in islice(video, most):
                seen = self.look(frame.image, 1, state)
                state = seen.state
                film.looks.append(seen.look._replace(maps={}))
                yield film, seen
                if film.stopped:
                    break
        finally:
            film.ended = True

    def clip(self, film: Film, threshold: float, iou: float) -> tuple[Path, str, str]:
        """A video of the frames with their detections; the course of firing rate and detections; and a table of the classes."""
        found = [one.found(threshold, iou) for one in film.looks]
        path = Path(tempfile.mkdtemp(dir=self.folder)) / f"{film.path.stem}-detected.mp4"
        height, width = film.looks[0].shape
        video = Video(str(film.path), film.path.name)
        with video_writer(path, video.rate, height, width) as add:
            for frame, one in zip(islice(video, len(found)), found, strict=True):
                add(drawn(frame.image, one, self.detector.names), frame.seconds)
        with self.plotting:  # matplotlib has one state for all threads
            figure = plots.over_frames([one.firing_rate for one in film.looks], [len(one.scores) for one in found])
            course = views.svg(figure, "firing rate and number of detections over the frames")
        return path, course, views.counts(found, self.detector.names)


def opened(path: Path) -> Tensor:
    """An image file, uint8 [3, height, width]. Raises InputError where it cannot be read, or is too large."""
    try:
        with Image.open(path) as file:
            width, height = file.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return picture(path)  # which says what is wrong
    if width * height > 1e6 * MEGAPIXELS:
        raise InputError(f"{path.name} has {width} x {height} pixels, more than {MEGAPIXELS} million: give a smaller image")
    return picture(path)


def shrunk(image: Tensor) -> Tensor:
    """``image``, its longer side at most ``LONGEST`` pixels."""
    factor = LONGEST / max(image.shape[-2:])
    if factor >= 1:
        return image
    shape = [max(1, round(factor * side)) for side in image.shape[-2:]]
    return F.interpolate(image[None], shape, mode="bilinear", antialias=True)[0]
