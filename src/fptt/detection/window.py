"""Images shown on the screen while they are made."""

import os
import sys

import numpy as np
from torch import Tensor

from fptt.detection.packages import needed
from fptt.errors import InputError


class Window:
    """A window of that ``title``. Raises InputError where there is no display, or an OpenCV without windows."""

    def __init__(self, title: str):
        self.cv2, self.title = needed("cv2", "windows"), title
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise InputError("--show needs a display, and there is none: leave it out, and look at the file that is saved")
        try:
            self.cv2.namedWindow(title, self.cv2.WINDOW_KEEPRATIO)
        except self.cv2.error:
            raise InputError(
                "--show needs an OpenCV with windows: pip uninstall opencv-python-headless, pip install opencv-python"
            ) from None

    def show(self, image: Tensor, wait: bool = False) -> bool:
        """Show ``image`` (uint8 [3, height, width]), ``wait`` for a key; False once q or Escape is pressed."""
        self.cv2.imshow(self.title, np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy()))
        return (self.cv2.waitKey(0 if wait else 1) & 0xFF) not in (ord("q"), 27)
