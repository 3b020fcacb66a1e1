"""What rounding does to a detector: average precision with bfloat16, and after small random changes of all its weights.

    python benchmarks/detector_rounding.py [--weights FILE] [--data DIR] [--seeds 4] [--out results/detector-rounding]

A neuron near its threshold fires a step earlier or later after any rounding, and others after it; the random changes, each of
up to five in ten thousand of a weight, say how much of a difference means nothing. Mean average precision at IoU 0.5 on VOC
2007 test, by which trainings are judged. Writes OUT.json.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch

from fptt.arithmetic import has_bfloat16
from fptt.benchmark import write_record
from fptt.data import catalogue, voc
from fptt.data.samples import Samples
from fptt.detection.average_precision import average_precision
from fptt.detection.detector import Detector
from fptt.detection.head import detections
from fptt.models.spyv4 import SPYv4
from fptt.tasks.voc import CONFIDENCE, MOST, OVERLAP

CHANGE = 5e-4  # of a weight, at most


def changed(model: SPYv4, seed: int) -> SPYv4:
    """A copy of ``model``, every weight of it changed by a random share of up to ``CHANGE``."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + CHANGE * (2 * torch.rand(weight.shape, generator=generator) - 1))
    return model


def precision(detector: Detector, samples: Samples) -> float:
    """Mean average precision of ``detector`` on letterboxed ``samples``."""
    found, targets = [], []
    for x, y in samples.batches(50):
        output, _ = detector.forward(x.float() / 255, None, detector.steps)
        found += detections(output, detector.head, threshold=CONFIDENCE, iou=OVERLAP, most=MOST)
        targets += y
    return average_precision(found, targets, len(detector.names)).mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not has_bfloat16(torch.device("cpu")):
        raise SystemExit("this processor has no instructions for bfloat16")
    detector = Detector.load(options.weights)
    model, steps = detector.model, detector.steps
    samples = voc.sets(catalogue.folder(options.data), model.size, "07 trainval")[2]

    def of(model: SPYv4, **settings: Any) -> float:
        return round(precision(Detector(model, detector.head, detector.names, steps, **settings), samples), 5)

    result: dict[str, Any] = {"test_samples": len(samples), "steps": steps, "size": model.size, "change": CHANGE}
    result["map50"] = {"float32": of(model), "bfloat16": of(model, precision="bfloat16")}
    print(result, flush=True)
    result["map50_changed"] = [of(changed(model, seed)) for seed in range(options.seeds)]
    print(json.dumps(result, indent=1))
    if options.out:
        write_record(options.out, result)


if __name__ == "__main__":
    main()
