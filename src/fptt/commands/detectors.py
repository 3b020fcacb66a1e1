"""What several commands need of detectors: one from a file of weights or a run folder, and what it says of itself."""

from pathlib import Path
from typing import Any

from fptt.arithmetic import open_device
from fptt.detection.detector import PACKAGED, Detector
from fptt.errors import InputError
from fptt.loading import trained
from fptt.models.spyv4 import SPYv4
from fptt.training.run import Run


def open_detector(place: Path | None, device: str = "cpu", **options: Any) -> Detector:
    """The detector of a file of weights or of a run folder; None: of the file that comes with fptt."""
    open_device(device)
    if place is None or not place.is_dir():
        return Detector.load(place, device=device, **options)
    from fptt.tasks.voc import VOC

    trainer = trained(place, device=device)
    task = trainer.task
    if not isinstance(task, VOC) or not isinstance(trainer.model, SPYv4):
        raise InputError(f"task '{task.name}' of {place} finds no objects: give a run of task 'voc', or a file of weights")
    training = {"command": task.command(), **(Run(place).summary() if (place / "summary.json").exists() else {})}
    return Detector(trainer.model, task.head, task.classes, task.length, training=training, device=device, **options)


def described(detector: Detector, place: Path | None) -> str:
    """Which weights are used, and how good they are."""
    size, training = detector.model.size, detector.training
    text = f"{place or PACKAGED.name}: {len(detector.names)} classes, {size} x {size} pixels, {detector.steps} steps an image, "
    for kind in ("test", "validation"):
        if f"{kind}_map50" in training:
            return text + f"mean average precision {100 * training[f'{kind}_map50']:.1f} % on its {kind} set"
    return text + "of unknown precision"
