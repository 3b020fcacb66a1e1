"""Online BPTT: at every time step, the loss of that step goes back through the last K steps, and the weights are updated."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fptt import state as states
from fptt.learning.losses import StepLoss
from fptt.learning.rules import SequenceTrainer, unchanged_buffers
from fptt.learning.step import Trained


class WindowTrainer(SequenceTrainer):
    """``trainer(sequence, target)``: truncated BPTT with a window of K steps that moves on by one step at each update.

    An update changes the weights, so what was computed with those before it cannot be gone back through. At step t the last K
    steps are therefore computed anew with the present weights, from the state K steps ago:

        s        state before step t - K + 1, cut from its graph; before step 0 while t < K
        gradient of the loss at t through steps t - K + 1 ... t, all run from s with the weights as they are before update t

    When the window moves on, s becomes the state after its first step, as it was computed last: with the weights before update
    t. Each state is so computed at most K times and keeps its last value. Kept are K inputs and one state, whatever the length
    of the sequence; a step takes as long as K steps of BPTT. K = 1 is FPTT without its regulariser, and while the window
    reaches back to the start the gradient is that of BPTT for the loss at t.

    Statistics of batch norms are taken once for each step, when it is new. Random numbers, of dropout say, are drawn anew.

    Args:
        model, loss, optimizer: as for ``SequenceTrainer``; the loss has one part per time step.
        window: K, from 1.
        compiled: run the steps of the network, and FPTT's updates, through torch's compiler.
    """

    def __init__(self, model: nn.Module, loss: StepLoss, optimizer: Optimizer, window: int, compiled: bool = False):
        super().__init__(model, loss, optimizer, len(loss.weights), compiled)
        self.window = window

    def __call__(self, sequence: Tensor, target: Tensor) -> Trained:
        """Train on ``sequence`` [time, batch, ...] towards ``target`` [batch, ...]; one update per time step.

        Raises ValueError for a sequence of other length than the loss has parts.
        """
        if len(sequence) != self.parts:
            raise ValueError(f"the loss has {self.parts} parts, the sequence {len(sequence)} time steps: give both as many")
        finish, update = (self.compiled_finish, self._update) if self.compiled else (self.finish, self.optimizer.step)
        advance = self._advance if self.compiled else self.advance
        numbers = torch.arange(self.parts, device=sequence.device)
        rate = torch.zeros((), device=sequence.device)
        start = states.initialise(self.model, sequence[0])
        for t in range(len(sequence)):
            first = max(0, t - self.window + 1)
            self.optimizer.zero_grad()
            state = settled = start
            with unchanged_buffers(self.model):
                for s in range(first, t):
                    state, _ = advance(sequence[s], state)
                    settled = states.detach(state) if s == first else settled
            objective, criterion, output, after, z = finish(sequence[t], state, target, numbers[t])
            objective.backward()
            update()
            rate += z
            if t + 1 >= self.window:
                start = settled if self.window > 1 else after
        return Trained(output, criterion, rate / len(sequence))
