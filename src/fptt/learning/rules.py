"""The learning rules on whole sequences. A rule is an optimizer, and how often a sequence is cut and the weights are updated.

Each part is one forward pass, a loss at its end and one backward pass through that part alone; gradients add up to an update:

    rule        optimizer       parts               updates
    FPTT        fptt.FPTT       one per time step   as many
    FPTT-K      fptt.FPTT       K                   as many
    BPTT        any             1                   1
    truncated   any             K                   as many
    SLTT        any             one per time step   1

so these rules differ in nothing else and train the same models with the same code. Those of ``fptt.learning.online`` step
another model, which carries traces or eligibilities, or step it anew; they are cut and updated likewise.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from fptt import state as states
from fptt.learning.captured import CapturedParts, captures, numbered, part_ends
from fptt.learning.fptt import FPTT, Form
from fptt.learning.graphs import ELEMENTWISE, CompiledUpdate, or_eager, warn_of_eager_training
from fptt.learning.losses import StepLoss
from fptt.learning.step import CompiledGradient, CompiledStep, Trained
from fptt.state import State

Rule = Literal["fptt", "bptt", "tbptt", "sltt", "online-bptt", "ottt", "eprop"]
CUT_AT_EVERY_STEP = ("sltt", "online-bptt", "ottt", "eprop")  # a loss at each, however many updates
TOGETHER = 3  # steps inside a part that are compiled as one: calling a small network costs a third of its computing
WORTH_TOGETHER = 4 * TOGETHER  # steps of a part, from which on that repays the longer compilation


def number_of_updates(rule: Rule, time_steps: int, parts: int | None) -> int:
    """Updates in a sequence of ``time_steps``: ``parts`` where given, else as the rule was published.

    At every step for FPTT and OTTT (its variant OTTT_O), one for BPTT, SLTT and e-prop, ten for truncated BPTT. BPTT always has
    one, online BPTT always one at every step.

    Raises ValueError unless 1 <= parts <= time_steps.
    """
    if time_steps < 1:
        raise ValueError(f"a sequence needs at least one time step, got {time_steps}")
    if rule in ("bptt", "online-bptt"):
        return 1 if rule == "bptt" else time_steps
    if parts is None:
        parts = {"tbptt": min(10, time_steps), "sltt": 1, "eprop": 1}.get(rule, time_steps)
    if not 1 <= parts <= time_steps:
        raise ValueError(f"cannot cut {time_steps} time steps into {parts} parts: choose 1 to {time_steps}")
    return parts


def number_of_parts(rule: Rule, time_steps: int, parts: int | None) -> int:
    """Parts, each with a loss at its end: as many as ``number_of_updates``, or every step where the rule learns from each."""
    updates = number_of_updates(rule, time_steps, parts)
    return time_steps if rule in CUT_AT_EVERY_STEP else updates


def make_optimizer(
    rule: Rule,
    base: Optimizer,
    *,
    alpha: float = 0.1,
    beta: float = 0.5,
    rho: float = 0.0,
    form: Form = "code",
    max_norm: float | None = None,
) -> Optimizer:
    """``base`` wrapped in FPTT for the rule "fptt", else clipped by itself, so that all rules clip alike."""
    if rule == "fptt":
        return FPTT(base, alpha=alpha, beta=beta, rho=rho, form=form, max_norm=max_norm)
    if max_norm is not None:
        parameters = [p for group in base.param_groups for p in group["params"]]

        def clip(*_: Any) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)

        base.register_step_pre_hook(clip)
    return base


@dataclass
class Piece:
    """Some samples of a batch on their way through the sequence."""

    sequence: Tensor
    target: Tensor
    share: float  # of the batch
    state: State
    rate: Tensor  # sum of the firing rates so far
    output: Tensor = field(init=False)  # at the end of the last part, and ...
    criterion: Tensor = field(init=False)  # ... the criterion there


class SequenceTrainer:
    """``trainer(sequence, target)`` trains ``model`` on one batch of sequences.

    Args:
        model: any module with ``output, state = model(x_t, state)``; with an attribute ``traceable`` that is false it is only
            compiled together with its loss and gradients. Where it has a method ``through(steps, state)``, all steps of a part
            are taken by that when ``compiled``: output and state after the last, and the sum of firing rates, or None.
        loss: the loss at the end of each part; it has as many parts as this trainer.
        optimizer: see ``make_optimizer``.
        parts: number of parts of a sequence.
        compiled: run the steps through torch's compiler. With a loss at every time step the whole of a step is one graph (see
            ``fptt.learning.step``); with fewer, the steps of the network are compiled, in long parts three as one, and so are
            FPTT's updates. Updates of an optimizer that does not treat every weight alike, such as Muon, are its own.
        accumulate: at each update, pass the batch through in so many pieces one after the other and add their gradients: less
            memory for the same update, but for batch norms, whose statistics are then those of a piece.
        recompute: within a part, keep only the states after every so many steps and compute what lies between anew for the
            backward pass: less memory for about a third more time (Chen et al. 2016, arXiv 1604.06174). None keeps everything.
        updates: number of updates per sequence, at the ends of as many parts that are as evenly spread as can be; gradients of
            the parts before each add up. None updates after each part.
        sampled: learn from so many parts alone, drawn anew for every batch from torch's global seed (SLTT-K); the others step
            the state. None learns from all.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: StepLoss,
        optimizer: Optimizer,
        parts: int,
        compiled: bool = False,
        *,
        accumulate: int = 1,
        recompute: int | None = None,
        updates: int | None = None,
        sampled: int | None = None,
    ):
        if len(loss.weights) != parts:
            raise ValueError(f"the loss has {len(loss.weights)} parts and the trainer {parts}: give both as many")
        self.model, self.loss, self.optimizer, self.parts, self.compiled = model, loss, optimizer, parts, compiled
        self.accumulate, self.recompute, self.sampled = accumulate, recompute, sampled
        self.updates = parts if updates is None else updates
        whole = isinstance(optimizer, FPTT) and type(optimizer.base) in ELEMENTWISE  # update and all in one graph
        self._step = (CompiledStep if whole else CompiledGradient)(model, loss, optimizer)
        self.updater = CompiledUpdate(optimizer) if whole else None
        self._update = optimizer.step if self.updater is None else self.updater.step
        self._captured = CapturedParts(self)
        self.told_of_hooks = False
        self._advance, self._several = or_eager(self.advance), or_eager(self.several)
        self.compiled_finish, self._at_once = or_eager(self.finish), or_eager(self.at_once)

    @property
    def graphs(self) -> int:
        """Number of compiled training steps so far, one for each combination of shapes and settings."""
        return len(self._step.graphs)

    def advance(self, x_t: Tensor, state: State) -> tuple[State, Tensor]:
        """A step inside a part: the graph goes on."""
        _, state = self.model(x_t, state)
        return state, states.firing_rate(state)

    def several(self, steps: tuple[Tensor, ...], state: State) -> tuple[State, Tensor]:
        """Steps inside a part, and the sum of their firing rates."""
        rate = torch.zeros((), device=steps[0].device)
        for x_t in steps:
            state, z = self.advance(x_t, state)
            rate = rate + z
        return state, rate

    def finish(self, x_t: Tensor, state: State, target: Tensor, part: Tensor) -> tuple[Tensor, Tensor, Tensor, State, Tensor]:
        """The last step of a part: its objective, and everything else cut from the graph."""
        output, state = self.model(x_t, state)
        objective, criterion = self.loss(output, target, part)
        return objective, criterion, output.detach(), states.detach(state), states.firing_rate(state)

    def at_once(
        self, steps: Tensor, state: State, target: Tensor, part: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, State, Tensor] | None:
        """``finish`` for all ``steps`` of a part, with the sum of their firing rates, where the model has a way ``through``."""
        found = self.model.through(steps, state)  # type: ignore[operator]
        if found is None:
            return None
        output, state, rate = found
        objective, criterion = self.loss(output, target, part)
        return objective, criterion, output.detach(), states.detach(state), rate

    def part(
        self, steps: Tensor, state: State, target: Tensor, number: Tensor, compiled: bool
    ) -> tuple[Tensor, Tensor, Tensor, State, Tensor]:
        """``finish`` for all ``steps`` of a part, with the sum of their firing rates.

        At once, where the model has a way ``through`` them that is faster than one by one.
        """
        if compiled and self.recompute is None and len(steps) > 1 and hasattr(self.model, "through"):
            found = (self._at_once if captures(steps) else self.at_once)(steps, state, target, number)
            if found is not None:
                return found
        rate = torch.zeros((), device=steps.device)
        for segment in steps[:-1].split(self.recompute or len(steps)) if len(steps) > 1 else ():
            state, z = self.through(segment, state, compiled)
            rate = rate + z
        finish = self.compiled_finish if compiled else self.finish
        objective, criterion, output, state, z = finish(steps[-1], state, target, number)
        return objective, criterion, output, state, rate + z

    def __call__(self, sequence: Tensor, target: Tensor) -> Trained:
        """Train on ``sequence`` [time, batch, ...] towards ``target`` [batch, ...].

        Raises ValueError for a sequence of fewer time steps than parts.
        """
        if len(sequence) < self.parts:
            raise ValueError(f"cannot cut {len(sequence)} time steps into {self.parts} parts: give a longer sequence")
        updated = set(part_ends(self.parts, self.updates))
        every_step = self.parts == len(sequence) and self.sampled is None and self.accumulate == 1
        own_updates = isinstance(self._step, CompiledGradient)
        hooked = self.compiled and self._hooked()
        if self.compiled and every_step and (own_updates or self.updates == self.parts) and not hooked:
            self.optimizer.zero_grad()
            state = states.initialise(self.model, sequence[0])
            return self._step.through(sequence, state, target, updated if own_updates else ())
        compiled = self.compiled and getattr(self.model, "traceable", True)
        if captures(sequence) and compiled and not hooked:
            sequence = sequence.contiguous()
            replayed = self._captured(sequence, target)
            if replayed is not None:
                output, criterion, total = replayed
                return Trained(output, criterion, total / len(sequence))
        numbers = numbered(self.parts, sequence.device)[:, 0]
        update = self._update if compiled and not hooked else self.optimizer.step
        parted = sequence.chunk(self.accumulate, 1), target.chunk(self.accumulate)
        pieces = [
            Piece(x, y, len(y) / len(target), states.initialise(self.model, x[0]), torch.zeros((), device=x.device))
            for x, y in zip(*parted, strict=True)
        ]
        learnt = set(range(self.parts) if self.sampled is None else torch.randperm(self.parts)[: self.sampled].tolist())
        start = 0
        self.optimizer.zero_grad()
        for part, end in enumerate(part_ends(len(sequence), self.parts)):
            if part - 1 in updated:
                self.optimizer.zero_grad()
            for piece in pieces:
                with torch.set_grad_enabled(part in learnt):
                    steps = piece.sequence[start : end + 1]
                    objective, *kept = self.part(steps, piece.state, piece.target, numbers[part], compiled)
                if part in learnt:
                    (piece.share * objective).backward()
                piece.criterion, piece.output, piece.state, z = kept
                piece.rate += z
            if part in updated:
                update()
            start = end + 1
        loss = torch.stack([piece.share * piece.criterion for piece in pieces]).sum()
        rate = torch.stack([piece.share * piece.rate for piece in pieces]).sum() / len(sequence)
        return Trained(torch.cat([piece.output for piece in pieces]), loss, rate)

    def _hooked(self) -> bool:
        """Whether somebody has hooks on the weights' gradients or on FPTT's updates: no graph would call them."""
        optimizer, parameters = self.optimizer, [p for group in self.optimizer.param_groups for p in group["params"]]
        optimizers = (optimizer, optimizer.base) if isinstance(optimizer, FPTT) else ()
        names = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_backward_hooks", "_post_accumulate_grad_hooks"
        found = any(getattr(owner, name, None) for owner in (*optimizers, *parameters) for name in names)
        if found and not self.told_of_hooks:
            warn_of_eager_training(NotImplementedError("hooks of weights or optimizers are called by eager code alone"))
        self.told_of_hooks |= found
        return found

    def through(self, segment: Tensor, state: State, compiled: bool) -> tuple[State, Tensor]:
        """The state after the steps of ``segment`` [time, batch, ...] inside a part, and their firing rates' sum."""
        several, advance = (self._several, self._advance) if compiled else (self.several, self.advance)
        together = len(segment) // TOGETHER * TOGETHER if len(segment) >= WORTH_TOGETHER else 0

        def run(state: State) -> tuple[State, Tensor]:
            rate = torch.zeros((), device=segment.device)
            for start in range(0, together, TOGETHER):
                state, z = several(segment[start : start + TOGETHER].unbind(), state)
                rate = rate + z
            for x_t in segment[together:]:
                state, z = advance(x_t, state)
                rate = rate + z
            return state, rate

        if self.recompute is None or len(segment) < 2:
            return run(state)
        with set_checkpoint_early_stop(False):  # which would leave a compiled step by an exception
            result: tuple[State, Tensor] = checkpoint(
                run, state, use_reentrant=False, context_fn=lambda: (nullcontext(), unchanged_buffers(self.model))
            )
        return result


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Statistics that a module keeps are taken once, however often its steps are computed."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.data.copy_(value)  # unseen by the graph, whose batch norms name their statistics but do not need them
