"""The command ``fptt``. Each command imports what it needs when it runs, so that ``fptt --help`` answers at once."""

import argparse
import dataclasses
import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import fptt
from fptt.errors import InputError

if TYPE_CHECKING:
    import jsonargparse

    from fptt.tasks.base import Task
    from fptt.training.loop import Trainer

COMMANDS = {
    "train": "train a network on a task, by default on handwritten digits",
    "evaluate": "test a trained run",
    "plot": "draw learning curves, spike rasters and membrane traces of runs",
    "benchmark": "measure speed and memory of the learning rules on this machine",
    "data": "list the data sets, where they are and how to get them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Errors that are the user's to mend are one line and status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="fptt",
        description="Online training of spiking neural networks with Forward Propagation Through Time.",
        epilog="fptt COMMAND --help shows the options of a command; with no more than 'fptt train', digits are learnt.",
    )
    parser.add_argument("--version", action="version", version=f"fptt {fptt.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, help in COMMANDS.items():
        commands.add_parser(name, help=help, add_help=False)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a compiler that has no CUDA to serve
            return _run(arguments, parser)
    except InputError as error:
        print(f"fptt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fptt: stopped at once, without saving", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def _run(arguments: list[str], parser: argparse.ArgumentParser) -> int:
    if arguments and arguments[0] in COMMANDS:
        handlers: dict[str, Callable[[list[str]], int]] = {
            "train": train,
            "evaluate": evaluate,
            "plot": plot,
            "benchmark": benchmark,
            "data": data,
        }
        return handlers[arguments[0]](arguments[1:])
    parser.parse_args(arguments)
    return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line; those of other libraries by their first line."""
    first = str(message).strip().splitlines()[0]
    print(first if first.startswith("fptt:") else f"fptt: warning: {first}", file=sys.stderr)


def train(arguments: list[str]) -> int:
    """fptt train [TASK] [options]"""
    from fptt import tasks

    resume, name = _value(arguments, "--resume"), "digits"
    if arguments and not arguments[0].startswith("-"):
        name, arguments = arguments[0], arguments[1:]
    elif resume:
        from fptt.training.run import Run

        name = Run.open(Path(resume)).config()[0]
        arguments = ["--config", str(Path(resume) / "config.yaml"), *arguments]
    elif config := _value(arguments, "--config"):
        name = _task_of(Path(config))
    task_class = tasks.get(name)
    task, settings = _task(task_class, arguments)

    from rich.console import Console

    from fptt import plots
    from fptt.progress import ConsoleReport, TensorBoardReport
    from fptt.training.loop import Stopped, Trainer
    from fptt.training.run import Run

    console = Console(stderr=True, quiet=settings["json"], highlight=False)
    train_set, validation_set, test_set = task.sets()  # what is wrong with the data is said before anything is written
    train_set = task.training_set(train_set, 0)
    train_set.number_of_batches(task.batch_size, drop_last=True)
    if resume:
        run = Run.open(Path(resume))
        trainer = Trainer(task, run)
        trainer.restore()
        run.write_config(task)
    else:
        name = f"{task.name}-{task.rule}-{task.neuron}-seed{task.seed}"
        run = Run(Path(settings["out"]) if settings["out"] else Run.free_folder(name))
        trainer = Trainer(task, run)
        run.create(task)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    console.print(
        f"[bold]{task.name}[/]: {task.rule} with {task.neuron}, {parameters:,} parameters; {task.time_steps} time steps, "
        f"{task.number_of_parts} update{'s' * (task.number_of_parts > 1)} per sequence; "
        f"{len(train_set):,} training, {len(validation_set):,} validation, {len(test_set):,} test "
        f"samples; {task.device}, seed {task.seed}\nrun folder: {run.folder}"
    )
    try:
        with ConsoleReport(console, task.metric, task.epochs) as report:
            summary = trainer.fit(TensorBoardReport(report, run.folder / "tensorboard") if settings["tensorboard"] else report)
    except Stopped:
        console.print(f"stopped and saved; go on with: fptt train --resume {run.folder}", soft_wrap=True)
        return 130
    plots.save(plots.curves([(task.name, run.metrics())]), run.folder / "curves.png")
    _show(summary, settings["json"])
    return 0


def evaluate(arguments: list[str]) -> int:
    """fptt evaluate RUN [options]"""
    parser = argparse.ArgumentParser(prog="fptt evaluate", description="Test the last checkpoint of a run.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="set to evaluate on (test)")
    _add_common(parser)
    options = parser.parse_args(arguments)
    trainer = _trained(options)
    _, validation_set, test_set = trainer.task.sets()
    samples = test_set if options.split == "test" else validation_set
    if not len(samples):
        raise InputError(f"{options.run} was trained without a validation set: choose --split test")
    result = {"run": str(options.run), "split": options.split, "samples": len(samples), **trainer.evaluate(samples)}
    _show(result, options.json)
    return 0


def plot(arguments: list[str]) -> int:
    """fptt plot RUN... [options]"""
    parser = argparse.ArgumentParser(prog="fptt plot", description="Draw runs; the file's suffix chooses PNG or SVG.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; several share one set of curves")
    parser.add_argument("--kind", choices=("curves", "raster", "traces"), default="curves", help="what to draw (curves)")
    parser.add_argument("--out", type=Path, help="picture to write; default RUN/KIND.png")
    parser.add_argument("--labels", nargs="+", help="names of the runs in the legend; default their folders' names")
    parser.add_argument("--sample", type=int, default=0, help="test sample of a raster or traces (0)")
    _add_common(parser)
    options = parser.parse_args(arguments)
    from fptt import plots
    from fptt.training.run import Run

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
        from fptt.training.record import record

        options.run = options.runs[0]
        trainer = _trained(options)
        test_set = trainer.task.sets()[2]
        if not 0 <= options.sample < len(test_set):
            raise InputError(f"--sample {options.sample}: the test set has samples 0 to {len(test_set) - 1}")
        import torch

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
    _show({"picture": str(out)}, options.json)
    return 0


def benchmark(arguments: list[str]) -> int:
    """fptt benchmark [options]"""
    from fptt.benchmark import VARIED, Point, measure, provenance

    defaults = Point()
    parser = argparse.ArgumentParser(
        prog="fptt benchmark",
        description="Measure step time, memory and start-up of the learning rules: each in its own process, taking turns.",
    )
    add = parser.add_argument
    add("--rules", nargs="+", choices=("fptt", "bptt", "tbptt"), default=["fptt", "bptt"], help="rules (fptt bptt)")
    add("--vary", choices=[name.replace("_", "-") for name in VARIED], default="time-steps", help="what varies (time-steps)")
    add("--values", nargs="+", type=int, default=[100, 200, 400], help="its values (100 200 400)")
    add("--neuron", choices=("ltc", "alif", "lif"), default=defaults.neuron, help=f"kind of neuron ({defaults.neuron})")
    for name in (*VARIED, "layers", "inputs"):
        value = getattr(defaults, name)
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"where it does not vary ({value})")
    add("--repeats", type=int, default=5, help="sequences of each, of whose times the median counts (5)")
    add("--eager", action="store_true", help="without the compiler")
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
    if options.out and not options.out.parent.is_dir():
        raise InputError(f"there is no folder {options.out.parent}: choose another --out")

    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, quiet=options.json, highlight=False)
    shared = {name: getattr(options, name) for name in (*VARIED, "neuron", "layers", "inputs", "device", "threads")}
    rows = []
    for value in options.values:
        console.print(f"{options.vary} {value} ...")
        settings = {**shared, varied: value, "compiled": not options.eager}
        rows += measure([Point(rule=rule, **settings) for rule in options.rules], options.repeats)
    result = {**provenance(shlex.join(["fptt", "benchmark", *arguments]), options.device), "rows": rows}
    if options.out:
        from fptt import plots

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


def data(arguments: list[str]) -> int:
    """fptt data [options]"""
    parser = argparse.ArgumentParser(prog="fptt data", description="List the data sets, where they are and how to get them.")
    parser.add_argument("--data", type=Path, help="folder of the data sets; default $FPTT_DATA, else ~/.cache/fptt")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    from fptt.data import catalogue

    rows = catalogue.status(catalogue.folder(options.data))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("data set", "tasks", "contents", "licence", "found", "how to get it")
    for row in rows:
        found = f"{row['megabytes']} MB in {row['path']}" if row["megabytes"] else "yes" if row["found"] else "no"
        table.add_row(row["name"], ", ".join(row["tasks"]), row["contents"], row["licence"], found, row["get"])
    Console().print(table)
    return 0


def _train_parser(task_class: Any) -> "jsonargparse.ArgumentParser":
    """All settings of a task as options, and as keys of a config file."""
    import jsonargparse

    from fptt import tasks

    assert task_class.__doc__
    others = ", ".join(name for name in tasks.TASKS if name != task_class.name)
    parser = jsonargparse.ArgumentParser(
        prog=f"fptt train {task_class.name}",
        description=f"{task_class.__doc__.splitlines()[0]} Other tasks: {others}; fptt train TASK --help.",
        print_config="--print-config",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings, such as the config.yaml of a run")
    parser.add_argument("--out", type=str | None, default=None, help="run folder; default runs/TASK-RULE-NEURON-seedSEED")
    parser.add_argument("--resume", type=str | None, default=None, metavar="RUN", help="go on from the run's last checkpoint")
    parser.add_argument("--tensorboard", action="store_true", help="log for TensorBoard in RUN/tensorboard")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON and nothing else")
    for key in ("task", "format", "version"):  # the head of a run's config.yaml
        parser.add_argument(f"--{key}", default=None, help=argparse.SUPPRESS)
    hints = get_type_hints(task_class)
    for field in dataclasses.fields(task_class):
        option, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        if hint in (bool, bool | None):
            action = jsonargparse.ActionYesNo(yes_prefix="", no_prefix="no-")
            parser.add_argument(option, action=action, default=field.default, help=field.metadata["help"])
        elif get_origin(hint) is tuple:
            parser.add_argument(
                option,
                type=get_args(hint)[0],
                nargs="+",
                default=list(getattr(task_class, field.name)),
                help=field.metadata["help"],
            )
        else:
            parser.add_argument(option, type=hint, default=field.default, help=field.metadata["help"])
    return parser


def _task(task_class: Any, arguments: list[str]) -> "tuple[Task, dict[str, Any]]":
    """The task with the settings that ``arguments`` give it, and all options."""
    parser = _train_parser(task_class)
    try:
        options = vars(parser.parse_args(arguments))
    except argparse.ArgumentError as error:
        message = " ".join(str(error).split())
        raise InputError(f"{message} (see {parser.prog} --help)") from None
    settings = {field.name: options[field.name] for field in dataclasses.fields(task_class)}
    return task_class(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}), options


def _value(arguments: list[str], option: str) -> str | None:
    """The value that follows ``option``, if it is there."""
    for number, argument in enumerate(arguments):
        if argument == option and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith(option + "="):
            return argument.removeprefix(option + "=")
    return None


def _task_of(path: Path) -> str:
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the config file {path} ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a config file: it must hold 'setting: value' lines")
    return str(content.get("task") or "digits")


def _trained(options: argparse.Namespace) -> "Trainer":
    """The trained network of a run, with its averaged weights."""
    from fptt import tasks
    from fptt.learning.fptt import FPTT
    from fptt.training.loop import Trainer
    from fptt.training.run import Run

    run = Run.open(options.run)
    task_class = tasks.get(run.config()[0])
    given = [f"--{key}={value}" for key in ("data", "device") if (value := getattr(options, key)) is not None]
    task, _ = _task(task_class, ["--config", str(options.run / "config.yaml"), *given])
    trainer = Trainer(task, run)
    trainer.restore(keep_metrics=True)
    if isinstance(trainer.optimizer, FPTT):
        trainer.optimizer.restart_from_average()
    return trainer


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="folder of the data sets, if not the one the run was trained with")
    parser.add_argument("--device", help="torch device, if not the one the run was trained on")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, float):
            value = f"{100 * value:.2f} %" if key.endswith("accuracy") else f"{value:.5g}"
        print(f"{key.replace('_', ' '):>20}  {value}")


if __name__ == "__main__":
    sys.exit(main())
