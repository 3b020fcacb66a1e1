"""fptt plot RUN... [options]"""

import argparse
from pathlib import Path

import torch

from fptt import plots
from fptt.commands.common import add_common, show, trained
from fptt.errors import InputError
from fptt.training.record import record
from fptt.training.run import Run


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fptt plot", description="Draw runs; the file's suffix chooses PNG or SVG.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; several share one set of curves")
    parser.add_argument("--kind", choices=("curves", "raster", "traces"), default="curves", help="what to draw (curves)")
    parser.add_argument("--out", type=Path, help="picture to write; default RUN/KIND.png")
    parser.add_argument("--labels", nargs="+", help="names of the runs in the legend; default their folders' names")
    parser.add_argument("--sample", type=int, default=0, help="test sample of a raster or traces (0)")
    add_common(parser)
    options = parser.parse_args(arguments)
    out = options.out or options.runs[0] / f"{options.kind}.png"
    if options.kind == "curves":
        labels = options.labels or [folder.resolve().name for folder in options.runs]
        if len(labels) != len(options.runs):
            raise InputError(f"--labels: {len(labels)} names for {len(options.runs)} runs; give one each")
        runs = [(label, Run.open(folder).metrics()) for label, folder in zip(labels, options.runs, strict=True)]
        for (_, rows), folder in zip(runs, options.runs, strict=True):
            if not rows:
                raise InputError(f"{folder} has no finished epoch yet: nothing to draw")
        figure = plots.curves(runs)
    else:
        options.run = options.runs[0]
        trainer = trained(options)
        test_set = trainer.task.sets()[2]
        if not 0 <= options.sample < len(test_set):
            raise InputError(f"--sample {options.sample}: the test set has samples 0 to {len(test_set) - 1}")
        x = test_set.x[options.sample : options.sample + 1]
        sequence = trainer.task.encode(x, torch.Generator().manual_seed(0)).to(trainer.device)
        _, layers = record(trainer.model, sequence)
        if not layers:
            raise InputError(f"{options.run} holds a network without spikes ({trainer.task.neuron}): it has no {options.kind}")
        title = f"{trainer.task.name}, test sample {options.sample}"
        if options.kind == "raster":
            figure = plots.raster(layers, title)
        else:
            figure = plots.traces(layers, title, b0=trainer.task.b0)
    plots.save(figure, out)
    show({"picture": str(out)}, options.json)
    return 0
