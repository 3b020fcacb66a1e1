"""The command ``fptt``. Each command is imported when it runs, so that ``fptt --help`` answers at once."""

import argparse
import io
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import fptt
from fptt.errors import InputError

COMMANDS = {
    "train": "train a network on a task, by default on handwritten digits",
    "evaluate": "test a trained run",
    "compare": "train a grid of tasks, rules, neurons and seeds, and make one table of it",
    "plot": "draw learning curves, spike rasters and membrane traces of runs",
    "export": "write a trained network as one file that runs without fptt",
    "benchmark": "measure speed and memory of the learning rules on this machine",
    "stream": "run a network on a recording as on a live stream, and go on learning",
    "detect": "find objects in images, videos, cameras and streams with a trained SPYv4",
    "web": "see in the browser what a trained SPYv4 finds, and which of its neurons fire",
    "report": "write a page on all runs and measurements in a folder, beside the published figures",
    "data": "list, check and show the data sets",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Errors that are the user's to mend are one line and status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal has no letters for, such as in names of files
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
            if arguments and arguments[0] in COMMANDS:
                import_module("fptt.training.precision").prepare_cpu()  # before data start a second thread
                status: int = import_module(f"fptt.commands.{arguments[0]}").run(arguments[1:])
                return status
            parser.parse_args(arguments)
            return 0
    except InputError as error:
        print(f"fptt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fptt: stopped at once, without saving", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line; those of other libraries by their first line."""
    first = str(message).strip().splitlines()[0]
    print(first if first.startswith("fptt:") else f"fptt: warning: {first}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
