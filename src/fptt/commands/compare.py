"""fptt compare GRID [options]"""

import argparse
import json
import shlex
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fptt import plots, tasks
from fptt.commands.launch import Job, in_processes, through_submitit
from fptt.comparison import SCORES, Grid, Planned, Row, read_csv, score, validation_score, with_spread, write_csv
from fptt.errors import InputError
from fptt.tasks.base import Task, words_for
from fptt.tasks.settings import make_task
from fptt.training.loop import stop_on_signal
from fptt.training.run import Run, write_atomically


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fptt compare",
        description="Train every combination that a grid file names, and make one table of it: what is done is kept, what was "
        "stopped goes on. The folder gets runs.csv, table.csv, table.md, picture.png and runs/.",
    )
    add = parser.add_argument
    add("grid", type=Path, help="YAML file with settings, vary, seeds, except and baseline; see docs/comparing.md")
    add("--out", type=Path, help="folder of the comparison; default runs/NAME of the file")
    add("--jobs", type=int, default=1, help="trainings at a time (1)")
    add("--launcher", choices=("processes", "slurm", "local"), default="processes", help="slurm and local go through submitit")
    add("--parameters", nargs="+", default=[], metavar="NAME=VALUE", help="of submitit: timeout_min=60 slurm_partition=gpu ...")
    add("--collect", action="store_true", help="train nothing: the table of what is there")
    add("--data", help="folder of the data sets; default $FPTT_DATA, else ~/.cache/fptt")
    add("--json", action="store_true", help="print the table as JSON")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {options.jobs}")
    grid = Grid.read(options.grid)
    comparison = Comparison(grid, options.grid, options.out or Path("runs") / options.grid.stem, options.data)
    console = Console(stderr=True, quiet=options.json, highlight=False, soft_wrap=True)
    failed = comparison.failed
    with stop_on_signal() as stop:
        tried: set[str] = set()
        jobs = [] if options.collect else comparison.jobs(tried)
        known = comparison.known()
        done = sum(comparison.row(name) is not None for name in known)
        console.print(f"{len(known)} runs, {done} of them done: {comparison.folder}")
        while jobs and not stop.is_set():
            tried |= {job.name for job in jobs}
            if options.launcher == "processes":
                ended = in_processes(jobs, options.jobs, stop)
            else:
                ended = through_submitit(
                    jobs,
                    options.jobs,
                    stop,
                    cluster=options.launcher,
                    folder=comparison.folder / "submitit",
                    parameters=dict(map(parameter, options.parameters)),
                )
            for number, (job, message) in enumerate(ended, 1):
                if message is None:
                    message = comparison.add(job.name)
                elif not stop.is_set():
                    failed[job.name] = message.partition("; ")[0]  # what is wrong; what to do about it
                if not stop.is_set():
                    console.print(f"{number}/{len(jobs)} {job.name}: {message}")
            jobs = comparison.jobs(tried)
    table = comparison.write()
    if options.json:
        print(json.dumps({"folder": str(comparison.folder), "table": table, "failed": failed}))
    else:
        print(comparison.markdown(table), end="")
    if stop.is_set():
        console.print(f"stopped and saved; go on with: {shlex.join(['fptt', 'compare', *arguments])}")
        return 130
    if failed:
        logs = "runs/*/train.log" if options.launcher == "processes" else "submitit"
        console.print(
            f"{len(failed)} of {len(comparison.known())} runs failed; what they said is in {comparison.folder / logs}"
        )
    return 1 if failed else 0


