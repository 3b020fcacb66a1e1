"""fptt stream FILE --run RUN [options]"""

import argparse
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import fptt
from fptt.commands.common import add_common, show, trained
from fptt.data import recordings
from fptt.data.events import Events
from fptt.data.live import Labels, Slice, paced, slices
from fptt.errors import InputError
from fptt.learning.fptt import FPTT
from fptt.streaming import Stream, StreamStep
from fptt.tasks.events import Recorded
from fptt.training.loop import Trainer, stop_on_signal
from fptt.training.run import Run

BAR = 30  # characters of a probability of 1


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fptt stream",
        description="Read a recording as a live stream: the network of a run takes one slice of events at a time, says what it "
        "sees, and with --learn goes on learning.",
    )
    add = parser.add_argument
    add("file", type=Path, help="recording of an event camera")
    add("--run", type=Path, required=True, help="folder of a run that was trained on events")
    add("--ms", type=float, help="duration of a slice in milliseconds; default: that of the run's frames where they have one")
    add("--events", type=int, help="number of events of a slice, instead of --ms")
    add("--learn", metavar="LABEL|CSV", help="learn with FPTT: one class, or a CSV file of label,start_us,end_us")
    add("--lr", type=float, help="learning rate of --learn; default: that of the run")
    add("--save", type=Path, metavar="DIR", help="with --learn, leave what was learnt as a new run folder")
    add("--realtime", action="store_true", help="no faster than the recording's own clock")
    add_common(parser)
    options = parser.parse_args(arguments)
    if options.save and options.learn is None:
        raise InputError("--save keeps what --learn has learnt: give --learn, or leave --save out")
    if options.lr is not None and not options.lr > 0:
        raise InputError(f"--lr must be positive, got {options.lr}")
    if options.lr is not None and options.learn is None:
        raise InputError("--lr is that of --learn: give --learn, or leave --lr out")
    if options.save and options.save.exists():
        raise InputError(f"{options.save} exists already: give --save a new folder")
    with kept_folder(options.save):
        return followed(options)


@contextmanager
def kept_folder(folder: Path | None) -> Iterator[None]:
    """``folder``, made beforehand, so that nothing is learnt that cannot be saved; gone where nothing was saved in it."""
    try:
        if folder:
            folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder} ({error.strerror}): give another --save") from None
    try:
        yield
    finally:
        if folder:
            with suppress(OSError):  # which holds what was saved
                folder.rmdir()


def followed(options: argparse.Namespace) -> int:
    """Run along the recording, as the options say."""
    trainer = trained(options)
    events = recordings.read(options.file)
    frame = frame_maker(trainer.task, events)
    pieces = slices(events, microseconds=duration(options, trainer.task), count=options.events)
    labels = None
    if options.learn is not None:
        labels = Labels.read(options.learn, trainer.task.outputs)
        trainer = learner(trainer, options.lr)
    trainer.model.eval()  # also to learn: batch norm keeps the statistics of its training
    stream = Stream(trainer.model, trainer.optimizer, trainer.loss) if labels else Stream(trainer.model)
    first = int(events.t[0])
    console = Console(highlight=False)
    rows, start = Tally(), time.perf_counter()
    with stop_on_signal() as stop:
        for piece in paced(pieces, first) if options.realtime else pieces:
            label = labels.at(piece.end - 1) if labels else None
            target = None if label is None else torch.tensor([label], device=trainer.device)
            step = stream.step(frame(piece.events).to(trainer.device), target)
            if step.loss is not None and not torch.isfinite(step.loss):
                raise InputError(f"the loss became {step.loss.item()} at step {stream.steps}: lower --lr; nothing was saved")
            row = rows.add(piece, step, label)
            if options.json:
                print(json.dumps(row), flush=True)
            else:
                console.print(line(row, first), soft_wrap=True)
            if stop.is_set():
                break
    seconds = time.perf_counter() - start
    summary = {
        "steps": stream.steps,
        "updates": stream.updates,
        **rows.summary(),
        "ms_per_step": 1000 * seconds / max(1, stream.steps),
        "recording_seconds": (int(events.t[-1]) - first) / 1e6,
        "seconds": seconds,
    }
    if options.save and not stream.updates:
        raise InputError(f"no label of {options.learn} applies to a step of {options.file}: nothing was learnt, nothing saved")
    if options.save:
        save(trainer, options, summary)
        summary["saved"] = str(options.save)
    show(summary, options.json)
    return 0


