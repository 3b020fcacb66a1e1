"""A network of the user's own, from a function in a file."""

import json

import pytest

OWN = """import torch


class Network(torch.nn.Module):
    def __init__(self, task):
        super().__init__()
        self.enter, self.leave = torch.nn.Linear(task.inputs, 8), torch.nn.Linear(8, task.outputs)

    def forward(self, x, z=None):
        z = torch.zeros(len(x), 8) if z is None else z
        z = torch.tanh(self.enter(x) + z)
        return self.leave(z), z


def network(task):
    return Network(task)
"""


HIDDEN = OWN.replace(
    "z = torch.zeros(len(x), 8) if z is None else z", "z = getattr(self, 'z', torch.zeros(len(x), 8))"
).replace("return self.leave(z), z", "self.z = z\n        return self.leave(z), None")


ONCE = """self.once = self.once if hasattr(self, "once") else self.enter.weight.exp().sum()
        z = torch.tanh(self.enter(x) + z + self.once)"""


def test_a_network_of_ones_own_is_executed_only_where_the_command_says_so(run, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    status, out, err = run("train", "--epochs", "1", "--network", "mine.py:network", "--rule", "bptt", "--json")
    assert status == 0, err
    summary = json.loads(out)
    assert summary["parameters"] == 8 * 8 + 8 + 8 * 10 + 10 and summary["neuron"] == "network"
    assert "--network mine.py:network" in summary["command"]
    folder = "runs/digits-bptt-network-seed0"
    (tmp_path / "mine.py").write_text("print('executed')\n" + OWN)
    for words in (["evaluate", folder], ["export", folder], ["train", "--resume", folder, "--epochs", "2"]):
        status, out, err = run(*words)
        assert status == 2 and "executed" not in out
        assert "add --network mine.py:network" in err and err.count("\n") == 1
    status, out, _ = run("evaluate", folder, "--network", "mine.py:network")
    assert status == 0 and "executed" in out and f"{100 * summary['test_accuracy']:.2f} %" in out
    assert run("train", "--resume", folder, "--epochs", "2", "--network", "mine.py:network")[0] == 0
    assert run("plot", folder, "--kind", "raster", "--network", "mine.py:network")[0] == 2, "no neurons of fptt"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "there is no file mine.py"),
        ("network = 3", "mine.py has no function 'network'"),
        ("def network(task):\n    return 3", "must return a torch.nn.Module, not int"),
        ("import torch\n\nnetwork = 1 / 0", "line 3: ZeroDivisionError"),
        ("def network(:", "line 1: SyntaxError"),
        ("def network(task):\n    return task.size", "line 2: AttributeError"),
        (OWN.replace("task.outputs", "3"), "must be numbers of shape [2, 10], not torch.float32 [2, 3]"),
        (OWN.replace("return self.leave(z), z", "return z"), "must return (output, state), not Tensor"),
        (HIDDEN, "the same two steps from the start give another output each time. If it keeps its state"),
        (OWN.replace("z = torch.tanh(self.enter(x) + z)", ONCE), "RuntimeError: Trying to backward through the graph a second"),
        (OWN.replace("return Network(task)", "return Network(task).requires_grad_(False)"), "it has no weights to train"),
        (
            OWN.replace("return self.leave(z), z", "return self.leave(z).long(), z"),
            "must be numbers of shape [2, 10], not torch.int64",
        ),
    ],
)
def test_a_file_that_makes_no_network_is_one_line_and_leaves_nothing(run, tmp_path, source, message):
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run("train", "--network", "mine.py:network")
    assert status == 2 and not out
    assert err.startswith("fptt: --network mine.py:network: ") and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", ["network.py", ":network", "mine.txt:network", "mine.py:not a name"])
def test_a_place_without_file_or_function(run, place):
    status, _, err = run("train", "--network", place)
    assert status == 2 and err == f"fptt: --network {place}: give FILE.py:FUNCTION\n"


def test_a_rule_says_what_it_needs_of_it(run, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    status, _, err = run("train", "--network", "mine.py:network", "--rule", "eprop")
    assert status == 2 and "Network has no" in err and err.count("\n") == 1
