"""The trained network of a run folder."""

from pathlib import Path

import torch
from torch import nn

from fptt import tasks
from fptt.tasks.settings import make_task
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
