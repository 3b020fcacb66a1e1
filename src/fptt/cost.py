"""What a network costs: the operations of its synapses, the activity of its neurons, memory, and an estimate of energy.

Definitions of NeuroBench (Yik et al. 2025, Nature Communications 16, 1545). A product with a weight is dense where it counts
whatever its factors are, and effective where neither its input nor the weight is zero. It is an accumulate (AC) where the
input is a spike, which needs no multiplication, else a multiply-accumulate (MAC): the gates of an LTC neuron read analogue
currents and membrane potentials, and so are MACs. Biases, normalisations, which can be folded into the weights before them,
and elementwise arithmetic are no synaptic operations; updates of membrane potentials are counted by themselves.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt import state as states
from fptt.errors import InputError
from fptt.neurons import LeakyReadout, Neuron, NeuronState, Rectifier

MAC_PJ = 4.6  # a 32-bit floating-point multiplication (3.7 pJ) and addition (0.9 pJ) in 45 nm: Horowitz 2014, ISSCC
AC_PJ = 0.9

Cell = nn.RNNCellBase  # RNNCell, LSTMCell, GRUCell


class Product:
    """Counts the uses of one weight matrix or kernel, at each of ``time_steps`` steps.

    Args:
        name: of the module that holds it.
        weight: [outputs, ...].
        apply: the product without a bias, ``apply(x, weight)`` for ``x`` [batch, ...].
        groups: of a convolution.
    """

    def __init__(self, name: str, weight: Tensor, apply: Callable[[Tensor, Tensor], Tensor], time_steps: int, groups: int = 1):
        self.name, self.weight, self.apply, self.groups = name, weight.detach(), apply, groups
        self.dense = torch.zeros(time_steps, dtype=torch.int64, device=weight.device)
        self.effective = torch.zeros_like(self.dense)
        self.spikes = torch.ones((), dtype=torch.bool, device=weight.device)  # whether all inputs so far were -1, 0 or 1
        self._uses: tuple[Tensor, Tensor] | None = None  # of all inputs together, of each where the weight is not zero

    def uses(self, x: Tensor, present: Tensor) -> Tensor:
        """In how many products with the ``present`` weights (bool) each entry of one sample takes part, int64 [...].

        That is the gradient of the sum of all outputs, were these weights one and the others zero.
        """
        ones = torch.ones(1, *x.shape[1:], dtype=torch.float64, requires_grad=True)
        weight = present.cpu().double().unflatten(0, (self.groups, -1)).sum(1)  # all outputs are summed anyway
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.apply(ones, weight).sum(), ones)
        return gradient[0].round().long().to(x.device)

    def add(self, x: Tensor, step: int) -> None:
        """Count the product with ``x`` [batch, ...] at ``step``; nothing reaches the host."""
        if self._uses is None:
            every, nonzero = torch.ones_like(self.weight, dtype=torch.bool), self.weight != 0
            self._uses = self.uses(x, every).sum(), self.uses(x, nonzero)
        of_all, of_each = self._uses
        active = x != 0
        self.dense[step] += len(x) * of_all
        self.effective[step] += (active.sum(0) * of_each).sum()
        self.spikes &= (~active | (x.abs() == 1)).all()


def products(name: str, module: nn.Module, time_steps: int) -> list[Product]:
    """The products of ``module`` alone; of a cell, that with its input and that with its hidden state.

    Raises InputError for weights of another kind of module.
    """
    if isinstance(module, nn.Linear):
        return [Product(name, module.weight, F.linear, time_steps)]
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        convolve: Any = module._conv_forward
        return [Product(name, module.weight, lambda x, w: convolve(x, w, None), time_steps, groups=module.groups)]
    if isinstance(module, Cell):
        parts = {f"{name}.weight_ih": module.weight_ih, f"{name}.weight_hh": module.weight_hh}
        return [Product(part, weight, F.linear, time_steps) for part, weight in parts.items()]
    if any(p.dim() > 1 for p in module.parameters(recurse=False)):
        raise InputError(
            f"the operations of {name or 'the model'}, a {type(module).__name__}, cannot be counted: use Linear, Conv1d to "
            "Conv3d, RNNCell, LSTMCell or GRUCell"
        )
    return []


def factors(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What the ``arguments`` of a call of ``module`` bring to each of its products."""
    x, *rest = arguments
    if not isinstance(module, Cell):
        return (x,)
    hidden = rest[0] if rest else None
    if hidden is None:
        return x, x.new_zeros(len(x), module.hidden_size)
    return x, hidden[0] if isinstance(hidden, tuple) else hidden


class Activity:
    """Counts what a module of neurons does: outputs that are not zero, and updates of membrane potentials at each step.

    The module is a ``Neuron``, a ``LeakyReadout``, whose output is a membrane potential and no activation, or a cell, which has
    activations and no membrane potential.
    """

    def __init__(self, name: str, module: nn.Module, time_steps: int, device: torch.device):
        self.name, self.module = name, module
        self.outputs = 0
        self.active = torch.zeros((), dtype=torch.int64, device=device)
        self.updates = torch.zeros(time_steps, dtype=torch.int64, device=device)

    @property
    def spiking(self) -> bool:
        return isinstance(self.module, Neuron) and not isinstance(self.module, Rectifier)

    def potential(self, state: Any) -> Tensor | None:
        """The membrane potentials in a ``state`` of the module."""
        if isinstance(self.module, LeakyReadout):
            return state
        return state.v if isinstance(state, NeuronState) else None

    def add(self, arguments: tuple[Any, ...], result: Any, step: int) -> None:
        """Count a call: the first step sets every membrane potential, later ones update those that they change."""
        output, state = result if isinstance(result, tuple) else (result, None)
        if not isinstance(self.module, LeakyReadout):
            self.outputs += output.numel()
            self.active += output.count_nonzero()
        before = self.potential(arguments[1]) if len(arguments) > 1 else None
        after = self.potential(state)
        if after is not None:
            self.updates[step] += after.numel() if step == 0 or before is None else (after != before).sum()


