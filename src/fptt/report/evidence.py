"""What evidence is: trained runs, comparisons of many, and measurements."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fptt import tasks
from fptt.errors import InputError

UNIMPORTANT = {"seed", "data", "device", "threads", "compile", "out", "json", "tensorboard"}  # do not change what is learnt
SCORES = ("test_accuracy", "test_map50", "test_mse", "train_accuracy", "train_map50", "train_mse")


@dataclass(frozen=True)
class Result:
    """One trained network: a run folder, or a row of a comparison.

    ``path`` is that of the run or comparison, relative to the folder of evidence; ``summary`` is what summary.json holds;
    ``chosen`` is the setting that its comparison chose for each of its cells, if any.
    """

    path: str
    settings: dict[str, Any]
    summary: dict[str, Any]
    chosen: str | None = None

    def get(self, name: str) -> Any:
        """A setting or a figure of the summary, by name; None where it is not known.

        Settings that an older record does not hold are the task's defaults.
        """
        if name == "batches":  # all updates of the adding task: its epochs have no other meaning
            return (self.get("epochs") or 0) * (self.get("iterations") or 0)
        for known in (self.summary, self.settings):
            if name in known:
                return known[name]
        default = getattr(tasks.get(self.summary["task"]), name, None)
        return list(default) if isinstance(default, tuple) else default

    @cached_property
    def updates(self) -> int | None:
        """Updates per sequence, where its settings are still ones that can be had."""
        task: Any = tasks.get(self.summary["task"])
        known = {field.name for field in task.options()}
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in self.settings.items() if key in known}
        try:
            return task(**values).number_of_updates
        except (InputError, TypeError):
            return None

    @property
    def score(self) -> str | None:
        """The name of what it is judged by: the test set's where it has one."""
        return next((name for name in SCORES if name in self.summary), None)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The settings that bear on what is learnt, without the seed, which the run that it started from may be named after."""
        seed = re.compile(rf"[-_]?seed{self.get('seed')}\b")
        return {
            key: seed.sub("", value) if key == "start" and isinstance(value, str) else value
            for key, value in self.settings.items()
            if key not in UNIMPORTANT
        }


@dataclass(frozen=True)
class Group:
    """Runs in one folder, or of one comparison, that differ in nothing but their seed."""

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def top(self) -> str:
        """The folder in the folder of evidence that they are in."""
        return self.first.path.split("/")[0]

    def values(self, name: str) -> list[float]:
        return [result.summary[name] for result in self.results if name in result.summary]


@dataclass(frozen=True)
class Comparison:
    """A folder with the table of many runs: runs.csv, table.md, and perhaps more, such as picture.png.

    ``kept`` are the results without those of settings that were tried and not chosen.
    """

    path: str
    results: tuple[Result, ...]
    kept: tuple[Result, ...]
    table: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """A JSON file with the command that measured it; ``picture`` lies beside it under the same name."""

    path: str
    record: dict[str, Any]
    picture: str | None


@dataclass(frozen=True)
class Evidence:
    runs: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    measurements: tuple[Measurement, ...]
    pictures: tuple[str, ...]  # beside run folders, such as the curves of several

    @cached_property
    def groups(self) -> list[Group]:
        """Results of run folders and those that comparisons have kept, grouped over seeds."""
        return grouped([*self.runs, *(result for comparison in self.comparisons for result in comparison.kept)])


def grouped(results: Iterable[Result]) -> list[Group]:
    """Results in one folder with one recipe, in the order of their first, by seed."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        key = json.dumps([result.path.rpartition("/")[0], result.summary["task"], result.recipe], sort_keys=True, default=str)
        groups.setdefault(key, []).append(result)
    return [Group(tuple(sorted(group, key=lambda result: (result.get("seed"), result.path)))) for group in groups.values()]
