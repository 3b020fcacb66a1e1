"""A network against its graph of NIR, read from the file and integrated here, and by SpikingJelly."""

import dataclasses

import numpy as np
import pytest
import torch

from fptt import InputError
from fptt.cli import main
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import SequenceModel
from fptt.neuromorphic import to_nir, write_nir

nir = pytest.importorskip("nir")
needs_reset = pytest.mark.skipif(
    "v_reset" not in {field.name for field in dataclasses.fields(nir.LIF)}, reason="needs nir >= 1.0.7"
)


def network(**options):
    """Two layers, the second recurrent too, with weights, statistics and constants that a training could leave."""
    torch.manual_seed(0)
    options = {"neuron": "lif", "readout": "fixed", "initial_v": "zero", **options}
    model = SequenceModel(3, (6, 5), 4, **options).double()
    for name, value in model.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.2, 2)
        elif "running_mean" in name or name.endswith("bias"):
            value.normal_(0, 0.2)
        elif "norm.weight" in name:
            value.uniform_(0.5, 1)
    return model.eval()


def simulate(graph, sequence):
    """Outputs [time, outputs] and spikes of each lif for ``sequence`` [time, inputs]: NIR's equations by Euler's rule."""
    dt, nodes = graph.metadata["dt"], graph.nodes
    v = {name: np.zeros_like(node.tau) for name, node in nodes.items() if hasattr(node, "tau")}
    z = {name: np.zeros_like(value) for name, value in v.items()}
    order, forward = ["input"], {a: b for a, b in graph.edges if "recurrent" not in a + b}
    while order[-1] in forward:
        order.append(forward[order[-1]])
    outputs, spikes = [], {name: [] for name in v}
    for x in sequence:
        value = {"input": x} | {name: node.weight @ z[f"lif{name[-1]}"] for name, node in nodes.items() if "recurrent" in name}
        for name in order[1:]:
            node, current = nodes[name], sum(value[a] for a, b in graph.edges if b == name)
            if isinstance(node, nir.Affine):
                value[name] = node.weight @ current + node.bias
                continue
            if isinstance(node, nir.Output):
                outputs.append(current)
                continue
            v[name] = v[name] + dt / node.tau * (node.v_leak - v[name] + node.r * current)
            if isinstance(node, nir.LIF):
                z[name] = (v[name] > node.v_threshold).astype(float)
                v[name] = np.where(z[name] > 0, node.v_reset, v[name])
                spikes[name].append(z[name])
            value[name] = z[name] if isinstance(node, nir.LIF) else v[name]
    return np.array(outputs), {name: np.array(s) for name, s in spikes.items() if s}


@needs_reset
@pytest.mark.parametrize("dt", [1e-4, 1e-3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tau_m": 7.0, "b0": 0.3},
        {"recurrent": False, "readout": "learned"},
        {"neuron": "alif", "adaptive": False, "norm_steps": 1, "gamma": 1.0},
    ],
)
def test_the_graph_is_the_network(tmp_path, options, dt):
    model = network(**options)
    described = write_nir(model, tmp_path / "network.nir", dt)
    graph = nir.read(tmp_path / "network.nir")
    assert set(described["nodes"]) == set(graph.nodes) and described["dt"] == graph.metadata["dt"] == dt
    sequence = 3 * torch.rand(40, 3, dtype=torch.float64)
    outputs, spikes = simulate(graph, sequence.numpy())
    state, fired = None, 0.0
    for t, x_t in enumerate(sequence):
        expected, state = model(x_t.unsqueeze(0), state)
        np.testing.assert_allclose(outputs[t], expected[0].detach(), atol=1e-9)
        for number, layer in enumerate(state.layers):
            assert np.array_equal(spikes[f"lif{number}"][t], layer.neuron.z[0].detach())
            fired += layer.neuron.z.mean().item()
    assert 2 < fired < 78, "neither silent nor firing at every step"


@needs_reset
@pytest.mark.parametrize("recurrent", [False, True])
def test_spikingjelly_runs_the_graph(tmp_path, recurrent):
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange", exc_type=ImportError)
    model = network(recurrent=recurrent)
    write_nir(model, tmp_path / "network.nir")
    graph = nir.read(tmp_path / "network.nir")
    graph.nodes.pop("li"), graph.nodes.pop("affine"), graph.nodes.pop("output")  # it has no leaky integrator: the spikes
    graph.nodes["output"] = nir.Output({"output": np.array([5])})
    edges = [edge for edge in graph.edges if not {"li", "affine", "output"} & set(edge)]
    theirs = exchange.import_from_nir(nir.NIRGraph(graph.nodes, [*edges, ("lif1", "output")]), dtype=torch.float64)
    state, memory = None, None
    for x_t in 3 * torch.rand(30, 2, 3, dtype=torch.float64):
        _, state = model(x_t, state)
        z, memory = theirs(x_t, memory)
        assert torch.equal(z, state.layers[-1].neuron.z)
    assert z.any()


@needs_reset
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: network(neuron="ltc"), "the neurons' constants depend on input or spikes: train with --neuron lif"),
        (lambda: network(neuron="alif"), "train with --neuron lif, or --neuron alif --no-adaptive"),
        (lambda: network(reset="soft"), "soft reset: train with --reset hard"),
        (lambda: network(initial_v="uniform"), "--initial-v zero"),
        (lambda: network(norm_steps=8), "statistics per time step: train with --norm shared or --norm none"),
        (lambda: network(readout="liquid"), "--readout fixed or --readout learned"),
        (lambda: network(readout="membrane"), "--readout fixed or --readout learned"),
        (lambda: RecurrentBaseline(3, (5,), 4), "RecurrentBaseline has no graph of NIR here"),
    ],
)
def test_what_nir_cannot_say_is_refused(model, message):
    with pytest.raises(InputError, match=message) as error:
        to_nir(model())
    assert "\n" not in str(error.value)


@needs_reset
def test_a_time_step_of_no_duration_and_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="--dt must be positive, got 0"):
        to_nir(network(), 0.0)
    with pytest.raises(InputError, match=r"cannot write .*network.nir .*: give another --out, ending in .nir"):
        write_nir(network(), tmp_path / "nowhere" / "network.nir")


@needs_reset
def test_the_command_writes_a_trained_network(tmp_path, capsys):
    options = "--neuron lif --norm shared --calibrate 0 --readout fixed --initial-v zero --hidden 8 --epochs 1 --no-compile"
    run = str(tmp_path / "run")
    assert main(["train", "digits", *options.split(), "--out", run]) == 0
    assert main(["export", run, "--out", str(tmp_path / "digits.nir"), "--dt", "0.001"]) == 0
    graph = nir.read(tmp_path / "digits.nir")
    assert graph.nodes["affine0"].weight.shape == (8, 8) and graph.metadata["dt"] == 0.001
    assert "'affine0', 'lif0'" in capsys.readouterr().out


def test_an_old_nir_is_told_apart(monkeypatch):
    old = dataclasses.make_dataclass("LIF", ["tau", "r", "v_leak", "v_threshold"])
    monkeypatch.setattr(nir, "LIF", old)
    with pytest.raises(InputError, match="pip install 'nir>=1.0.7'"):
        to_nir(network())