class Tally:
    """One row per step, and what they add up to."""

    def __init__(self) -> None:
        self.steps = self.known = self.right = 0
        self.probability: torch.Tensor | float = 0.0

    def add(self, piece: Slice, step: StreamStep, label: int | None) -> dict[str, Any]:
        probability = step.output.softmax(1)[0]
        best = int(probability.argmax())
        self.steps += 1
        self.probability = self.probability + probability
        if label is not None:
            self.known += 1
            self.right += best == label
        return {
            "step": self.steps,
            "us": piece.end,
            "events": len(piece.events.t),
            "class": best,
            "probability": round(float(probability[best]), 4),
            "label": label,
            "loss": None if step.loss is None else round(float(step.loss), 5),
        }

    def summary(self) -> dict[str, Any]:
        """The class with the highest mean probability and, where labels were known, the share of steps that were right."""
        if not self.steps:
            raise InputError("the recording is shorter than one slice: lower --events")
        assert isinstance(self.probability, torch.Tensor)
        mean = self.probability / self.steps
        known = {"accuracy": self.right / self.known} if self.known else {}
        return {"class": int(mean.argmax()), "probability": float(mean.max()), **known}


def line(row: dict[str, Any], first: int) -> str:
    """A step as text: time, events, class, probability as number and bar, and the label and loss where there is one."""
    bar = "█" * round(BAR * row["probability"])
    text = f"{(row['us'] - first) / 1000:10.1f} ms {row['events']:7,d} events   "
    text += f"class {row['class']:<3d} {row['probability']:.2f} {bar:<{BAR}}"
    if row["label"] is None:
        return text
    mark = "[green]right[/]" if row["label"] == row["class"] else "[red]wrong[/]"
    return f"{text} {mark}: label {row['label']}, loss {row['loss']:.3f}"


def frame_maker(task: Any, events: Events) -> Callable[[Events], torch.Tensor]:
    """Turns a slice into the network's input [1, channels, height, width], as the run's task turns recordings into frames."""
    if not isinstance(task, Recorded):
        raise InputError(f"task '{task.name}' of this run has no events: give --run a run of a task that reads recordings")
    framing = dataclasses.replace(task.framing, by="count", number=1)
    events = task.seen(events)
    if (events.width, events.height) != task.sensor:
        raise InputError(
            f"the recording is of {events.width} x {events.height} pixels, the run's network takes "
            f"{task.sensor[0]} x {task.sensor[1]}"
        )
    return lambda part: task.encode(torch.from_numpy(framing(task.seen(part)))[None], torch.Generator())[0]


def duration(options: argparse.Namespace, task: Recorded) -> int | None:
    """Microseconds of a slice, None where --events cuts the stream."""
    if options.ms is not None:
        if not (math.isfinite(options.ms) and options.ms > 0):
            raise InputError(f"--ms must be a positive number of milliseconds, got {options.ms}")
        return max(1, round(1000 * options.ms))
    if options.events is None and task.by != "duration":
        raise InputError(
            f"the run's frames were cut by {task.by} and say nothing of a stream: give --events or --ms of a slice"
        )
    return None if options.events is not None else task.microseconds


def learner(trainer: Trainer, lr: float | None) -> Trainer:
    """The trainer, or where another rule than FPTT trained the run, one of FPTT with its weights: one update per step."""
    if not isinstance(trainer.optimizer, FPTT):
        online = Trainer(dataclasses.replace(trainer.task, rule="fptt", parts=None), trainer.run)
        online.model.load_state_dict(trainer.model.state_dict())
        trainer = online
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.task.lr if lr is None else lr
    return trainer


def save(trainer: Trainer, options: argparse.Namespace, summary: dict[str, Any]) -> None:
    """A run folder of its own for what was learnt; the run it came from is left as it is."""
    before, trainer.run = trainer.run, Run(options.save)
    trainer.run.create(trainer.task)
    trainer.save()
    if (history := before.folder / "metrics.jsonl").exists():  # not of a run that was stopped in its first epoch
        shutil.copyfile(history, options.save / "metrics.jsonl")
    origin = {"task": trainer.task.name, "adapted_from": str(before.folder), "recording": str(options.file)}
    trainer.run.write_summary({**origin, **summary, "version": fptt.__version__})
