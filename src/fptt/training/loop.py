"""The training loop: epochs of batches through a learning rule, validation, checkpoints, one summary at the end."""

import itertools
import platform
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import fptt
from fptt import state as states
from fptt.arithmetic import busy_threads, open_device, usable
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.learning.captured import CapturedInference, captures
from fptt.learning.fptt import FPTT
from fptt.learning.graphs import or_eager
from fptt.learning.online import make_trainer
from fptt.learning.rules import make_optimizer
from fptt.training import checkpoint
from fptt.training.average import MovingAverage, RunningMean
from fptt.training.metrics import machine, peak_memory_mb
from fptt.training.precision import in_precision, prepare_cpu
from fptt.training.run import Run, plain

FREE = (  # settings that may be others when a training goes on
    "epochs", "lr", "schedule", "milestones", "warmup", "alpha", "beta", "max_norm", "ema", "calibrate",
    "data", "network", "device", "threads", "compile", "precision", "accumulate", "recompute",
)  # fmt: skip
WORTH_COMPILING = 10_000  # time steps of a training: the compiler takes ten seconds or more and then spares milliseconds a step


class Report(Protocol):
    """What the loop tells the outside: a progress display, a log, or nothing."""

    def batch(self, epoch: int, batch: int, batches: int, totals: dict[str, float]) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


