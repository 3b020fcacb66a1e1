"""A network on a live stream: one input at a time, its state carried on, and learning while it runs where a target is known."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fptt import state as states
from fptt.learning.losses import StepLoss
from fptt.learning.rules import SequenceTrainer
from fptt.state import State


class StreamStep(NamedTuple):
    """What one step of a stream gives, detached and on the model's device."""

    output: Tensor  # [batch, ...], before the update where there was one
    loss: Tensor | None  # the bare criterion, scalar; None where nothing was learnt
    firing_rate: Tensor  # spikes per neuron of this step, scalar


class Stream:
    """Steps ``model`` through a stream that may never end, in constant memory.

        stream = Stream(model, optimizer, loss)
        for x_t, target in live_source:  # x_t [batch, ...], as it comes; target None where it is not known
            output, loss, firing_rate = stream.step(x_t, target)

    Step by step, outputs and updates are those of the whole sequence: without targets those of an evaluation, with a target
    at every step those of ``SequenceTrainer`` with one update per step. Steps without a target carry the state on and do not
    learn. Once the loss has weighted its last part, every further step counts as the last.

    The model's mode is left as it is. For a batch of one call ``model.eval()``, also to learn: batch norm then keeps the
    statistics of its training.

    Args:
        model: any module with ``output, state = model(x_t, state)``.
        optimizer: ``fptt.FPTT(...)``, or any other; None for a stream that does not learn.
        loss: a ``StepLoss``, needed with ``optimizer``; ``StepLoss(criterion, 1)`` weights all steps alike.

    Raises:
        ValueError: for one of ``optimizer`` and ``loss`` without the other, and for a target where there is neither.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None, loss: StepLoss | None = None):
        self.model = model
        self.trainer: SequenceTrainer | None = None
        if optimizer is not None and loss is not None:
            self.trainer = SequenceTrainer(model, loss, optimizer, len(loss.weights))
        elif optimizer is not None or loss is not None:
            raise ValueError("a stream that learns needs both an optimizer and a loss")
        self.reset()

    def reset(self) -> None:
        """Start anew: the next input is the first of a sequence. What was learnt is kept."""
        self.state: State = None
        self.steps = 0  # since the start
        self.updates = 0  # of the weights, since the start

    def step(self, x_t: Tensor, target: Tensor | None = None) -> StreamStep:
        """One input ``x_t`` [batch, ...]; with ``target`` [batch, ...], one update of the weights after it."""
        if self.steps == 0:
            self.state = states.initialise(self.model, x_t)
        if target is None:
            with torch.no_grad():
                output, self.state = self.model(x_t, self.state)
            loss, firing_rate = None, states.firing_rate(self.state)
        else:
            if self.trainer is None:
                raise ValueError("this stream does not learn: give it an optimizer and a loss, or no target")
            part = torch.tensor(min(self.steps, self.trainer.parts - 1), device=x_t.device)
            self.trainer.optimizer.zero_grad()
            objective, loss, output, self.state, firing_rate = self.trainer.finish(x_t, self.state, target, part)
            objective.backward()
            self.trainer.optimizer.step()
            self.updates += 1
        self.steps += 1
        return StreamStep(output, loss, firing_rate)
