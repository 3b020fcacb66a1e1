"""A trained network as a graph of NIR, which simulators and neuromorphic chips read (Pedersen et al. 2024, arXiv 2311.14641).

NIR's neurons are differential equations with constants: tau dv/dt = R I - v. By Euler's rule, in steps of ``dt`` seconds and
with R = 1, v becomes v + (dt / tau) (I - v) as in ``spiking_step``, whose ``inv_tau_m`` is dt / tau.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import fptt
from fptt.errors import InputError
from fptt.models.sequence import SequenceModel


def to_nir(model: nn.Module, dt: float = 1e-4) -> Any:
    """The ``nir.NIRGraph`` of ``model`` in evaluation: affine and lif of each layer, recurrent through a linear; affine; li.

    Batch norms that are the same for all steps become part of the maps before them. What a graph of NIR cannot say is refused:
    liquid time constants, adaptive thresholds, statistics per time step, soft resets, and starts that are not zero.

    Args:
        model: a ``SequenceModel`` of LIF neurons, or of ALIF without adaptation; its readout has a fixed or learned leak.
        dt: duration of a time step, in seconds; 1e-4 is what SpikingJelly and snnTorch take a graph's to be.

    Raises:
        InputError: for a model that has no such graph, with what to train instead; without ``nir`` from 1.0.7.
    """
    try:
        import nir
    except ImportError:
        raise InputError("a graph of NIR needs nir: pip install 'fptt[nir]'") from None
    if "v_reset" not in {field.name for field in dataclasses.fields(nir.LIF)}:
        raise InputError("this nir knows no reset to zero: pip install 'nir>=1.0.7'")
    if not dt > 0:
        raise InputError(f"--dt must be positive, got {dt}")
    if not isinstance(model, SequenceModel):
        raise InputError(f"{type(model).__name__} has no graph of NIR here: dense and recurrent layers of LIF neurons do")

    def numbers(x: Tensor) -> np.ndarray:
        return x.detach().cpu().numpy()

    def leaky(rate: Tensor, **more: np.ndarray) -> dict[str, np.ndarray]:
        one = np.ones_like(numbers(rate))
        return {"tau": dt / numbers(rate), "r": one, "v_leak": 0 * one, **{name: value * one for name, value in more.items()}}

    names = ["input"]
    nodes: dict[str, Any] = {"input": nir.Input({"input": np.array(model.inputs)})}
    edges = []

    def add(name: str, node: Any) -> None:
        nodes[name] = node
        edges.append((names[-1], name))
        names.append(name)

    for number, layer in enumerate(model.layers):
        neuron: Any = layer.neuron
        rate = neuron.retention()
        if neuron.adaptive or rate is None:
            raise refused("the neurons' constants depend on input or spikes", "--neuron lif, or --neuron alif --no-adaptive")
        if neuron.reset != "hard":
            raise refused("the neurons have a soft reset", "--reset hard")
        if neuron.initial_v != "zero":
            raise refused("potentials do not start at zero", "--initial-v zero")
        weight, bias = folded(layer.synapse, layer.norm)
        if layer.recurrent is not None:
            recurrent, more = folded(layer.recurrent, layer.recurrent_norm)
            bias = bias + more  # not in the loop, where simulators differ about the first step
            nodes[f"recurrent{number}"] = nir.Linear(numbers(recurrent))
            edges += [(f"lif{number}", f"recurrent{number}"), (f"recurrent{number}", f"lif{number}")]
        add(f"affine{number}", nir.Affine(numbers(weight), numbers(bias)))
        zero, threshold = np.zeros(1), np.full(1, neuron.b0)
        add(f"lif{number}", nir.LIF(**leaky(1 - rate, v_threshold=threshold, v_reset=zero)))
    leak = None if model.readout is None else model.readout.retention()
    if leak is None:
        raise refused("the readout is no leaky integrator with constants", "--readout fixed or --readout learned")
    assert isinstance(model.output, nn.Linear)
    add("affine", nir.Affine(numbers(model.output.weight), numbers(model.output.bias)))
    add("li", nir.LI(**leaky(1 - leak)))
    add("output", nir.Output({"output": np.array([model.outputs])}))
    return nir.NIRGraph(nodes, edges, metadata={"dt": dt, "made by": f"fptt {fptt.__version__}"})


def refused(what: str, instead: str) -> InputError:
    return InputError(f"NIR cannot say this network, because {what}: train with {instead}")


def folded(linear: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``norm(linear(x))`` in evaluation, as one map; ``norm`` is a ``BatchNormThroughTime`` or None."""
    weight: Tensor = linear.weight
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias
    if norm is None:
        return weight, bias
    if norm.time_steps > 1:
        raise refused("its batch norms have statistics per time step", "--norm shared or --norm none")
    scale = norm.weight / (norm.running_var[0] + norm.eps).sqrt()
    return scale.unsqueeze(1) * weight, scale * (bias - norm.running_mean[0]) + norm.bias


def write_nir(model: nn.Module, path: Path, dt: float = 1e-4) -> dict[str, object]:
    """Write ``to_nir(model, dt)`` to ``path``, and return what describes it. Raises InputError as there, or for a path."""
    graph = to_nir(model, dt)
    import nir

    try:
        nir.write(path, graph)
    except OSError as error:
        raise InputError(f"cannot write {path} ({str(error).splitlines()[0]}): give another --out, ending in .nir") from None
    return {"version": fptt.__version__, "dt": dt, "nodes": list(graph.nodes)}