class Stopped(Exception):
    """Training was asked to stop and has saved where it was."""


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that the loop stops between two batches; a second one stops at once."""
    event = threading.Event()

    def handle(signum: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """Everything a run of ``task`` needs, built from its settings alone.

    Args:
        task: see ``fptt.tasks.base.Task``.
        run: the folder it is recorded in.
    """

    def __init__(self, task: Any, run: Run):
        self.task, self.run = task, run
        most = torch.get_num_threads()
        prepare_cpu(1 if task.threads is None else task.threads)  # so that weights begin alike whatever the number of cores
        torch.manual_seed(task.seed)
        self.device = open_device(task.device)
        try:
            self.model: nn.Module = task.make_model().to(self.device)
            self.loss = task.loss().to(self.device)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the network does not fit into memory ({reason}): make it smaller") from None
        if task.threads is None:
            on_cpu = self.device.type == "cpu"
            torch.set_num_threads(busy_threads(self.model, task.batch_size // task.accumulate, most) if on_cpu else most)
        base = task.base_optimizer(self.model)
        self.optimizer: Optimizer = make_optimizer(
            task.rule, base, alpha=task.alpha, beta=task.beta, rho=task.rho, form=task.form, max_norm=task.max_norm
        )
        self.average: FPTT | MovingAverage | None = None  # what keeps an average of the weights, if anything does
        if task.ema is not None:
            self.average = MovingAverage(self.model, task.ema)
        elif isinstance(self.optimizer, FPTT):
            self.average = self.optimizer
        self.precision = usable(task.precision, self.device)
        self.stepped = in_precision(self.model, self.precision, self.device)
        self._compiled_infer = or_eager(self.infer)
        self.trainer = make_trainer(
            task.rule,
            self.stepped,
            self.loss,
            self.optimizer,
            task.time_steps,
            parts=task.parts,
            compiled=bool(task.compile),
            accumulate=task.accumulate,
            recompute=task.recompute,
            sampled=task.sampled,
            window=task.window,
            approximate=task.approximate,
            feedback=task.feedback,
        )
        self.epoch = self.batch = 0  # the next to train
        self.seconds = 0.0  # spent training, validation left out
        self.steps = 0  # time steps trained
        self.totals = task.totals(training=True)  # of the epoch

    def create(self) -> None:
        """Prepare the fresh network, then make the run's folder: what is wrong with the settings is said before it is there."""
        self.task.prepare(self.model)
        self.run.create(self.task)

    def fit(self, report: Report) -> dict[str, Any]:
        """Train to the last epoch, test once, and return the summary. Raises ``Stopped`` after Ctrl-C or SIGTERM."""
        train, validation, test = self.task.sets()
        with stop_on_signal() as stop:
            while self.epoch < self.task.epochs:
                row = self.train_epoch(self.task.training_set(train, self.epoch), stop, report)
                if len(validation):
                    row |= {f"validation_{key}": value for key, value in self.evaluate(validation).items()}
                self.run.append_metrics(row)
                report.epoch(row)
                self.epoch, self.batch = self.epoch + 1, 0
                self.save()
                if stop.is_set():
                    raise Stopped
            summary = self.summary(train, test)
        self.run.write_summary(summary)
        return summary

    def train_epoch(self, samples: Samples, stop: threading.Event, report: Report) -> dict[str, Any]:
        """One pass over ``samples``, from ``self.batch`` on; returns the epoch's row of metrics."""
        task = self.task
        shuffle, encoding = torch.Generator().manual_seed(self.batch_seed(0)), torch.Generator()
        batches = samples.number_of_batches(task.batch_size, drop_last=True)
        if task.compile is None:
            self.trainer.compiled = task.epochs * batches * task.time_steps >= WORTH_COMPILING
        self.model.train()
        self.loss.train()
        totals = self.totals
        samples = samples.to(self.device)
        for number, (x, y) in enumerate(samples.batches(task.batch_size, shuffle=shuffle, drop_last=True)):
            if number < self.batch:
                continue
            torch.manual_seed(self.batch_seed(number + 1))
            encoding.manual_seed(self.batch_seed(number + 1))
            for group in self.optimizer.param_groups:
                group["lr"] = task.learning_rate(self.epoch, number / batches)
            x, y = task.augmented(x, y, encoding)
            sequence, y = self.sequence(x, encoding), y.to(self.device)
            start = time.perf_counter()
            trained = self.trainer(sequence, y)
            if not torch.isfinite(trained.loss):
                raise InputError(
                    f"the loss became {trained.loss.item()} in epoch {self.epoch + 1}, batch {number + 1}: lower --lr or set "
                    f"--max-norm; the last checkpoint in {self.run.folder} is kept"
                )
            if isinstance(self.average, MovingAverage):
                self.average.update()
            self.seconds += time.perf_counter() - start
            self.steps += len(sequence)
            totals.add(trained.output, y, trained.loss, trained.firing_rate)
            report.batch(self.epoch, number + 1, batches, totals.result())
            if stop.is_set() and number + 1 < batches:
                self.batch = number + 1
                self.save()
                raise Stopped
        if isinstance(self.optimizer, FPTT):
            self.optimizer.restart_from_average()
        if task.calibrate:
            with self.averaged_weights():
                self.calibrate(samples, task.calibrate)
        if not self.epoch and totals.result()["firing_rate"] == 0:
            warnings.warn("fptt: no neuron fired in the first epoch: thresholds may be too high for the input", stacklevel=2)
        self.totals = task.totals(training=True)
        return {"epoch": self.epoch + 1, "lr": task.learning_rate(self.epoch), **totals.result(), "seconds": self.seconds}

    def averaged_weights(self) -> AbstractContextManager[None]:
        """A context in which the model has its averaged weights, where they are kept."""
        return nullcontext() if self.average is None else self.average.averaged_weights()

    @torch.no_grad()
    def calibrate(self, samples: Samples, batches: int) -> bool:
        """Take the statistics of all batch norms anew, as means over some ``batches`` of ``samples``, with the present weights.

        Those gathered in training belong to weights on their way: to other ones than the averages, and in a long sequence to
        ones that were adapted to the batch (compare ``torch.optim.swa_utils.update_bn``).

        Returns whether there are any to take.
        """
        norms: list[Any] = [
            module
            for module in self.model.modules()
            if getattr(module, "running_mean", None) is not None and hasattr(module, "momentum")
        ]
        if not norms:
            return False
        shared = [norm for norm in norms if getattr(norm, "time_steps", 1) == 1]  # by all steps
        through_time = [norm for norm in norms if norm not in shared]
        of_steps, of_batches = (
            RunningMean([statistics for norm in some for statistics in (norm.running_mean, norm.running_var)])
            for some in (shared, through_time)
        )
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # it remembers the last step or batch alone
        infer = self._compiled_infer if self.trainer.compiled else self.infer
        through = CapturedInference(self.infer, self.stepped)
        self.model.train()
        generator = torch.Generator().manual_seed(self.batch_seed(-1))
        shuffled = samples.to(self.device).batches(self.task.batch_size, shuffle=generator, drop_last=True)
        for number, (x, _) in enumerate(itertools.islice(shuffled, batches), 1):
            torch.manual_seed(self.batch_seed(-1 - number))
            sequence = self.sequence(x, generator)
            state = states.initialise(self.model, sequence[0])
            if captures(sequence) and not shared:
                through(sequence, state)
            else:
                for x_t in sequence:
                    _, state, _ = infer(x_t, state)
                    of_steps.update()
            of_batches.update()
        of_steps.put()
        of_batches.put()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return True

    def batch_seed(self, number: int) -> int:
        """A seed of its own for every batch: training goes on alike wherever and on whatever device it was interrupted."""
        return ((self.task.seed * 1_000_003 + self.epoch) * 1_000_003 + number) % 2**63

    def sequences(self, samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches for an evaluation, the same every time: sequences [time, batch, ...] and targets [batch, ...]."""
        generator = torch.Generator().manual_seed(0)
        for x, y in samples.to(self.device).batches(self.task.batch_size):
            yield self.sequence(x, generator), y.to(self.device)

    def sequence(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Samples [batch, ...] as a sequence [time, batch, ...] on the device, where it is made: an image is sent once."""
        sequence: Tensor = self.task.encode(x.to(self.device), generator).to(self.device)
        return sequence

    @torch.no_grad()
    def evaluate(self, samples: Samples, every_step: bool = False) -> dict[str, Any]:
        """Loss, score and firing rate on ``samples``, with the averaged weights where they are kept.

        ``every_step`` adds "steps": each of them as a list, had the sequences ended after the first step, the second, and so
        on. Raises InputError for a detector, whose average precision is not taken after every step.
        """
        if every_step and self.task.metric == "map50":
            raise InputError(
                f"task '{self.task.name}' finds objects: scores after every step are for classes and mean squared errors"
            )
        self.model.eval()
        totals = [self.task.totals(training=False) for _ in range(self.task.time_steps if every_step else 1)]
        infer = self._compiled_infer if self.trainer.compiled else self.infer
        through = CapturedInference(self.infer, self.stepped)
        with self.averaged_weights():
            for sequence, y in self.sequences(samples):
                state = states.initialise(self.model, sequence[0])
                if captures(sequence) and not every_step:
                    output, _, rate = through(sequence, state)
                    totals[0].add(output, y, self.task.criterion(output, y), rate / len(sequence))
                    continue
                rate = torch.zeros((), device=self.device)
                for t, x_t in enumerate(sequence, 1):
                    output, state, z = infer(x_t, state)
                    rate += z
                    if every_step or t == len(sequence):
                        totals[t - 1 if every_step else 0].add(output, y, self.task.criterion(output, y), rate / t)
        result: dict[str, Any] = totals[-1].result()
        if every_step:
            results = [step.result() for step in totals]
            result["steps"] = {key: [step[key] for step in results] for key in result}
        return result

    def infer(self, x_t: Tensor, state: states.State) -> tuple[Tensor, states.State, Tensor]:
        """A step without learning: output, state and firing rate."""
        output, state = self.stepped(x_t, state)
        return output, state, states.firing_rate(state)

    def summary(self, train: Samples, test: Samples) -> dict[str, Any]:
        """The run in one record; the test set is used here and nowhere else. Without one, the score is that on ``train``."""
        task, tested = self.task, "test" if len(test) else "train"
        result = self.evaluate(test if len(test) else train)
        return {
            "task": task.name,
            "rule": task.rule,
            "neuron": task.kind,
            "seed": task.seed,
            "epochs": task.epochs,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **task.notes(),
            **({"precision": self.precision} if self.precision != task.precision else {}),
            **{f"{samples.name}_samples": len(samples) for samples in (train, test) if len(samples)},
            f"{tested}_{task.metric}": result[task.metric],
            f"{tested}_loss": result["loss"],
            "firing_rate": result["firing_rate"],
            "peak_memory_mb": round(peak_memory_mb(self.device), 1),
            "seconds_per_epoch": round(self.seconds / max(1, self.epoch), 3),
            "steps_per_second": round(self.steps / self.seconds, 1) if self.seconds else None,
            "version": fptt.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": machine(self.device),
            "threads": torch.get_num_threads(),
            "command": task.command(),
        }

    def save(self) -> None:
        """Write the checkpoint from which ``restore`` goes on as if nothing had happened."""
        checkpoint.save(
            self.run.checkpoint,
            {
                "version": fptt.__version__,
                "model": self.model.state_dict(),
                "loss": self.loss.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.averages if isinstance(self.average, MovingAverage) else None,
                "totals": self.totals.state_dict(),
                **{key: getattr(self, key) for key in ("epoch", "batch", "seconds", "steps")},
            },
        )

    def restore(self, keep_metrics: bool = False) -> None:
        """Take over the run's last checkpoint; metrics of later epochs are dropped, as they will be made again.

        Raises InputError where it is missing, damaged, of another network, or of a training with other settings but ``FREE``,
        and where it holds weights alone and ``keep_metrics`` does not say that no training is to go on.
        """
        content = checkpoint.load(self.run.checkpoint)
        alone = content.get("alone", False)
        if alone and not keep_metrics:
            raise InputError(f"{self.run.folder} holds weights alone, nothing to resume: begin a run of them with --start")
        before = self.run.config()[1]
        for field in self.task.options():
            name, now = field.name, plain(getattr(self.task, field.name))
            if name not in FREE and before.get(name, now) != now:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} was {before[name]} in {self.run.folder}: a run goes on as it began")
        try:
            self.model.load_state_dict(content["model"])
            self.epoch = content["epoch"]
            if alone:
                return
            self.loss.load_state_dict(content["loss"])
            self.optimizer.load_state_dict(content["optimizer"])
            for group in self.optimizer.param_groups:  # as set now, not as saved
                group |= {f"fptt_{name}": getattr(self.task, name) for name in ("alpha", "beta") if f"fptt_{name}" in group}
            self.totals.load_state_dict(content["totals"], self.device)
            if isinstance(self.average, MovingAverage):
                self.average.load(content["average"] or {})
            for key in ("batch", "seconds", "steps"):
                setattr(self, key, content[key])
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.run.checkpoint} does not fit these settings ({str(error).splitlines()[0]}): "
                "resume with those of the run's config.yaml"
            ) from None
        if not keep_metrics:
            self.run.keep_metrics_until(self.epoch)
