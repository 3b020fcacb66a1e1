"""Grids of runs: what a file means, what the table says, and that nothing done is done twice."""

import json
import multiprocessing
import threading
import time

import matplotlib.pyplot as plt
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fptt import InputError, cli, plots
from fptt.commands import compare
from fptt.commands.launch import Job, in_processes, through_submitit
from fptt.comparison import Grid, read_csv, with_spread, write_csv
from fptt.tasks.digits import Digits
from fptt.training.loop import Trainer
from fptt.training.run import Run

TINY = {"task": "digits", "epochs": 2, "hidden": [4], "threads": 1}
GRID = {
    "settings": TINY,
    "vary": {"neuron": ["lif", "ltc"], "rule": {"FPTT": None, "4 parts": {"parts": 4}, "BPTT": {"rule": "bptt"}}},
    "seeds": [3, 4],
    "except": [{"neuron": "ltc", "rule": "4 parts"}],
    "baseline": {"rule": "BPTT"},
}


@pytest.fixture
def grid(tmp_path):
    def written(**changes):
        path = tmp_path / "some.yaml"
        path.write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False))
        return path

    return written


def test_every_combination_but_the_exceptions_is_planned(grid):
    planned = Grid.read(grid()).planned
    assert len(planned) == 5 * 2 and len({plan.name for plan in planned}) == 10
    assert planned[2].labels == {"neuron": "lif", "rule": "4 parts"} and planned[2].name == "lif-4-parts-seed3"
    assert planned[2].settings == {**TINY, "neuron": "lif", "parts": 4, "seed": 3}
    assert not [plan for plan in planned if plan.labels == {"neuron": "ltc", "rule": "4 parts"}]
    begun = Grid.read(grid(settings={**TINY, "start": "first/{seed}"})).planned
    assert [plan.settings["start"] for plan in begun[:3]] == ["first/3", "first/4", "first/3"]
    fewer = Grid.read(grid(**{"except": [{"rule": "BPTT", "seed": 4}]})).planned
    assert [plan.seed for plan in fewer if plan.labels["rule"] == "BPTT"] == [3, 3]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vary": {}}, "needs 'vary'"),
        ({"vary": {"rule": "fptt"}}, "'rule' must be a list of values, or a mapping"),
        ({"vary": {"rule": {"fast": 3}}}, "'rule' must be a list of values, or a mapping"),
        ({"seed": 3}, "unknown key 'seed'"),
        ({"vary": {"seed": [0, 1]}}, "list its values under 'seeds'"),
        ({"seeds": 3}, "'seeds' must be a list of whole numbers"),
        ({"except": [{"neuron": "alif"}]}, "no 'neuron: alif' among what varies"),
        ({"except": [{"seed": 7}]}, "no 'seed: 7' among what varies"),
        ({"baseline": {"rules": "BPTT"}}, "no 'rules: BPTT' among what varies"),
        ({"settings": 5}, "'settings' must be a mapping"),
        ({"settings": {"seed": 7}}, "'seed' is no setting of a comparison: list seeds under 'seeds'"),
        ({"except": [{"neuron": "ltc"}, {"neuron": "lif"}]}, "'except' leaves nothing to train"),
        ({"except": {"neuron": "lif"}}, "'except' must be a list of cells"),
        ({"choose": "lr"}, "'choose' must be one of several axes under 'vary'"),
        ({"choose": ["neuron"]}, "'choose' must be one of several axes under 'vary'"),
        ({"choose": "rule"}, "'choose' must be one of several axes under 'vary' and not in 'baseline'"),
        (
            {"vary": {"neuron": ["lif"]}, "choose": "neuron", "baseline": {}, "except": []},
            "'choose' must be one of several axes",
        ),
    ],
)
def test_what_is_wrong_with_a_grid_is_said(grid, changes, message):
    with pytest.raises(InputError, match=message):
        Grid.read(grid(**changes))


def row(neuron, rule, seed, accuracy):
    return {
        **{"neuron": neuron, "rule": rule, "seed": seed, "test_accuracy": accuracy, "command": f"fptt {neuron} {rule} {seed}"},
        **{"firing_rate": 0.1, "peak_memory_mb": 100.0, "training_seconds": 6.0, "parameters": 7},
    }