class Counter:
    """Counts, through hooks, what ``model`` does at each step; ``step`` says which one it is, None that nothing counts."""

    def __init__(self, model: nn.Module, time_steps: int, device: torch.device):
        self.step: int | None = None
        self.products: list[Product] = []
        self.activities: list[Activity] = []
        self.handles: list[Any] = []
        modules = dict(model.named_modules())
        of_modules = {name: products(name, module, time_steps) for name, module in modules.items()}
        for name, module in modules.items():
            if found := of_modules[name]:
                self.products += found
                self.handles.append(module.register_forward_pre_hook(self._before(found)))
            if isinstance(module, (Neuron, LeakyReadout, Cell)):
                self.activities.append(Activity(name, module, time_steps, device))
                self.handles.append(module.register_forward_hook(self._after(self.activities[-1])))

    def _before(self, found: list[Product]) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if self.step is not None:
                for product, x in zip(found, factors(module, arguments), strict=True):
                    product.add(x, self.step)

        return hook

    def _after(self, activity: Activity) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
            if self.step is not None:
                activity.add(arguments, result, self.step)

        return hook

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def result(self, samples: int) -> dict[str, Any]:
        """See ``measure``; ``samples`` are those that were counted."""

        def total(counts: Iterable[Tensor]) -> Tensor:
            return torch.stack([torch.zeros_like(self.products[0].dense), *counts]).sum(0).cpu()

        kinds = ["AC" if product.spikes else "MAC" for product in self.products]
        macs, acs = (
            total(p.effective for p, its in zip(self.products, kinds, strict=True) if its == kind) for kind in ("MAC", "AC")
        )
        counted = {
            "dense_operations": total(product.dense for product in self.products),
            "effective_macs": macs,
            "effective_acs": acs,
            "membrane_updates": total(activity.updates for activity in self.activities),
            "energy_estimate_nj": (MAC_PJ * macs.double() + AC_PJ * acs.double()) / 1000,
        }
        zeros, outputs = sum(int((p.weight == 0).sum()) for p in self.products), sum(a.outputs for a in self.activities)
        return {
            "connection_sparsity": zeros / sum(p.weight.numel() for p in self.products),
            "activation_sparsity": 1 - sum(int(a.active) for a in self.activities) / outputs if outputs else None,
            **{key: counts.sum().item() / samples for key, counts in counted.items()},
            **({} if outputs else {"membrane_updates": None}),
            "firing_rates": {a.name: int(a.active) / a.outputs for a in self.activities if a.spiking},
            "products": [
                {
                    "name": p.name,
                    "operation": kind,
                    "dense": int(p.dense.sum()) / samples,
                    "effective": int(p.effective.sum()) / samples,
                }
                for p, kind in zip(self.products, kinds, strict=True)
            ],
            "steps": {key: (counts.double() / samples).tolist() for key, counts in counted.items()},
        }


@torch.no_grad()
def measure(model: nn.Module, sequences: Iterable[Tensor]) -> dict[str, Any]:
    """Step ``model`` through batches of ``sequences``, each [time, batch, ...] and all equally long, in evaluation mode.

    Any model of Linear, Conv1d to Conv3d, RNNCell, LSTMCell and GRUCell can be measured; activations and membrane potentials
    are those of ``fptt.neurons`` and of cells. Batch norms of fptt are left as they are, and memory does not grow.

    Returns:
        "footprint_bytes" of parameters and buffers; "connection_sparsity", the share of weights that are zero;
        "activation_sparsity", the share of the neurons' outputs that are zero (None without neurons of fptt, as the membrane
        updates are); per sample, which is a whole sequence, "dense_operations", "effective_macs", "effective_acs",
        "membrane_updates", and "energy_estimate_nj", the energy of the effective operations' arithmetic alone, without memory
        traffic; "firing_rates", the spikes per neuron and step of each spiking layer; "products", the operations per sample of
        each weight matrix or kernel, which are ACs where all its inputs were -1, 0 or 1; "steps", the figures per sample as
        lists over the time steps.

    Raises:
        InputError: for a module whose operations cannot be counted, for sequences of different lengths, and for none.
    """
    counter, samples, training = None, 0, model.training
    model.eval()
    try:
        for sequence in sequences:
            if counter is None:
                counter, time_steps = Counter(model, len(sequence), sequence.device), len(sequence)
            if len(sequence) != time_steps:
                raise InputError(f"sequences of {time_steps} and of {len(sequence)} time steps cannot be counted together")
            state = states.initialise(model, sequence[0])
            for t, x_t in enumerate(sequence):
                counter.step = t
                _, state = model(x_t, state)
            counter.step = None
            samples += sequence.shape[1]
    finally:
        model.train(training)
        if counter is not None:
            counter.remove()
    if counter is None or not counter.products:
        raise InputError("there is nothing to count: give a model with weights at least one sequence")
    stored = [*model.parameters(), *model.buffers()]
    return {"footprint_bytes": sum(t.numel() * t.element_size() for t in stored), **counter.result(samples)}
