"""SLTT and online BPTT against their definitions written out, and all rules through one function."""

import pytest
import torch
import torch._inductor
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import online_sums as sums
from conftest import assert_close
from fptt import InputError
from fptt.learning.losses import StepLoss
from fptt.learning.online import make_trainer
from fptt.learning.rules import make_optimizer, number_of_parts, number_of_updates
from fptt.learning.window import WindowTrainer
from fptt.models.sequence import SequenceModel


def frozen_trainer(rule, model, steps, **options):
    """A trainer that leaves weights as they are and the last update's gradients in ``.grad``."""
    loss = StepLoss(cross_entropy, number_of_parts(rule, steps, options.get("parts"))).double()
    return make_trainer(rule, model, loss, torch.optim.SGD(model.parameters(), lr=0.0), steps, **options), loss


def test_sltt_is_the_sum_of_spatial_gradients():
    model, (sequence, target) = sums.network(), sums.problem()
    trainer, loss = frozen_trainer("sltt", model, sums.T)
    trainer(sequence, target)
    g = sums.run(model, sequence, target, loss.weights)
    assert 0.1 < g.z.mean() < 0.6
    sums.assert_gradients(model, sums.sltt(g))


def test_sltt_k_learns_from_k_steps_at_random_and_passes_the_state_through_all():
    model, (sequence, target) = sums.network(), sums.problem()
    trainer, loss = frozen_trainer("sltt", model, sums.T, sampled=3)
    g = sums.run(model, sequence, target, loss.weights)
    drawn = set()
    for seed in range(5):
        torch.manual_seed(seed)
        steps = torch.randperm(sums.T)[:3].tolist()
        drawn.add(tuple(sorted(steps)))
        torch.manual_seed(seed)
        trainer(sequence, target)
        sums.assert_gradients(model, sums.sltt(g, steps))
    assert len(drawn) > 1


def test_sltt_k_spares_the_graphs_of_the_other_steps():
    model, (sequence, target) = sums.network(), sums.problem()
    kept = {}
    for sampled in (None, 2):
        sizes = []
        trainer, _ = frozen_trainer("sltt", model, sums.T, sampled=sampled)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            trainer(sequence, target)
        kept[sampled] = sum(sizes)
    assert kept[2] == pytest.approx(2 / sums.T * kept[None], rel=0.05)


def updates_of(rule, model, sequence, target, lr=0.05, **options):
    """The gradients of every update."""
    steps = len(sequence)
    base, gradients = torch.optim.SGD(model.parameters(), lr=lr), []
    base.register_step_pre_hook(lambda *_: gradients.append({n: p.grad.clone() for n, p in model.named_parameters()}))
    loss = StepLoss(options.pop("criterion", cross_entropy), number_of_parts(rule, steps, options.get("parts"))).double()
    trained = make_trainer(rule, model, loss, base, steps, **options)(sequence, target)
    return gradients, trained


@pytest.mark.parametrize("updates", [1, 2, 3, sums.T])
def test_gradients_between_two_updates_add_up(updates):
    """Two steps of the same weights have the same sum, however the sequence is cut into updates."""
    (sequence, target), whole = sums.problem(), sums.network()
    parted, trained = updates_of("sltt", sums.network(), sequence, target, lr=0.0, parts=updates)
    (total,), other = updates_of("sltt", whole, sequence, target, lr=0.0)
    assert len(parted) == updates == number_of_updates("sltt", sums.T, updates)
    for name in total:
        assert_close(torch.stack([g[name] for g in parted]).sum(0), total[name])
    assert_close(trained.loss, other.loss)


