"""Videos for tests, written and read back."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from fptt.detection import video

av = pytest.importorskip("av")

SHADES = (0, 60, 120, 180, 240)  # of grey: frames that can be told apart after compression


def write_video(path, shades=SHADES, height=48, width=64, rate=10):
    with video.video_writer(path, Fraction(rate), height, width) as add:
        for number, shade in enumerate(shades):
            add(torch.full((3, height, width), shade, dtype=torch.uint8), number / rate)
    return path


def read_video(path):
    """The frames of a video, [frames, height, width, 3], and their times in seconds."""
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.name in ("h264", "mpeg4")
        frames = list(file.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames]
