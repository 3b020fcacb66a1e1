"""A data set of simulated recordings in N-MNIST's own layout and format, made once and then read like the real one."""

import dataclasses
import hashlib
import json
import os
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from fptt.data import event_sets
from fptt.data.event_sets import EventSet
from fptt.data.events import Events
from fptt.data.samples import Samples
from fptt.data.simulated import Camera, saccades, simulate
from fptt.errors import InputError

AT_ONCE = 128  # images simulated together
DESCRIPTION = "simulated.json"


def nmnist_bytes(events: Events) -> bytes:
    """N-MNIST's .bin: 5 bytes for each event, column, row, a bit of polarity and 23 of microseconds."""
    t = events.t
    return np.stack((events.x, events.y, events.p << 7 | t >> 16, t >> 8 & 255, t & 255), 1).astype(np.uint8).tobytes()


def folder(root: Path, kind: str, sizes: tuple[int, int], camera: Camera, *, dark: bool = True) -> Path:
    """Where the set of these settings lies under ``root``: its name holds a digest of them."""
    description = json.dumps(_description(kind, sizes, camera, dark), sort_keys=True)
    return root / "simulated" / f"{kind}-{hashlib.sha256(description.encode()).hexdigest()[:8]}"


def make(target: Path, kind: str, train: Samples, test: Samples, camera: Camera, *, dark: bool = True) -> None:
    """Write one recording of each image [height, width] as ``target``/Train or Test/<label>/<number>.bin, if not yet there.

    ``simulated.json`` beside them says that they are simulated, and how. All or nothing is written. Raises InputError where
    that cannot be done.
    """
    if (target / DESCRIPTION).exists():
        return
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        for split, samples, first in (("Train", train, 0), ("Test", test, len(train))):
            _write(part / split, samples, camera, dark, first)
        description = _description(kind, (len(train), len(test)), camera, dark)
        (part / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        if not target.exists():
            os.replace(part, target)
    except OSError as error:
        raise InputError(f"cannot write simulated recordings to {target} ({error.strerror}): give another --data") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def every(root: Path) -> EventSet:
    """All sets that have been simulated under ``root``, one after the other."""
    homes = sorted(path.parent for path in (root / "simulated").glob(f"*/{DESCRIPTION}"))
    if not homes:
        raise InputError(f"nothing has been simulated in {root}: fptt train events-sim does it")
    sets = [event_sets.nmnist(home) for home in homes]
    return EventSet("simulated", [file for one in sets for file in one.files], lambda: chain(*(one.clips() for one in sets)))


def _write(split: Path, samples: Samples, camera: Camera, dark: bool, first: int) -> None:
    for label in samples.y.unique().tolist():
        (split / str(label)).mkdir(parents=True)
    batches = list(range(0, len(samples), AT_ONCE))
    console = Console(stderr=True)
    for start in track(batches, f"simulating {len(samples):,} recordings ({split.name})", console=console, transient=True):
        ink = samples.x[start : start + AT_ONCE].numpy()
        for number, events in enumerate(simulate(saccades(ink, dark), camera, first + start), start):
            path = split / str(int(samples.y[number])) / f"{number + 1:05d}.bin"
            path.write_bytes(nmnist_bytes(events))


def _description(kind: str, sizes: tuple[int, int], camera: Camera, dark: bool) -> dict[str, object]:
    made = "simulated from images by fptt; no camera recorded them"
    return {"made": made, "images": kind, "sizes": list(sizes), "dark": dark, "camera": dataclasses.asdict(camera)}
