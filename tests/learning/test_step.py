"""The compiled step against the eager one."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fptt.learning import graphs
from fptt.learning.fptt import FPTT
from fptt.learning.losses import Auxiliary, StepLoss
from fptt.learning.rules import SequenceTrainer, make_optimizer
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import SequenceModel

pytestmark = pytest.mark.filterwarnings("error:fptt")  # a fallback is a failure unless a test expects it
STEPS, INPUTS, CLASSES = 12, 3, 4
BASES = {
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-1),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-3),
}


class Run:
    """A small LTC network with batch norm, auxiliary loss and clipping, trained with or without the compiler."""

    def __init__(self, compiled, base="adamax", dtype=torch.float64, steps=STEPS, model=None, **options):
        torch.manual_seed(1)
        self.model = model or SequenceModel(INPUTS, (5,), CLASSES, **options)
        self.model.to(dtype)
        self.loss = StepLoss(cross_entropy, steps, auxiliary=Auxiliary(steps, CLASSES)).to(dtype)
        self.optimizer = make_optimizer("fptt", BASES[base](self.model.parameters()), max_norm=1.0)
        self.trainer = SequenceTrainer(self.model, self.loss, self.optimizer, steps, compiled)
        self.steps, self.dtype = steps, dtype

    def train(self, batches=2, batch_size=7, seed=5):
        torch.manual_seed(seed)
        results = []
        for _ in range(batches):
            sequence = torch.randn(self.steps, batch_size, INPUTS, dtype=self.dtype)
            results.append(self.trainer(sequence, torch.arange(batch_size) % CLASSES))
        return results

    def everything(self):
        """All tensors that training changes, by name."""
        tensors = {**dict(self.model.state_dict()), **{f"loss.{k}": v for k, v in self.loss.state_dict().items()}}
        for kind, optimizer in (("fptt", self.optimizer), ("base", self.optimizer.base)):
            for name, p in self.model.named_parameters():
                for key, value in optimizer.state[p].items():
                    if isinstance(value, torch.Tensor):
                        tensors[f"{kind}.{name}.{key}"] = value
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(a, b, tolerance=1e-9):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("base", BASES)
def test_every_tensor_is_that_of_the_eager_step(base, request):
    if base not in ("adamax", "sgd"):  # two are compiled to the end
        request.getfixturevalue("traced")
    eager, compiled = Run(False, base), Run(True, base)
    for a, b in zip(eager.train(), compiled.train(), strict=True):
        assert_equal(a._asdict(), b._asdict())
    assert_equal(eager.everything(), compiled.everything())
    assert compiled.trainer.graphs == 1


def test_batch_norm_through_time_and_its_statistics():
    """With SGD: the bias before a norm has no gradient but rounding, which optimizers that normalise would blow up."""
    eager, compiled = (Run(on, "sgd", norm_steps=STEPS, gamma=1.0) for on in (False, True))
    eager.train()
    compiled.train()
    assert_equal(eager.everything(), compiled.everything())


def test_the_loss_curve_of_200_steps_in_single_precision():
    curves = []
    for on in (False, True):
        run = Run(on, dtype=torch.float32, steps=20)
        curves.append(torch.stack([result.loss for result in run.train(batches=10)]))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=1e-4)
    assert curves[0][-1] != curves[0][0]


def test_graphs_are_counted_and_bounded(traced):
    run = Run(True)
    run.train(batches=3)
    run.train(batches=1, batch_size=4)  # a ragged last batch
    run.train(batches=1)
    assert run.trainer.graphs == 2
    run.optimizer.param_groups[0]["lr"] *= 0.5  # a schedule
    run.model.eval()
    run.model.train()
    run.train(batches=1)
    assert run.trainer.graphs == 2
    longer = SequenceTrainer(run.model, StepLoss(cross_entropy, 2 * STEPS), run.optimizer, 2 * STEPS, True)
    longer(torch.randn(2 * STEPS, 7, INPUTS, dtype=run.dtype), torch.arange(7) % CLASSES)
    assert longer.graphs == 1


def test_more_shapes_than_graphs_are_trained_eagerly(monkeypatch, traced):
    monkeypatch.setattr(graphs, "LIMIT", 1)
    eager, compiled = Run(False, "sgd"), Run(True, "sgd")
    for run in (eager, compiled):
        run.train(batches=1)
    with pytest.warns(UserWarning, match="1 graphs for different shapes"):
        compiled.train(batches=1, batch_size=3)
    eager.train(batches=1, batch_size=3)
    assert_equal(eager.everything(), compiled.everything())


def test_learning_rate_and_weights_may_change_between_sequences():  # which machine code must not have taken in
    eager, compiled = Run(False), Run(True)
    for run in (eager, compiled):
        run.train()
        run.optimizer.restart_from_average()
        run.optimizer.param_groups[0]["lr"] = 3e-3
        with run.optimizer.averaged_weights():
            run.model(torch.ones(2, INPUTS, dtype=run.dtype))
        run.train()
    assert_equal(eager.everything(), compiled.everything())
    assert compiled.trainer.graphs == 1


def test_a_checkpoint_of_the_compiled_run_continues_either_way(tmp_path, traced):
    first = Run(True)
    first.train(batches=1)
    torch.save([part.state_dict() for part in (first.model, first.loss, first.optimizer)], tmp_path / "c.pt")
    first.train(batches=1, seed=6)
    for on in (False, True):
        run = Run(on)
        run.train(batches=1, seed=9)  # so that everything exists, and is replaced
        parts = (run.model, run.loss, run.optimizer)
        for part, state in zip(parts, torch.load(tmp_path / "c.pt"), strict=True):
            part.load_state_dict(state)
        run.train(batches=1, seed=6)
        assert_equal(first.everything(), run.everything())


def test_several_groups_frozen_and_unused_parameters(traced):
    def build(on):
        run = Run(on)
        run.model.layers[0].synapse.weight.requires_grad_(False)
        groups = [
            {"params": list(run.model.layers.parameters()), "lr": 1e-2},
            {"params": [*run.model.output.parameters(), *run.model.readout.parameters()], "lr": 1e-3, "weight_decay": 0.1},
            {"params": [nn.Parameter(torch.ones(()))]},
        ]
        run.optimizer = make_optimizer("fptt", torch.optim.Adamax(groups))
        run.trainer = SequenceTrainer(run.model, run.loss, run.optimizer, STEPS, on)
        run.train()
        return run

    eager, compiled = build(False), build(True)
    assert_equal(eager.everything(), compiled.everything())


def freeze(run):
    run.model.layers[0].synapse.requires_grad_(False)


def unfreeze(run):
    run.model.layers[0].synapse.requires_grad_(True)


def keep_statistics(run):
    run.model.layers[0].norm.eval()


def clip(run):
    run.optimizer.max_norm = 1e-3


def forget(run):
    fresh = make_optimizer("fptt", BASES["momentum"](run.model.parameters()), max_norm=1.0)
    run.optimizer.load_state_dict(fresh.state_dict())


@pytest.mark.parametrize("change", [freeze, unfreeze, keep_statistics, clip, forget], ids=lambda change: change.__name__)
def test_what_is_changed_in_between_counts(change, traced):
    eager, compiled = (Run(on, "momentum", norm_steps=STEPS, gamma=1.0) for on in (False, True))
    for run in (eager, compiled):
        if change is unfreeze:
            freeze(run)
        run.train(batches=1)
        before = run.model.layers[0].synapse.weight.clone()
        change(run)
        run.train(batches=1)
        assert torch.equal(before, run.model.layers[0].synapse.weight) == (change is freeze)
    assert_equal(eager.everything(), compiled.everything())


@pytest.mark.parametrize("owner", ["optimizer", "base", "weight"])
def test_hooks_are_called(owner, traced):
    run, calls = Run(True), []
    run.train(batches=1)
    if owner == "weight":
        hook = run.model.output.weight.register_hook(lambda gradient: calls.append(len(gradient)))
    else:
        of = run.optimizer if owner == "optimizer" else run.optimizer.base
        hook = of.register_step_post_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="hooks of weights or optimizers are called by eager code alone"):
        run.train(batches=1)
    assert len(calls) == STEPS
    run.train(batches=1)  # with no second warning
    hook.remove()
    run.train(batches=1)
    assert len(calls) == 2 * STEPS and run.trainer.graphs == 1


def test_parameters_may_have_names(traced):
    eager, compiled = Run(False), Run(True)
    for run in (eager, compiled):
        run.optimizer = make_optimizer("fptt", torch.optim.Adam(run.model.named_parameters(), betas=[0.9, 0.99]))
        run.trainer = SequenceTrainer(run.model, run.loss, run.optimizer, STEPS, run is compiled)
        run.train()
    assert_equal(eager.everything(), compiled.everything())


def trained_by_hand(step, partial=False):
    """A loop of one's own on a plain network, whose second half now and then has no gradient."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    optimizer = FPTT(torch.optim.Adam(model.parameters(), lr=1e-2), max_norm=0.5)
    update = step(optimizer)
    for number in range(12):
        optimizer.zero_grad()
        depth = 2 if partial and number % 4 == 3 else 3
        model[:depth](torch.randn(8, 3, dtype=torch.float64)).square().mean().backward()
        update()
        if number == 5:
            optimizer.param_groups[0]["lr"] = 1e-3
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_update_in_a_loop_of_ones_own():
    updates = []

    def compiled(optimizer):
        updates.append(graphs.CompiledUpdate(optimizer))
        return updates[0].step

    assert_equal(trained_by_hand(lambda optimizer: optimizer.step), trained_by_hand(compiled))
    assert len(updates[0].graphs) == 1


