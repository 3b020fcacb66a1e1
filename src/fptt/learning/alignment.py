"""How well the gradients of a rule point where those of backpropagation through time point, for the same loss.

The loss of a sequence is the sum over its time steps of weight(t) criterion(output[t], target), whatever the rule; with the
weights frozen, each term has a gradient g[t] under each rule:

    bptt          of the term at t through all steps from the start to t
    tbptt         through the steps from the start of t's part to t
    online-bptt   through the last K steps to t
    fptt, sltt    through step t alone (FPTT without its regulariser)
    ottt, eprop   through step t alone, times traces of what came before

The sum of g over t is the gradient of the whole sequence. What FPTT's regulariser and the updates within a sequence make of it
is in the gradients that an optimizer is given while it trains: ``update_gradients``.
"""

import copy

import torch
from torch import Tensor, nn

from fptt import state as states
from fptt.errors import InputError
from fptt.learning.captured import part_ends
from fptt.learning.eprop import EProp, Feedback
from fptt.learning.fptt import FPTT
from fptt.learning.losses import StepLoss
from fptt.learning.ottt import OTTT
from fptt.learning.rules import Rule, SequenceTrainer, unchanged_buffers

STEP_ALONE = ("fptt", "sltt", "ottt", "eprop")


def step_gradients(
    rule: Rule,
    model: nn.Module,
    sequence: Tensor,
    target: Tensor,
    loss: StepLoss,
    *,
    parts: int = 10,
    window: int = 10,
    approximate: bool = False,
    feedback: Feedback = "symmetric",
    seed: int = 0,
) -> Tensor:
    """The gradient of each time step's loss under ``rule``, with the weights as they are; nothing of ``model`` is changed.

    Takes T states in memory, and for "bptt" and "tbptt" the graph of a part; "bptt" goes back through T (T + 1) / 2 steps.

    Args:
        model: any module with ``output, state = model(x_t, state)``, in training or evaluation mode as it is.
        sequence, target: [time, batch, ...] and [batch, ...].
        loss: with as many parts as ``sequence`` has time steps.
        parts: of truncated BPTT.
        window: of online BPTT, in steps.
        approximate, feedback: see ``OTTT`` and ``EProp``.
        seed: of all that is random, initial states above all, so that rules are compared on the same draw.

    Returns:
        [time, parameters], the numbers of all parameters in the order of ``model.parameters()``; zero where a loss does not
        depend on one.

    Raises:
        InputError: for a loss of other length, a setting out of range, or a model that the rule cannot train.
    """
    steps = len(sequence)
    if len(loss.weights) != steps:
        raise InputError(f"the loss has {len(loss.weights)} parts, the sequence {steps} time steps: give a loss of as many")
    first = first_steps(rule, steps, parts, window)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    with torch.random.fork_rng(), torch.enable_grad(), unchanged_buffers(model), unchanged_buffers(loss):
        torch.manual_seed(seed)
        stepped = model
        if rule == "ottt":
            stepped = OTTT(model, approximate=approximate)
        elif rule == "eprop":
            stepped = EProp(model, feedback)
            torch.manual_seed(seed)  # whatever was drawn for the feedback, the states are those of the other rules
        state = states.initialise(stepped, sequence[0])
        before = [states.detach(state)]  # the state before each step
        for t in range(steps):
            if t == 0 or first[t] != first[t - 1]:
                state = before[first[t]]
                for s in range(first[t], t):
                    _, state = stepped(sequence[s], state)
            output, state = stepped(sequence[t], state)
            before.append(states.detach(state))
            objective, _ = loss(output, target, torch.tensor(t, device=sequence.device))
            found = torch.autograd.grad(objective, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([g.reshape(-1) for g in found]))
    return torch.stack(rows)


def first_steps(rule: Rule, steps: int, parts: int = 10, window: int = 10) -> list[int]:
    """For each of ``steps`` time steps, the earliest one that the gradient of its loss goes back through, traces aside.

    Raises InputError for settings out of range.
    """
    if rule == "tbptt" and not 1 <= parts <= steps:
        raise InputError(f"parts must be 1 to {steps}, got {parts}")
    if rule == "online-bptt" and window < 1:
        raise InputError(f"window must be at least 1 time step, got {window}")
    if rule in STEP_ALONE:
        return list(range(steps))
    if rule == "online-bptt":
        return [max(0, t - window + 1) for t in range(steps)]
    starts = [0, *(end + 1 for end in part_ends(steps, parts))] if rule == "tbptt" else [0]
    return [max(start for start in starts if start <= t) for t in range(steps)]


def update_gradients(trainer: SequenceTrainer, sequence: Tensor, target: Tensor, seed: int = 0) -> Tensor:
    """What the base optimizer is given at each update while ``trainer`` trains on one batch; afterwards all is as it was.

    That is the gradient with FPTT's regulariser in it, and clipped, at weights that each update has moved.

    Args:
        seed: see ``step_gradients``.

    Returns:
        [updates, parameters], as ``step_gradients``.
    """
    model, optimizer = trainer.model, trainer.optimizer
    base = optimizer.base if isinstance(optimizer, FPTT) else optimizer
    parameters = [p for p in model.parameters() if p.requires_grad]
    kept = [(part, copy.deepcopy(part.state_dict())) for part in (model, trainer.loss, optimizer)]
    gradients = [p.grad for p in parameters]
    rows: list[Tensor] = []

    def given(*_: object) -> None:
        rows.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]))

    hook = base.register_step_pre_hook(given)  # after that which clips
    compiled, trainer.compiled = trainer.compiled, False  # no graph calls a hook
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            trainer(sequence, target)
    finally:
        hook.remove()
        trainer.compiled = compiled
        for part, content in kept:
            part.load_state_dict(content)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
    return torch.stack(rows)


def cosine(gradients: Tensor, reference: Tensor) -> Tensor:
    """Cosine of the angle between gradients along the last dimension, 1 for the same direction; NaN where one is zero."""
    norms = gradients.norm(dim=-1) * reference.norm(dim=-1)
    return (gradients * reference).sum(-1) / norms


def by_name(model: nn.Module, gradients: Tensor) -> dict[str, Tensor]:
    """``gradients`` [..., parameters] as the part of each parameter by its name, [..., numbers]."""
    named = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    return dict(zip((name for name, _ in named), gradients.split([n for _, n in named], -1), strict=True))
