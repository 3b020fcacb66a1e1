"""Every learning rule by name, those of others on the footing of FPTT: ``make_trainer(rule, model, loss, optimizer, ...)``.

    rule          what it learns from, at each time step                                    default updates
    sltt          the gradient through space alone: states are cut between steps            one, at the end
    online-bptt   the gradient through the last K steps, computed anew                      at every step
    ottt          spatial gradients times traces of what came before a synapse              at every step
    eprop         learning signals times eligibility traces                                 one, at the end

SLTT (Meng et al., ICCV 2023, arXiv 2302.14311) needs no code of its own: parts of one step, whose gradients add up. With
``sampled`` = K it is SLTT-K, which learns from K steps drawn at random and lets the state pass through the others. The losses
of the steps are summed with the weights of ``StepLoss``; in the paper they are averaged.
"""

from torch import nn
from torch.optim import Optimizer

from fptt.errors import InputError
from fptt.learning.eprop import EProp, Feedback
from fptt.learning.losses import StepLoss
from fptt.learning.ottt import OTTT
from fptt.learning.rules import Rule, SequenceTrainer, number_of_parts, number_of_updates
from fptt.learning.window import WindowTrainer


def make_trainer(
    rule: Rule,
    model: nn.Module,
    loss: StepLoss,
    optimizer: Optimizer,
    time_steps: int,
    *,
    parts: int | None = None,
    compiled: bool = False,
    accumulate: int = 1,
    recompute: int | None = None,
    sampled: int | None = None,
    window: int = 10,
    approximate: bool = False,
    feedback: Feedback = "symmetric",
) -> SequenceTrainer:
    """What trains ``model`` by ``rule`` on batches of sequences: ``trainer(sequence, target)``.

    Args:
        model: any module with ``output, state = model(x_t, state)``.
        loss: with ``number_of_parts(rule, time_steps, parts)`` parts.
        optimizer: see ``make_optimizer``.
        time_steps: length of the sequences.
        parts: updates per sequence, see ``number_of_updates``.
        compiled, accumulate, recompute: see ``SequenceTrainer``.
        sampled: steps per sequence that SLTT learns from (SLTT-K), or None for all.
        window: steps that an update of online BPTT goes back through, see ``WindowTrainer``.
        approximate: see ``OTTT``.
        feedback: see ``EProp``.

    Raises:
        InputError: where the rule cannot train this model, or not so.
    """
    cuts, updates = number_of_parts(rule, time_steps, parts), number_of_updates(rule, time_steps, parts)
    if rule == "online-bptt":
        if accumulate != 1 or recompute is not None:
            raise InputError("online-bptt computes its window anew at each step as it is: leave accumulate and recompute alone")
        if window < 1:
            raise InputError(f"window must be at least 1 time step, got {window}")
        return WindowTrainer(model, loss, optimizer, window, compiled)
    if rule == "ottt":
        model = OTTT(model, approximate=approximate)
    if rule == "eprop":
        model = EProp(model, feedback)
    if rule == "sltt" and sampled is not None and not 1 <= sampled <= time_steps:
        raise InputError(f"sampled must be 1 to {time_steps} time steps, got {sampled}")
    return SequenceTrainer(
        model,
        loss,
        optimizer,
        cuts,
        compiled,
        accumulate=accumulate,
        recompute=recompute,
        updates=updates,
        sampled=sampled if rule == "sltt" else None,
    )