def test_an_update_of_changing_parameters_is_eager():
    with pytest.warns(UserWarning, match="not the same parameters"):
        compiled = trained_by_hand(lambda optimizer: graphs.CompiledUpdate(optimizer).step, partial=True)
    assert_equal(trained_by_hand(lambda optimizer: optimizer.step, partial=True), compiled)


class Scalars(nn.Module):
    """A leaky integrator with one learned leak for all units, a 0-dimensional parameter, and a buffer that it replaces."""

    def __init__(self):
        super().__init__()
        self.leak = nn.Parameter(torch.tensor(0.5))
        self.weight = nn.Parameter(torch.randn(CLASSES, INPUTS))
        self.steps = nn.Buffer(torch.zeros(()))

    def forward(self, x, state=None):
        self.steps = self.steps + 1
        v = x.new_zeros(len(x), CLASSES) if state is None else state
        v = torch.sigmoid(self.leak) * v + x @ self.weight.T
        return v, v


@pytest.mark.parametrize("model", [Scalars, lambda: RecurrentBaseline(INPUTS, (5,), CLASSES)], ids=["scalars", "lstm"])
def test_any_model_that_keeps_the_protocol(model, traced):
    runs = []
    for on in (False, True):
        torch.manual_seed(0)
        runs.append(Run(on, model=model()))
        runs[-1].train()
    assert_equal(runs[0].everything(), runs[1].everything())


