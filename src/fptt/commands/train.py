"""fptt train [TASK] [options]"""

from pathlib import Path

import yaml
from rich.console import Console

from fptt import plots, tasks
from fptt.commands.common import show
from fptt.errors import InputError
from fptt.progress import ConsoleReport, TensorBoardReport
from fptt.tasks.settings import make_task, value_of
from fptt.training.loop import Stopped, Trainer
from fptt.training.run import Run


def run(arguments: list[str]) -> int:
    resume, config, name = value_of(arguments, "--resume"), value_of(arguments, "--config"), None
    if arguments and not arguments[0].startswith("-"):
        name, arguments = arguments[0], arguments[1:]
    if resume:
        config = str(Path(resume) / "config.yaml")
        found: str | None = Run.open(Path(resume)).config()[0]
        arguments = ["--config", config, *arguments]
    else:
        found = task_named_in(Path(config)) if config else None
    if name and found and name != found:
        raise InputError(f"{config} is of task '{found}', not '{name}': leave the task out")
    task_class = tasks.get(name or found or "digits")
    task, settings = make_task(task_class, arguments)

    console = Console(stderr=True, quiet=settings["json"], highlight=False)
    train_set, validation_set, test_set = task.sets()  # what is wrong with the data is said before anything is written
    train_set = task.training_set(train_set, 0)
    train_set.number_of_batches(task.batch_size, drop_last=True)
    if resume:
        run = Run.open(Path(resume))
        trainer = Trainer(task, run)
        trainer.restore()
        if task.epochs < trainer.epoch:
            raise InputError(f"{run.folder} has {trainer.epoch} epochs already: give --epochs {trainer.epoch} or more")
        run.write_config(task)
    else:
        name = f"{task.name}-{task.rule}-{task.kind}-seed{task.seed}"
        run = Run(Path(settings["out"]) if settings["out"] else Run.free_folder(name))
        trainer = Trainer(task, run)
        trainer.create()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    console.print(
        f"[bold]{task.name}[/]: {task.rule} with {task.kind}, {parameters:,} parameters; {task.time_steps} time steps, "
        f"{task.number_of_updates} update{'s' * (task.number_of_updates > 1)} per sequence; "
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
    show(summary, settings["json"])
    return 0


def task_named_in(path: Path) -> str | None:
    """The task that a file of settings is for, if it says so."""

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the config file {path} ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a config file: it must hold 'setting: value' lines")
    return None if content.get("task") is None else str(content["task"])
