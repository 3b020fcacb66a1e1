"""Simulated recordings beside N-MNIST's of the same images: how many events each has.

    python benchmarks/simulated_events.py [--data DIR] [--out results/simulated-events]

Every training recording of N-MNIST that the data folder (or $FPTT_DATA) holds is simulated from its image of MNIST, with the
camera of fptt train events-sim. Writes OUT.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from fptt.benchmark import write_record
from fptt.data import catalogue, event_sets, images
from fptt.data.simulated import Camera, saccades, simulate
from fptt.data.simulated_set import AT_ONCE


def counts(root: Path) -> dict[str, list[int]]:
    """Numbers of events of the recordings and of their simulations, in the same order."""
    mnist = images.torchvision("MNIST").datasets.MNIST(str(root), train=True)
    clips = [clip for clip in event_sets.nmnist(root).clips() if not clip.test]
    numbers = np.array([clip.group - 1 for clip in clips])  # N-MNIST counts images from 1
    assert mnist.targets[numbers].tolist() == [clip.label for clip in clips], "the recordings are not of these images"
    simulated: list[int] = []
    for start in range(0, len(numbers), AT_ONCE):
        ink = mnist.data[numbers[start : start + AT_ONCE]].numpy().astype(np.float32) / 255
        simulated += [len(events.t) for events in simulate(saccades(ink), Camera(), start)]
    return {"recorded": [len(clip.events.t) for clip in clips], "simulated": simulated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = counts(catalogue.folder(options.data))
    result: dict[str, Any] = {"recordings": len(found["recorded"])}
    for name, events in found.items():
        result[name] = {"events_mean": round(float(np.mean(events)), 1), "events_deviation": round(float(np.std(events)), 1)}
    result["correlation"] = round(float(np.corrcoef(found["recorded"], found["simulated"])[0, 1]), 4)
    print(json.dumps(result, indent=1))
    if options.out:
        write_record(options.out, result)


if __name__ == "__main__":
    main()
