"""Samples as pictures: colours say what happened, films move."""

import numpy as np
import pytest
from PIL import Image

from fptt import InputError, pictures, plots


def test_on_and_off_have_their_colours_and_nothing_is_white():
    frames = np.zeros((2, 2, 3, 4))
    frames[0, 0, 1, 2], frames[1, 1, 0, 3] = 4, 4
    colours = pictures.coloured(frames)
    assert colours.shape == (2, 3, 4, 3) and (colours[0, 0, 0] == 255).all()
    for place, colour in (((0, 1, 2), pictures.OFF), ((1, 0, 3), pictures.ON)):
        expected = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]
        assert np.abs(colours[place].astype(int) - expected).max() <= 1
    signed = pictures.coloured(frames[:, 1:] - frames[:, :1])
    assert np.array_equal(signed, colours), "merged with a sign, they look the same"


def test_images_are_dark_on_white_or_in_colour():
    grey = pictures.coloured(np.array([[[[0.0, 0.5, 1.0]]]]))
    assert grey[0, 0, :, 0].tolist() == [255, 127, 0]
    red = pictures.coloured(np.array([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1))
    assert red[0, 0, 0].tolist() == [255, 0, 0]
    assert (pictures.coloured(np.zeros((1, 2, 3, 3))) == 255).all(), "no event at all"


def test_a_film_and_a_sheet(tmp_path):
    random = np.random.default_rng(0)
    frames = pictures.coloured(random.poisson(0.3, (9, 2, 34, 30)))
    pictures.film(frames, tmp_path / "film.gif", 40)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 9 and film.size == (30 * 8, 34 * 8) and film.info["duration"] == 40
    for name, head in (("sheet.png", b"\x89PNG"), ("sheet.svg", b"<?xml")):
        plots.save(pictures.sheet(frames, [f"frame {n}" for n in range(9)], "sample"), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)
    with pytest.raises(InputError, match="^cannot write the film"):
        pictures.film(frames, tmp_path / "none" / "film.gif", 40)
