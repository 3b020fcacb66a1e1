"""Networks of SpikingJelly, snnTorch, sinabs and Norse as stepped models, against the libraries' own use of them."""

import functools

import pytest
import torch
import torch._inductor
from torch import nn
from torch.nn.functional import cross_entropy

from conftest import assert_close
from fptt import InputError
from fptt import state as states
from fptt.interop import Memory, Stepped
from fptt.learning.losses import StepLoss
from fptt.learning.rules import SequenceTrainer, make_optimizer

T, BATCH, INPUTS, CLASSES = 6, 7, 3, 4
pytestmark = pytest.mark.filterwarnings("error:fptt", "ignore::FutureWarning")


def spikingjelly():
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    lif = neuron.LIFNode(surrogate_function=surrogate.ATan())
    norm = layer.BatchNorm1d(5)
    network = nn.Sequential(
        layer.Linear(INPUTS, 5), lif, norm, layer.Linear(5, 5), neuron.ParametricLIFNode(), nn.Linear(5, CLASSES)
    )

    def run(sequence):
        functional.reset_net(network)
        outputs = [network(x) for x in sequence]
        functional.reset_net(network)
        return outputs

    return network, Stepped(network), run, ["1", "4"]


def snntorch():
    library = pytest.importorskip("snntorch")
    from snntorch import utils

    leaky = library.Leaky(beta=0.5, init_hidden=True)
    synaptic = library.Synaptic(alpha=0.5, beta=0.5, init_hidden=True, output=True)
    network = nn.Sequential(nn.Linear(INPUTS, 5), leaky, nn.Linear(5, CLASSES), synaptic)

    def run(sequence):
        utils.reset(network)
        outputs = [network(x)[-1] for x in sequence]
        utils.reset(network)
        return outputs

    return network, Stepped(network, output=lambda result: result[-1]), run, ["1", "3"]


def sinabs():
    layers = pytest.importorskip("sinabs.layers")
    neurons = layers.LIF(tau_mem=5.0), layers.ALIF(tau_mem=5.0, tau_adapt=9.0)
    network = nn.Sequential(
        nn.Linear(INPUTS, 5), neurons[0], nn.Linear(5, 5), neurons[1], nn.Linear(5, CLASSES), layers.ExpLeak(4.0)
    )

    def run(sequence):
        return network(sequence.transpose(0, 1)).unbind(1)

    return network, Stepped(network, time_axis=True), run, ["1", "3"]


LIBRARIES = [spikingjelly, snntorch, sinabs]


def sequence_and_target():
    generator = torch.Generator().manual_seed(3)
    return 4 * torch.randn(T, BATCH, INPUTS, generator=generator), torch.arange(BATCH) % CLASSES


def outputs_of(model, sequence):
    outputs, state = [], None
    for x in sequence:
        output, state = model(x, state)
        outputs.append(output)
    return outputs, state


@pytest.mark.parametrize("library", LIBRARIES)
def test_outputs_and_gradients_are_those_of_the_network_itself(library):
    network, model, run, _ = library()
    sequence, target = sequence_and_target()
    gradients, results = [], []
    for outputs in (run(sequence), outputs_of(model, sequence)[0]):
        network.zero_grad()
        cross_entropy(torch.stack(list(outputs)).mean(0), target).backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
        results.append(torch.stack(list(outputs)).detach())
    assert_close(results[1], results[0])
    assert gradients[0].keys() == gradients[1].keys()
    assert max(g.abs().max() for g in gradients[0].values()) > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_state_is_all_that_is_remembered(library):
    _, model, _, spiking = library()
    model.eval()
    sequence, _ = sequence_and_target()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        whole, last = outputs_of(model, sequence)
        _, middle = outputs_of(model, sequence[:3])
        outputs_of(model, sequence[:, :2] + 1)  # another batch in between, of another size
        restored = states.restore(states.save(middle), middle)
        for x, expected in zip(sequence[3:], whole[3:], strict=True):
            output, restored = model(x, restored)
            assert_close(output, expected)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    fired = [last[name].z for name in spiking]
    assert all(isinstance(memory, Memory) for memory in last.values())
    assert all(((z == 0) | (z == 1)).all() for z in fired)
    assert_close(states.firing_rate(last), torch.cat([z.flatten() for z in fired]).mean())


