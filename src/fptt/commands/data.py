"""fptt data [check NAME | show NAME|FILE] [options]"""

import argparse
import json
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fptt.commands.common import show
from fptt.data import catalogue, published
from fptt.errors import InputError

USAGE = """fptt data [options]
       fptt data check NAME [options]
       fptt data show NAME|FILE [--sample N] [--frames N] [--out PICTURE] [options]"""
SQUARE = 480  # pixels to a side of the picture of an image with boxes
BINS = 200  # of the picture of a recording without rows, such as of a cochlea


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fptt data", usage=USAGE, description="List the data sets, check one, or draw a sample of one or a recording."
    )
    add = parser.add_argument
    add("action", nargs="?", choices=("list", "check", "show"), default="list", help="what to do (list)")
    add("name", nargs="?", help="data set; for show also the file of a recording")
    add(
        "--sample",
        type=int,
        default=0,
        help="number of the sample: of recordings in the order of their files, else of the test set (0)",
    )
    add("--frames", type=int, default=16, help="frames of equal duration that a recording is summed into (16)")
    add("--out", type=Path, help="picture (.png, .svg) or film (.gif) to write; default NAME-SAMPLE.png")
    add("--data", type=Path, help="folder of the data sets; default $FPTT_DATA, else ~/.cache/fptt")
    add("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.action == "list":
        return listed(options)
    if options.name is None:
        raise InputError(f"fptt data {options.action} needs a name: one that fptt data lists")
    show((checked if options.action == "check" else shown)(options), options.json)
    return 0


def listed(options: argparse.Namespace) -> int:
    rows = catalogue.status(catalogue.folder(options.data))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table("data set", "tasks", "contents", "licence", "found", "how to get it")
    for row in rows:
        found = f"{row['megabytes']} MB in {row['path']}" if row["megabytes"] else "yes" if row["found"] else "no"
        table.add_row(row["name"], ", ".join(row["tasks"]), row["contents"], row["licence"], found, row["get"])
    Console().print(table)
    return 0


def checked(options: argparse.Namespace) -> dict[str, Any]:
    """Read every sample of a data set and count them; InputError for the first that cannot be read, or if there are none."""
    from fptt import tasks

    root = catalogue.folder(options.data)
    item, path = catalogue.find(options.name, root)
    result: dict[str, Any] = {"data_set": item.name, "path": str(path or "the package")}
    if item.boxes:
        return {**result, **images_with_boxes(root), "readable": True}
    if not item.reader:
        train, validation, test = tasks.get(item.tasks[0])(data=str(root)).sets()
        return {**result, "training_samples": len(train) + len(validation), "test_samples": len(test), "readable": True}
    if path and (archives := published.compare(item.name, path)):
        result["archives"] = ", ".join(compared(archive, *sums) for archive, sums in archives.items())
    counts: Counter[Any] = Counter()
    for clip in catalogue.recordings(item, root).clips():
        counts[clip.test] += 1
        counts[f"class {clip.label}"] += 1
        counts["events"] += len(clip.events.t)
    classes = sum(1 for key in counts if str(key).startswith("class"))
    numbers = {"training_recordings": counts[False], "test_recordings": counts[True], "classes": classes}
    return {**result, **numbers, "events": counts["events"], "readable": True}


def compared(archive: Path, here: str, known: str) -> str:
    """Whether an archive is the published one; people repack them, so that another one is a warning only."""
    if here == known:
        return f"{archive.name} as published"
    warnings.warn(f"fptt: {archive} is not the published file: its md5 is {here}, that of the published {known}", stacklevel=2)
    return f"{archive.name} not as published"


def images_with_boxes(root: Path) -> dict[str, int]:
    """Read every image of PASCAL VOC with its annotation, and count what they hold."""
    from fptt.data import annotations, voc

    train, test = voc.listed(root, "trainval", "train", "val"), voc.listed(root, "test")
    if not train and not test:
        raise InputError(f"{root / 'VOCdevkit'} holds no lists of images: VOC2007/ImageSets/Main/trainval.txt and its like")
    counts, names = Counter[str](training_images=len(train), test_images=len(test)), set()
    for image in (*train, *test):
        _, rows, clipped = annotations.letterboxed_sample(image, 2, voc.CLASSES)
        counts.update(objects=len(rows), difficult_objects=int(rows[:, 5].sum()), clipped_boxes=clipped)
        names.update(rows[:, 0].tolist())
    return {**counts, "classes": len(names)}


def shown(options: argparse.Namespace) -> dict[str, Any]:
    """Draw a file's recording or a sample of a data set, as frames of events or as an image."""
    from fptt import pictures, plots
    from fptt.data import frames, recordings

    if options.frames < 1:
        raise InputError(f"--frames must be at least 1, got {options.frames}")
    name, facts, milliseconds = Path(options.name).name, dict[str, Any](), 1000.0
    if Path(options.name).is_file():
        events = recordings.read(Path(options.name))
    else:
        root = catalogue.folder(options.data)
        item, _ = catalogue.find(options.name, root)
        name = f"{item.name}-{options.sample}"
        if item.boxes:
            return boxes_shown(options, item, root)
        facts["label"], events, images = sample(options, item, root)
    if events is None:
        drawn, captions = pictures.coloured(images), [""]
        title = f"{name}: class {facts['label']}"
    else:
        facts |= {"events": len(events.t), "width": events.width, "height": events.height}
        facts["seconds"] = int(events.t[-1] - events.t[0]) / 1e6
        number = options.frames if events.height > 1 else BINS
        sums, milliseconds = frames.by_bins(events, number), 1000 * facts["seconds"] / number
        captions = [f"{n * milliseconds:.4g} ms" for n in range(number)]
        if events.height == 1:
            sums, captions = sums.transpose(2, 1, 3, 0), ["channels, over time"]
        drawn = pictures.coloured(sums)
        label = f"class {facts['label']}, " if "label" in facts else ""
        title = f"{name}: {label}{len(events.t):,} events in {facts['seconds']:.3g} s; blue ON, orange OFF"
    out = options.out or Path(f"{name}.png")
    if out.suffix.lower() == ".gif":
        pictures.film(drawn, out, milliseconds)
    else:
        plots.save(pictures.sheet(drawn, captions, title), out)
    return {"picture": str(out), **facts}


def boxes_shown(options: argparse.Namespace, item: catalogue.DataSet, root: Path) -> dict[str, Any]:
    """Draw an image of the test set, or else of the others, with its objects."""
    from fptt import pictures, plots
    from fptt.data import annotations, voc

    images = voc.listed(root, "test") or voc.listed(root, "trainval", "train", "val")
    check_number(options.sample, item, len(images))
    square, rows, _ = annotations.letterboxed_sample(images[options.sample], SQUARE, voc.CLASSES)
    names = [voc.CLASSES[int(label)] for label in rows[:, 0]]
    notes = [name + ", difficult" * int(row[5]) for name, row in zip(names, rows, strict=True)]
    image, out = images[options.sample].stem, options.out or Path(f"{item.name}-{options.sample}.png")
    drawn = pictures.boxed(square, rows[:, 1:5], notes)[None]
    plots.save(pictures.sheet(drawn, [""], f"{item.name}-{options.sample}: image {image}"), out)
    return {"picture": str(out), "image": image, "objects": names}


def check_number(number: int, item: catalogue.DataSet, size: int) -> None:
    if not 0 <= number < size:
        raise InputError(f"{item.name} has no sample {number}: choose --sample from 0 to {size - 1}")


def sample(options: argparse.Namespace, item: catalogue.DataSet, root: Path) -> tuple[int, Any, Any]:
    """The label of sample number ``--sample``, and its events or else its image [1, channels, height, width]."""
    from fptt import tasks

    number = options.sample
    if item.reader and number >= 0:
        for clip in islice(catalogue.recordings(item, root).clips(), number, None):
            return clip.label, clip.events, None
    if item.reader:
        raise InputError(f"{item.name} has no sample {number}: choose --sample from 0, and lower")
    test = tasks.get(item.tasks[0])(data=str(root)).sets()[2]
    check_number(number, item, len(test))
    image = np.asarray(test.x[number])
    if image.ndim < 2 or min(image.shape[-2:]) < 3:
        raise InputError(f"the samples of {item.name} are no images: nothing to draw")
    return int(test.y[number]), None, image.reshape(1, -1, *image.shape[-2:])