def test_the_table_has_means_and_differences_of_pairs(grid, tmp_path):
    of = Grid.read(grid())
    rows = [row("lif", "FPTT", 3, 0.5), row("lif", "FPTT", 4, 0.9), row("lif", "BPTT", 3, 0.4), row("lif", "BPTT", 4, 0.6)]
    rows += [row("lif", "FPTT", 5, 0.1), row("ltc", "FPTT", 3, 0.25)]
    table = {(line["neuron"], line["rule"]): line for line in of.table(rows)}
    assert list(table) == [("lif", "FPTT"), ("lif", "BPTT"), ("ltc", "FPTT")], "in the order of the file"
    line = table["lif", "FPTT"]
    assert line["runs"] == 3 and line["mean"] == pytest.approx(0.5) and line["sd"] == pytest.approx(0.4)
    assert line["difference"] == pytest.approx(0.2), "seed 5 has no partner"
    assert line["difference_sd"] == pytest.approx(0.2 / 2**0.5)
    assert table["lif", "BPTT"]["difference"] == 0
    assert table["ltc", "FPTT"]["sd"] is None and table["ltc", "FPTT"]["difference"] is None
    assert line["training_seconds"] == 6
    markdown = of.markdown(of.table(rows)).splitlines()
    assert markdown[0].split(" | ")[3:5] == ["test accuracy", "difference from BPTT"]
    assert "| lif | FPTT | 3 | 50.0 ± 40.0 % | +20.0 ± 14.1 points |" in markdown[2]
    assert "| lif | BPTT | 2 | 50.0 ± 14.1 % |  |" in markdown[3]
    assert with_spread(0.0123, 0.001, percent=False) == "0.0123 ± 0.0010"


def test_the_first_seed_chooses_by_its_validation_score(grid):
    of = Grid.read(grid(choose="neuron", seeds=[4, 3], **{"except": [{"neuron": "ltc", "rule": "4 parts"}]}))
    assert [plan.name for plan in of.candidates()] == [
        f"{name}-seed4" for name in ("lif-fptt", "lif-4-parts", "lif-bptt", "ltc-fptt", "ltc-bptt")
    ]
    validated = lambda *cell, by: {**row(*cell), "validation_accuracy": by}  # noqa: E731
    rows = [
        validated("lif", "FPTT", 4, 0.9, by=0.5),
        validated("ltc", "FPTT", 4, 0.2, by=0.6),
        validated("lif", "BPTT", 4, 0.4, by=0.4),
    ]
    rows += [validated("lif", "FPTT", 3, 0.9, by=0.99), validated("ltc", "FPTT", 3, 0.4, by=0.1), row("lif", "BPTT", 3, 0.1)]
    assert [plan.name for plan in of.chosen(rows)] == ["lif-bptt-seed4", "lif-bptt-seed3", "ltc-fptt-seed4", "ltc-fptt-seed3"]
    table = of.table(rows)
    assert [(line["rule"], line["neuron"], line["runs"]) for line in table] == [("FPTT", "ltc", 2), ("BPTT", "lif", 2)]
    assert table[0]["mean"] == pytest.approx(0.3), "though the other was better on the test set"
    assert table[0]["difference"] == pytest.approx(0.05), "from the baseline's own choice"
    assert of.markdown(table).startswith("| rule | neuron | runs | test accuracy | difference from BPTT |")
    errors = [
        {
            **line,
            "validation_mse": line["validation_accuracy"],
            "validation_accuracy": None,
            "test_mse": 0.1,
            "test_accuracy": None,
        }
        for line in rows[:2]
    ]
    assert of.chosen(errors)[0].labels["neuron"] == "lif", "of errors the smaller one"
    with pytest.raises(InputError, match="not validated, give its task a validation set: fptt lif FPTT 4"):
        of.chosen([row("lif", "FPTT", 4, 0.5)])


@pytest.mark.parametrize(("second", "alike"), [("test_accuracy", True), ("test_mse", False)])
def test_panels_of_the_same_score_are_drawn_to_one_scale(second, alike):
    cells = (("fptt", "a", 0.2), ("bptt", "a", 0.9), ("fptt", "b", 0.1), ("bptt", "b", 0.3))
    table = [
        {
            "rule": rule,
            "neuron": "ltc",
            "task": task,
            "mean": mean,
            "sd": 0.01,
            "score": "test_accuracy" if task == "a" else second,
        }
        for rule, task, mean in cells
    ]
    figure = plots.comparison(table, ("rule", "neuron", "task"), {name: name for name in ("test_accuracy", "test_mse")})
    first, other = (axis.get_xlim() for axis in figure.axes)
    plt.close(figure)
    assert (first == other) is alike
    assert figure.axes[0].get_ylabel() == "rule"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.text('ab,"\n ', min_size=1))
