"""The network of a run, in Python."""

import dataclasses

import pytest
import torch
import yaml

import fptt
from conftest import Silent
from fptt import InputError
from fptt.loading import trained, write_weights
from fptt.tasks.digits import Digits
from fptt.training.loop import Stopped, Trainer
from fptt.training.run import Run

OWN = """
import torch

class Network(torch.nn.Module):
    def __init__(self, task):
        super().__init__()
        self.linear = torch.nn.Linear(task.inputs, task.outputs)

    def forward(self, x_t, state=None):
        return self.linear(x_t), x_t
"""


@pytest.fixture(params=[{}, {"ema": 0.9}, {"precision": "bfloat16", "rule": "bptt", "ema": 0.5}], ids=str)
def trainer(request, tmp_path):
    """One that was stopped in its second epoch, so that the averages are others than the weights."""
    torch.manual_seed(0)
    run = Run(tmp_path / "run")
    task = Digits(epochs=3, hidden=(8,), batch_size=256, **request.param)
    run.create(task)
    trainer = Trainer(task, run)
    with pytest.raises(Stopped):
        trainer.fit(Silent(stop_after=(2, 2)))
    return trainer


def test_it_answers_as_the_evaluation_with_the_averaged_weights(trainer):
    random = torch.get_rng_state()
    model = fptt.load(trainer.run.folder)
    assert torch.equal(torch.get_rng_state(), random), "random numbers that are not its own"
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert any(not torch.equal(p, weights[name]) for name, p in model.named_parameters())
    with trainer.averaged_weights():
        for name, tensor in trainer.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
    assert not model.training
    _, _, test = trainer.task.sets()
    state, sequence = None, trainer.task.encode(test.x, torch.Generator())
    for x_t in sequence:
        output, state = model(x_t, state)
    assert output.shape == (len(test), 10) and output.dtype == torch.float32 and output.requires_grad


def test_weights_alone_are_a_run_but_to_resume_it(trainer, tmp_path):
    original = trained(trainer.run.folder)
    write_weights(original, tmp_path / "alone")
    copy = trained(tmp_path / "alone")
    _, _, test = trainer.task.sets()
    assert copy.evaluate(test) == original.evaluate(test) == trainer.evaluate(test)
    for name, tensor in fptt.load(tmp_path / "alone").state_dict().items():
        assert torch.equal(tensor, original.model.state_dict()[name]), name
    assert copy.run.metrics() == trainer.run.metrics() and copy.epoch == trainer.epoch
    sizes = [run.checkpoint.stat().st_size for run in (copy.run, trainer.run)]
    assert sizes[0] < 0.7 * sizes[1], "the optimizer's memory"

    begun = Trainer(dataclasses.replace(trainer.task, start=str(tmp_path / "alone")), Run(tmp_path / "begun"))
    begun.create()
    assert all(torch.equal(a, b) for a, b in zip(begun.model.parameters(), copy.model.parameters(), strict=True))
    before = (tmp_path / "alone" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="weights alone, nothing to resume"):
        Trainer(trainer.task, copy.run).restore()
    assert (tmp_path / "alone" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(InputError, match="already holds a run"):
        write_weights(original, tmp_path / "alone")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the run folder"):
        write_weights(original, tmp_path / "file" / "run")


def test_a_network_of_ones_own_is_executed_only_where_the_call_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN + "\ndef network(task):\n    return Network(task)\n")
    run, task = Run(tmp_path / "run"), Digits(epochs=1, network="mine.py:network", rule="bptt", batch_size=512)
    run.create(task)
    Trainer(task, run).fit(Silent())
    with pytest.raises(InputError, match="add --network mine.py:network"):
        fptt.load("run")
    assert type(fptt.load("run", network="mine.py:network")).__name__ == "Network"


def test_what_is_no_run_or_damaged_is_one_line(trainer, tmp_path):
    folder = trainer.run.folder
    with pytest.raises(InputError, match="not a run folder"):
        fptt.load(tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        fptt.load(folder, device="nowhere")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    for wrong in ({"epochs": "many"}, {"colour": 3}, {"hidden": None}, {"task": "cooking"}, {"seed": [1]}):
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | wrong))
        with pytest.raises(InputError) as error:
            fptt.load(folder)
        assert "\n" not in str(error.value)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    trainer.run.checkpoint.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        fptt.load(folder)
