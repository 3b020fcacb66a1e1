import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import assert_close
from fptt import InputError, layers
from fptt import state as states
from fptt.learning.fptt import FPTT
from fptt.learning.losses import StepLoss
from fptt.learning.rules import SequenceTrainer, make_optimizer, number_of_parts
from fptt.models.convolutional import ConvolutionalModel, feature_maps
from fptt.models.sequence import SequenceModel
from fptt.neurons import LiquidConv, make_neuron

SHAPE, STEPS, BATCH, CLASSES = (2, 9, 8), 4, 6, 3
NEURONS = ("ltc", "alif", "lif")


def build(neuron="ltc", channels=(3, 4), hidden=(5,), pool=(2, 1), **options):
    torch.manual_seed(1)
    return ConvolutionalModel(SHAPE, channels, hidden, CLASSES, pool=pool, neuron=neuron, **options)


def frames(dtype=torch.float32, seed=2):
    return torch.randn(STEPS, BATCH, *SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(model, sequence):
    state, outputs = None, []
    for x in sequence:
        output, state = model(x, state)
        outputs.append(output)
    return torch.stack(outputs), state


@pytest.mark.parametrize(
    ("channels", "pool", "expected"),
    [
        ((3,), (1,), [SHAPE, (3, 9, 8)]),
        ((3, 4), (2, 2), [SHAPE, (3, 4, 4), (4, 2, 2)]),
        ((32, 64, 64), (3, 2, 1), [SHAPE, (32, 3, 2), (64, 1, 1), (64, 1, 1)]),
    ],
)
def test_shapes_of_the_maps_are_those_of_the_states(channels, pool, expected):
    assert feature_maps(SHAPE, channels, pool) == expected
    state = build(channels=channels, pool=pool).initial_state(frames()[0])
    assert [tuple(layer.neuron.v.shape[1:]) for layer in state.layers[:-1]] == expected[1:]


@pytest.mark.parametrize(
    ("channels", "pool", "message"),
    [
        ((), (), "at least one convolutional layer"),
        ((3, 0), (1, 1), "at least one convolutional layer of at least one channel"),
        ((3, 4), (2,), r"one factor from 1 for each of 2 convolutional layers, got \[2\]"),
        ((3, 4), (2, 0), "one factor from 1"),
        ((3, 4), (2, 5), r"pool \[2, 5\] leaves nothing of a map of 4 x 4"),
    ],
)
def test_networks_that_cannot_be_built(channels, pool, message):
    with pytest.raises(InputError, match=message) as error:
        build(channels=channels, pool=pool)
    assert "\n" not in str(error.value)


def test_wrong_input_shapes_are_named():
    with pytest.raises(ValueError, match=r"expected an input of shape \[batch, 2, 9, 8\], got \[6, 8, 9\]"):
        build()(torch.zeros(6, 8, 9))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("neuron", NEURONS)
def test_none_starts_as_the_initial_state_does(neuron, training):
    model, x = build(neuron, recurrent=True).train(training), frames()[0]
    torch.manual_seed(5)
    expected, after = model(x, model.initial_state(x))
    torch.manual_seed(5)
    output, again = model(x)
    assert torch.equal(output, expected) and output.shape == (BATCH, CLASSES)
    for ours, theirs in zip(states.leaves(again), states.leaves(after), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("neuron", NEURONS)
def test_evaluation_does_not_depend_on_the_batch(neuron):
    model, sequence = build(neuron, dropout=0.5).double(), frames(torch.float64)
    run(model, sequence)  # running statistics of its own
    model.eval()
    together = run(model, sequence)[0]
    alone = torch.cat([run(model, sequence[:, n : n + 1])[0] for n in range(BATCH)], 1)
    assert_close(alone.detach(), together.detach())


@pytest.mark.parametrize("hidden", [(), (5, 4)])
@pytest.mark.parametrize("readout", ["liquid", "membrane"])
def test_it_is_its_layers_one_after_another(hidden, readout):
    """The same numbers as the layers, called by hand on the same states, and no others."""
    model = build(hidden=hidden, readout=readout)
    x = frames()[0]
    state = model.initial_state(x)
    output, after = model(x, state)
    reference = build(hidden=hidden, readout=readout)  # batch norms that have seen nothing
    for layer, before, ours in zip(reference.layers, state.layers, after.layers, strict=True):
        x, theirs = layer(x, before)
        assert torch.equal(theirs.neuron.v, ours.neuron.v) and torch.equal(x, ours.neuron.z)
    last = reference.output(theirs.neuron.v if readout == "membrane" else x)
    expected = last if readout == "membrane" else reference.readout(last, state.readout)[0]
    assert torch.equal(output, expected)
    assert [type(layer) for layer in model.layers] == [layers.Layer] * (2 + len(hidden))


def test_the_dense_part_is_that_of_the_sequence_model():
    """On the last map as input, the dense layers and the readout are a ``SequenceModel``."""
    model = build(recurrent=True)
    dense = SequenceModel(4 * 4 * 4, (5,), CLASSES, norm_steps=1, gamma=1.0)
    values = {
        key.replace("layers.2", "layers.0").replace("synapse.2", "synapse").replace("output.2", "output"): value
        for key, value in model.state_dict().items()
        if not key.startswith(("layers.0", "layers.1"))
    }
    dense.load_state_dict(values)
    state = model.initial_state(frames()[0])
    output, after = model(frames()[0], state)
    expected, _ = dense(after.layers[1].neuron.z.flatten(1), state._replace(layers=state.layers[2:]))
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("norm_steps", [None, 1, STEPS])
def test_norms_are_everywhere_or_nowhere(norm_steps):
    model = build(norm_steps=norm_steps)
    names = [name for name, _ in model.named_buffers()]
    assert len([name for name in names if name.endswith("running_mean")]) == (0 if norm_steps is None else 3 + 4)
    rows = [
        buffer.shape[0] for name, buffer in model.named_buffers() if name.endswith(".norm.running_mean") and buffer.dim() == 2
    ]
    assert rows == ([] if norm_steps is None else 3 * [norm_steps])


def test_dropout_silences_dense_inputs_anew_at_every_training_step_and_never_in_evaluation():
    model = build(hidden=(50,), dropout=0.4, norm_steps=None, initial_v="zero")
    seen = []
    model.layers[-1].synapse[-1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x = torch.ones(200, 64)
    for _ in range(2):
        model.layers[-1](x)
    silenced = [(kept == 0).float() for kept in seen[-3::2]]
    assert all(abs(share.mean().item() - 0.4) < 0.02 for share in silenced) and not torch.equal(*silenced)
    torch.manual_seed(3)
    first = run(model, frames())[0]
    torch.manual_seed(3)
    assert torch.equal(first, run(model, frames())[0]), "the draw follows the seed"
    model.eval()
    assert torch.equal(run(model, frames())[0], run(model, frames())[0])


RULES = {"fptt": ("fptt", None), "fptt-2": ("fptt", 2), "bptt": ("bptt", None), "tbptt": ("tbptt", 2)}


def trained(rule="fptt", compiled=False, base="sgd", batches=3, lr=0.1, **options):
    rule, parts = RULES[rule]
    parts = number_of_parts(rule, STEPS, parts)
    model = build(**options).double()
    base = {"sgd": torch.optim.SGD, "adamax": torch.optim.Adamax}[base](model.parameters(), lr=lr)
    optimizer = make_optimizer(rule, base, alpha=0.1, max_norm=1.0)
    trainer = SequenceTrainer(model, StepLoss(cross_entropy, parts).double(), optimizer, parts, compiled)
    torch.manual_seed(7)
    return model, optimizer, trainer, [train(trainer).loss.item() for _ in range(batches)]


def train(trainer):
    return trainer(frames(torch.float64), torch.arange(BATCH) % CLASSES)


@pytest.mark.filterwarnings("error:fptt")
@pytest.mark.parametrize(
    ("neuron", "options", "norms", "to_the_end"),
    [
        ("ltc", {}, 4, False),
        ("alif", {"channels": (3,), "pool": (2,)}, 0, False),
        ("ltc", {"channels": (3,), "hidden": (), "pool": (2,)}, 2, True),
    ],
)
def test_the_compiled_step_trains_it_as_the_eager_one_does(neuron, options, norms, to_the_end, request):
    """Weights, averages, multipliers and every buffer of every batch norm, the count of batches too.

    With SGD: biases before a norm have no gradient but rounding, which optimizers that normalise would blow up.
    """
    if not to_the_end:
        request.getfixturevalue("traced")
    runs = (trained(compiled=on, neuron=neuron, **options) for on in (False, True))
    (eager, one, _, expected), (compiled, two, trainer, losses) = runs
    assert trainer.graphs == 1 and losses == pytest.approx(expected, rel=1e-9)
    for (name, a), b in zip(eager.state_dict().items(), compiled.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9, msg=name)
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        for key in ("average", "lambda_"):
            torch.testing.assert_close(two.state[q][key], one.state[p][key], rtol=1e-9, atol=1e-9)
    counts = [b.item() for name, b in compiled.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts == [3 * STEPS] * norms


def channels_last(*tensors):
    return all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)


@pytest.mark.filterwarnings("error:fptt")
@pytest.mark.parametrize(("compiled", "channels", "pool"), [(False, (3, 4), (2, 1)), (True, (3,), (2,))])
def test_channels_stay_last_in_memory(compiled, channels, pool):
    torch.manual_seed(1)
    model = ConvolutionalModel((1, *SHAPE[1:]), channels, (), CLASSES, pool=pool)
    images = frames()[:, :, :1]
    optimizer = FPTT(torch.optim.Adam(model.parameters(), lr=0.01))
    trainer = SequenceTrainer(model, StepLoss(cross_entropy, STEPS), optimizer, STEPS, compiled)
    for _ in range(2):
        trainer(images, torch.arange(BATCH) % CLASSES)
    kernels = [p for p in model.parameters() if p.dim() == 4]
    averages = [optimizer.state[p]["average"] for p in kernels]
    for mode in (model.train(), model.eval()):
        before = mode.initial_state(images[0])
        maps = [t for state in (before, mode(images[0], before)[1]) for layer in state.layers for t in layer.neuron]
        assert channels_last(*maps) and not any(t.is_contiguous() for t in maps)
    assert channels_last(*kernels, *averages)
    assert trainer.graphs == compiled


def test_the_compiled_step_draws_dropout_anew_and_repeatably():
    options = {"neuron": "lif", "channels": (3,), "hidden": (), "pool": (2,), "initial_v": "zero"}
    _, _, trainer, _ = trained(compiled=True, lr=0.0, dropout=0.5, batches=1, **options)  # a rate of 0: nothing else changes
    outputs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outputs.append(train(trainer).output)
    assert trainer.graphs == 1
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_every_weight_and_learns(rule, neuron):
    options = {"neuron": neuron, "tau_m": 2.0, "hidden": (20,)}
    before = build(**options).double()
    model, optimizer, _, losses = trained(rule, base="adamax", batches=60, lr=0.02, **options)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert isinstance(optimizer, FPTT) == rule.startswith("fptt")
    same = [n for (n, p), q in zip(model.named_parameters(), before.parameters(), strict=True) if torch.equal(p, q)]
    assert not same


def test_gates_without_norm():
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in make_neuron("ltc", 3, convolutional=True).modules())
    bare = make_neuron("ltc", 3, convolutional=True, gate_norm=False)
    assert isinstance(bare.rates[0], LiquidConv) and not any(isinstance(m, torch.nn.BatchNorm2d) for m in bare.modules())