class Tanh(nn.Module):
    """A smooth recurrent network, of which finite differences tell the gradient; its state is a dict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.enter, self.back, self.leave = nn.Linear(2, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 2)
        self.double()

    def forward(self, x, state=None):
        h = x.new_zeros(len(x), 3) if state is None else state["h"]
        h = torch.tanh(self.enter(x) + self.back(h))
        return self.leave(h), {"h": h}


def finite_differences(function, parameters, step=1e-5):
    """d function() / d p by central differences, for every entry of every parameter."""
    gradients = []
    for p in parameters:
        gradient = torch.zeros_like(p)
        with torch.no_grad():
            for n in range(p.numel()):
                ends = []
                for sign in (1, -1):
                    p.view(-1)[n] += sign * step
                    ends.append(function())
                    p.view(-1)[n] -= sign * step
                gradient.view(-1)[n] = (ends[0] - ends[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
def test_online_bptt_against_finite_differences_with_the_weights_of_each_update(window):
    """The window's start is the state that its last computation left there; the gradient is that of the loss at t alone."""
    generator = torch.Generator().manual_seed(2)
    sequence = torch.randn(6, 4, 2, dtype=torch.float64, generator=generator)
    target = torch.randn(4, 2, dtype=torch.float64, generator=generator)
    model, twin = Tanh(), Tanh()
    gradients, _ = updates_of("online-bptt", model, sequence, target, lr=0.3, criterion=mse_loss, window=window)
    assert len(gradients) == 6
    start = None
    for t, ours in enumerate(gradients):
        first = max(0, t - window + 1)

        def loss(start=start, first=first, t=t):
            state = start
            for s in range(first, t + 1):
                output, state = twin(sequence[s], state)
            return (t + 1) / 6 * mse_loss(output, target)

        expected = finite_differences(loss, list(twin.parameters()))
        with torch.no_grad():
            if t + 1 >= window:
                _, start = twin(sequence[first], start)
            for p, gradient, mine in zip(twin.parameters(), expected, ours.values(), strict=True):
                torch.testing.assert_close(mine, gradient, rtol=1e-6, atol=1e-8)
                p -= 0.3 * mine


def test_online_bptt_of_one_step_is_sltt_with_an_update_at_every_step():
    sequence, target = sums.problem()
    window, a = updates_of("online-bptt", sums.network(), sequence, target, window=1)
    spatial, b = updates_of("sltt", sums.network(), sequence, target, parts=sums.T)
    for mine, other in zip(window, spatial, strict=True):
        for name in mine:
            assert_close(mine[name], other[name])
    assert_close(a.loss, b.loss)


def test_an_infinite_window_with_frozen_weights_sums_to_bptt_and_a_short_one_does_not():
    model, (sequence, target) = sums.network(), sums.problem()
    expected = sums.bptt(model, sequence, target, StepLoss(cross_entropy, sums.T).weights.double())
    for window, equal in ((sums.T, True), (100, True), (2, False)):
        gradients, _ = updates_of("online-bptt", sums.network(), sequence, target, lr=0.0, window=window)
        totals = {name: torch.stack([g[name] for g in gradients]).sum(0) for name in gradients[0]}
        errors = [(t.numpy() - expected[sums.NAMES[n]]) for n, t in totals.items() if n != "output.bias"]
        relative = max(abs(e).max() for e in errors) / max(abs(v).max() for v in expected.values())
        assert (relative < 1e-6) == equal and (equal or relative > 1e-2)


