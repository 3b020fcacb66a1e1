"""Where the kernels take the place of a layer, a readout or a whole network: on a GPU with Triton, in float32.

The truth that they are tested against is the code whose place they take.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt import surrogate
from fptt.kernels import blocks
from fptt.kernels.ltc import ltc_step
from fptt.kernels.readout import OUTPUTS, leaky_readout, readout_steps
from fptt.kernels.scan import WIDEST, depth, ltc_steps
from fptt.neurons import LeakyReadout, LiquidLinear, Neuron, NeuronState

USABLE: dict[int | None, bool] = {}  # by the index of a GPU, as of ``probe``


def applies(layer: Any, x: Tensor, state: NeuronState | None) -> bool:
    """Whether ``layer_step`` can take the place of ``layer.forward``: an LTC layer on a GPU with Triton, in float32."""
    return runs(x) and is_recurrent_ltc(layer) and state is not None


def probe(x: Tensor) -> None:
    """Find out, once for each GPU and before anything is compiled, whether Triton can build and run a kernel where ``x`` is.

    It needs a C compiler and knows no very old cards; where it cannot, one warning says so, and torch's operators run.
    """
    device = x.device
    if not (blocks.INSTALLED and x.is_cuda) or device.index in USABLE or torch.compiler.is_compiling():
        return
    try:
        USABLE[device.index] = blocks.works(device)
    except Exception as error:  # of whatever kind Triton, its compiler or the driver raise
        USABLE[device.index] = False
        reason = (str(error).strip().splitlines() or [""])[0]
        warnings.warn(f"fptt: no kernels of Triton on {device}, training goes on without ({reason})", stacklevel=3)


def runs(x: Tensor) -> bool:
    """Whether the kernels run where ``x`` is, on plain matrices of float32."""
    if not (blocks.INSTALLED and x.is_cuda and x.dtype == torch.float32 and x.dim() == 2 and USABLE.get(x.device.index, True)):
        return False
    transformed = torch._C._functorch.maybe_current_level() is not None
    return not (transformed or torch.is_autocast_enabled("cuda") or exporting())


def exporting() -> bool:
    """Whether ``torch.export`` looks at this; torch 2.11 says so of what ``torch.compile`` looks at as well."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def is_recurrent_ltc(layer: Any, normed: bool = False) -> bool:
    """Whether ``layer``, a ``layers.Layer``, is dense and recurrent, of adaptive LTC neurons in their default settings.

    ``normed``: the current of its input may have a batch norm.
    """
    neuron, synapse, recurrent = layer.neuron, layer.synapse, layer.recurrent
    return (
        type(neuron) is Neuron
        and type(neuron.rates) is LiquidLinear
        and type(synapse) is type(recurrent) is nn.Linear
        and synapse.bias is not None
        and recurrent.bias is None
        and (normed or layer.norm is None)
        and layer.recurrent_norm is layer.pool is None
        and neuron.adaptive
        and neuron.reset == "hard"
        and getattr(neuron.spike, "surrogate", None) == (surrogate.multi_gaussian, ())
        and not any(hooked(module) for module in layer.modules() if module is not layer)
    )


def hooked(module: nn.Module) -> bool:
    """Whether somebody looks into ``module``, which therefore has to be called."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def layer_step(layer: Any, x: Tensor, state: NeuronState) -> NeuronState:
    """The state of ``layer``, for which ``is_recurrent_ltc``, after its step; its spikes are the layer's output."""
    weights = (layer.synapse.weight, layer.synapse.bias, layer.recurrent.weight)
    assert state.b is not None, "the neurons are adaptive"
    z, v, b = ltc_step(x, state.v, state.z, state.b, *weights, *gates(layer), layer.neuron.b0)
    return NeuronState(v, z, b)


def gates(layer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of both gates of ``layer``: Wc, c, Wv, Wb."""
    rates = layer.neuron.rates
    of_v, of_b = (part.weight for part in rates.from_states)
    return rates.from_current.weight, rates.from_current.bias, of_v, of_b


def applies_to_readout(output: nn.Module, readout: nn.Module | None, x: Tensor) -> bool:
    """Whether ``readout_step`` can take the place of ``readout(output(x), state)``: a leaky readout with a liquid leak."""
    return runs(x) and is_liquid_readout(output, readout)


def is_liquid_readout(output: nn.Module, readout: nn.Module | None) -> bool:
    """Whether that is a linear map with bias, and a leaky readout with a liquid leak of not too many outputs."""
    return (
        type(output) is nn.Linear
        and output.bias is not None
        and output.out_features <= OUTPUTS
        and type(readout) is LeakyReadout
        and type(readout.inv_tau) is LiquidLinear
        and not any(hooked(module) for module in (output, *readout.modules()))
    )


def readout_step(output: Any, readout: Any, x: Tensor, state: Tensor) -> Tensor:
    """``readout(output(x), state)`` where ``is_liquid_readout``: the output, which is the state after the step as well."""
    gate = readout.inv_tau
    (of_state,) = gate.from_states
    return leaky_readout(
        x, state, output.weight, output.bias, gate.from_current.weight, gate.from_current.bias, of_state.weight
    )


def through(model: Any, steps: Tensor, state: Any) -> tuple[Tensor, list[Any], Tensor, Tensor] | None:
    """What a ``models.sequence.SequenceModel`` does in ``steps`` [steps, batch, inputs], or None where it has to be stepped.

    Returns:
        The output after the last step [batch, outputs], the layers' states (neuron, step) after it, the readout's, and the sum
        of the firing rates of the steps.
    """
    liquid = is_liquid_readout(model.output, model.readout)
    if not liquid or hooked(model) or not runs(steps[0]) or not all(scannable(layer, steps.device) for layer in model.layers):
        return None
    after, spikes, neurons = [], [], 0
    x = steps
    for layer, (neuron, step) in zip(model.layers, state.layers, strict=True):
        current = F.linear(x, layer.synapse.weight, layer.synapse.bias)
        if layer.norm is not None:
            current = layer.norm.through(current, step)
        v, x, b = ltc_steps(current, neuron.v, neuron.z, neuron.b, layer.recurrent.weight, *gates(layer), layer.neuron.b0)
        spikes.append(x.detach().sum())
        neurons += x[0].numel()
        after.append((NeuronState(v[-1], x[-1], b[-1]), None if step is None else step + len(steps)))
    gate = model.readout.inv_tau
    drive = model.output(x)
    output = readout_steps(drive, gate.from_current(drive), state.readout, gate.from_states[0].weight)[-1]
    return output, after, output, torch.stack(spikes).sum() / neurons


def scannable(layer: Any, device: torch.device) -> bool:
    """Whether ``layer`` is one of LTC neurons whose samples do not meet within a step, but in the norm of its input.

    And not too large a one for a kernel, and this ``device``.
    """
    if not is_recurrent_ltc(layer, normed=True) or hooked(layer):
        return False
    per_step = layer.norm is None or layer.norm.time_steps > 1
    return per_step and layer.synapse.out_features <= WIDEST and depth(layer.synapse.out_features, device) > 0
