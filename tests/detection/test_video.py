"""Videos and live sources, without the command."""

import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from fptt.detection import video
from fptt.errors import InputError
from videos import av, read_video


def test_a_video_of_odd_size_and_of_variable_rate(tmp_path):
    path, times = tmp_path / "odd.mp4", [0.0, 0.04, 0.5, 0.5, 1.25]
    with video.video_writer(path, None, 33, 51) as add:
        for second in times:
            add(torch.zeros(3, 33, 51, dtype=torch.uint8), second)
    frames, read = read_video(path)
    assert frames.shape == (5, 32, 50, 3)
    assert read == pytest.approx(times, abs=1e-3) and read[2] < read[3]


def test_a_video_that_was_filmed_upright_stands_upright(tmp_path):
    """The left half is white in the file; turned a quarter to the right, that is the upper half."""
    path = tmp_path / "phone.mp4"
    with video.video_writer(path, Fraction(10), 48, 64) as add:
        add(torch.cat([torch.full((3, 48, 32), shade, dtype=torch.uint8) for shade in (255, 0)], 2), 0.0)
    content = path.read_bytes()
    matrix = content.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12: version and flags, times, ids, layer, volume
    identity, turned = ([v.to_bytes(4, "big", signed=True) for v in numbers] for numbers in (
        (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000), (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    ))  # fmt: skip
    assert content[matrix : matrix + 36] == b"".join(identity)
    path.write_bytes(content[:matrix] + b"".join(turned) + content[matrix + 36 :])
    [frame] = video.open_source(str(path)).frames
    assert frame.image.shape == (3, 64, 48)
    assert frame.image[:, :28].float().mean() > 230 and frame.image[:, 36:].float().mean() < 25


def encoded(path, shades, kind, shape=None):
    """A video of grey frames, 48 x 64, ten a second, with pixels of this ``shape``, width to height."""
    with av.open(str(path), "w", format=kind) as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if shape:
            stream.codec_context.sample_aspect_ratio = shape
        for shade in shades:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    return path.read_bytes()


def test_recordings_one_after_the_other_keep_their_time(tmp_path):
    """Each has a clock of its own."""
    parts = [encoded(tmp_path / f"{shade}.ts", [shade] * 10, "mpegts") for shade in (40, 200)]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    frames = list(video.open_source(str(tmp_path / "joined.ts")).frames)
    assert [frame.seconds for frame in frames] == pytest.approx([n / 10 for n in range(20)], abs=1e-3)
    assert frames[9].image.float().mean() < 60 and frames[10].image.float().mean() > 180


def test_pixels_become_square(tmp_path):
    encoded(tmp_path / "wide.mp4", [100], "mp4", Fraction(2))
    [frame] = video.open_source(str(tmp_path / "wide.mp4")).frames
    assert frame.image.shape == (3, 48, 128)


def test_pictures_of_sixteen_bits(tmp_path):
    ramp = np.linspace(0, 2**16 - 1, 256).astype(np.uint16)
    for name in ("ramp.png", "ramp.tif"):
        Image.fromarray(ramp[None]).save(tmp_path / name)
        image = video.picture(tmp_path / name)
        assert image.shape == (3, 1, 256) and image[0, 0].tolist() == image[2, 0].tolist() == list(range(256))
    for pixels in (ramp.astype(np.int32) - 1, ramp / np.float32(2**16)):
        Image.fromarray(pixels[None]).save(tmp_path / "deep.tif")
        with pytest.raises(InputError, match=r"deep.tif is no readable image \(its pixels are no values of 8 or 16 bits\)"):
            video.picture(tmp_path / "deep.tif")


def test_a_live_source_gives_its_newest_frame_and_what_came_before_it_broke():
    gate, read = threading.Event(), threading.Event()

    def frames(number):
        yield video.Frame(torch.zeros(3, 2, 2), 0, 0.0)
        gate.wait(10)
        for n in range(1, number):
            yield video.Frame(torch.zeros(3, 2, 2), n, float(n))
        read.set()
        raise InputError("camera 0 went away: try another number")

    live = video.newest(frames(5))
    assert next(live).number == 0
    gate.set()
    assert read.wait(10)
    with pytest.warns(UserWarning, match="fptt: camera 0 went away"):
        assert [frame.number for frame in live] == [4]

    gate.set()
    with pytest.raises(InputError, match="went away"):
        list(video.newest(iter_that_fails()))


def iter_that_fails():
    yield from ()
    raise InputError("camera 0 went away: try another number")
