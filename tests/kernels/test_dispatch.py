"""Which layers, readouts and tensors the kernels are for."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from fptt import layers, surrogate
from fptt.kernels import blocks, dispatch, resident, scan
from fptt.models.sequence import SequenceModel
from fptt.neurons import LeakyReadout, make_neuron

OTHERS = {
    "not recurrent": lambda: layers.dense(2, make_neuron("ltc", 4), 4),
    "batch norm": lambda: layers.dense(2, make_neuron("ltc", 4), 4, recurrent=True, norm_steps=2),
    "alif": lambda: layers.dense(2, make_neuron("alif", 4), 4, recurrent=True),
    "fixed threshold": lambda: layers.dense(2, make_neuron("ltc", 4, adaptive=False), 4, recurrent=True),
    "soft reset": lambda: layers.dense(2, make_neuron("ltc", 4, reset="soft"), 4, recurrent=True),
    "other surrogate": lambda: layers.dense(2, make_neuron("ltc", 4, spike=surrogate.get("arctan")), 4, recurrent=True),
    "other constants": lambda: layers.dense(
        2, make_neuron("ltc", 4, spike=surrogate.get("multi_gaussian", 0.3)), 4, recurrent=True
    ),
    "own spike": lambda: layers.dense(2, make_neuron("ltc", 4, spike=lambda x: x.relu()), 4, recurrent=True),
    "convolution": lambda: layers.convolutional(2, make_neuron("ltc", 4, convolutional=True), 4),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_run_as_they_are(name):
    assert not dispatch.is_recurrent_ltc(OTHERS[name]())


def test_a_layer_with_default_settings_is_recognised():
    neuron = make_neuron("ltc", 4, spike=surrogate.get(), b0=0.5, tau_m=20)
    assert dispatch.is_recurrent_ltc(layers.dense(2, neuron, 4, recurrent=True))


@pytest.mark.parametrize("part", ["synapse", "recurrent", "neuron", "neuron.rates", "neuron.rates.from_current"])
def test_who_looks_into_a_layer_sees_its_parts_called(part):
    layer = layers.dense(2, make_neuron("ltc", 4), 4, recurrent=True)
    handle = layer.get_submodule(part).register_forward_hook(lambda *_: None)
    assert not dispatch.is_recurrent_ltc(layer)
    handle.remove()
    assert dispatch.is_recurrent_ltc(layer)


def test_other_readouts_run_as_they_are():
    linear = torch.nn.Linear(4, 3)
    assert dispatch.is_liquid_readout(linear, LeakyReadout(3))
    for output, readout in (
        (linear, None),
        (linear, LeakyReadout(3, "learned")),
        (torch.nn.Sequential(torch.nn.Flatten(), linear), LeakyReadout(3)),
        (torch.nn.Linear(4, 3, bias=False), LeakyReadout(3)),
        (torch.nn.Linear(4, 100), LeakyReadout(100)),
    ):
        assert not dispatch.is_liquid_readout(output, readout)


def test_only_plain_float32_on_a_gpu_runs_in_kernels(monkeypatch):
    monkeypatch.setattr(blocks, "INSTALLED", True)
    x = SimpleNamespace(is_cuda=True, dtype=torch.float32, dim=lambda: 2, device=torch.device("cuda:0"))
    assert dispatch.runs(x)
    assert not dispatch.runs(torch.zeros(2, 2))
    assert not dispatch.runs(SimpleNamespace(is_cuda=True, dtype=torch.float64))
    monkeypatch.setattr(blocks, "INSTALLED", False)
    assert not dispatch.runs(x)
    monkeypatch.setattr(blocks, "INSTALLED", True)
    inside = []
    torch.vmap(lambda t: (inside.append(dispatch.runs(x)), t)[1])(torch.zeros(2))
    with mock.patch("torch.compiler.is_exporting", lambda: True):
        inside.append(dispatch.runs(x))
    torch.set_autocast_enabled("cuda", True)
    inside.append(dispatch.runs(x))
    torch.set_autocast_enabled("cuda", False)
    assert inside == [False] * 3


def test_a_gpu_on_which_no_kernel_can_be_built_does_without(monkeypatch):
    x = SimpleNamespace(is_cuda=True, dtype=torch.float32, dim=lambda: 2, device=torch.device("cuda:3"))
    monkeypatch.setattr(blocks, "INSTALLED", True)
    monkeypatch.setattr(dispatch, "USABLE", {})

    def no_compiler(_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    monkeypatch.setattr(blocks, "works", no_compiler)
    with pytest.warns(UserWarning, match=r"^fptt: no kernels of Triton on cuda:3, .* \(Failed to find C compiler.\)$"):
        dispatch.probe(x)
    dispatch.probe(x)  # which is known by now
    assert not dispatch.runs(x)
    monkeypatch.setattr(blocks, "works", lambda _: True)
    x.device = torch.device("cuda:4")
    dispatch.probe(x)
    assert dispatch.runs(x) and dispatch.USABLE == {3: False, 4: True}


@pytest.mark.parametrize(
    ("major", "precision", "expected"), [(9, "tf32", True), (8, "tf32", True), (7, "tf32", False), (9, "ieee", False)]
)
def test_weights_stay_on_a_processor_that_has_tf32(major, precision, expected, monkeypatch):
    card = SimpleNamespace(major=major, shared_memory_per_block_optin=2**18)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert resident.fits(64, precision, torch.device("cuda")) == expected


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_precision_of_products_by_either_of_torchs_names():
    found = []
    for value in ("tf32", "ieee"):
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = value
        found.append(blocks.precision())
        torch.backends.cuda.matmul.fp32_precision = before
    torch.set_float32_matmul_precision("highest")
    assert found == ["tf32", blocks.EXACT]


@pytest.mark.parametrize(
    ("options", "scanned"),
    [
        ({}, True),
        ({"norm_steps": 5, "norm_recurrent": False}, True),
        ({"norm_steps": 5}, False),  # samples meet in the norm of the recurrent current
        ({"norm_steps": 1, "norm_recurrent": False}, False),  # whose statistics are those of one step after the other
        ({"neuron": "alif"}, False),
    ],
)
def test_layers_whose_samples_do_not_meet_can_take_several_steps_at_once(options, scanned):
    (layer,) = SequenceModel(2, (4,), 3, **options).layers
    device = torch.device("cpu")  # of the interpreter
    assert dispatch.scannable(layer, device) == scanned
    (wide,) = SequenceModel(2, (500,), 3).layers
    assert not dispatch.scannable(wide, device)


@pytest.mark.parametrize(
    ("kib", "terms"), [(228, [64, 32]), (164, [64, 32]), (100, [32, 16]), (64, [16, 0])]
)  # H100, A100, ...
def test_kernels_take_at_once_what_a_processor_has_room_for(kib, terms, monkeypatch):
    properties = SimpleNamespace(shared_memory_per_multiprocessor=kib * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert [scan.depth(features, torch.device("cuda")) for features in (128, 256)] == terms
    assert all(scan.BYTES * 128 * t <= (kib - 1) * 1024 for t in terms[:1])


def test_who_looks_into_a_layer_or_a_network_sees_every_step(monkeypatch):
    model, x = SequenceModel(2, (4,), 3), torch.zeros(5, 6, 2)
    monkeypatch.setattr(dispatch, "runs", lambda x: True)
    for module in (model, *model.layers):
        handle = module.register_forward_hook(lambda *_: None)
        assert model.through(x, model.initial_state(x[0])) is None
        handle.remove()


def test_kernels_are_left_out_of_exports_and_not_of_compiled_code():
    class Asks(torch.nn.Module):
        def forward(self, x):
            return x + (1 if dispatch.exporting() else 2)

    x = torch.zeros(2)
    assert torch.compile(Asks(), backend="eager")(x)[0] == 2
    assert torch.export.export(Asks(), (x,)).module()(x)[0] == 1
