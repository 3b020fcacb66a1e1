"""A grid of runs from one file, and the table that they make: ``fptt compare``.

settings: {task: smnist, pool: 2, hidden: [64]}     # of all runs, as in a run's config.yaml; {seed} in a text is the run's seed
vary:                                               # every combination is a cell of the table
  neuron: [ltc, lif]                                # values of a setting of that name,
  rule:                                             # or names, and the settings that each stands for
    FPTT: {rule: fptt}
    FPTT-K: {rule: fptt, parts: 14}
    BPTT: {rule: bptt}
seeds: [0, 1, 2]                                    # every cell is run with each; [0] unless given
except: [{rule: BPTT, neuron: ltc}]                 # cells that are left out
baseline: {rule: BPTT}                              # what each cell is compared with, seed by seed
choose: lr                                          # of this axis, each cell has the name that is best on its validation set
"""

import csv
import io
import itertools
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fptt.errors import InputError

KEYS = ("settings", "vary", "seeds", "except", "baseline", "choose")
SCORES = {"test_accuracy": "test accuracy", "test_map50": "test AP50", "test_mse": "test error"}  # of a summary
Row = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """A run of the grid: its name on each axis, its seed, and its settings."""

    labels: dict[str, str]
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Folder of the run."""
        return (
            "-".join(re.sub(r"[^\w.]+", "-", label).strip("-").lower() for label in self.labels.values()) + f"-seed{self.seed}"
        )


@dataclass(frozen=True)
class Grid:
    """A grid file that was read: the names of its axes, all its runs, the baseline's names, and the axis that is chosen on."""

    axes: tuple[str, ...]
    planned: list[Planned]
    baseline: dict[str, str]
    choose: str | None = None

    @classmethod
    def read(cls, path: Path) -> "Grid":
        """Raises InputError where the file cannot be read or is no grid."""
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"cannot read the grid {path} ({type(error).__name__})") from None
        if not isinstance(content, dict) or not isinstance(content.get("vary"), dict) or not content["vary"]:
            raise InputError(f"{path} is no grid: it needs 'vary', a mapping from settings to their values")
        if unknown := [key for key in content if key not in KEYS]:
            raise InputError(f"{path}: unknown key '{unknown[0]}'; a grid has {', '.join(KEYS)}")
        if not isinstance(content.get("settings", {}), dict):
            raise InputError(f"{path}: 'settings' must be a mapping from settings to values")
        if found := [name for name in ("seed", "out", "resume") if name in content.get("settings", {})]:
            raise InputError(f"{path}: '{found[0]}' is no setting of a comparison: list seeds under 'seeds', and give --out")
        axes = {str(name): cls._values(path, str(name), values) for name, values in content["vary"].items()}
        seeds, left_out = content.get("seeds", [0]), content.get("except", [])
        if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
            raise InputError(f"{path}: 'seeds' must be a list of whole numbers, got {seeds}")
        baseline = content.get("baseline", {})
        if not (isinstance(left_out, list) and all(isinstance(cell, dict) for cell in (*left_out, baseline))):
            raise InputError(
                f"{path}: 'except' must be a list of cells and 'baseline' a cell, each a mapping from axes to names"
            )
        for names in (*left_out, baseline):
            for axis, name in names.items():
                if label(name) not in axes.get(axis, {}) and not (axis == "seed" and names is not baseline and name in seeds):
                    raise InputError(f"{path}: there is no '{axis}: {name}' among what varies")
        choose = content.get("choose")
        if choose is not None and (choose not in list(axes) or choose in baseline or len(axes) == 1):
            raise InputError(f"{path}: 'choose' must be one of several axes under 'vary' and not in 'baseline', got {choose}")
        planned = cls._planned(content, axes, seeds, left_out)
        if not planned:
            raise InputError(f"{path}: 'except' leaves nothing to train")
        return cls(tuple(axes), planned, {axis: label(name) for axis, name in baseline.items()}, choose)

    @staticmethod
    def _planned(content: Any, axes: dict[str, dict[str, dict[str, Any]]], seeds: Any, left_out: Any) -> list[Planned]:
        """All runs, but for those that are left out."""
        planned = []
        for *names, seed in itertools.product(*axes.values(), dict.fromkeys(seeds)):
            labels = dict(zip(axes, names, strict=True))
            place = {**labels, "seed": str(seed)}
            if any(all(place[axis] == label(name) for axis, name in cell.items()) for cell in left_out):
                continue
            settings = dict(content.get("settings", {}))
            for axis, name in labels.items():
                settings |= axes[axis][name]
            settings = {
                key: value.replace("{seed}", str(seed)) if isinstance(value, str) else value for key, value in settings.items()
            }
            planned.append(Planned(labels, seed, {**settings, "seed": seed}))
        return planned

    @staticmethod
    def _values(path: Path, axis: str, values: Any) -> dict[str, dict[str, Any]]:
        """The settings by the names on an axis."""
        if axis == "seed":
            raise InputError(f"{path}: the seed is no axis of the table; list its values under 'seeds'")
        if isinstance(values, list) and values:
            return {label(value): {axis: value} for value in values}
        if isinstance(values, dict) and values and all(isinstance(settings, dict | None) for settings in values.values()):
            return {label(name): settings or {} for name, settings in values.items()}
        raise InputError(f"{path}: '{axis}' must be a list of values, or a mapping from names to settings")

    @property
    def cell_axes(self) -> tuple[str, ...]:
        """The axes that tell the table's rows apart."""
        return tuple(axis for axis in self.axes if axis != self.choose)

    def cell(self, labels: Row) -> tuple[str, ...]:
        return tuple(labels[axis] for axis in self.cell_axes)

    def candidates(self) -> list[Planned]:
        """The runs that decide what is chosen, those with each cell's first seed; none where nothing is to be."""
        first = {self.cell(plan.labels): plan.seed for plan in reversed(self.planned)}
        return [plan for plan in self.planned if self.choose and plan.seed == first[self.cell(plan.labels)]]

    def chosen(self, rows: list[Row]) -> list[Planned]:
        """The runs of the table, by the validation scores of ``rows``: all of them where nothing is to be chosen."""
        if not self.choose:
            return self.planned
        best: dict[tuple[str, ...], tuple[float, str]] = {}
        candidates = {(*plan.labels.values(), plan.seed) for plan in self.candidates()}
        for row in rows:
            if (*(row[axis] for axis in self.axes), row["seed"]) in candidates:
                found = (validation_score(row), row[self.choose])
                best[self.cell(row)] = max(best.get(self.cell(row), found), found, key=lambda pair: pair[0])
        names = {cell: name for cell, (_, name) in best.items()}
        return [plan for plan in self.planned if plan.labels[self.choose] == names.get(self.cell(plan.labels))]

    def table(self, rows: list[Row]) -> list[Row]:
        """One row per cell that was run: names, what was chosen, number of runs, and means over them.

        ``mean`` and ``sd`` are of the test score, ``difference`` and ``difference_sd`` of its differences from the baseline's
        with the same seed; standard deviations are those of samples, None for a single one.
        """
        chosen = {self.cell(plan.labels): plan.labels for plan in self.chosen(rows)}
        cells: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            labels = chosen.get(cell := self.cell(row), {})
            if labels and all(row[axis] == name for axis, name in labels.items()):
                cells.setdefault(cell, []).append(row)
        result = []
        for cell in dict.fromkeys(self.cell(plan.labels) for plan in self.planned):
            if (own := cells.get(cell)) is None:
                continue
            labels = chosen[cell]
            of_baseline = {row["seed"]: score(row)[1] for row in cells.get(self.cell({**labels, **self.baseline}), [])}
            compared = [score(row)[1] - of_baseline[row["seed"]] for row in own if row["seed"] in of_baseline]
            result.append(
                {
                    **{axis: labels[axis] for axis in (*self.cell_axes, *([self.choose] if self.choose else []))},
                    "runs": len(own),
                    "score": score(own[0])[0],
                    **spread("mean", "sd", [score(row)[1] for row in own]),
                    **(spread("difference", "difference_sd", compared) if self.baseline else {}),
                    "firing_rate": statistics.fmean(row["firing_rate"] for row in own),
                    "peak_memory_mb": statistics.fmean(row["peak_memory_mb"] for row in own),
                    "training_seconds": statistics.fmean(row["training_seconds"] for row in own),
                    "parameters": own[0]["parameters"],
                }
            )
        return result

    def markdown(self, table: list[Row]) -> str:
        """``table`` to be read."""
        against = " ".join(self.baseline.values())
        scores = list(dict.fromkeys(row["score"] for row in table))
        axes = [*self.cell_axes, *([self.choose] if self.choose else [])]
        head = [*axes, "runs", " / ".join(SCORES[name] for name in scores)]
        head += [f"difference from {against}"] * bool(self.baseline) + ["firing rate", "peak memory", "training"]
        lines = [head, ["---"] * len(head)]
        for row in table:
            percent = row["score"] != "test_mse"
            cells = [*(row[axis] for axis in axes), str(row["runs"]), with_spread(row["mean"], row["sd"], percent)]
            if self.baseline:
                own = all(row[axis] == name for axis, name in self.baseline.items())
                cells.append("" if own else with_spread(row["difference"], row["difference_sd"], percent, signed=True))
            fires = "" if math.isnan(row["firing_rate"]) else f"{row['firing_rate']:.3f}"  # without spikes
            cells += [fires, f"{row['peak_memory_mb']:.0f} MB", f"{row['training_seconds']:.0f} s"]
            lines.append(cells)
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def label(value: Any) -> str:
    """The name of a value of a setting."""
    if isinstance(value, list):
        return " ".join(map(label, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def score(row: Row) -> tuple[str, float]:
    """Name and value of a summary's test score. Raises InputError where there is none."""
    for name in SCORES:
        if row.get(name) is not None:
            return name, row[name]
    raise InputError(f"a run without a test set cannot be compared: {row.get('command')}")


def validation_score(row: Row) -> float:
    """Of the last epoch, higher is better. Raises InputError where a row has none."""
    for name in SCORES:
        if (value := row.get(name.replace("test_", "validation_"))) is not None:
            return -value if name == "test_mse" else value
    raise InputError(f"nothing can be chosen by a run that was not validated, give its task a validation set: {row['command']}")


def spread(mean: str, sd: str, values: list[float]) -> Row:
    return {
        mean: statistics.fmean(values) if values else None,
        sd: statistics.stdev(values) if len(values) > 1 else None,
    }


def with_spread(mean: float | None, sd: float | None, percent: bool, signed: bool = False) -> str:
    if mean is None:
        return ""
    if not percent:
        return f"{mean:{'+' if signed else ''}.4f}" + ("" if sd is None else f" ± {sd:.4f}")
    text = f"{100 * mean:{'+' if signed else ''}.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")
    return text + (" points" if signed else " %")


def write_csv(rows: list[Row]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path, axes: tuple[str, ...]) -> list[Row]:
    """The rows of a runs.csv, numbers as numbers; none where there is no file. Raises InputError where it is damaged."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = [{key: text if key in axes else number(text) for key, text in row.items()} for row in csv.DictReader(file)]
        for row in rows:
            score(row)
            if missing := [key for key in ("seed", "command", "training_seconds", *axes) if row.get(key) is None]:
                raise KeyError(missing[0])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise InputError(f"{path} is no record of this grid's runs ({type(error).__name__} {error}): move it away") from None
    return rows


def number(text: str) -> Any:
    """What a cell of a CSV file holds: None, a number, or the text itself."""
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