class Comparison:
    """The runs of ``grid``, read from ``path``, in ``folder``."""

    def __init__(self, grid: Grid, path: Path, folder: Path, data: str | None):
        self.grid, self.folder, self.data = grid, folder, data
        self.tasks = {plan.name: task_of(plan, path) for plan in grid.planned}
        self.plans = {plan.name: plan for plan in grid.planned}
        if len(self.plans) < len(grid.planned):
            raise InputError(f"{path}: two of its cells have the same name, for a folder: call one differently")
        self.rows = read_csv(folder / "runs.csv", grid.axes)
        for name, row in [(name, self.row(name)) for name in self.plans]:
            if row and row["command"] != self.tasks[name].command():
                raise InputError(
                    f"{folder / 'runs.csv'} holds {name} with other settings ({row['command']}): "
                    "remove its row to train it anew, or give another --out"
                )
        self.failed = self.read_failed()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not ((folder / "grid.yaml").exists() and path.samefile(folder / "grid.yaml")):
                shutil.copyfile(path, folder / "grid.yaml")
        except OSError as error:
            raise InputError(f"cannot write to {folder} ({error.strerror}): give another --out") from None

    def read_failed(self) -> dict[str, str]:
        """The last line of runs that failed before."""
        path = self.folder / "failed.json"
        try:
            failed = json.loads(path.read_text()) if path.exists() else {}
            return {str(name): str(message) for name, message in failed.items() if name in self.plans}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}): remove it") from None

    def row(self, name: str) -> Row | None:
        """The record of a run that is done."""
        plan = self.plans[name]
        key = {**plan.labels, "seed": plan.seed}
        return next((row for row in self.rows if all(row[k] == v for k, v in key.items())), None)

    def jobs(self, tried: Collection[str]) -> list[Job]:
        """What is still to be trained and was not ``tried``: what decides about others first, if that is in the grid."""
        if jobs := self.jobs_of(self.grid.candidates(), tried):
            return jobs
        return self.jobs_of(self.grid.chosen(self.rows), tried)

    def jobs_of(self, plans: list[Planned], tried: Collection[str]) -> list[Job]:
        names = [plan.name for plan in plans if plan.name not in tried]
        return [job for name in names if self.row(name) is None for job in self.job(name)]

    def known(self) -> set[str]:
        """The runs that are to be, as far as it is known what will be chosen."""
        return {plan.name for plan in (*self.grid.candidates(), *self.grid.chosen(self.rows))}

    def job(self, name: str) -> Iterator[Job]:
        """The job of a run: none where its folder shows that it is done, after all; resumed where it was stopped."""
        task, run = self.tasks[name], Run(self.folder / "runs" / name)
        words = [*shlex.split(task.command())[1:], "--out", str(run.folder)]
        if (run.folder / "config.yaml").exists():
            found, _ = run.config()
            own = words_for("network", task.network) if task.network else []
            before = make_task(tasks.get(found), ["--config", str(run.folder / "config.yaml"), *own])[0]
            if before.command() != task.command():
                raise InputError(
                    f"{run.folder} was begun with other settings ({before.command()}): remove it, or give another --out"
                )
            if (run.folder / "summary.json").exists():
                self.add(name)
                return
            if run.checkpoint.exists():
                words = ["train", "--resume", str(run.folder), *own]
            else:
                (run.folder / "config.yaml").unlink()
        yield Job(name, [*words, *(["--data", self.data] if self.data else [])], run.folder / "train.log")

    def add(self, name: str) -> str:
        """Record a run that has ended; returns its score in words."""
        plan, summary = self.plans[name], Run.open(self.folder / "runs" / name).summary()
        row = {**plan.labels, **{key: value for key, value in summary.items() if key not in plan.labels}}
        last = Run.open(self.folder / "runs" / name).metrics()[-1]
        row |= {key: value for key, value in last.items() if key.replace("validation_", "test_") in SCORES}
        row["training_seconds"] = summary["seconds_per_epoch"] * summary["epochs"]
        if self.grid.choose:
            validation_score(row)  # said after the first run, not after all
        self.rows.append(row)
        self.failed.pop(name, None)
        places = {tuple([*plan.labels.values(), plan.seed]): number for number, plan in enumerate(self.grid.planned)}
        self.rows.sort(key=lambda row: places.get((*(row[axis] for axis in self.grid.axes), row["seed"]), len(places)))
        write_atomically(self.folder / "runs.csv", write_csv(self.rows).encode())
        key, value = score(row)
        return f"{SCORES[key]} {with_spread(value, None, key != 'test_mse')}"

    def markdown(self, table: list[Row]) -> str:
        """The table to be read, and under it what failed."""
        return self.grid.markdown(table) + "".join(f"\n- {name}: {message}\n" for name, message in self.failed.items())

    def write(self) -> list[Row]:
        """Table and picture of the runs that are done, and what failed; returns the table."""
        table = self.grid.table([row for name in self.plans if (row := self.row(name))])
        if self.failed:
            write_atomically(self.folder / "failed.json", (json.dumps(self.failed, indent=1) + "\n").encode())
        else:
            (self.folder / "failed.json").unlink(missing_ok=True)
        if table:
            write_atomically(self.folder / "table.csv", write_csv(table).encode())
            write_atomically(self.folder / "table.md", self.markdown(table).encode())
            plots.save(plots.comparison(table, self.grid.cell_axes, SCORES), self.folder / "picture.png")
        return table


def task_of(plan: Planned, path: Path) -> Task:
    settings = dict(plan.settings)
    task_class = tasks.get(str(settings.pop("task", "digits")))
    words = [word for item in settings.items() for word in words_for(*item)]
    try:
        return make_task(task_class, words)[0]
    except InputError as error:
        raise InputError(f"{path}, {plan.name}: {error}") from None


def parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--parameters: '{text}' is not NAME=VALUE")
    return name, yaml.safe_load(value)
