"""The run folder: config.yaml, metrics.jsonl, summary.json, checkpoints/ and curves.png."""

import json
import math
import os
from pathlib import Path
from typing import Any

import yaml

import fptt
from fptt.errors import InputError
from fptt.files import to_json

FORMAT = 1  # of the run folder; raised when an older fptt could not read a newer folder


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, all or nothing."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


class Run:
    """A run folder: ``Run(folder).create(task)`` makes one, ``Run.open(folder)`` reads one.

    Both raise InputError for what they cannot use.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoint = folder / "checkpoints" / "last.pt"

    def create(self, task: Any) -> None:
        folder = self.folder
        if (folder / "config.yaml").exists():
            raise InputError(f"{folder} already holds a run: continue it with --resume {folder}, or give another --out")
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.write_config(task)
        except OSError as error:
            raise InputError(f"cannot write the run folder {folder} ({error.strerror}): give another with --out") from None

    @classmethod
    def open(cls, folder: Path) -> "Run":
        if not (folder / "config.yaml").is_file():
            raise InputError(f"{folder} is not a run folder: it has no config.yaml")
        return cls(folder)

    @classmethod
    def free_folder(cls, name: str) -> Path:
        """runs/NAME, or runs/NAME-2, -3, ... where that one holds a run."""
        folder, number = Path("runs") / name, 1
        while (folder / "config.yaml").exists():
            number += 1
            folder = Path("runs") / f"{name}-{number}"
        return folder

    def write_config(self, task: Any) -> None:
        settings = {field.name: plain(getattr(task, field.name)) for field in task.options()}
        head = {"task": task.name, "format": FORMAT, "version": fptt.__version__}
        text = yaml.safe_dump({**head, **settings}, sort_keys=False)
        write_atomically(self.folder / "config.yaml", text.encode())

    def config(self) -> tuple[str, dict[str, Any]]:
        """The task's name and its settings."""
        path = self.folder / "config.yaml"
        try:
            settings = yaml.safe_load(path.read_text())
            task, version = settings.pop("task"), settings.pop("version")
            if settings.pop("format") != FORMAT:
                raise InputError(
                    f"{self.folder} was written by fptt {version} in another format than fptt {fptt.__version__} reads: "
                    f"use that version, or train again"
                )
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}): it is not the config.yaml of a run") from None
        return task, settings

    def append_metrics(self, row: dict[str, Any]) -> None:
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(to_json(row) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}): free some space, then --resume {self.folder}") from None

    def metrics(self) -> list[dict[str, Any]]:
        """One row per epoch."""
        path = self.folder / "metrics.jsonl"
        try:
            return [_read(line) for line in path.read_text().splitlines()] if path.exists() else []
        except (ValueError, UnicodeDecodeError):
            raise InputError(f"{path} is damaged: every line must be JSON; remove the broken one") from None

    def keep_metrics_until(self, epoch: int) -> None:
        """Drop the rows of epochs after ``epoch``: they are about to be made again."""
        rows = [row for row in self.metrics() if row["epoch"] <= epoch]
        write_atomically(self.folder / "metrics.jsonl", "".join(to_json(row) + "\n" for row in rows).encode())

    def write_summary(self, summary: dict[str, Any]) -> None:
        path = self.folder / "summary.json"
        try:
            write_atomically(path, (to_json(summary, indent=2) + "\n").encode())
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}): free some space, then --resume {self.folder}") from None

    def summary(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        try:
            summary = _read(path.read_text())
        except FileNotFoundError:
            raise InputError(f"{self.folder} is unfinished: complete it with fptt train --resume {self.folder}") from None
        except ValueError:
            raise InputError(f"{path} is damaged: make it again with fptt train --resume {self.folder}") from None
        return summary


def _read(text: str) -> Any:
    """The record that ``to_json`` wrote: what was no number is NaN again."""
    record = json.loads(text)
    return {key: math.nan if value is None else value for key, value in record.items()} if isinstance(record, dict) else record


def plain(value: Any) -> Any:
    """A setting as it is written."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