class Impulsive(Scalars):
    """Cannot be traced: what it does depends on the values."""

    def forward(self, x, state=None):
        output, state = super().forward(x, state)
        return (output, state) if output.sum() > 0 else (-output, state)


def assert_one_warning(compiled, eager, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled.train()
    ours = [str(w.message) for w in caught if "fptt" in str(w.message)]
    assert len(ours) == 1 and message in ours[0] and "\n" not in ours[0]
    eager.train()
    assert_equal(eager.everything(), compiled.everything())
    assert compiled.trainer.graphs == 0


def test_a_model_that_cannot_be_traced_trains_with_one_warning():
    torch.manual_seed(0)
    models = [Impulsive(), Impulsive()]
    models[1].load_state_dict(models[0].state_dict())
    assert_one_warning(Run(True, model=models[0]), Run(False, model=models[1]), "training goes on without")


def test_around_an_optimizer_that_is_not_elementwise_the_gradients_are_compiled(traced):
    runs = []
    for on in (True, False):
        runs.append(Run(on))
        base = torch.optim.Adafactor(runs[-1].model.parameters())
        runs[-1].optimizer = make_optimizer("fptt", base)
        runs[-1].trainer = SequenceTrainer(runs[-1].model, runs[-1].loss, runs[-1].optimizer, STEPS, on)
        runs[-1].train()
    assert_equal(*(run.everything() for run in runs))
    assert runs[0].trainer.graphs == 1


def test_a_machine_without_a_compiler_trains_with_one_warning(monkeypatch):
    def missing(*_, **__):
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "compile", missing)
    assert_one_warning(Run(True), Run(False), "InvalidCxxCompiler")


@pytest.mark.parametrize("rule", ["bptt", "tbptt", "fptt"])
def test_rules_with_fewer_updates_than_steps_compile_their_steps(rule, traced):  # in test_products.py to the end
    results = []
    for on in (False, True):
        run = Run(on, "sgd", dtype=torch.float32, steps=3)
        parts = 1 if rule == "bptt" else 2
        run.optimizer = make_optimizer(rule, torch.optim.SGD(run.model.parameters(), lr=0.1), max_norm=1.0)
        run.trainer = SequenceTrainer(run.model, StepLoss(cross_entropy, parts), run.optimizer, parts, on)
        run.train()
        results.append(run.model.state_dict())
    assert_equal(*results, tolerance=1e-5)


def test_steps_that_cannot_be_compiled_run_as_they_are(monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    step = graphs.or_eager(lambda x: x + 1)
    with pytest.warns(UserWarning, match=r"training goes on without \(RuntimeError: no compiler\)$"):
        assert step(1) == 2
    assert step(2) == 3
