"""What the notebooks read from results/: run folders, measurements and comparisons, as data frames."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from fptt.report.evidence import Result
from fptt.training.run import Run

RESULTS = Path(__file__).parents[2] / "results"
SCORES = ("accuracy", "map50", "mse")


def runs(*patterns: str) -> pd.DataFrame:
    """One row for each finished run folder that matches, by its path in results/: its settings and its summary.

    ``score`` is that of the test set, or of the training set where there is no other; ``of`` says which, ``metric`` its kind.
    Numbers of samples are blank where a summary has none.
    """
    rows: dict[str, dict[str, Any]] = {}
    for pattern in patterns:
        for path in sorted(RESULTS.glob(f"{pattern}/summary.json")):
            run = Run.open(path.parent)
            settings, summary = run.config()[1], run.summary()
            start = Result(str(path), settings, summary).recipe.get("start")  # alike for all seeds
            row = settings | summary | {"start": start}
            name = next(f"{of}_{kind}" for of in ("test", "train") for kind in SCORES if f"{of}_{kind}" in row)
            of, _, metric = name.partition("_")
            read = {"train_samples": "", "test_samples": "", **row, "score": row[name], "of": of, "metric": metric}
            rows[path.parent.relative_to(RESULTS).as_posix()] = read
    return pd.DataFrame.from_dict(rows, orient="index")


def cells(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Runs of one size of network and alike in ``by`` as one row each: number, mean and standard deviation of the score."""
    groups = runs.assign(runs=1, network=runs.parameters).groupby([*by, "network"], sort=False, dropna=False)
    table = groups.agg(
        runs=("runs", "sum"),
        mean=("score", "mean"),
        sd=("score", "std"),
        metric=("metric", "first"),
        of=("of", "first"),
        parameters=("parameters", "first"),
        firing_rate=("firing_rate", "mean"),
        minutes=("seconds_per_epoch", lambda s: (s * runs.loc[s.index, "epochs"]).mean() / 60),
    )
    table.insert(1, "score", [spread(*row) for row in table[["mean", "sd", "metric"]].itertuples(index=False)])
    return table.droplevel("network").drop(columns=["mean", "sd", "metric"]).round({"firing_rate": 3, "minutes": 1})


def spread(mean: float, sd: float, metric: str) -> str:
    """A score and its standard deviation, if any, in percent or as an error."""
    if metric == "mse":
        return f"{mean:.4f}" + ("" if pd.isna(sd) else f" ± {sd:.4f}")
    return f"{100 * mean:.2f}" + ("" if pd.isna(sd) else f" ± {100 * sd:.2f}") + (" % AP50" if metric == "map50" else " %")


def epochs(runs: pd.DataFrame, label: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Label and rows of metrics of each run, for ``fptt.plots.curves``; ``label`` with columns in braces."""
    return [
        (label.format(**row, run=name), Run.open(RESULTS / name).metrics())
        for name, row in zip(runs.index, runs.to_dict("records"), strict=True)
    ]


def record(name: str) -> dict[str, Any]:
    """The measurement results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def comparisons(*patterns: str) -> dict[str, pd.DataFrame]:
    """The tables of the grids of runs that ``fptt compare`` left in folders that match, by the folders' names."""
    folders = [path.parent for pattern in patterns for path in sorted(RESULTS.glob(f"{pattern}/table.csv"))]
    return {folder.relative_to(RESULTS).as_posix(): compared(pd.read_csv(folder / "table.csv")) for folder in folders}


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """A comparison's table, its scores with their spread and in percent where they are shares."""
    axes = list(table.columns[: table.columns.get_loc("runs")])
    metrics = table["score"].str.removeprefix("test_")
    shown = table[[*axes, "runs"]].copy()
    shown["score"] = [spread(*row) for row in zip(table["mean"], table["sd"], metrics, strict=True)]
    if "difference" in table:
        both = zip(table["difference"], table["difference_sd"], metrics, strict=True)
        shown["difference"] = ["" if pd.isna(d) else ("+" if d > 0 else "") + spread(d, sd, m) for d, sd, m in both]
    shown["firing_rate"] = table["firing_rate"].round(3)
    shown["memory_mb"] = table["peak_memory_mb"].round().astype(int)
    shown["minutes"] = (table["training_seconds"] / 60).round(1)
    return shown.set_index(axes)


def clear_differences(name: str) -> list[str]:
    """Of a comparison, the cells that differ from the baseline with 95 % confidence, by Student's t over the seeds."""
    table = pd.read_csv(RESULTS / name / "table.csv")
    if "difference_sd" not in table:
        return []
    axes = list(table.columns[: table.columns.get_loc("runs")])
    found = []
    for row in table.dropna(subset=["difference_sd"]).to_dict("records"):
        half = stats.t.ppf(0.975, row["runs"] - 1) * row["difference_sd"] / math.sqrt(row["runs"])
        if abs(row["difference"]) > half:
            better = (row["difference"] < 0) == (row["score"] == "test_mse")
            by = spread(abs(row["difference"]), half, row["score"].removeprefix("test_")).replace(" %", " points")
            found.append(f"{', '.join(str(row[axis]) for axis in axes)}: {'better' if better else 'worse'} by {by}")
    return found
