"""Online Training Through Time (Xiao et al., NeurIPS 2022, arXiv 2210.04195): traces of what came before a synapse.

A leaky neuron whose potential is kept at a constant share lambda per step, u_t = lambda u_{t-1} + W s_t + ..., has all of its
past input in one trace for each presynaptic neuron i:

    trace_i[t] = lambda trace_i[t-1] + s_i[t]
    dL[t]/dW_ji = (dL[t]/du_j[t]) trace_i[t]

where dL[t]/du_j[t] goes through the layers at step t alone. Memory does not grow with the sequence. Left out are the paths
through the reset, and those through the potentials of the layers above at earlier steps; for one layer whose reset is cut from
the graph, below an output without memory, the sum over the steps is the gradient of backpropagation through time.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from fptt import state as states
from fptt.errors import InputError
from fptt.learning import layered
from fptt.state import State


class Trace(NamedTuple):
    """Of one synapse: ``x`` of its input, of the input's shape, and ``one`` of the constant 1, which enters by the bias."""

    x: Tensor
    one: Tensor


class OTTTState(NamedTuple):
    """The model's own state, and the traces by the names of the synapses (none before the first step)."""

    model: State
    traces: dict[str, Trace]


class OTTT(nn.Module):
    """``model`` with traces: its outputs are the same, its weights' gradients those of OTTT.

        traced, state = OTTT(model), None
        for x_t in sequence:
            output, state = traced(x_t, state)
            loss = criterion(output, target)
            optimizer.zero_grad(); loss.backward(); optimizer.step()

    That is OTTT_O; with one update at the end, of gradients that added up, it is OTTT_A. The state is cut between steps, here
    and not by the caller. Parameters other than synapses have the gradient of the present step.

    The derivation holds for feed-forward LIF neurons with one fixed time constant in a layer and no batch norm. It knows of no
    dependence on the reset: spiking neurons with a hard reset, such as those of fptt by default, are trained as if the reset
    did not shorten their memory.

    Args:
        model: layered (see ``fptt.learning.layered``), or any other with ``leaks`` given.
        leaks: lambda of the neurons that each synapse feeds, by the synapse's name (an ``nn.Linear`` or ``nn.Conv2d``, called
            once per step); 0 for an output without memory. None reads them from a layered model.
        approximate: also train what the derivation does not cover: recurrent synapses, which get traces of the last spikes;
            constants that are learnt or differ (ALIF), by their mean; batch norms, as if they were constant.

    Raises:
        InputError: for a model that is not layered, has a leak that depends on its input (LTC), or is not covered.
    """

    traceable = False  # its state gains the traces at the first step

    def __init__(self, model: nn.Module, leaks: dict[str, float] | None = None, *, approximate: bool = False):
        super().__init__()
        self.model = model
        given = None if leaks is None else {name: float(leak) for name, leak in leaks.items()}
        self.leaks: dict[str, Any] = known_leaks(model, approximate) if given is None else given
        modules = dict(model.named_modules())
        for name in self.leaks:
            if not isinstance(modules.get(name), (nn.Linear, nn.Conv2d)):
                raise InputError(f"'{name}' is no linear or convolutional module of {type(model).__name__}")
        self.synapses = {name: modules[name] for name in self.leaks}

    def initial_state(self, x: Tensor) -> OTTTState:
        """The state before the first input ``x`` [batch, ...]."""
        return OTTTState(states.initialise(self.model, x), {})

    def forward(self, x: Tensor, state: OTTTState | None = None) -> tuple[Tensor, OTTTState]:
        before, traces = states.detach(self.initial_state(x) if state is None else state)
        after: dict[str, Trace] = {}
        with ExitStack() as hooks:
            for name, synapse in self.synapses.items():
                hooks.enter_context(synapse.register_forward_hook(self._traced(name, traces.get(name), after)))
            output, own = self.model(x, before)
        return output, OTTTState(own, after)

    def _traced(self, name: str, before: Trace | None, after: dict[str, Trace]) -> Callable[..., Tensor]:
        """A forward hook: the output as it is, with the trace in place of the input in the gradients of weight and bias."""

        def hook(synapse: Any, arguments: tuple[Tensor], y: Tensor) -> Tensor:
            x = arguments[0].detach()
            if name in after:
                raise InputError(f"OTTT keeps one trace for each synapse, but '{name}' is called twice in a step")
            if before is None:
                after[name] = Trace(x, x.new_ones(()))
                return y
            leak = self.leaks[name]
            if isinstance(leak, nn.Module):
                leak = leak.retention().mean().detach()  # type: ignore[operator]
            after[name] = trace = Trace(leak * before.x + x, leak * before.one + 1)
            bias = None if synapse.bias is None else (trace.one - 1) * synapse.bias
            function = synapse._conv_forward if isinstance(synapse, nn.Conv2d) else F.linear
            past = function(trace.x - x, synapse.weight, bias)
            return y + (past - past.detach())

        return hook


def known_leaks(model: nn.Module, approximate: bool = False) -> dict[str, Any]:
    """Lambda by synapse of a layered model: a float, or the neuron whose mean retention it is.

    Raises InputError: see ``OTTT``.
    """
    layered.check(model, "ottt")
    leaks: dict[str, Any] = {}
    outside = ["batch norm"] if layered.norms(model) else []
    fed = [(layer.neuron, (layer.synapse, layer.recurrent)) for layer in model.layers]  # type: ignore[union-attr]
    for neuron, synapses in (*fed, (model.readout, (model.output,))):
        leak: Any = 0.0 if neuron is None else layered.constant(neuron)
        if leak is None and layered.retention(neuron) is None:
            part = "readout" if neuron is model.readout else "neuron"
            raise InputError(
                f"ottt needs constant leaks: that of the {part} depends on its input; neuron lif and readout fixed do"
            )
        if leak is None:
            outside.append("a leak that is learnt")
        if len(synapses) > 1 and synapses[1] is not None:
            outside.append("recurrence")
        leaks |= dict.fromkeys(layered.linear_maps(model, *synapses), neuron if leak is None else leak)
    if outside and not approximate:
        raise InputError(
            f"ottt is derived for feed-forward LIF neurons, not for {', '.join(dict.fromkeys(outside))}: train without "
            "(neuron lif, norm none, no recurrent) or set approximate"
        )
    return leaks
