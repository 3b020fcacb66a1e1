"""What several commands need: a task from options, a trained network from a run folder, a result shown."""

import argparse
from typing import Any, get_args, get_origin, get_type_hints

import jsonargparse

from fptt import tasks
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.files import to_json
from fptt.tasks.base import Task, words_for
from fptt.training.loop import Trainer
from fptt.training.run import Run


def train_parser(task_class: Any) -> jsonargparse.ArgumentParser:
    """All settings of a task as options, and as keys of a config file."""
    assert task_class.__doc__
    others = ", ".join(name for name in tasks.TASKS if name != task_class.name)
    parser = jsonargparse.ArgumentParser(
        prog=f"fptt train {task_class.name}",
        description=f"{task_class.__doc__.splitlines()[0]} Other tasks: {others}; fptt train TASK --help.",
        print_config="--print-config",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings, such as the config.yaml of a run")
    if task_class.recipes:
        named = "; ".join(f"{name}: {_words(settings)}" for name, settings in task_class.recipes.items())
        parser.add_argument("--recipe", type=str | None, default=None, help=f"settings under a name ({named})")
    parser.add_argument("--out", type=str | None, default=None, help="run folder; default runs/TASK-RULE-NEURON-seedSEED")
    parser.add_argument("--resume", type=str | None, default=None, metavar="RUN", help="go on from the run's last checkpoint")
    parser.add_argument("--tensorboard", action="store_true", help="log for TensorBoard in RUN/tensorboard")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON and nothing else")
    for key in ("task", "format", "version"):  # the head of a run's config.yaml
        parser.add_argument(f"--{key}", default=None, help=argparse.SUPPRESS)
    hints = get_type_hints(task_class)
    for field in task_class.options():
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


def value_of(arguments: list[str], option: str) -> str | None:
    """The value that follows ``option``, if it is there."""
    for number, argument in enumerate(arguments):
        if argument == option and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith(option + "="):
            return argument.removeprefix(option + "=")
    return None


def files_first(arguments: list[str]) -> list[str]:
    """``arguments`` with files of settings before the other options, which count more wherever they stand."""
    files, rest, words = list[str](), list[str](), iter(arguments)
    for word in words:
        if word == "--config":
            files += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            (files if word.startswith("--config=") else rest).append(word)
    return files + rest


def make_task(task_class: Any, arguments: list[str]) -> tuple[Task, dict[str, Any]]:
    """The task with the settings that ``arguments`` give it, and all options."""
    parser = train_parser(task_class)
    if (recipe := value_of(arguments, "--recipe")) is not None:
        if recipe not in task_class.recipes:
            known = f"it has {', '.join(task_class.recipes)}" if task_class.recipes else "it has none"
            raise InputError(f"task '{task_class.name}' has no recipe '{recipe}': {known}")
        settings = task_class.recipes[recipe].items()
        parser.set_defaults({name: list(value) if isinstance(value, tuple) else value for name, value in settings})
    try:
        options = vars(parser.parse_args(files_first(arguments)))
    except argparse.ArgumentError as error:
        message = " ".join(str(error).split())
        raise InputError(f"{message} (see {parser.prog} --help)") from None
    for name in ("recipe", "resume"):
        if options.get(name) is not None and value_of(arguments, f"--{name}") is None:
            raise InputError(f"'{name}' counts in the command alone, not in a file of settings: give --{name} {options[name]}")
    settings = {field.name: options[field.name] for field in task_class.options()}
    if (network := settings.get("network")) is not None and value_of(arguments, "--network") is None:
        raise InputError(
            f"its network is made by {network}, which runs only where the command says so: add --network {network}"
        )
    return task_class(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}), options


def _words(settings: dict[str, Any]) -> str:
    return " ".join(word for item in settings.items() for word in words_for(*item))


def trained(options: argparse.Namespace) -> Trainer:
    """The trained network of a run, with its averaged weights."""
    run = Run.open(options.run)
    task_class = tasks.get(run.config()[0])
    given = [f"--{key}={value}" for key in ("data", "device", "network") if (value := getattr(options, key, None)) is not None]
    task, _ = make_task(task_class, ["--config", str(options.run / "config.yaml"), *given])
    trainer = Trainer(task, run)
    trainer.restore(keep_metrics=True)
    if trainer.average is not None:
        trainer.average.restart_from_average()
    return trainer


def chosen_set(trainer: Trainer, split: str) -> Samples:
    """The "test" or "validation" set of a run. Raises InputError where it has none."""
    _, validation_set, test_set = trainer.task.sets()
    samples = test_set if split == "test" else validation_set
    if not len(samples):
        raise InputError(f"{trainer.run.folder} was trained without a {split} set: choose another with --split")
    return samples


def add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="set to evaluate on (test)")


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="folder of the data sets, if not the one the run was trained with")
    parser.add_argument("--network", help="FILE.py:FUNCTION of the run, if it is of your own network: the file is executed")
    parser.add_argument("--device", help="torch device, if not the one the run was trained on")
    parser.add_argument("--json", action="store_true", help="print JSON")


def show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(to_json(result))
        return
    for key, value in result.items():
        if isinstance(value, float):
            value = f"{100 * value:.2f} %" if key.endswith(("accuracy", "map50")) else f"{value:.5g}"
        print(f"{key.replace('_', ' '):>20}  {value}")
