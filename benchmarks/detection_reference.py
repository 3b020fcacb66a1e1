"""The published SPYv4's detections on VOC 2007 test, counted here and as published, class by class.

    python benchmarks/detection_reference.py --reference DIR [--data DIR] [--out results/detection-reference]

The reference folder holds what github.com/byin-cwi/sFPTT leaves on the 4,952 images: ``spyv4_voc2007test_detections.csv.gz``,
``..._ground_truth.csv.gz`` and ``..._average_precision.txt``, printed by its own script. The data folder (or $FPTT_DATA) holds
the part of VOC 2007 test on which detectors trained here are tested: the figures for it are what they stand against. Writes
OUT.json, with average precisions in percent.
"""

import argparse
import csv
import gzip
import json
import re
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fptt.benchmark import provenance
from fptt.data import catalogue
from fptt.detection import Detections
from fptt.detection.average_precision import average_precision, coco_average_precision

NAME = "spyv4_voc2007test"


class Reference(NamedTuple):
    """Names of classes and images; what was found and what is there in each image, as ``average_precision`` takes them."""

    classes: list[str]
    images: list[str]
    detections: list[Detections]
    targets: list[Tensor]

    def only(self, images: Sequence[str]) -> "Reference":
        places = [self.images.index(image) for image in images]
        return Reference(self.classes, list(images), *([part[place] for place in places] for part in self[2:]))


def read(folder: Path) -> Reference:
    """The detections and ground truth in ``folder``; VOC's inclusive pixels become continuous coordinates."""
    tables = []
    for kind in ("ground_truth", "detections"):
        with gzip.open(folder / f"{NAME}_{kind}.csv.gz", "rt") as file:
            tables.append(list(csv.DictReader(file)))
    classes, images = (sorted({row[key] for row in tables[0]}) for key in ("class", "image"))
    label = {name: place for place, name in enumerate(classes)}
    parts = []
    for table, last in zip(tables, ("difficult", "confidence"), strict=True):
        rows: dict[str, list[list[float]]] = {image: [] for image in images}
        for row in table:
            x1, y1, x2, y2, value = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax", last))
            rows[row["image"]].append([label[row["class"]], x1 - 1, y1 - 1, x2, y2, value])
        parts.append([torch.tensor(of_image).reshape(-1, 6) for of_image in rows.values()])
    targets, found = parts
    return Reference(classes, images, [Detections(x[:, 1:5], x[:, 5], x[:, 0].long()) for x in found], targets)


def published(folder: Path) -> dict[str, float]:
    """Percent of each class, and their mean as "mAP", as the authors' script printed them."""
    text = (folder / f"{NAME}_average_precision.txt").read_text()
    figures = {name: float(value) for value, name in re.findall(r"([\d.]+)% = (\w+) AP", text)}
    return figures | {"mAP": float(re.findall(r"mAP = ([\d.]+)%", text)[0])}


def percent(value: float) -> float:
    return round(100 * value, 2)


def measured(part: Reference) -> dict[str, Any]:
    """All figures of these images."""
    arguments = part.detections, part.targets, len(part.classes)
    voc = average_precision(*arguments)
    coco = coco_average_precision(part.detections, part.targets)
    every = torch.cat(part.targets)
    return {
        "images": len(part.images),
        "detections": sum(len(found.scores) for found in part.detections),
        "objects": int((every[:, 5] == 0).sum()),
        "difficult": int(every[:, 5].sum()),
        "voc_all_points": percent(voc.mean),
        "voc_11_points": percent(average_precision(*arguments, points=11).mean),
        "coco_50": percent(coco.at_50),
        "coco_50_to_95": percent(coco.at_50_to_95),
        "per_class": dict(zip(part.classes, map(percent, voc.per_class.tolist()), strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("results/detection-reference"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    everything = read(options.reference)
    subset = catalogue.folder(options.data) / "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    result = {
        **provenance(f"python benchmarks/detection_reference.py --reference reference --out {options.out}"),
        "packages": {name: version(name) for name in ("torchvision", "torchmetrics", "faster-coco-eval")},
        "published": published(options.reference),
        "all": measured(everything),
        "part": measured(everything.only(subset.read_text().split())),
    }
    start = time.perf_counter()
    average_precision(everything.detections, everything.targets, len(everything.classes))
    result["seconds_for_all"] = round(time.perf_counter() - start, 2)
    print(f"{'AP50 in %':12} published    here   difference   {result['part']['images']:,} images")
    for name, theirs in result["published"].items():
        ours, part = (result[key]["per_class"].get(name, result[key]["voc_all_points"]) for key in ("all", "part"))
        print(f"{name:12} {theirs:9.2f} {ours:7.2f} {ours - theirs:12.2f} {part:14.2f}")
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
