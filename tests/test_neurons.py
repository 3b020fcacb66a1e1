import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fptt.errors import InputError
from fptt.neurons import LeakyReadout, LiquidConv, Neuron, NeuronState, Rates, leaky_step, make_neuron, spiking_step, stretch

CASES = [
    (kind, {"reset": reset, **adaptive, **convolutional})
    for kind in ("lif", "alif", "ltc")
    for reset in ("hard", "soft")
    for adaptive in ([{}] if kind == "lif" else [{"adaptive": True}, {"adaptive": False}])
    for convolutional in ({}, {"convolutional": True})
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_gradients_agree_with_finite_differences(kind, options):
    """Of three steps, by input, by initial state and by every parameter, with a smooth function in place of the spike."""
    neuron = make_neuron(kind, 3, spike=lambda x: torch.sigmoid(4 * x), **options).double()
    shape = (2, 3, 4, 4) if options.get("convolutional") else (2, 3)
    current = torch.randn(3, *shape, dtype=torch.float64, requires_grad=True)
    v, z, b = torch.rand(3, *shape, dtype=torch.float64).requires_grad_().unbind()
    names = [name for name, _ in neuron.named_parameters()]

    def run(current, v, z, b, *parameters):
        state = NeuronState(v, z, b if neuron.adaptive else None)
        for x in current:
            values = dict(zip(names, parameters, strict=True))
            spikes, state = torch.func.functional_call(neuron, values, (x, state))
        return spikes, state.v

    assert gradcheck(run, (current, v, z, b, *neuron.parameters()), fast_mode=True)


@pytest.mark.parametrize("leak", ["liquid", "learned", "fixed"])
def test_readout_gradients_agree_with_finite_differences(leak):
    readout = LeakyReadout(3, leak, tau=4.0).double()
    current, v = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True).unbind()
    names = [name for name, _ in readout.named_parameters()]

    def run(current, v, *parameters):
        values = dict(zip(names, parameters, strict=True))
        for _ in range(3):
            output, v = torch.func.functional_call(readout, values, (current, v))
        return output

    assert gradcheck(run, (current, v, *readout.parameters()))
    assert any(p.requires_grad for p in readout.parameters()) == (leak != "fixed")
    if leak == "fixed":
        torch.testing.assert_close(readout(current, v)[0], leaky_step(current, v, 0.25))


@pytest.mark.parametrize(("kind", "options"), CASES)
@given(factor=st.floats(0.1, 10))
@settings(max_examples=5, deadline=None)
def test_stretched_time_constants_less_one_step_are_multiplied(kind, options, factor):
    neuron = make_neuron(kind, 3, tau_m=7.0, **({"tau_adp": 30.0} if kind != "lif" else {}), **options).double().eval()
    silence = torch.zeros(1, 3, *(2, 2) if options.get("convolutional") else (), dtype=torch.float64)

    def lengths():
        leak, *retention = neuron.rates(*(2 + neuron.adaptive) * [silence])
        return torch.stack([1 / leak, *(1 / (1 - rho) for rho in retention)]).detach() - 1

    before = lengths()
    stretch(torch.nn.Sequential(neuron), factor)
    torch.testing.assert_close(lengths(), factor * before)


@pytest.mark.parametrize("leak", ["liquid", "learned", "fixed"])
@pytest.mark.parametrize("convolutional", [False, True])
def test_stretched_readouts(leak, convolutional):
    readout = LeakyReadout(3, leak, tau=4.0, convolutional=convolutional)
    shape = (2, 3, 1, 1) if convolutional else (2, 3)
    tau = 1 / readout.inv_tau(torch.zeros(shape), torch.zeros(shape))[0]
    stretch(readout, 4.0)
    torch.testing.assert_close(1 / readout.inv_tau(torch.zeros(shape), torch.zeros(shape))[0], 1 + 4 * (tau - 1))
    with pytest.raises(InputError, match="no time constants"):
        stretch(torch.nn.Linear(3, 3), 4.0)
    with pytest.raises(InputError, match="must be positive, got 0"):
        stretch(readout, 0)


RATES = st.floats(0.01, 0.99)


@given(st.integers(0, 10_000), RATES, RATES, st.floats(-1, 3))
@settings(max_examples=40, deadline=None)
def test_state_stays_in_the_hull_of_its_past(seed, inv_tau_m, rho, b_start):
    """v is a mean of its start and of the currents (and of zero, where a reset puts it), b of its start and of spikes."""
    generator = torch.Generator().manual_seed(seed)
    currents = 4 * torch.rand(30, 6, generator=generator) - 2
    start = 2 * torch.rand(6, generator=generator) - 1
    silent = spiking = NeuronState(start, torch.zeros(6), torch.full((6,), b_start))
    low, high, tiny = start, start, 1e-6
    for current in currents:
        low, high = torch.minimum(low, current), torch.maximum(high, current)
        _, silent = spiking_step(current, silent, inv_tau_m, rho, b0=1e3)
        assert (silent.v >= low - tiny).all() and (silent.v <= high + tiny).all()
        z, spiking = spiking_step(current, spiking, inv_tau_m, rho)
        assert set(z.unique().tolist()) <= {0.0, 1.0}
        assert (spiking.b >= min(b_start, 0) - tiny).all() and (spiking.b <= max(b_start, 1) + tiny).all()
        assert (spiking.v >= low.clamp(max=0) - tiny).all() and (spiking.v <= high.clamp(min=0) + tiny).all()
        assert (spiking.v[z == 1] == 0).all(), "a hard reset ends at zero"


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_resets_differ_only_where_a_spike_was(seed):
    generator = torch.Generator().manual_seed(seed)
    current, v, z, b = torch.rand(4, 2, 5, generator=generator).unbind()
    state = NeuronState(v, z.round(), b)
    spikes, hard = spiking_step(2 * current, state, 0.5, 0.9, b0=0.1)
    again, soft = spiking_step(2 * current, state, 0.5, 0.9, b0=0.1, reset="soft")
    assert torch.equal(spikes, again) and torch.equal(hard.b, soft.b)
    before = v + 0.5 * (2 * current - v)
    torch.testing.assert_close(hard.v, torch.where(spikes > 0, 0, before))
    torch.testing.assert_close(soft.v, torch.where(spikes > 0, before - (0.1 + 1.8 * hard.b), before))


