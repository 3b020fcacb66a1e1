import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, mse_loss

from fptt.learning.losses import Auxiliary, StepLoss, step_weights


def test_weights():
    assert step_weights(4).tolist() == [0.25, 0.5, 0.75, 1]
    assert step_weights(4, "uniform").tolist() == [1] * 4
    assert step_weights(4, "cubic").tolist() == [1 / 64, 1 / 8, 27 / 64, 1]
    assert step_weights(1).tolist() == [1]


def batches(seed, number=6, classes=3):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        yield 3 * torch.randn(5, classes, generator=generator), torch.randint(0, classes, (5,), generator=generator)


def plain_table(table, output, target, momentum):
    """The running mean of the predictions for each class that occurs, in two loops."""
    table = [list(row) for row in table]
    p = output.softmax(1).tolist()
    for k in range(len(table)):
        members = [p[i] for i in range(len(p)) if target[i] == k]
        for j in range(len(table)):
            if members:
                mean = sum(row[j] for row in members) / len(members)
                table[k][j] = (1 - momentum) * table[k][j] + momentum * mean
    return table


@given(st.integers(0, 10_000), st.floats(0.01, 1))
@settings(max_examples=25, deadline=None)
def test_table_equals_plain_loops_and_holds_distributions(seed, momentum):
    auxiliary = Auxiliary(parts=3, classes=3, momentum=momentum)
    assert torch.equal(auxiliary.table, torch.full((3, 3, 3), 1 / 3))
    expected = auxiliary.table[1].tolist()
    for output, target in batches(seed):
        q, log_p = expected, output.log_softmax(1).tolist()
        loss = -sum(q[y][j] * log_p[i][j] for i, y in enumerate(target) for j in range(3)) / len(target)
        assert auxiliary(output, target, torch.tensor(1)).item() == pytest.approx(loss, rel=1e-4)
        expected = plain_table(expected, output, target, momentum)
        torch.testing.assert_close(auxiliary.table[1], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert (auxiliary.table >= 0).all()
    torch.testing.assert_close(auxiliary.table.sum(2), torch.ones(3, 3))
    assert torch.equal(auxiliary.table[[0, 2]], torch.full((2, 3, 3), 1 / 3)), "the other parts' tables are untouched"


def test_absent_classes_evaluation_and_the_uniform_kind_leave_the_table_alone():
    output, target = torch.randn(4, 3), torch.tensor([0, 0, 2, 0])
    learning, evaluating, uniform = Auxiliary(1, 3), Auxiliary(1, 3).eval(), Auxiliary(1, 3, "uniform")
    before = learning.table.clone()
    for auxiliary in (learning, evaluating, uniform):
        auxiliary(output, target, torch.tensor(0))
    assert torch.equal(learning.table[0, 1], before[0, 1])
    assert not torch.equal(learning.table[0, [0, 2]], before[0, [0, 2]])
    assert torch.equal(evaluating.table, before) and torch.equal(uniform.table, before)
    assert "table" in learning.state_dict()


def test_step_loss_weighs_the_criterion_against_the_auxiliary_term():
    output, target = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    loss = StepLoss(cross_entropy, 4, auxiliary=Auxiliary(4, 3, "uniform"))
    for part, weight in enumerate((0.25, 0.5, 0.75, 1.0)):
        objective, criterion = loss(output, target, torch.tensor(part))
        ce, toward_uniform = cross_entropy(output, target), -output.log_softmax(1).mean()
        torch.testing.assert_close(objective, weight * ce + (1 - weight) * toward_uniform)
        torch.testing.assert_close(criterion, ce.detach())
        assert objective.requires_grad and not criterion.requires_grad


def test_step_loss_takes_any_criterion():
    output, target = torch.ones(2, 1), torch.zeros(2, 1)
    assert [x.item() for x in StepLoss(mse_loss, 2)(output, target, torch.tensor(0))] == [0.5, 1]
