"""What a person sees while a network trains, and what TensorBoard is told."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fptt.errors import InputError


class ConsoleReport:
    """A progress bar over all batches with loss, score, firing rate and remaining time, and one line per epoch."""

    def __init__(self, console: Console, metric: str, epochs: int):
        self.metric, self.epochs = metric, epochs
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.bar = self.progress.add_task("train", total=None, epoch=f"1/{epochs}", numbers="")

    def __enter__(self) -> "ConsoleReport":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def batch(self, epoch: int, batch: int, batches: int, totals: dict[str, float]) -> None:
        self.progress.update(
            self.bar,
            total=batches * self.epochs,
            completed=epoch * batches + batch,
            epoch=f"{epoch + 1}/{self.epochs}",
            numbers=self.describe(totals),
        )

    def describe(self, totals: dict[str, float], prefix: str = "") -> str:
        parts = [f"loss {totals[prefix + 'loss']:.4f}"]
        score = totals.get(prefix + self.metric)
        if score is not None:
            parts.append(f"{self.metric} " + (f"{score:.5f}" if self.metric == "mse" else f"{100 * score:.2f} %"))
        if totals[prefix + "firing_rate"] == totals[prefix + "firing_rate"]:  # not NaN: the network spikes
            parts.append(f"firing rate {totals[prefix + 'firing_rate']:.3f}")
        return ", ".join(parts)

    def epoch(self, row: dict[str, Any]) -> None:
        line = f"epoch {row['epoch']}/{self.epochs}: {self.describe(row)}"
        if "validation_loss" in row:
            line += f" | validation: {self.describe(row, 'validation_')}"
        self.progress.console.print(line, highlight=False, soft_wrap=True)


class TensorBoardReport:
    """Passes everything on to ``inner`` and writes every epoch's row for TensorBoard."""

    def __init__(self, inner: Any, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("--tensorboard needs the package tensorboard: pip install 'fptt[tensorboard]'") from None
        self.inner = inner
        self.writer = SummaryWriter(str(folder))

    def batch(self, epoch: int, batch: int, batches: int, totals: dict[str, float]) -> None:
        self.inner.batch(epoch, batch, batches, totals)

    def epoch(self, row: dict[str, Any]) -> None:
        self.inner.epoch(row)
        for key, value in row.items():
            if key != "epoch":
                self.writer.add_scalar(key, value, row["epoch"])
        self.writer.flush()
