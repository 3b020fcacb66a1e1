"""Pictures, videos, cameras and streams, frame by frame; and videos written.

PyAV reads files and network streams and writes H.264, which browsers play; OpenCV reads cameras.
"""

import struct
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import inf
from pathlib import Path
from threading import Condition, Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fptt.detection.packages import needed
from fptt.errors import InputError
from fptt.files import replacing

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
PATIENCE = 10.0  # seconds to wait for a stream
CLOCK = 90_000  # ticks per second in the videos written, as MPEG has them


class Frame(NamedTuple):
    """A picture, uint8 [3, height, width], RGB; its number, from 0; and its time in seconds since the first."""

    image: Tensor
    number: int
    seconds: float


class Source(NamedTuple):
    """Its name in messages, and for files made of it; its frames; how many a second, and how many there are, where known."""

    shown: str
    name: str
    frames: Iterator[Frame]
    rate: Fraction | None = None
    total: int | None = None


def open_source(word: str) -> Source:
    """The video file, the stream (an address, scheme://...) or the camera (a number) that ``word`` names.

    A camera or a stream without an end gives its newest frame each time; what came since the last one is left out.
    Raises InputError where it cannot be opened; and its frames do, where they cannot be read.
    """
    if word.isdecimal():
        return Source(f"camera {word}", f"camera-{word}", newest(_camera(int(word))))
    if "://" not in word:
        video = Video(word, word)
        return Source(word, Path(word).stem, iter(video), video.rate, video.stream.frames or None)
    address = urlsplit(word)
    place = address.netloc.rpartition("@")[2] + address.path  # without a password
    video = Video(word, f"{address.scheme}://{place}")
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in place).split()) or "stream"
    frames = newest(iter(video)) if video.file.duration is None else iter(video)
    return Source(video.shown, name, frames, video.rate, video.stream.frames or None)


def picture(path: Path) -> Tensor:
    """An image file, uint8 [3, height, width], the right way up. Raises InputError where it cannot be read."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):
                image = Image.fromarray(_eight_bits(np.asarray(image)))
            return _tensor(np.array(image.convert("RGB")))
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path} is no readable image ({reason}): replace it, or leave it out") from None


def pictures(folder: Path) -> list[Path]:
    """The image files of ``folder``, in the order of their names. Raises InputError where there is none."""
    found = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file() and path.name[0] != "."
    )
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(PICTURES)})")
    return found


class Video:
    """The frames of a video file or stream, in order; ``shown`` is how messages call it."""

    def __init__(self, address: str, shown: str):
        self.av, self.shown = needed("av", "videos"), shown
        options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
        try:
            self.file = self.av.open(address, timeout=PATIENCE, options=options)
        except self.av.FFmpegError as error:
            raise self.unreadable(error) from None
        if not self.file.streams.video:
            raise InputError(f"{shown} has no pictures: give an image or a video")
        self.stream = self.file.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate = Fraction(self.stream.average_rate or 25)

    def __iter__(self) -> Iterator[Frame]:
        number, first, last, end, ahead = 0, 0.0, 0.0, 0.0, 0.0
        told, whole = self.stream.frames, 0.0  # by the file; once it is closed, its stream has nothing to say
        if self.stream.duration:
            whole = float(((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base)
        try:
            with self.file:
                for frame in self.file.decode(self.stream):
                    moment = ahead + (number / float(self.rate) if frame.time is None else frame.time)
                    if number and moment < last:  # recordings one after the other, each with a clock of its own
                        ahead, moment = ahead + end - moment, end
                    last, end = moment, moment + (float((frame.duration or 0) * self.stream.time_base) or 1 / float(self.rate))
                    first = first if number else last
                    yield Frame(self.tensor(frame), number, last - first)
                    number += 1
        except self.av.FFmpegError as error:
            if not 0 < number < told:
                raise self.unreadable(error) from None
            whole = inf  # whatever it told of its length
        if number == 0:
            raise InputError(f"{self.shown} holds no frame: it is empty or damaged")
        if number < told and end < whole - 0.5 * (end - last):  # fewer may be right: an edit list can leave some out
            raise InputError(f"{self.shown} is truncated: only {number} of its {told} frames are there")

    def tensor(self, frame: Any) -> Tensor:
        """The picture the right way up, its pixels square."""
        width = max(1, round(frame.width * (self.stream.sample_aspect_ratio or 1)))
        return _tensor(np.rot90(frame.to_ndarray(format="rgb24", width=width, height=frame.height), frame.rotation // 90))

    def unreadable(self, error: Any) -> InputError:
        return InputError(f"cannot read {self.shown} ({error.strerror}): give an image, a video, a camera's number or a stream")


def _camera(number: int) -> Iterator[Frame]:
    cv2 = needed("cv2", "cameras")
    cv2.utils.logging.setLogLevel(0)  # it would say at length what the InputError says
    camera = cv2.VideoCapture(number)
    start, count = time.monotonic(), 0
    try:
        while True:
            there, pixels = camera.read()
            if not there:
                raise InputError(f"camera {number} {'went away' if count else 'is not there'}: try another number")
            yield Frame(_tensor(pixels[..., ::-1]), count, time.monotonic() - start)
            count += 1
    finally:
        camera.release()


def newest(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Whenever asked, the newest of ``frames``, which are read meanwhile, so that who is slow does not fall behind.

    If they cannot be read from some frame on, that is their end, with a warning.
    """
    waiting: list[Frame] = []
    problems: list[Exception] = []
    news, over, given = Condition(), False, 0

    def read() -> None:
        nonlocal over
        try:
            for frame in frames:
                with news:
                    waiting[:] = [frame]
                    news.notify()
                    if over:
                        return
        except Exception as error:  # told to whoever waits for frames
            problems.append(error)
        finally:
            with news:
                over = True
                news.notify()

    Thread(target=read, daemon=True).start()
    try:
        while True:
            with news:
                news.wait_for(lambda: waiting or over)
                if not waiting:
                    break
                frame = waiting.pop()
            yield frame
            given += 1
        for error in problems:
            if not given:
                raise error
            warnings.warn(f"fptt: {error}; what came before is kept", stacklevel=2)
    finally:
        over = True


@contextmanager
def video_writer(path: Path, rate: Fraction | None, height: int, width: int) -> Iterator[Callable[[Tensor, float], None]]:
    """A function that adds an image, uint8 [3, height, width], at a time in seconds, to a new video: whole or not at all.

    The sides become even numbers of pixels. Raises InputError where the file cannot be written.
    """
    av = needed("av", "videos")
    rate = rate or Fraction(25)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as file:
        stream = file.add_stream(codec, rate=rate.limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = max(2, width // 2 * 2), max(2, height // 2 * 2), "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)
        pts = -1

        def add(image: Tensor, seconds: float) -> None:
            nonlocal pts
            pts = max(pts + 1, round(seconds * CLOCK))
            frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame = frame.reformat(stream.width, stream.height, "yuv420p")
            frame.pts, frame.time_base, frame.duration = pts, Fraction(1, CLOCK), round(CLOCK / rate)
            file.mux(stream.encode(frame))

        yield add
        file.mux(stream.encode(None))


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of 16 bits as those of 8. Raises ValueError for others."""
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() >= 2**16:
        raise ValueError("its pixels are no values of 8 or 16 bits")
    return np.asarray((pixels / 257).round(), np.uint8)


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