def test_a_record_is_read_as_it_was_written(tmp_path_factory, accuracies, command):
    rows = [{**row("lif", "1", seed, a), "command": "x" + command, "machine": None} for seed, a in enumerate(accuracies)]
    path = tmp_path_factory.mktemp("record") / "runs.csv"
    path.write_text(write_csv(rows), newline="")
    assert read_csv(path, ("neuron", "rule")) == rows


def test_a_grid_is_trained_once_and_what_fails_is_told(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = grid(vary={"rule": ["fptt", "bptt", "eprop"]}, seeds=[0, 1], baseline={"rule": "fptt"}, **{"except": []})
    stopped = Trainer(Digits(epochs=2, hidden=(4,), threads=1, rule="bptt"), Run(tmp_path / "runs/some/runs/bptt-seed0"))
    stopped.run.create(stopped.task)
    stopped.task.epochs = 1
    stopped.fit(Silent())
    (stopped.run.folder / "summary.json").unlink()
    assert cli.main(["compare", str(path), "--jobs", "2", "--json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert set(output["failed"]) == {"eprop-seed0", "eprop-seed1"} and "readout fixed" in output["failed"]["eprop-seed0"]
    folder = tmp_path / "runs" / "some"
    made = {"grid.yaml", "runs.csv", "table.csv", "table.md", "picture.png", "runs"}
    assert {file.name for file in folder.iterdir()} == {*made, "failed.json"}
    assert "\n- eprop-seed1: eprop filters by the readout's leak" in (folder / "table.md").read_text()
    rows = read_csv(folder / "runs.csv", ("rule",))
    assert [(line["rule"], line["seed"]) for line in rows] == [("fptt", 0), ("fptt", 1), ("bptt", 0), ("bptt", 1)]
    assert [line["epochs"] for line in rows] == [2] * 4
    assert len(Run(folder / "runs" / "bptt-seed0").metrics()) == 2, "its first epoch was not trained again"
    assert [line["rule"] for line in output["table"]] == ["fptt", "bptt"]

    for file in (folder / "runs").rglob("*.pt"):
        file.unlink()  # whoever trains again would need them
    (folder / "runs.csv").write_text(write_csv(rows[:3]), newline="")
    assert cli.main(["compare", str(path), "--collect"]) == 1
    collected = capsys.readouterr().out
    assert "| bptt | 1 |" in collected and "- eprop-seed0: " in collected, "what failed is remembered"
    grid(vary={"rule": ["fptt", "bptt"]}, seeds=[0, 1], baseline={"rule": "fptt"}, **{"except": []})
    assert cli.main(["compare", str(path)]) == 0, "what its folder shows to be done is taken over"
    assert read_csv(folder / "runs.csv", ("rule",)) == rows
    assert {file.name for file in folder.iterdir()} == made
    grid(settings={**TINY, "lr": 0.5}, vary={"rule": ["fptt"]}, seeds=[0], baseline={}, **{"except": []})
    capsys.readouterr()
    assert cli.main(["compare", str(path)]) == 2
    assert "holds fptt-seed0 with other settings" in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_a_network_of_ones_own_is_compared_and_resumed(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = "from fptt.models.sequence import SequenceModel as M\ndef small(task): return M(8, (4,), 10, neuron='lif')\n"
    (tmp_path / "mine.py").write_text(source)
    own = {"network": "mine.py:small", "epochs": 2, "threads": 1, "compile": False}
    path = grid(settings=own, vary={"rule": ["fptt", "sltt"]}, seeds=[0], baseline={}, **{"except": []})
    stopped = Trainer(Digits(**own, rule="sltt"), Run(tmp_path / "runs/some/runs/sltt-seed0"))
    stopped.run.create(stopped.task)
    stopped.task.epochs = 1
    stopped.fit(Silent())
    (stopped.run.folder / "summary.json").unlink()
    assert cli.main(["compare", str(path), "--json"]) == 0
    assert [line["rule"] for line in json.loads(capsys.readouterr().out)["table"]] == ["fptt", "sltt"]
    assert len(stopped.run.metrics()) == 2


def test_epochs_may_vary_and_a_network_without_spikes_has_no_rate(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = grid(vary={"neuron": ["lstm", "lif"], "epochs": [1, 2]}, seeds=[0], baseline={}, **{"except": []})
    for words in (["--jobs", "2"], ["--collect"]):  # from the run folders, and from the record
        assert cli.main(["compare", str(path), *words]) == 0
        lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
        assert [line[0][2:] + line[1] for line in lines] == ["lstm1", "lstm2", "lif1", "lif2"]
        assert [line[4] == "" for line in lines] == [True, True, False, False]


def here(jobs, *_):
    """As ``in_processes``, in this one."""
    for job in jobs:
        yield job, "failed" if cli.main(job.words) else None


def test_what_is_chosen_is_trained_with_the_other_seeds(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = grid(
        settings={**TINY, "epochs": 1, "compile": False},
        vary={"rule": ["fptt", "eprop"], "lr": [0.00001, 0.03]},
        seeds=[0, 1],
        **{"choose": "lr", "baseline": {}, "except": []},
    )
    monkeypatch.setattr(compare, "in_processes", here)
    assert cli.main(["compare", str(path), "--json"]) == 1
    output = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(line["rule"], line["lr"], line["runs"]) for line in output["table"]] == [("fptt", "0.03", 2)]
    assert set(output["failed"]) == {"eprop-1e-05-seed0", "eprop-0.03-seed0"}, "where nothing can be chosen, no more is tried"
    rows = read_csv(tmp_path / "runs/some/runs.csv", ("rule", "lr"))
    assert [(line["lr"], line["seed"]) for line in rows] == [("1e-05", 0), ("0.03", 0), ("0.03", 1)]
    assert cli.main(["compare", str(path), "--collect"]) == 1
    told = capsys.readouterr()
    assert "| fptt | 0.03 | 2 |" in told.out and "2 of 5 runs failed" in told.err


class Silent:
    def batch(self, *_):
        pass

    def epoch(self, row):
        pass


def test_stopping_saves_what_runs_and_begins_nothing_more(tmp_path):
    words = ["train", "digits", "--epochs", "10000", "--hidden", "4", "--no-compile", "--out"]
    jobs = [Job(name, [*words, str(tmp_path / name)], tmp_path / f"{name}.log") for name in ("first", "second")]
    stop = threading.Event()

    def when_it_trains():
        while not (tmp_path / "first" / "metrics.jsonl").exists() and not stop.wait(0.05):
            pass
        stop.set()

    watcher = threading.Thread(target=when_it_trains)
    watcher.start()
    try:
        assert list(in_processes(jobs, 1, stop)) == []
    finally:
        stop.set()
        watcher.join()
    assert Run(tmp_path / "first").checkpoint.exists() and not (tmp_path / "second").exists()
    assert "stopped and saved" in (tmp_path / "first.log").read_text()


def test_a_run_that_is_killed_is_told_apart(tmp_path):
    words = ["train", "digits", "--epochs", "10000", "--hidden", "4", "--no-compile", "--out", str(tmp_path / "run")]
    ended = in_processes([Job("run", words, tmp_path / "log")], 1, threading.Event())

    def kill():
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            time.sleep(0.05)
        for process in multiprocessing.active_children():
            process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    assert [(job.name, message) for job, message in ended] == [("run", "killed by signal 9")]
    killer.join()


def test_a_cluster_runs_it_too(tmp_path):
    pytest.importorskip("submitit")
    words = ["train", "digits", "--epochs", "1", "--hidden", "4", "--no-compile", "--out"]
    jobs = [
        Job("good", [*words, str(tmp_path / "good")], tmp_path / "log"),
        Job("bad", [*words, str(tmp_path / "bad"), "--alpha", "-1"], tmp_path / "log"),
    ]
    options = {"cluster": "local", "folder": tmp_path / "submitit", "parameters": {"timeout_min": 5}}
    ended = {job.name: message for job, message in through_submitit(jobs, 2, threading.Event(), **options)}
    assert ended["good"] is None and "--alpha must be positive" in ended["bad"]
    assert Run(tmp_path / "good").summary()["test_accuracy"] > 0
    with pytest.raises(InputError, match="local takes no jobs"):
        list(through_submitit(jobs, 2, threading.Event(), **{**options, "parameters": {"minutes": 5}}))
