"""What several commands need: the trained network of a run that options name, one of its sets, a result shown."""

import argparse
from typing import Any

from fptt import loading
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.files import to_json
from fptt.training.loop import Trainer


def trained(options: argparse.Namespace) -> Trainer:
    """The trained network of the run that the options name, with its averaged weights."""
    given = {key: getattr(options, key, None) for key in ("device", "data", "network")}
    return loading.trained(options.run, **given)


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
