"""Recordings of event cameras."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Events(NamedTuple):
    """One recording, or a part of one: n events in order of time, from a sensor of ``width`` x ``height`` pixels."""

    t: NDArray[np.int64]  # microseconds of the recording's own clock, [n], never decreasing
    x: NDArray[np.int16]  # column, 0 to width - 1, [n]
    y: NDArray[np.int16]  # row from the top, 0 to height - 1, [n]
    p: NDArray[np.bool_]  # polarity: True where it became brighter (ON), [n]
    width: int
    height: int
