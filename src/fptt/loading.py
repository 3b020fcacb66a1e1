"""The trained network of a run folder."""

import shutil
from pathlib import Path

import torch
from torch import nn

import fptt
from fptt import tasks
from fptt.errors import InputError
from fptt.tasks.settings import make_task
from fptt.training import checkpoint
from fptt.training.loop import Trainer
from fptt.training.run import Run


def load(run: str | Path, *, device: str = "cpu", data: str | None = None, network: str | None = None) -> nn.Module:
    """The trained network of a run, ``output, state = model(x_t, state)``, in evaluation mode, with its averaged weights.

    ``x_t`` is [batch, *inputs], scaled as the run's task scales it; ``output`` is [batch, outputs]. Weights are in float32. The
    random numbers of the process are left alone; numbers below 1.2e-38 are zero from then on, as in training.

    Args:
        run: a folder that ``fptt train`` has made.
        device: where the network is to be.
        data: folder of the data sets, if the network depends on them and they are not where they were.
        network: "FILE.py:FUNCTION" of the run, if it is of your own network. The file is executed.

    Raises:
        InputError: for what is no run folder, for a damaged or missing checkpoint, a device that cannot be used, and for a
            network of your own that is not named here.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return trained(Path(run), device=device, data=data, network=network, precision="float32", threads="0").model.eval()


def trained(folder: Path, **given: str | None) -> Trainer:
    """All of the training that made the run, with its averaged weights; ``given`` settings but None count more than its own.

    Raises InputError as ``load``.
    """
    run = Run.open(folder)
    words = [f"--{key}={value}" for key, value in given.items() if value is not None]
    task, _ = make_task(tasks.get(run.config()[0]), ["--config", str(folder / "config.yaml"), *words])
    trainer = Trainer(task, run)
    trainer.restore(keep_metrics=True)
    if trainer.average is not None:
        trainer.average.restart_from_average()
    return trainer


def write_weights(trainer: Trainer, folder: Path) -> None:
    """Make ``folder`` a run folder with the network's present weights alone: all that can be had from a run but to resume it.

    Raises InputError where that cannot be done, or ``folder`` holds a run already.
    """
    run, copy = trainer.run, Run(folder)
    if (folder / "config.yaml").exists():
        raise InputError(f"{folder} already holds a run: give another --out")
    about = {"version": fptt.__version__, "alone": True, "epoch": trainer.epoch, "average": None}
    try:
        copy.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(copy.checkpoint, {**about, "model": trainer.model.state_dict()})
        for name in ("metrics.jsonl", "summary.json", "curves.png", "config.yaml"):  # with which it is a run, last
            if (run.folder / name).exists():
                shutil.copyfile(run.folder / name, folder / name)
    except OSError as error:
        raise InputError(f"cannot write the run folder {folder} ({error.strerror}): give another with --out") from None
