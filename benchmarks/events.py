"""Reading recordings, making frames, and reading frames back; and how long training waits for its data.

    python benchmarks/events.py [--data DIR] [--threads 1] [--out results/events] [--picture results/dvs-gesture/frames.png]

DIR (or $FPTT_DATA) holds N-MNIST, DVS128 Gesture and single recordings in ``events``. Writes OUT.json: millions of events per
second (medians of --repeats), and the share of an epoch's time that goes into fetching, varying and encoding batches. With
--picture, also draws the frames of the gestures.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from fptt.benchmark import provenance
from fptt.data import cache, catalogue, event_sets, frames, recordings
from fptt.data.cache import Framing
from fptt.tasks.events import NMNIST, DVSGesture, EventFrames
from fptt.training.loop import Trainer
from fptt.training.run import Run

SMALL = {"shrink": 4, "channels": (16, 32, 64), "pool": (2, 2, 2), "hidden": (64,), "batch_size": 10}


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median time of ``work``, after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def reading(paths: list[Path], repeats: int) -> dict[str, Any]:
    """Millions of events per second of reading each file and of making 20 frames by count of it."""
    rows = {}
    for path in paths:
        events = recordings.read(path)
        read = seconds(lambda path=path: recordings.read(path), repeats)  # type: ignore[misc]
        framed = seconds(lambda events=events: frames.by_count(events, 20), repeats)  # type: ignore[misc]
        rows[path.name] = {
            "events": len(events.t),
            "read_millions_per_second": round(len(events.t) / read / 1e6, 1),
            "frames_millions_per_second": round(len(events.t) / framed / 1e6, 1),
        }
    return rows


def caching(read: Callable[[Path], event_sets.EventSet], root: Path, framing: Framing, repeats: int) -> dict[str, Any]:
    """A whole set: from the original files to frames on disk, and all of these read back in shuffled batches."""
    number = sum(len(clip.events.t) for clip in read(root).clips())
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cached = cache.load(read(root), framing, Path(folder))
        made = time.perf_counter() - start
        order = torch.randperm(len(cached.y)).split(50)
        fetched = seconds(lambda: [cached.x[rows].float() for rows in order], repeats)
    return {
        "recordings": len(cached.y),
        "events": number,
        "made_millions_per_second": round(number / made / 1e6, 2),
        "from_cache_millions_per_second": round(number / fetched / 1e6, 2),
        "from_cache_recordings_per_second": round(len(cached.y) / fetched),
    }


def waiting(task: EventFrames, batches: int) -> dict[str, Any]:
    """Time of a batch's data (fetched, varied, encoded) and of its training, in milliseconds, and the data's share."""
    train = task.sets()[0]
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, Run(Path(folder)))
    trainer.model.train()
    fetch, learn = [], []
    source = train.batches(task.batch_size, shuffle=generator, drop_last=True)
    for _ in range(batches + 1):
        start = time.perf_counter()
        if (batch := next(source, None)) is None:
            source = train.batches(task.batch_size, shuffle=generator, drop_last=True)
            batch = next(source)
        sequence = task.encode(task.augmented(batch[0], generator), generator)
        middle = time.perf_counter()
        trainer.trainer(sequence, batch[1])
        fetch.append(middle - start)
        learn.append(time.perf_counter() - middle)
    data, training = 1000 * statistics.median(fetch[1:]), 1000 * statistics.median(learn[1:])
    return {"data_ms": round(data, 2), "training_ms": round(training, 1), "share": round(data / (data + training), 4)}


def draw(task: DVSGesture, path: Path) -> None:
    """Every second frame of each clip of the set, one row each; red where it became brighter, blue where darker."""
    names = ("clapping", "right wave", "left wave", "right cw", "right ccw", "left cw", "left ccw", "roll", "drums", "guitar")
    chosen = range(0, task.length, 2)
    x, y = task.recordings.x[:10].float(), task.recordings.y[:10]
    figure, axes = plt.subplots(len(x), len(chosen), figsize=(len(chosen), len(x)), layout="constrained")
    for row, clip, label in zip(axes, x, y.tolist(), strict=True):
        for axis, frame in zip(row, chosen, strict=True):
            off, on = clip[frame]
            axis.imshow(on - off, cmap="bwr", vmin=-15, vmax=15, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(names[label], fontsize=8)
    for axis, frame in zip(axes[0], chosen, strict=True):
        axis.set_title(f"frame {frame}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=72)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results/events"))
    parser.add_argument("--picture", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    root = catalogue.folder(options.data)
    gesture = DVSGesture(data=str(root), **SMALL)
    paths = [path for path in sorted((root / "events").iterdir()) if "header" not in path.name]
    command = f"python benchmarks/events.py --threads {options.threads} --repeats {options.repeats} --batches {options.batches}"
    result = {
        **provenance(f"{command} --out {options.out}"),
        "threads": options.threads,
        "recordings": reading([*paths, *sorted((root / "DvsGesture").glob("*.aedat"))], options.repeats),
        "sets": {
            "nmnist, 8 frames": caching(event_sets.nmnist, root, Framing(number=8), options.repeats),
            "dvs-gesture, 20 frames": caching(event_sets.dvs_gesture, root, Framing(number=20), options.repeats),
        },
        "training": {
            "nmnist": waiting(NMNIST(data=str(root)), options.batches),
            "dvs-gesture, shrunk to 32 x 32": waiting(gesture, options.batches),
        },
    }
    if options.picture:
        draw(gesture, options.picture)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{options.out}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
