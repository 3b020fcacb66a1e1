"""fptt evaluate RUN [options]"""

import argparse
from pathlib import Path

from fptt.commands.common import add_common, show, trained
from fptt.errors import InputError


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fptt evaluate", description="Test the last checkpoint of a run.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="set to evaluate on (test)")
    add_common(parser)
    options = parser.parse_args(arguments)
    trainer = trained(options)
    _, validation_set, test_set = trainer.task.sets()
    samples = test_set if options.split == "test" else validation_set
    if not len(samples):
        raise InputError(f"{options.run} was trained without a {options.split} set: choose another with --split")
    result = {"run": str(options.run), **trainer.task.notes(), "split": options.split, "samples": len(samples)}
    result |= trainer.evaluate(samples)
    show(result, options.json)
    return 0