def test_online_bptt_takes_the_statistics_of_batch_norms_once():
    """Also of torch's own, which change in place what the graph still needs."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.enter, self.norm, self.back = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

        def forward(self, x, state=None):
            h = torch.tanh(self.norm(self.enter(x)) + (0 if state is None else self.back(state)))
            return h, h

    sequence, target = torch.randn(9, 5, 3), torch.arange(5) % 4
    norms = []
    for window in (1, 4):
        for model in (Normed(), SequenceModel(3, (5,), 4, norm_steps=9)):
            loss = StepLoss(cross_entropy, 9)
            WindowTrainer(model, loss, torch.optim.SGD(model.parameters(), lr=0.0), window)(sequence, target)
            norms.append({name: b.clone() for name, b in model.named_buffers() if "recurrent" not in name})
    assert norms[0]["norm.num_batches_tracked"] == 9
    for one, four in ((norms[0], norms[2]), (norms[1], norms[3])):
        torch.testing.assert_close(one, four)


@pytest.mark.parametrize("rule", ["sltt", "online-bptt"])
def test_memory_is_independent_of_the_sequence(rule):
    """What a backward pass needs at most, in numbers, for sequences shorter and much longer than the window."""
    peaks = []
    for steps in (6, 48):
        model, (sequence, target) = sums.network(), sums.problem(steps)
        alive, peak = 0, 0

        class Kept:
            def __init__(self, t):
                nonlocal alive, peak
                self.t = t
                alive += t.numel()
                peak = max(peak, alive)

            def __del__(self):
                nonlocal alive
                alive -= self.t.numel()

        trainer, _ = frozen_trainer(rule, model, steps, **({"window": 3} if rule == "online-bptt" else {}))
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.t):
            trainer(sequence, target)
        peaks.append(peak)
    assert peaks[0] == peaks[1] > 0


@pytest.mark.parametrize("rule", ["sltt", "online-bptt", "bptt", "tbptt", "fptt"])
def test_all_rules_are_one_on_a_sequence_of_one_step(rule):
    model, (sequence, target) = sums.network(), sums.problem(1)
    expected = sums.bptt(model, sequence, target, [1.0])
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = StepLoss(cross_entropy, 1).double()
    make_trainer(rule, model, loss, make_optimizer(rule, base), 1)(sequence, target)
    sums.assert_gradients(model, expected)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("online-bptt", {"window": 0}, "window must be at least 1"),
        ("online-bptt", {"accumulate": 2}, "leave accumulate"),
        ("sltt", {"sampled": 8}, "sampled must be 1 to 7"),
    ],
)
def test_impossible_settings_are_one_line(rule, options, message):
    with pytest.raises(InputError, match=message) as raised:
        frozen_trainer(rule, sums.network(), sums.T, **options)
    assert "\n" not in str(raised.value)


def assert_alike(eager, compiled):
    assert len(eager) == len(compiled)
    for mine, other in zip(compiled, eager, strict=True):
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], rtol=1e-6, atol=1e-9)


def test_compiled_steps_train_alike(traced):
    sequence, target = sums.problem(4)
    eager, _ = updates_of("online-bptt", sums.network(), sequence, target, window=2)
    compiled, _ = updates_of("online-bptt", sums.network(), sequence, target, compiled=True, window=2)
    assert_alike(eager, compiled)


@pytest.mark.filterwarnings("error:fptt")
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("sltt", {}),
        ("sltt", {"parts": 3}),
        ("ottt", {"approximate": True}),
        ("ottt", {"approximate": True, "parts": 2}),
        ("eprop", {}),
        ("eprop", {"feedback": "random", "parts": 3}),
    ],
)
def test_rules_that_learn_from_every_step_are_one_graph(monkeypatch, rule, options):
    traced = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: traced.append(graph) or graph)
    sequence, target = sums.problem()
    torch.manual_seed(1)
    eager, trained = updates_of(rule, sums.network(), sequence, target, **options)
    torch.manual_seed(1)
    compiled, other = updates_of(rule, sums.network(), sequence, target, compiled=True, **options)
    assert_alike(eager, compiled)
    assert_close(other.loss, trained.loss)
    assert_close(other.output, trained.output)
    assert_close(other.firing_rate, trained.firing_rate)
    assert len(traced) == 1


def trained_for(batches, compiled, neuron="ltc", rule="eprop", model=None):
    torch.manual_seed(4)
    model = model or SequenceModel(2, (5,), 3, neuron=neuron, readout="fixed")
    optimizer = make_optimizer(rule, torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1), max_norm=1.0)
    trainer = make_trainer(rule, model.double(), StepLoss(cross_entropy, 6), optimizer, 6, compiled=compiled)
    for batch in range(batches):
        optimizer.zero_grad()  # as any loop may
        torch.manual_seed(batch)
        trainer(torch.randn(6, 7, 2, dtype=torch.float64), torch.arange(7) % 3)
    return model.state_dict(), trainer.graphs


@pytest.mark.filterwarnings("error:fptt")
@pytest.mark.parametrize("neuron", ["ltc", "lif"])
def test_the_compiled_step_of_eprop_over_several_sequences(neuron, request):
    if neuron != "lif":  # which is compiled to the end
        request.getfixturevalue("traced")
    (eager, _), (compiled, graphs) = (trained_for(3, on, neuron) for on in (False, True))
    assert_alike([eager], [compiled])
    assert graphs == 1


class Partial(nn.Module):
    """Has a weight that nothing depends on, and no state before its first step."""

    def __init__(self):
        super().__init__()
        self.cell, self.output, self.idle = nn.LSTMCell(2, 4), nn.Linear(4, 3), nn.Parameter(torch.ones(3))

    def forward(self, x, state=None):
        state = self.cell(x, state)
        return self.output(state[0]), state


@pytest.mark.filterwarnings("error:fptt")
@pytest.mark.parametrize("rule", ["sltt", "fptt"])
def test_a_model_without_a_first_state_is_compiled_after_its_first_step(traced, rule):
    torch.manual_seed(2)
    models = Partial(), Partial()
    models[1].load_state_dict(models[0].state_dict())
    (eager, _), (compiled, graphs) = (trained_for(3, on, rule=rule, model=models[on]) for on in (False, True))
    assert_alike([eager], [compiled])
    assert graphs == 1
    assert (compiled["idle"] == 1).all()


def test_a_step_that_cannot_be_traced_is_eager_with_one_warning(monkeypatch):
    def missing(*_, **__):
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "compile", missing)
    with pytest.warns(UserWarning, match="training goes on without") as caught:
        compiled, graphs = trained_for(2, True, "lif")
    assert len([w for w in caught if "fptt" in str(w.message)]) == 1
    assert_alike([trained_for(2, False, "lif")[0]], [compiled])
    assert graphs == 0
