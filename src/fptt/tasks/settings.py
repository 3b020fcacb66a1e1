"""A task's settings as words of the command, or as a file: how they are read, and what is said of wrong ones."""

import argparse
from typing import Any, get_args, get_origin, get_type_hints

import jsonargparse

from fptt import tasks
from fptt.errors import InputError
from fptt.tasks.base import Task, words_for


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
    for name, value in settings.items():
        if value is None and isinstance(getattr(task_class, name), tuple):
            raise InputError(f"--{name.replace('_', '-')} needs at least one number, got null")
    if (network := settings.get("network")) is not None and value_of(arguments, "--network") is None:
        raise InputError(f"its network is made by {network}, which runs only where it is named: add --network {network}")
    return task_class(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}), options


def _words(settings: dict[str, Any]) -> str:
    return " ".join(word for item in settings.items() for word in words_for(*item))
