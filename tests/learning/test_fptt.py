"""The optimizer against its equations written plainly, and its manners as a torch optimizer."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from fptt import FPTT

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def batches(steps=12):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(steps, 5, 3, generator=generator, dtype=torch.float64)


def loss_of(model, x):
    return (model(x) - x[:, :2].sin()).pow(2).mean()


def train(model, optimizer, xs):
    for x in xs:
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()


def train_plainly(model, base, xs, alpha, beta, rho, max_norm, form):
    """The published pseudo-code: a regulariser built through autograd and a loop over the parameters."""
    memory = [(p, p.detach().clone(), torch.zeros_like(p)) for p in model.parameters()]
    linear = 0.5 if form == "published" else 1 - rho
    for x in xs:
        base.zero_grad()
        loss = loss_of(model, x)
        for p, average, lambda_ in memory:
            loss = loss - linear * (p * lambda_).sum() + alpha / 2 * (p - average).square().sum()
        loss.backward()
        if max_norm:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        base.step()
        for p, average, lambda_ in memory:
            w = p.detach()
            lambda_.mul_(0.5 if form == "published" else 1).sub_(alpha * (w - average))
            average.copy_((1 - beta) * average + beta * w - beta / alpha * lambda_)
    return memory


@pytest.mark.parametrize("base", BASES)
def test_equals_the_equations_around_any_optimizer(base):
    check_against_plain(BASES[base], alpha=0.3, beta=0.4, rho=0.0, max_norm=None, form="code")


@pytest.mark.parametrize("form", ["code", "published"])
@pytest.mark.parametrize("max_norm", [None, 0.05])
@pytest.mark.parametrize("rho", [0.0, 0.25])
def test_equals_the_equations_for_every_setting(form, max_norm, rho):
    check_against_plain(BASES["sgd"], alpha=0.2, beta=0.5, rho=rho, max_norm=max_norm, form=form)


def check_against_plain(make, **settings):
    ours, plain = network(), network()
    optimizer = FPTT(make(ours.parameters()), **settings)
    train(ours, optimizer, batches())
    memory = train_plainly(plain, make(plain.parameters()), batches(), **settings)
    for p, (expected, average, lambda_) in zip(ours.parameters(), memory, strict=True):
        close = {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(p, expected, **close)
        torch.testing.assert_close(optimizer.state[p]["average"], average, **close)
        torch.testing.assert_close(optimizer.state[p]["lambda_"], lambda_, **close)


def test_published_lambda_is_the_losss_gradient_at_the_optimum_of_a_step():
    """Every step's objective, loss + R, is minimised to convergence; the next lambda is the loss's gradient there."""
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    base = torch.optim.LBFGS([w], max_iter=100, tolerance_grad=1e-14, tolerance_change=0)
    optimizer = FPTT(base, alpha=0.7, form="published")
    curvature = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    for target in torch.randn(5, 2, dtype=torch.float64):

        def closure(target=target):
            optimizer.zero_grad()
            loss = (w - target) @ curvature @ (w - target) / 2
            loss.backward()
            return loss

        optimizer.step(closure)
        gradient = curvature @ (w.detach() - target)
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(optimizer.state[w]["lambda_"], gradient, rtol=0, atol=1e-9)


def test_closure_optimizers():
    model, x = network(), batches(1)[0]
    optimizer = FPTT(torch.optim.LBFGS(model.parameters(), max_iter=5), alpha=0.1)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    for _ in range(5):
        last = optimizer.step(closure)
    assert last < first / 2


def test_groups_have_their_own_settings():
    model = network()
    groups = [{"params": model[0].parameters(), "fptt_alpha": 5.0}, {"params": model[2].parameters(), "lr": 0.5}]
    optimizer = FPTT(torch.optim.SGD(groups, lr=0.1), alpha=0.1, beta=0.3)
    assert [group["fptt_alpha"] for group in optimizer.param_groups] == [5.0, 0.1]
    train(model, optimizer, batches(1))
    extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer.add_param_group({"params": [extra], "lr": 1.0})
    assert optimizer.base.param_groups[2]["params"] == [extra]
    assert optimizer.param_groups[2]["fptt_beta"] == 0.3
    extra.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(extra.detach(), torch.zeros(2))


def test_each_group_follows_its_own_alpha():
    """Two groups of one optimizer move as two optimizers with one alpha each."""
    together, apart = network(), network()
    make = lambda groups, alpha: FPTT(torch.optim.SGD(groups, lr=0.1), alpha=alpha)  # noqa: E731
    groups = [{"params": together[0].parameters(), "fptt_alpha": 2.0, "fptt_beta": 0.2}, {"params": together[2].parameters()}]
    train(together, make(groups, 0.1), batches())
    first = FPTT(torch.optim.SGD(apart[0].parameters(), lr=0.1), alpha=2.0, beta=0.2)
    second = make(apart[2].parameters(), 0.1)
    for x in batches():
        apart.zero_grad()
        loss_of(apart, x).backward()
        first.step(), second.step()
    assert all(torch.equal(a, b) for a, b in zip(together.parameters(), apart.parameters(), strict=True))


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        (lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.1), [0.1, 0.01, 0.01, 0.001]),
        (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4), [0.0853553, 0.05, 0.0146447, 0.0]),
        (lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.1, 0.3, step_size_up=2, cycle_momentum=False), [0.2, 0.3, 0.2, 0.1]),
    ],
)
def test_schedulers_change_the_bases_rate(scheduler, rates):
    model = network()
    optimizer = FPTT(torch.optim.SGD(model.parameters(), lr=0.1))
    schedule = scheduler(optimizer)
    for x, rate in zip(batches(4), rates, strict=True):
        before = [p.detach().clone() for p in model.parameters()]
        train(model, optimizer, x[None])
        schedule.step()
        assert optimizer.base.param_groups[0]["lr"] == pytest.approx(rate, abs=1e-6)
        assert any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, batches(1))
    unmoved = all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert unmoved == (rates[-1] == 0)


@pytest.mark.parametrize("how", ["state_dict", "older", "deepcopy", "checkpoint"])
@pytest.mark.parametrize("base", [name for name in BASES if name != "nadam"])  # torch reads its mu_product back as another type
def test_training_continues_exactly(base, how):
    straight, first = network(), network()
    optimizer = FPTT(BASES[base](straight.parameters()), max_norm=1.0)
    train(straight, optimizer, batches())
    half = FPTT(BASES[base](first.parameters()), max_norm=1.0)
    train(first, half, batches()[:6])
    if how == "deepcopy":
        second, resumed = copy.deepcopy((first, half))
    else:
        second = network()
        second.load_state_dict(first.state_dict())
        resumed = FPTT(BASES[base](second.parameters()), max_norm=1.0)
        if how == "state_dict":
            resumed.load_state_dict(copy.deepcopy(half.state_dict()))
        elif how == "older":  # as it was written before
            own = {
                key: {name: memory[name] for name in ("average", "lambda_")}
                for key, memory in half.state_dict()["state"].items()
            }
            resumed.load_state_dict(copy.deepcopy({**half.state_dict(), "state": own, "base": half.base.state_dict()}))
        else:  # as torch.distributed.checkpoint keeps it, by the parameters' names
            saved = copy.deepcopy(get_optimizer_state_dict(first, half))
            set_optimizer_state_dict(second, resumed, saved)
    assert resumed.param_groups is resumed.base.param_groups
    train(second, resumed, batches()[6:])
    for a, b in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["average"], resumed.state[b]["average"])


def test_averaged_weights_come_and_go():
    model = network()
    optimizer = FPTT(BASES["adamax"](model.parameters()))
    with optimizer.averaged_weights():
        pass  # before the first step the average is the weights
    train(model, optimizer, batches())
    own = [p.detach().clone() for p in model.parameters()]
    average = [optimizer.state[p]["average"].clone() for p in model.parameters()]
    with pytest.raises(KeyError), optimizer.averaged_weights():
        assert all(torch.equal(p, a) for p, a in zip(model.parameters(), average, strict=True))
        raise KeyError
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), own, strict=True))
    assert not torch.equal(own[0], average[0])
    optimizer.restart_from_average()
    assert all(torch.equal(p, a) for p, a in zip(model.parameters(), average, strict=True))


def test_a_scheduler_may_change_the_bases_momentum():
    optimizer = FPTT(torch.optim.Adam(network().parameters()))
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    assert optimizer.base.param_groups[0]["betas"][0] == 0.95


def test_averaged_weights_may_be_entered_twice_and_are_not_trained_or_saved():
    model = network()
    optimizer = FPTT(BASES["adamax"](model.parameters()))
    train(model, optimizer, batches())
    saved = optimizer.state_dict()
    own = [p.detach().clone() for p in model.parameters()]
    average = [optimizer.state[p]["average"].clone() for p in model.parameters()]
    with optimizer.averaged_weights():
        for _ in range(2):
            with optimizer.averaged_weights():
                assert all(torch.equal(p, a) for p, a in zip(model.parameters(), average, strict=True))
        for wrong in (optimizer.step, optimizer.state_dict, lambda: optimizer.load_state_dict(saved)):
            with pytest.raises(RuntimeError, match=r"within averaged_weights\(\)"):
                wrong()
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), own, strict=True))


@pytest.mark.parametrize("wrong", [{"fptt_alpha": 0.0}, {"fptt_beta": 0.0}])
def test_a_group_with_settings_outside_their_range(wrong):
    used, later = network(), network()
    with pytest.raises(ValueError, match="fptt_alpha must be positive and fptt_beta"):
        FPTT(torch.optim.SGD([{"params": used.parameters(), **wrong}], lr=0.1))
    optimizer = FPTT(torch.optim.SGD(used.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="fptt_alpha must be positive and fptt_beta"):
        optimizer.add_param_group({"params": later.parameters(), **wrong})
    assert len(optimizer.param_groups) == 1


def test_parameters_without_gradient_are_left_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = FPTT(torch.optim.SGD([used, unused], lr=0.1))
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused.detach(), torch.ones(2)) and unused not in optimizer.state


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = FPTT(torch.optim.SGD(embedding.parameters(), lr=0.1))
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 0}, {"beta": 0}, {"beta": 1.1}, {"rho": 1}, {"max_norm": 0}, {"form": "mine"}, {"alpha": float("nan")}],
)
def test_settings_outside_their_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        FPTT(torch.optim.SGD(network().parameters(), lr=0.1), **settings)


def test_what_is_not_an_optimizer_and_a_foreign_state_dict():
    with pytest.raises(TypeError, match=r"torch\.optim"):
        FPTT(network().parameters())
    optimizer = FPTT(torch.optim.SGD(network().parameters(), lr=0.1))
    plain = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="not an FPTT state dict"):
        optimizer.load_state_dict(plain.state_dict())
    model = network()
    stepped = FPTT(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    train(model, stepped, batches(1))
    with pytest.raises(ValueError, match="not an FPTT state dict"):
        stepped.load_state_dict(stepped.base.state_dict())