@pytest.mark.parametrize("library", LIBRARIES)
def test_finding_the_first_state_leaves_nothing_behind(library):
    network, model, _, _ = library()
    network.insert(1, nn.BatchNorm1d(5) if library is not sinabs else nn.Identity())
    model = Stepped(network, model.output, time_axis=model.time_axis)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = model.initial_state(sequence_and_target()[0][0])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(not leaf.any() and leaf.shape[0] == BATCH for leaf in states.leaves(state))


def norse():
    library = pytest.importorskip("norse.torch")
    lif, box = library.LIFCell(), library.LIFBoxCell()
    return library.SequentialState(nn.Linear(INPUTS, 5), lif, nn.Linear(5, 5), box, nn.Linear(5, CLASSES))


MODELS = {**{library.__name__: (lambda library=library: library()[1]) for library in LIBRARIES}, "norse": norse}


@pytest.mark.parametrize("rule", ["fptt", "sltt", "bptt"])
@pytest.mark.parametrize("library", MODELS)
def test_every_rule_trains_them_compiled_or_not(library, rule, monkeypatch):
    """Traced as the compiler would; what the compiler makes of a trace is tested elsewhere."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, options: compiler(function, backend="aot_eager"))
    after = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = MODELS[library]()
        optimizer = make_optimizer(rule, torch.optim.SGD(model.parameters(), lr=0.1), max_norm=1.0)
        parts = 1 if rule == "bptt" else T
        loss = StepLoss(cross_entropy, parts)
        trainer = SequenceTrainer(model, loss, optimizer, parts, compiled, updates=1 if rule == "sltt" else None)
        first = {name: value.clone() for name, value in model.state_dict().items()}
        results = [trainer(*sequence_and_target()) for _ in range(2)]
        assert any(not torch.equal(value, first[name]) for name, value in model.state_dict().items())
        after.append((model.state_dict(), results[-1].loss, results[-1].firing_rate))
        assert trainer.graphs == (compiled and rule != "bptt")
    for name, value in after[0][0].items():
        torch.testing.assert_close(after[1][0][name], value, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(after[1][1:], after[0][1:], equal_nan=True)


def multi_step():
    from spikingjelly.activation_based import neuron

    return nn.Sequential(nn.Linear(3, 3), neuron.LIFNode(step_mode="m"))


def recurrent():
    import sinabs.layers

    return nn.Sequential(sinabs.layers.LIFRecurrent(5.0, rec_connect=nn.Linear(3, 3)))


@pytest.mark.parametrize(
    ("package", "network", "message"),
    [
        (None, lambda: nn.Sequential(nn.Linear(3, 3)), "Sequential has no module that keeps its state in itself"),
        ("snntorch", lambda: pytest.importorskip("snntorch").Leaky(0.5), "takes and returns its state"),
        ("spikingjelly", multi_step, "'1' is in multi-step mode: set step_mode='s'"),
        ("sinabs", recurrent, "'0' forgets its last spikes"),
    ],
)
def test_what_cannot_be_stepped_is_one_line(package, network, message):
    if package:
        pytest.importorskip(package)
    with pytest.raises(InputError, match=message) as raised:
        Stepped(network())
    assert "\n" not in str(raised.value)


def test_a_result_of_several_parts_needs_to_be_told_which():
    network, *_ = snntorch()
    with pytest.raises(InputError, match="returns a tuple, not a tensor: say which part"):
        Stepped(network)(torch.rand(2, INPUTS))


def test_a_network_that_fails_is_left_as_it_was():
    _, model, run, _ = spikingjelly()
    sequence, _ = sequence_and_target()
    expected = run(sequence)
    with pytest.raises(RuntimeError, match="shape"):
        model(torch.rand(2, INPUTS + 1), model.initial_state(sequence[0]))
    for a, b in zip(run(sequence), expected, strict=True):
        assert_close(a, b)


def test_a_network_that_has_run_before_is_wrapped_as_if_it_had_not():
    library = pytest.importorskip("snntorch")
    network = nn.Sequential(nn.Linear(INPUTS, 5), library.Leaky(beta=0.9, init_hidden=True))
    sequence, _ = sequence_and_target()
    expected = functools.reduce(lambda outputs, x: [*outputs, network(x)], sequence, [])
    outputs, _ = outputs_of(Stepped(network), sequence)
    for a, b in zip(outputs, expected, strict=True):
        assert_close(a, b)
