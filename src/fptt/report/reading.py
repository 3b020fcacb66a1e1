"""Reading a folder of evidence: run folders, comparisons of many runs, and measurements, wherever they lie in it."""

import csv
import json
import os
import shlex
from pathlib import Path
from typing import Any

import yaml

from fptt import tasks
from fptt.errors import InputError
from fptt.report.evidence import SCORES, Comparison, Evidence, Measurement, Result
from fptt.training.run import Run

RUN_FILES = {"config.yaml", "metrics.jsonl", "summary.json"}


def read(root: Path) -> Evidence:
    """The evidence in folder ``root``, in the order of its names.

    Raises InputError for what is missing or damaged, by the name of the file.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: give the folder of evidence")
    runs, comparisons, measurements, pictures = [], [], [], []
    for where, folders, files in os.walk(root):
        folder, names = Path(where), sorted(files)
        inside = folder.relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "runs.csv" in files:
            comparisons.append(_comparison(folder, prefix))
            folders.clear()
        elif RUN_FILES & set(files):
            if (run := _run(folder, inside)) is not None:
                runs.append(run)
            folders.clear()
        else:
            for name in names:
                if name.endswith(".json"):
                    picture = name.removesuffix(".json") + ".png"
                    record = _record(folder / name)
                    measurements.append(Measurement(prefix + name, record, prefix + picture if picture in files else None))
            drawn = {measurement.picture for measurement in measurements}
            pictures += [prefix + name for name in names if name.endswith(".png") and prefix + name not in drawn]
    return Evidence(tuple(runs), tuple(comparisons), tuple(measurements), tuple(pictures))


def _run(folder: Path, path: str) -> Result | None:
    """A run, or None for one that was adapted on a stream: no command of ``fptt train`` makes it again."""
    run = Run.open(folder)
    if not (folder / "metrics.jsonl").is_file():
        raise InputError(f"{folder / 'metrics.jsonl'} is missing: it belongs to the run")
    run.metrics()
    task, settings = run.config()
    if not isinstance(run.summary(), dict):
        raise InputError(f"{folder / 'summary.json'} is damaged: it is not the summary of a run")
    if "adapted_from" in run.summary():
        return None
    return _checked(Result(path, settings, {"task": task, **run.summary()}), folder / "summary.json")


def _comparison(folder: Path, prefix: str) -> Comparison:
    path = folder / "runs.csv"
    rows = [{name: plain(cell) for name, cell in row.items() if cell} for row in csv.DictReader(_text(path).splitlines())]
    choose, tried = _choice(folder)
    results = []
    for number, row in enumerate(rows, 1):
        words = shlex.split(str(row.get("command", "")))
        if len(words) < 3 or words[:2] != ["fptt", "train"]:
            raise InputError(f"{path}, row {number}: it has no command; write the table again with fptt compare")
        settings = settings_of(words)
        known = {name: value for name, value in row.items() if name not in settings}  # a column may be named as a setting
        results.append(_checked(Result(f"{prefix}runs.csv", settings, {**known, "task": words[2]}, choose), path))
    if not results:
        raise InputError(f"{path} has no rows; write the table again with fptt compare")
    files = tuple(path.name for path in sorted(folder.iterdir()) if path.is_file() and path.name != "table.md")
    kept = tuple(result for number, result in enumerate(results) if number not in tried)
    return Comparison(prefix.removesuffix("/"), tuple(results), kept, _text(folder / "table.md").strip(), files)


def _choice(folder: Path) -> tuple[str | None, set[int]]:
    """What a grid chooses for each of its cells, such as the rate, and the rows of runs.csv that were only tried on the way."""
    if not (folder / "grid.yaml").exists():
        return None, set()
    try:
        grid = yaml.safe_load(_text(folder / "grid.yaml"))
    except yaml.YAMLError as error:
        raise InputError(
            f"{folder / 'grid.yaml'} is damaged ({str(error).splitlines()[0]}): copy the grid there again"
        ) from None
    if not (isinstance(grid, dict) and grid.get("choose") and (folder / "table.csv").exists()):
        return None, set()
    rows, table = ([*csv.DictReader(_text(folder / name).splitlines())] for name in ("runs.csv", "table.csv"))
    axes = grid.get("vary", ())
    chosen = [[row.get(axis) for axis in axes] for row in table]
    return grid["choose"], {n for n, row in enumerate(rows) if [row.get(axis) for axis in axes] not in chosen}


def _checked(result: Result, path: Path) -> Result:
    tasks.get(result.summary["task"])
    for key in ("command", "version", "machine"):
        if key not in result.summary:
            raise InputError(f"{path} has no '{key}': it does not say where its figures come from")
    if result.score is None or not isinstance(result.summary[result.score], int | float):
        raise InputError(f"{path} has none of the figures that a run is judged by ({', '.join(SCORES)})")
    return result


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): measure it again") from None
    if not isinstance(record, dict) or not {"command", "version", "machine"} <= set(record):
        raise InputError(f"{path} does not say with which command, version and machine it was measured")
    rows = record.get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is damaged: its rows are no list of named values")
    return record


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None


def settings_of(words: list[str]) -> dict[str, Any]:
    """All settings of a run by its command ``fptt train TASK --lr 0.01 --hidden 8 8 --no-flip``: those given, and defaults."""
    fields = tasks.get(words[2]).options()
    settings = {field.name: list(field.default) if isinstance(field.default, tuple) else field.default for field in fields}
    given: dict[str, list[Any]] = {}
    name = ""
    for word in words[3:]:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            given[name] = []
        elif name:
            given[name].append(plain(word))
    for name, values in given.items():
        if not values:
            settings[name.removeprefix("no_")] = not name.startswith("no_")
        else:
            settings[name] = values if isinstance(settings.get(name), list) else values[0]
    return settings


def plain(word: str) -> Any:
    """A word as the number or truth value that it is, else as it is."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(word.lower(), word)
