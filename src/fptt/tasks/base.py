"""What every task has: its settings, which are also the command's options, and the few things a run needs of it."""

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fptt import surrogate
from fptt.data import catalogue
from fptt.data.samples import Samples
from fptt.errors import InputError
from fptt.learning.eprop import Feedback
from fptt.learning.fptt import Form
from fptt.learning.losses import Auxiliary, AuxiliaryKind, Criterion, StepLoss, Weights
from fptt.learning.muon import Muon
from fptt.learning.rules import Rule, number_of_parts, number_of_updates
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import Readout, SequenceModel
from fptt.tasks.own import own_network
from fptt.tasks.start import take_over
from fptt.training.metrics import Metric, Totals
from fptt.training.precision import Precision, check_precision

Norm = Literal["none", "time", "input", "shared"]
Base = Literal["adamax", "adam", "sgd", "muon"]  # the optimizer that a learning rule wraps
Schedule = Literal["constant", "cosine", "steps", "linear"]
Recipes = dict[str, dict[str, Any]]  # settings by the name of a recipe
SPIKING = ("neuron", "recurrent", "readout", "b0", "initial_v", "reset", "adaptive", "tau_m", "tau_adp")  # passed on to models
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamax": partial(torch.optim.Adamax, foreach=True),
    "adam": partial(torch.optim.Adam, foreach=True),
    "sgd": partial(torch.optim.SGD, foreach=True),
    "muon": Muon,
}


def option(default: Any, help: str) -> Any:
    """A setting with the line that ``--help`` shows for it."""
    return dataclasses.field(default=default, metadata={"help": help})