def test_alif_without_adaptation_is_a_fixed_threshold():
    neuron = make_neuron("alif", 5, adaptive=False, b0=0.4)
    state, rate = neuron.initial_state(torch.zeros(3, 5)), torch.sigmoid(neuron.rates[0].logit)
    assert state.b is None
    plain, fired = state, 0
    for current in 3 * torch.rand(10, 3, 5):
        z, state = neuron(current, state)
        v = plain.v + rate * (current - plain.v)
        plain = NeuronState(torch.where(v > 0.4, 0, v), (v > 0.4).float(), None)
        assert torch.equal(z, plain.z)
        torch.testing.assert_close(state.v, plain.v)
        fired += z.sum()
    assert fired > 0


def test_soft_reset_subtracts_the_threshold_that_was_crossed():
    state = NeuronState(torch.tensor([0.0, 0.0]), torch.zeros(2), None)
    z, after = spiking_step(torch.tensor([1.0, 0.5]), state, 1.0, b0=0.7, reset="soft")
    assert z.tolist() == [1, 0]
    torch.testing.assert_close(after.v, torch.tensor([0.3, 0.5]))


def test_adaptation_raises_the_threshold_after_a_spike():
    state = NeuronState(torch.zeros(1), torch.ones(1), torch.zeros(1))
    z, after = spiking_step(torch.tensor([1.0]), state, 1.0, 0.5, b0=0.5)
    torch.testing.assert_close(after.b, torch.tensor([0.5]))
    assert z.item() == 0, "theta is 0.5 + 1.8 * 0.5 = 1.4"


def test_training_start_follows_the_seed():
    neuron, current = make_neuron("ltc", 50), torch.zeros(4, 50)
    first, second = neuron.initial_state(current).v, neuron.initial_state(current).v
    assert not torch.equal(first, second)
    assert 0 <= first.min() < 0.1 and 0.9 < first.max() <= 1
    torch.manual_seed(0)
    again = neuron.initial_state(current).v
    torch.manual_seed(0)
    assert torch.equal(again, neuron.initial_state(current).v)


def test_evaluation_start_is_the_same_for_every_sample_and_batch():
    neuron = make_neuron("ltc", 50).eval()
    small, large = neuron.initial_state(torch.zeros(1, 50)), neuron.initial_state(torch.zeros(7, 50))
    assert torch.equal(large.v, small.v.expand(7, 50))
    assert torch.equal(large.b, torch.full((7, 50), 0.1))


def test_zero_start():
    assert not make_neuron("lif", 3, initial_v="zero").initial_state(torch.ones(2, 3)).v.any()


@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("gate_norm", [False, True])
def test_liquid_time_constants_start_spread_over_a_range(convolutional, gate_norm):
    """Without input, v decays by its own neuron's tau, and b by tau_adp: log-uniform from 2 to the largest."""
    torch.manual_seed(0)
    options = {"convolutional": convolutional, "gate_norm": gate_norm, "initial_v": "zero", "b0": 0.0}
    neuron = make_neuron("ltc", 400, tau_m=50, tau_adp=800, **options).eval()
    start = torch.zeros(1, 400, *(1, 1) * convolutional)
    inv_tau_m, rho = neuron.rates(start, start, start)
    for tau, largest in ((1 / inv_tau_m, 50), (1 / (1 - rho), 800)):
        share = (tau.detach() / 2).log() / torch.tensor(largest / 2).log()
        assert share.min() > -1e-4 and share.max() < 1 + 1e-4
        assert abs(share.mean() - 0.5) < 0.05 and abs(share.std() - 12**-0.5) < 0.03, "uniform in the logarithm"


def test_one_range_alone_leaves_the_other_at_two_steps():
    bias = make_neuron("ltc", 30, tau_adp=100).rates.from_current.bias
    assert not bias[:30].any() and bias[30:].all()
    fixed = make_neuron("ltc", 30, tau_m=100, tau_adp=100, adaptive=False).rates.from_current.bias
    assert fixed.shape == (30,) and fixed.all()


@pytest.mark.parametrize("name", ["tau_m", "tau_adp"])
@pytest.mark.parametrize("kind", ["lif", "alif", "ltc"])
def test_a_time_constant_is_longer_than_a_step(name, kind):
    with pytest.raises(InputError, match=f"{name} must be more than 1 time step, got 1"):
        make_neuron(kind, 3, **{name: 1})


def test_unknown_kind():
    with pytest.raises(ValueError, match="choose lif, alif, ltc or relu"):
        make_neuron("izhikevich", 3)


def test_liquid_convolution_without_norm_is_a_plain_gate():
    gate = LiquidConv(2, norm=False)
    current, x = torch.randn(2, 1, 2, 5, 5).unbind()
    torch.testing.assert_close(gate(current, x), torch.sigmoid(gate.conv(current + x)))
    assert Neuron(Rates([gate]), adaptive=False)(current)[0].shape == (1, 2, 5, 5)
