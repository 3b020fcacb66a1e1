"""What fptt detect tells of the images and frames that it looks at: a line each, a table, a window, and a summary."""

import argparse
import csv
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fptt import state as states
from fptt.detection import Detections
from fptt.detection.detector import Detector
from fptt.detection.video import Frame
from fptt.detection.window import Window
from fptt.files import replacing
from fptt.models.spyv4 import DetectorState

COLUMNS = ("source", "frame", "time_s", "class", "score", "x1", "y1", "x2", "y2")
SMOOTHING = 0.9  # of the frames per second that are written onto frames


class Report:
    """Looks with ``detector`` and tells what it finds, as the ``options`` of fptt detect say; leaving it completes the table.

    ``closed`` becomes true when a person closes the window.
    """

    def __init__(self, options: argparse.Namespace, detector: Detector):
        self.options, self.detector = options, detector
        self.window = Window("fptt detect") if options.show else None
        self.closed = False
        self.stack = ExitStack()
        self.table: Any = None
        self.classes: Counter[str] = Counter()
        self.looks = 0
        self.firing_rates = 0.0  # their sum
        self.firing_rate = math.nan  # of the last look
        self.network = 0.0  # seconds
        self.start = self.last = time.perf_counter()
        self.interval = 0.0  # seconds from picture to picture, smoothed

    def __enter__(self) -> "Report":
        if self.options.csv:
            self.table = self.stack.enter_context(table(self.options.csv))
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def look(self, source: str, frame: Frame, state: DetectorState | None, steps: int) -> tuple[Detections, DetectorState]:
        """``detector.step`` on a frame of ``source``; tells all of it but the picture."""
        start = time.perf_counter()
        found, state = self.detector.step(frame.image, state, steps)
        self.network += time.perf_counter() - start
        self.firing_rate = states.firing_rate(state).item()
        self.firing_rates += self.firing_rate
        self.looks += 1
        rows = [
            {"class": self.detector.names[label], "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for box, score, label in zip(*(part.tolist() for part in found), strict=True)
        ]
        self.classes.update(row["class"] for row in rows)
        told = {"source": source, "frame": frame.number, "time_s": round(frame.seconds, 3)}
        if self.table:
            self.table.writerows([*told.values(), row["class"], row["score"], *row["box"]] for row in rows)
        if self.options.json:
            print(json.dumps({**told, **self.firing(self.firing_rate), "detections": rows}), flush=True)
        return found, state

    def sentence(self, found: Detections) -> str:
        pairs = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
        return ", ".join(f"{self.detector.names[label]} {score:.2f}" for label, score in pairs) or "nothing"

    def firing(self, rate: float) -> dict[str, float]:
        """{"firing_rate": rate}, or nothing for a network without spikes."""
        return {} if math.isnan(rate) else {"firing_rate": rate}

    def caption(self, steps: int | None = None) -> str:
        """For a picture: the steps that it was looked at, or how many pictures a second there are now; and the firing rate."""
        now = time.perf_counter()
        interval, self.last = now - self.last, now
        self.interval = SMOOTHING * self.interval + (1 - SMOOTHING) * interval if self.interval else interval
        text = f"{1 / self.interval:.1f} frames/s" if steps is None else f"{steps} steps"
        return text + "".join(f"   firing rate {rate:.3f}" for rate in self.firing(self.firing_rate).values())

    def display(self, image: Tensor, wait: bool = False) -> None:
        """In the window, where there is one."""
        if self.window and not self.window.show(image, wait):
            self.closed = True

    def summary(self) -> dict[str, Any]:
        seconds, looks = time.perf_counter() - self.start, max(1, self.looks)
        classes = self.classes.most_common()
        listed = ", ".join(f"{name} {count}" for name, count in classes) or "none"
        return {
            "frames": self.looks,
            "detections": self.classes.total(),
            "classes": dict(classes) if self.options.json else listed,
            **self.firing(self.firing_rates / looks),
            "network_ms": 1000 * self.network / looks,
            "frames_per_second": self.looks / seconds,
            "seconds": seconds,
            **({"table": str(self.options.csv)} if self.options.csv else {}),
        }


@contextmanager
def table(path: Path) -> Iterator[Any]:
    """A writer of rows of ``COLUMNS`` to the CSV file ``path``, which is written whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        yield writer
