"""fptt benchmark [options]"""

import argparse
import json
import shlex
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from fptt import plots
from fptt.arithmetic import open_device, usable
from fptt.benchmark import VARIED, Point, measure, provenance
from fptt.errors import InputError
from fptt.learning.rules import Rule
from fptt.models.sequence import Readout
from fptt.training.precision import Precision, check_precision

OTHERS = ("parts", "window", "neuron", "readout", "layers", "inputs", "detector", "precision", "device", "threads")


def run(arguments: list[str]) -> int:
    defaults = Point()
    parser = argparse.ArgumentParser(
        prog="fptt benchmark",
        description="Measure step time, memory and start-up of the learning rules: each in its own process, taking turns.",
    )
    add = parser.add_argument
    add("--rules", nargs="+", choices=get_args(Rule), default=["fptt", "bptt"], help="rules (fptt bptt)")
    add("--parts", type=int, help="updates per sequence, of rules that have a choice; default as fptt train")
    add("--window", type=int, default=defaults.window, help=f"steps that online-bptt goes back through ({defaults.window})")
    add("--vary", choices=[name.replace("_", "-") for name in VARIED], default="time-steps", help="what varies (time-steps)")
    add("--values", nargs="+", type=int, default=[100, 200, 400], help="its values (100 200 400)")
    add("--neuron", choices=("ltc", "alif", "lif"), default=defaults.neuron, help=f"kind of neuron ({defaults.neuron})")
    add("--readout", choices=get_args(Readout), default=defaults.readout, help="as of fptt train; ottt and eprop need fixed")
    for name in (*VARIED, "layers", "inputs"):
        value = getattr(defaults, name)
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"where it does not vary ({value})")
    add("--channels", type=int, nargs="+", default=[], help="convolutional layers of so many channels, on images of 28 x 28")
    add("--detector", type=int, default=0, metavar="SIZE", help="the detector SPYv4 on images of SIZE x SIZE")
    add("--repeats", type=int, default=5, help="sequences of each, of whose times the median counts (5)")
    add("--eager", action="store_true", help="without the compiler")
    add("--precision", choices=get_args(Precision), default=defaults.precision, help="of matrix products (float32)")
    add("--device", default=defaults.device, help="torch device (cpu)")
    add("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    add("--out", type=Path, help="write OUT.json and the picture OUT.png")
    add("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    varied = options.vary.replace("-", "_")
    numbers = {name: getattr(options, name) for name in (*VARIED, "layers", "inputs", "repeats")}
    for name, value in (*numbers.items(), *((varied, value) for value in options.values)):
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    for rule in options.rules:
        check_precision(options.precision, rule)
    if options.out and not options.out.parent.is_dir():
        raise InputError(f"there is no folder {options.out.parent}: choose another --out")

    console = Console(stderr=True, quiet=options.json, highlight=False)
    shared = {name: getattr(options, name) for name in (*VARIED, *OTHERS)}
    shared["channels"] = tuple(options.channels)
    shared["precision"] = usable(options.precision, open_device(options.device))
    rows = []
    for value in options.values:
        console.print(f"{options.vary} {value} ...")
        settings = {**shared, varied: value, "compiled": not options.eager}
        rows += measure([Point(rule=rule, **settings) for rule in options.rules], options.repeats)
    result = {**provenance(shlex.join(["fptt", "benchmark", *arguments]), options.device), "rows": rows}
    if options.out:
        options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        plots.save(plots.benchmark(rows, varied), options.out.with_suffix(".png"))
    if options.json:
        print(json.dumps(result))
        return 0
    table = Table("rule", options.vary, "ms per step", "s per sequence", "training MB", "start-up s")
    for row in rows:
        figures = (f"{row['step_ms']:.2f}", f"{row['sequence_s']:.3f}", f"{row['training_mb']:.0f}", f"{row['start_up_s']:.1f}")
        table.add_row(row["rule"], str(row[varied]), *figures)
    Console().print(table)
    return 0