def words_for(name: str, value: Any) -> list[str]:
    """A setting as the command's words."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, tuple | list):
        return [f"--{option}", *map(str, value)]
    return [f"--{option}", "null" if value is None else str(value)]


@dataclass
class Task:
    """Settings common to all tasks. A task is a dataclass of its settings; every field is an option of the command."""

    name: ClassVar[str]
    metric: ClassVar[Metric] = "accuracy"
    inputs: ClassVar[int]
    outputs: ClassVar[int] = 10
    unused: ClassVar[tuple[str, ...]] = ()  # settings of those below that mean nothing to this task
    recipes: ClassVar[Recipes] = {}  # settings under a name, such as those of a paper

    rule: Rule = option("fptt", "learning rule: fptt; bptt, tbptt (truncated BPTT); sltt, online-bptt, ottt, eprop")
    neuron: Literal["ltc", "alif", "lif", "lstm", "rnn"] = option("ltc", "kind of neuron, or a non-spiking baseline")
    network: str | None = option(None, "FILE.py:FUNCTION that makes a network of your own, in place of one of these neurons")
    epochs: int = option(10, "passes over the training set")
    batch_size: int = option(128, "samples per update")
    hidden: tuple[int, ...] = option((128,), "neurons of each layer, bottom first")
    parts: int | None = option(
        None, "updates per sequence (FPTT-K); default: one per time step for fptt and ottt, 10 for tbptt, 1 for sltt and eprop"
    )
    sampled: int | None = option(None, "time steps per sequence, drawn at random, that sltt learns from (SLTT-K); default: all")
    window: int = option(10, "time steps that every update of online-bptt goes back through")
    accumulate: int = option(1, "pass each batch through in so many pieces before an update: less memory, the same update")
    precision: Precision = option("float32", "tf32: matrix products of a GPU; bfloat16: mixed")
    recompute: int | None = option(None, "keep only every so many states of a part, recompute the rest: less memory for bptt")
    approximate: bool = option(False, "let ottt train what its derivation does not cover: recurrence, ALIF, batch norm")
    feedback: Feedback = option("symmetric", "eprop's learning signal comes by the transposed weights or by random matrices")
    optimizer: Base = option("adamax", "base optimizer; muon: orthogonal steps of matrices, the rest as adamax")
    lr: float = option(3e-3, "learning rate")
    schedule: Schedule = option("constant", "learning rate over the epochs; linear: falling to 0 from one batch to the next")
    milestones: tuple[int, ...] = option((10, 30, 50, 75, 90), "epochs after which schedule 'steps' divides the rate by ten")
    warmup: int = option(0, "epochs over which the learning rate rises linearly to its value")
    alpha: float = option(0.1, "strength of FPTT's regulariser, relative to the scale of the loss")
    beta: float = option(0.5, "rate of FPTT's running average")
    rho: float = option(0.0, "weakens the linear term of FPTT's regulariser")
    form: Form = option("code", "FPTT's linear term as in the authors' code, or as published")
    max_norm: float | None = option(1.0, "clip the whole gradient to this norm")
    ema: float | None = option(
        None, "evaluate a moving average of the weights that keeps this share of itself at each batch, in place of fptt's own"
    )
    weights: Weights = option("linear", "weight of the loss over the parts; cubic: the last ones count most")
    auxiliary: AuxiliaryKind = option("none", "auxiliary distillation term of early parts")
    norm: Norm = option("none", "batch norm: statistics per time step (input: not of recurrent currents), or shared")
    gamma: float = option(0.1, "scale of the batch norms at the start")
    calibrate: int = option(0, "after each epoch, take the statistics of batch norms anew from so many batches")
    b0: float = option(0.1, "baseline threshold")
    adaptive: bool = option(True, "adaptive threshold (ALIF and LTC)")
    tau_m: float | None = option(
        None,
        "membrane time constant at the start: LIF's (default 2), ALIF's (20); LTC's spread from 2 steps to it (default: all 2)",
    )
    tau_adp: float | None = option(None, "time constant of the adaptation at the start: ALIF's (default 100); LTC's as --tau-m")
    recurrent: bool = option(True, "recurrent connections within each layer")
    readout: Readout = option("liquid", "leak of the readout, or 'membrane' for a linear map of the last membrane potential")
    initial_v: Literal["uniform", "zero"] = option("uniform", "membrane potentials start at random in (0, 1), or at zero")
    reset: Literal["hard", "soft"] = option("hard", "reset after a spike: to zero, or by subtraction of the threshold")
    surrogate: str = option("multi_gaussian", "surrogate derivative: " + ", ".join(surrogate.DERIVATIVES))
    start: str | None = option(None, "begin with the weights of this run, of a network of the same sizes")
    stretch: float = option(1.0, "factor of the time constants that --start brings, for a sequence of as much finer steps")
    seed: int = option(0, "seed of weights, data order and initial states")
    device: str = option("cpu", "torch device: cpu, cuda, cuda:1, mps, ...")
    threads: int | None = option(None, "CPU threads; default: as many as the network keeps busy; 0 leaves torch's choice")
    compile: bool | None = option(None, "compile the training step: ten seconds, then faster; default: where it pays")
    data: str | None = option(None, "folder of the data sets; default $FPTT_DATA, else ~/.cache/fptt")

    # What a page of tasks/ provides

    @property
    def time_steps(self) -> int:
        """Length of a sequence."""
        raise NotImplementedError

    def sets(self) -> tuple[Samples, Samples, Samples]:
        """Training, validation and test set: three different sets; the validation set may be empty."""
        raise NotImplementedError

    def encode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Samples [batch, ...] as a sequence [time, batch, inputs]."""
        raise NotImplementedError

    def augmented(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training samples and targets [batch, ...] varied at random before ``encode``; unless a task does, as they are."""
        return x, y

    def totals(self, training: bool) -> Totals:
        """What is counted over the samples of an epoch, or of an evaluation."""
        assert self.metric != "map50", "a detector counts in a way of its own"
        return Totals(self.metric)

    def notes(self) -> dict[str, Any]:
        """What a result must say of its data, such as a split that is not official."""
        return {}

    def prepare(self, model: nn.Module) -> None:
        """Change the fresh ``model`` before its first batch: give it the weights to start with, if any.

        Raises InputError where they do not fit it.
        """
        if self.start is not None:
            take_over(model, self.start, self.stretch)

    def training_set(self, train: Samples, epoch: int) -> Samples:
        """The training set of one epoch; the same every time unless a task makes fresh samples."""
        return train

    @property
    def criterion(self) -> Criterion:
        return nn.functional.cross_entropy if self.metric == "accuracy" else nn.functional.mse_loss

    # What follows from the settings

    def __post_init__(self) -> None:
        self.check_ranges()
        if not 1 <= self.accumulate <= self.batch_size:
            raise InputError(f"--accumulate must lie from 1 to the batch size {self.batch_size}, got {self.accumulate}")
        if self.batch_size < 2 and self.norm != "none" and self.neuron not in ("lstm", "rnn"):
            raise InputError("--batch-size 1 has no batch statistics: raise it, or train with --norm none")
        if self.rule == "fptt" and not self.alpha > 0:
            raise InputError(f"--alpha must be positive, got {self.alpha}; --rule tbptt trains without the regulariser")
        self.check_rule()
        check_precision(self.precision, self.rule)
        surrogate.get(self.surrogate)
        try:
            number_of_parts(self.rule, self.time_steps, self.parts)
            torch.device(self.device)  # its name: whether there is one, is asked when it is used
        except ValueError as error:
            raise InputError(str(error)) from None
        except RuntimeError as error:
            raise InputError(f"--device {self.device}: {str(error).splitlines()[0]}") from None

    def check_ranges(self) -> None:
        """Raises InputError for the first setting that is wrong by itself."""
        least_of = {
            "epochs": "1",
            "batch_size": "1",
            "calibrate": "0 batches",
            "recompute": "1 time step",
            "training_size": "1",
            "threads": "0",
            "warmup": "0 epochs",
        }
        for name, least in least_of.items():
            value = getattr(self, name, None)
            if value is not None and value < int(least.split()[0]):
                raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"--hidden needs at least one layer of at least one neuron, got {list(self.hidden)}")
        ranges = {
            "lr": (self.lr > 0, "be positive"),
            "beta": (0 < self.beta <= 1, "lie in (0, 1]"),
            "rho": (0 <= self.rho < 1, "lie in [0, 1)"),
            "max_norm": (self.max_norm is None or self.max_norm > 0, "be positive, or null for no clipping"),
            "ema": (self.ema is None or 0 < self.ema < 1, "lie in (0, 1)"),
            "stretch": (self.stretch > 0, "be positive"),
            "tau_m": (self.tau_m is None or self.tau_m > 1, "be more than 1 time step"),
            "tau_adp": (self.tau_adp is None or self.tau_adp > 1, "be more than 1 time step"),
            "milestones": (min(self.milestones, default=1) > 0, "be epochs from 1"),
        }
        for name, (right, words) in ranges.items():
            if not right:
                raise InputError(f"--{name.replace('_', '-')} must {words}, got {getattr(self, name)}")

    def check_rule(self) -> None:
        """Raises InputError for a setting of another rule, unless it is the task's default."""
        if self.rule in ("bptt", "online-bptt") and self.parts not in (None, type(self).parts):
            advice = "give --rule tbptt for several, or --parts null" if self.rule == "bptt" else "give --parts null"
            raise InputError(f"--rule {self.rule} does not cut sequences into --parts: {advice}")
        if self.start is None and self.stretch != 1:
            raise InputError("--stretch is for the time constants that --start brings: give --start, or leave it out")
        for name, rule in (("sampled", "sltt"), ("window", "online-bptt"), ("feedback", "eprop"), ("approximate", "ottt")):
            if self.rule != rule and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"--{name} is for --rule {rule}, not {self.rule}: leave it out")

    @classmethod
    def options(cls) -> list[dataclasses.Field[Any]]:
        """The settings that this task has."""
        return [field for field in dataclasses.fields(cls) if field.name not in cls.unused]

    @property
    def number_of_updates(self) -> int:
        return number_of_updates(self.rule, self.time_steps, self.parts)

    def command(self) -> str:
        """The shortest ``fptt train`` command that gives these settings; where the data lie is left to $FPTT_DATA."""
        words = ["fptt", "train", self.name]
        for field in self.options():
            value = getattr(self, field.name)
            if value == field.default or field.name == "data":
                continue
            words += words_for(field.name, value)
        return shlex.join(words)

    @property
    def kind(self) -> str:
        """What the network is made of in one word: the neuron, or the function that makes the user's own."""
        return self.neuron if self.network is None else self.network.rpartition(":")[2]

    @property
    def data_folder(self) -> Path:
        return catalogue.folder(self.data)

    def make_model(self) -> nn.Module:
        """A fresh network: the user's own where the settings name it. Raises InputError as ``own_network``."""
        return self.model() if self.network is None else own_network(self.network, self)

    def model(self) -> nn.Module:
        """A fresh network of these settings."""
        if self.neuron in ("lstm", "rnn"):
            return RecurrentBaseline(self.inputs, self.hidden, self.outputs, self.neuron)
        options = {"norm_recurrent": self.norm != "input", "gamma": self.gamma, **self.spiking_options}
        return SequenceModel(self.inputs, self.hidden, self.outputs, **options)

    @property
    def spiking_options(self) -> dict[str, Any]:
        """Settings of a spiking network, by the names that all of ``fptt.models`` give them."""
        return {
            "norm_steps": {"none": None, "shared": 1}.get(self.norm, self.time_steps),
            "spike": surrogate.get(self.surrogate),
            **{key: getattr(self, key) for key in SPIKING},
        }

    def loss(self) -> StepLoss:
        """The loss at the end of every part."""
        parts = number_of_parts(self.rule, self.time_steps, self.parts)
        auxiliary = None
        if self.auxiliary != "none":
            if self.metric != "accuracy":
                raise InputError(f"--auxiliary needs classes; task '{self.name}' has none")
            auxiliary = Auxiliary(parts, self.outputs, self.auxiliary)
        return StepLoss(self.criterion, parts, self.weights, auxiliary)

    def base_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.optimizer](model.parameters(), lr=self.lr)

    def learning_rate(self, epoch: int, done: float = 0.0) -> float:
        """The learning rate in ``epoch``, counted from 0, of which a share of ``done`` is over.

        Schedule "linear" alone looks at that share: it falls to 0 from one batch to the next, the others from epoch to epoch.
        """
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / (self.warmup + 1)
        if self.schedule == "cosine":
            over = (epoch - self.warmup) / max(1, self.epochs - self.warmup)
            return self.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * over)).item())
        if self.schedule == "linear":
            return self.lr * (1 - (epoch + done - self.warmup) / max(1, self.epochs - self.warmup))
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        return self.lr
