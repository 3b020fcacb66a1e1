"""e-prop (Bellec et al., Nature Communications 2020): learning signals from the output, times eligibilities of the synapses.

For a synapse from i to j, with h_j what neuron j carries to its next step (potential, spike, adaptation) and s_i its input:

    eligibility_ji[t] = D_j[t] eligibility_ji[t-1] + p_j[t] s_i[t]
    gradient of W_ji  = sum over t of (dE[t]/dh_j[t]) eligibility_ji[t]

D_j is the derivative of the neuron's next h_j with respect to its own h_j alone, p_j that with respect to its current. Both are
had by autograd on one step of the neuron, so that every neuron is served: for a LIF neuron eligibility is the paper's low-pass
filter of the spikes, for an ALIF neuron its vector of two. What the paper's factorisation leaves out is left out: how neuron j
acts on others, and through recurrent synapses on itself. Its own reset counts, unless the neuron cuts it from the graph. The
learning signal dE[t]/dh_j[t] goes back through the layers at step t alone. For the last layer it also counts what its spikes
leave in the readout: the eligibility of the spikes is filtered by the readout's leak kappa, the paper's F_kappa.

Hence for one layer without recurrence the gradient is that of backpropagation through time. Memory does not grow with the
sequence; it is (tensors of the state + 1) x batch x neurons x (inputs + 1) numbers for each synapse, less those of tensors that
the next step does not depend on, and every step computes them all anew: for wide layers, liquid ones above all, many times the
work of backpropagation.

Liquid neurons (LTC) have gates on currents and states of the whole layer. Here, an extension of the paper: of a gate's matrix D
and p keep the diagonal, what neuron j tells its own gates, and the gates' weights are synapses with an eligibility too. That
concerns the past alone. What a weight does at step t itself, p_j[t] s_i[t] above, is the gradient through that step as it is,
so that on a sequence of one step every network has the gradient of backpropagation through time.
"""

from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fptt import state as states
from fptt.errors import InputError
from fptt.learning import layered
from fptt.learning.eligibility import Eligibility, Step, Unit, Wiring
from fptt.state import State

Feedback = Literal["symmetric", "random"]


class EPropState(NamedTuple):
    """The model's own state, and the eligibility traces."""

    model: State
    traces: Eligibility


class EProp(nn.Module):
    """``model`` with eligibility traces: its outputs are the same, its weights' gradients those of e-prop.

        eligible, state = EProp(model), None
        for x_t in sequence:
            output, state = eligible(x_t, state)
            criterion(output, target).backward()  # gradients add up
        optimizer.step()

    Or an update at every step. The state is cut between steps, here and not by the caller. What is learnt within a neuron and
    is no matrix, such as the time constants of ALIF, has the gradient of the present step.

    Args:
        model: layered (see ``fptt.learning.layered``), of dense synapses (``nn.Linear``, called once per step), neurons that
            are elementwise but for square gates, and a readout with one constant leak, or none.
        feedback: "symmetric" sends the learning signal down through the transposed weights; "random" through fixed matrices
            drawn once, of the scale of fresh weights (Xavier): the paper's random feedback, and between layers too.

    Raises:
        InputError: for a model that is not so.
    """

    traceable = False  # it differentiates within its step

    def __init__(self, model: nn.Module, feedback: Feedback = "symmetric"):
        super().__init__()
        layered.check(model, "eprop")
        if feedback not in ("symmetric", "random"):
            raise InputError(f"feedback must be symmetric or random, got '{feedback}'")
        self.model = model
        parts: Any = model
        layers, output, readout = parts.layers, parts.output, parts.readout
        units = [self._unit(layer.neuron, layer.synapse, layer.recurrent) for layer in layers]
        last = units[-1]
        if readout is not None:
            units.append(self._unit(readout, output))
        kappa = 0.0 if readout is None else layered.constant(readout)
        if kappa is None:
            raise InputError("eprop filters by the readout's leak, which must be one constant: set readout fixed or membrane")
        synapses = layered.linear_maps(model, model)
        self.wiring = Wiring(units, last, synapses, output, readout is None, kappa, {})
        self._check([*(name for unit in units for name in unit.synapses + unit.gates), *layered.linear_maps(model, output)])
        if feedback == "random":
            for name in layered.linear_maps(model, *(layer.synapse for layer in layers[1:]), output):
                matrix = nn.init.xavier_normal_(torch.empty_like(synapses[name].weight.detach()))
                self.register_buffer(buffer_of(name), matrix)
                self.wiring.feedback[name] = matrix

    def _unit(self, module: nn.Module, *synapses: nn.Module | None) -> Unit:
        return Unit(module, *(tuple(layered.linear_maps(self.model, *parts)) for parts in (synapses, (module,))))

    def _check(self, inside: list[str]) -> None:
        """Raises InputError for what has no eligibility: batch norms, convolutions, weights elsewhere, gates that mix."""
        wrong = [f"the batch norm {name}" for name in layered.norms(self.model)]
        units, synapses = self.wiring.units, self.wiring.synapses
        elementwise = {id(p) for unit in units for p in unit.module.parameters() if p.dim() == 1}
        for name, p in self.model.named_parameters():
            owner = name.rpartition(".")[0]
            if id(p) not in elementwise and not (owner in inside and isinstance(synapses[owner], nn.Linear)):
                wrong.append(name)
        gates = (name for unit in units for name in unit.gates)
        wrong += [f"the gate {n}, which is not square" for n in gates if synapses[n].out_features % synapses[n].in_features]
        if wrong:
            raise InputError(f"eprop knows dense synapses and elementwise neurons, not {wrong[0]}: train without (norm none)")

    def initial_state(self, x: Tensor) -> EPropState:
        """The state before the first input ``x`` [batch, ...]."""
        return EPropState(states.initialise(self.model, x), Eligibility({}, {}))

    def forward(self, x: Tensor, state: EPropState | None = None) -> tuple[Tensor, EPropState]:
        before = states.detach(self.initial_state(x) if state is None else state)
        if torch.is_inference_mode_enabled():  # which knows no gradients
            output, own = self.model(x, before.model)
            return output, EPropState(own, before.traces)
        self.wiring.feedback.update({name: self.get_buffer(buffer_of(name)) for name in self.wiring.feedback})
        learns = torch.is_grad_enabled()
        step = Step(self.wiring, before.traces)
        with ExitStack() as hooks, torch.enable_grad():
            step.watch(hooks.enter_context)
            output, own = self.model(x, before.model)
        after = EPropState(own, step.after)
        return (output, after) if learns else (output.detach(), states.detach(after))


def buffer_of(synapse: str) -> str:
    """What a synapse's random feedback is called in the state dict."""
    return f"feedback_{synapse.replace('.', '_')}"
