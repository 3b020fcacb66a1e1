"""fptt plot RUN... [options]"""

import argparse
from pathlib import Path

import torch

from fptt import plots
from fptt.commands.common import add_common, add_split, chosen_set, show, trained
from fptt.errors import InputError
from fptt.training.record import record
from fptt.training.run import Run


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fptt plot", description="Draw runs; the file's suffix chooses PNG or SVG.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; several share one set of curves")
    kinds = ("curves", "steps", "raster", "traces")
    parser.add_argument("--kind", choices=kinds, default="curves", help="what to draw (curves); steps: the score after each")
    parser.add_argument("--out", type=Path, help="picture to write; default RUN/KIND.png")
    parser.add_argument("--labels", nargs="+", help="names of the runs in the legend; default their folders' names")
    add_split(parser)
    parser.add_argument("--sample", type=int, default=0, help="sample of a raster or traces (0)")
    add_common(parser)
    options = parser.parse_args(arguments)
    out = options.out or options.runs[0] / f"{options.kind}.png"
    numbers = {}
    labels = options.labels or [folder.resolve().name for folder in options.runs]
    if options.kind in ("curves", "steps") and len(labels) != len(options.runs):
        raise InputError(f"--labels: {len(labels)} names for {len(options.runs)} runs; give one each")
    if options.kind == "steps":
        metric, values = every_step(options)
        figure = plots.steps(list(zip(labels, values, strict=True)), metric)
        numbers = {"runs": [{"run": str(folder), metric: after} for folder, after in zip(options.runs, values, strict=True)]}
    elif options.kind == "curves":
        runs = [(label, Run.open(folder).metrics()) for label, folder in zip(labels, options.runs, strict=True)]
        for (_, rows), folder in zip(runs, options.runs, strict=True):
            if not rows:
                raise InputError(f"{folder} has no finished epoch yet: nothing to draw")
            if ("mse" in rows[0]) != ("mse" in runs[0][1][0]):
                raise InputError(f"{options.runs[0]} and {folder} have other scores: draw each by itself")
        figure = plots.curves(runs)
    else:
        if len(options.runs) > 1:
            raise InputError(f"--kind {options.kind} draws one run, got {len(options.runs)}: give one")
        options.run = options.runs[0]
        trainer = trained(options)
        samples = chosen_set(trainer, options.split)
        if not 0 <= options.sample < len(samples):
            raise InputError(f"--sample {options.sample}: the {options.split} set has samples 0 to {len(samples) - 1}")
        x = samples.x[options.sample : options.sample + 1]
        sequence = trainer.task.encode(x, torch.Generator().manual_seed(0)).to(trainer.device)
        _, layers = record(trainer.model, sequence)
        if not layers:
            raise InputError(f"{options.run} holds no neurons of fptt ({trainer.task.kind}): it has no {options.kind}")
        title = f"{trainer.task.name}, {options.split} sample {options.sample}"
        if options.kind == "raster":
            figure = plots.raster(layers, title)
        else:
            figure = plots.traces(layers, title, b0=trainer.task.b0)
    plots.save(figure, out)
    show({"picture": str(out), **(numbers if options.json else {})}, options.json)
    return 0


def every_step(options: argparse.Namespace) -> tuple[str, list[list[float]]]:
    """The measure of the runs, and its values after every time step of each. Raises InputError where they have several."""
    rows, measures = [], []
    for folder in options.runs:
        options.run = folder
        trainer = trained(options)
        measures.append(trainer.task.metric)
        if measures[-1] != measures[0]:
            raise InputError(f"{options.runs[0]} has {measures[0]}, {options.run} {measures[-1]}: draw each by itself")
        rows.append(trainer.evaluate(chosen_set(trainer, options.split), every_step=True)["steps"][measures[0]])
    return measures[0], rows
