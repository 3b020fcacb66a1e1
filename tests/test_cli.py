"""The command as its users meet it: what it prints, writes, refuses and survives."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from fptt.benchmark import Point, Sequences

QUICK = ["--epochs", "1", "--hidden", "8", "--batch-size", "100"]


@pytest.fixture
def trained(run, tmp_path):
    status, out, err = run("train", *QUICK, "--epochs", "2", "--out", "first", "--json")
    assert status == 0, err
    return tmp_path / "first", json.loads(out)


def test_train_evaluate_and_plot_the_default_task(run, trained):
    folder, summary = trained
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "curves.png",
    }
    assert summary == json.loads((folder / "summary.json").read_text())
    assert (summary["task"], summary["rule"], summary["neuron"], summary["epochs"]) == ("digits", "fptt", "ltc", 2)
    status, out, _ = run("evaluate", "first", "--json")
    result = json.loads(out)
    assert status == 0 and result["samples"] == 300
    assert result["accuracy"] == summary["test_accuracy"] and result["loss"] == pytest.approx(summary["test_loss"], rel=1e-6)
    for kind in ("curves", "raster", "traces"):
        for suffix, head in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            status, out, err = run("plot", "first", "--kind", kind, "--out", f"{kind}.{suffix}")
            assert status == 0, err
            content = (folder.parent / f"{kind}.{suffix}").read_bytes()
            assert content.startswith(head) and len(content) > 5000
    before = (folder / "metrics.jsonl").read_text()
    assert run("plot", "first", "first", "--labels", "a", "b", "--out", "two.png")[0] == 0
    assert (folder / "metrics.jsonl").read_text() == before, "looking at a run leaves it as it is"


def test_what_training_prints(run):
    status, out, err = run("train", *QUICK, "--out", "first")
    assert status == 0
    assert "digits: fptt with ltc" in err and "1,297 training, 200 validation, 300 test" in err
    assert "epoch 1/1: loss" in err and "firing rate" in err and "validation" in err
    assert "test accuracy" in out and "%" in out


def test_a_summary_repeats_its_run(run, trained):
    words = trained[1]["command"].split()
    assert words[:3] == ["fptt", "train", "digits"]
    status, out, _ = run(*words[1:], "--json", "--out", "again")
    again = json.loads(out)
    assert status == 0 and again["test_loss"] == trained[1]["test_loss"]


def test_settings_travel_through_a_config_file(run, tmp_path):
    status, out, _ = run("train", "adding", "--length", "6", "--hidden", "3", "4", "--no-recurrent", "--print-config")
    assert status == 0
    config = yaml.safe_load(out)
    assert config["length"] == 6 and config["hidden"] == [3, 4] and config["recurrent"] is False
    (tmp_path / "mine.yaml").write_text(out)
    rest = ["--iterations", "1", "--held-out", "4", "--epochs", "1", "--batch-size", "4", "--json", "--out", "r"]
    status, out, err = run("train", "adding", *rest, "--config", "mine.yaml")  # options count more, wherever they stand
    assert status == 0, err
    written = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert written["length"] == 6 and written["hidden"] == [3, 4] and written["recurrent"] is False and written["epochs"] == 1


def test_resume_trains_on_with_more_epochs(run, trained):
    folder, _ = trained
    status, out, err = run("train", "--resume", "first", "--epochs", "3", "--json")
    assert status == 0, err
    assert json.loads(out)["epochs"] == 3
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    status, _, err = run("train", "--resume", "first", "--epochs", "2")
    assert status == 2 and "first has 3 epochs already: give --epochs 3 or more" in err


def test_tensorboard_on_request(run, tmp_path):
    pytest.importorskip("tensorboard")
    assert run("train", *QUICK, "--out", "first", "--tensorboard")[0] == 0
    assert list((tmp_path / "first" / "tensorboard").glob("events.out.*"))


def test_runs_get_folders_of_their_own(run, tmp_path):
    for _ in range(2):
        assert run("train", *QUICK)[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-fptt-ltc-seed0", "digits-fptt-ltc-seed0-2"]


def test_data_lists_what_is_there(run, tmp_path):
    status, out, _ = run("data", "--data", tmp_path, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and rows["digits"]["found"] and not rows["MNIST"]["found"]
    status, out, _ = run("data", "--data", tmp_path)
    assert status == 0 and "MNIST" in out and "licence" in out


def nan_file(folder):
    x = np.zeros((20, 4, 2))
    x[3, 2, 1] = np.nan
    np.savez(folder / "nan.npz", x_train=x, y_train=np.arange(20) % 2)


def unwritable(folder):
    (folder / "file").write_text("")


def other_format(folder):
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").write_text("task: digits\nformat: 0\nversion: 0.0.1\n")


def settings_with_a_recipe(folder):
    (folder / "smnist.yaml").write_text("task: smnist\nrecipe: 14x14\n")


def nothing(folder):
    pass


BAD = [
    (nothing, ["train", "sudoku"], "unknown task 'sudoku'"),
    (nothing, ["train", "--epochs", "none"], '"epochs": Expected'),
    (nothing, ["train", "--neurons", "lif"], "--neurons"),
    (nothing, ["train", "--neuron", "hh"], "neuron"),
    (nothing, ["train", "--batch-size", "5000"], "--batch-size 5000 is larger than the train set of 1297"),
    (nothing, ["train", "adding", "--length", "0"], "--length must be at least 2"),
    (nothing, ["train", "rmnist", "--length", "0"], "--length must be at least 1"),
    (nothing, ["train", "--parts", "0"], "parts"),
    (nothing, ["train", "--rule", "sltt", "--sampled", "9"], "sampled must be 1 to 8 time steps, got 9"),
    (nothing, ["train", "--rule", "online-bptt", "--window", "0"], "window must be at least 1"),
    (nothing, ["train", "--rule", "ottt"], "that of the neuron depends on its input"),
    (nothing, ["train", "--rule", "ottt", "--precision", "bfloat16"], "bfloat16 is too coarse"),
    (nothing, ["train", "--rule", "eprop", "--readout", "fixed"], "not the batch norm layers.0.norm"),
    (nothing, ["train", "--rule", "eprop", "--neuron", "lstm"], "RecurrentBaseline has no"),
    *(
        (nothing, ["train", f"--{name}", value], f"--{name} must ")
        for name, value in (
            ("beta", "2"),
            ("rho", "1"),
            ("max-norm", "0"),
            ("threads", "-3"),
            ("warmup", "-3"),
            ("milestones", "0"),
            ("lr", "0"),
        )
    ),
    (nothing, ["train", "--rule", "bptt", "--parts", "4"], "give --rule tbptt"),
    *(
        (nothing, ["train", f"--{name}", value], f"--{name} is for --rule {rule}, not fptt")
        for name, value, rule in (("sampled", "3", "sltt"), ("window", "3", "online-bptt"), ("feedback", "random", "eprop"))
    ),
    (nothing, ["train", "smnist", "--reci", "14x14"], "--reci"),
    (settings_with_a_recipe, ["train", "--config", "smnist.yaml"], "give --recipe 14x14"),
    (settings_with_a_recipe, ["train", "digits", "--config", "smnist.yaml"], "is of task 'smnist', not 'digits'"),
    (nothing, ["train", "--device", "cuda:99"], "cuda"),
    (nothing, ["train", "--device", "abacus"], "abacus"),
    (nothing, ["train", "--resume", "nowhere"], "nowhere is not a run folder"),
    (nothing, ["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
    (nothing, ["train", "arrays"], "--file"),
    (nothing, ["train", "arrays", "--file", "nowhere.npz"], "nowhere.npz does not exist"),
    (nan_file, ["train", "arrays", "--file", "nan.npz", "--test-size", "4"], "first in sample 3, step 2"),
    (unwritable, ["train", *QUICK, "--out", "file/run"], "cannot write the run folder file/run"),
    (other_format, ["train", "--resume", "old"], "written by fptt 0.0.1 in another format"),
    (other_format, ["evaluate", "old"], "written by fptt 0.0.1 in another format"),
    (nothing, ["evaluate", "nowhere"], "nowhere is not a run folder"),
    (nothing, ["plot", "nowhere"], "nowhere is not a run folder"),
]


@pytest.mark.parametrize(
    ("prepare", "words", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, prepare, words, message):
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*words)
    assert status == 2 and not out
    assert err.startswith("fptt: ") and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_mnist_is_one_line(run, tmp_path, torchvision):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x05\1\2")
    status, _, err = run("train", "rmnist", "--data", tmp_path)
    assert status == 2 and err.startswith("fptt: MNIST under") and "is damaged" in err and err.count("\n") == 1


BAD_AFTER_TRAINING = [
    (["train", *QUICK, "--out", "first"], "already holds a run"),
    (["train", "--resume", "first", "--hidden", "9", "--epochs", "3"], "--hidden was [8] in first: a run goes on as it began"),
    (["train", "adding", "--resume", "first"], "first/config.yaml is of task 'digits', not 'adding'"),
    (["plot", "first", "first", "--kind", "raster"], "draws one run, got 2"),
    (["plot", "first", "--out", "picture"], "it has no suffix"),
    (["plot", "first", "--out", "picture.xyz"], "xyz"),
    (["plot", "first", "--labels", "a", "b"], "--labels"),
    (["plot", "first", "--kind", "raster", "--sample", "300"], "samples 0 to 299"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD_AFTER_TRAINING, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_finished_run_is_never_lost(run, trained, words, message):
    before = {path: path.read_bytes() for path in trained[0].rglob("*") if path.is_file()}
    status, _, err = run(*words)
    assert status == 2 and err.startswith("fptt: ") and err.count("\n") == 1 and message in err
    assert {path: path.read_bytes() for path in trained[0].rglob("*") if path.is_file()} == before


def test_truncated_checkpoint(run, trained):
    path = trained[0] / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:500])
    status, _, err = run("evaluate", "first")
    assert status == 2 and "damaged" in err and err.count("\n") == 1


def test_evaluating_with_statistics_taken_anew(run, tmp_path):
    options = ("--hidden", "8", "--epochs", "2", "--norm", "time", "--threads", "1", "--no-compile", "--json")
    for number, name in ((0, "none"), (20, "anew")):
        assert run("train", "digits", *options, "--calibrate", str(number), "--out", name)[0] == 0
    before = (tmp_path / "none" / "checkpoints" / "last.pt").read_bytes()
    words = ("--json", "--split", "validation")
    found = [
        run("evaluate", "none", *words),
        run("evaluate", "anew", *words),
        run("evaluate", "none", *words, "--calibrate", "20"),
    ]
    assert [status for status, _, _ in found] == [0, 0, 0]
    without, trained_so, anew = (json.loads(out)["loss"] for _, out, _ in found)
    assert anew != without
    assert anew == pytest.approx(trained_so, rel=1e-2), "all batches in another order"
    assert (tmp_path / "none" / "checkpoints" / "last.pt").read_bytes() == before
    status, _, err = run("evaluate", "none", "--calibrate", "0")
    assert status == 2 and err == "fptt: --calibrate must be at least 1 batch, got 0\n"
    assert run("train", *QUICK, "--norm", "none", "--out", "plain")[0] == 0
    status, _, err = run("evaluate", "plain", "--calibrate", "1")
    assert status == 2 and err.startswith("fptt: plain has no batch norms whose statistics") and err.count("\n") == 1


def test_a_network_without_spikes_has_no_raster(run):
    assert run("train", *QUICK, "--neuron", "lstm", "--out", "lstm")[0] == 0
    status, _, err = run("plot", "lstm", "--kind", "raster")
    assert status == 2 and "holds no neurons of fptt (lstm)" in err


def command(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "fptt.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_saves_and_resume_ends_where_a_straight_run_ends(run, tmp_path):
    words = ["train", "--epochs", "6", "--hidden", "8", "--batch-size", "100", "--threads", "1", "--seed", "2"]
    training = command(*words, "--out", "stopped", cwd=tmp_path)
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.time() + 300
    while time.time() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 1):
        time.sleep(0.05)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 130 and "go on with: fptt train --resume stopped" in " ".join(err.split())
    assert len(metrics.read_text().splitlines()) < 6
    status, out, err = run("train", "--resume", "stopped", "--json")
    assert status == 0, err
    _, straight, _ = run(*words, "--out", "straight", "--json")
    assert json.loads(out)["test_loss"] == json.loads(straight)["test_loss"]


def test_help_is_fast_and_imports_no_torch():
    code = "import sys, fptt.cli\ntry: fptt.cli.main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    seconds = []
    for _ in range(3):  # the fastest, for the machine may be busy
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    "words",
    [["--help"], ["train", "--help"], ["evaluate", "--help"], ["plot", "--help"], ["export", "--help"], ["data", "--help"]],
)
def test_help(run, words):
    status, out, err = run(*words)
    assert status == 0 and "usage: fptt" in out and not err


def test_version_and_no_command(run):
    assert run("--version")[:2] == (0, "fptt 0.1.0\n")
    assert run()[0] == 2
    assert run("brew")[0] == 2


def test_evaluation_of_a_run_on_another_set(run, trained):
    status, out, _ = run("evaluate", "first", "--split", "validation", "--json")
    assert status == 0 and json.loads(out)["samples"] == 200


def test_scores_after_every_step_and_costs(run, trained, tmp_path):
    status, out, _ = run("evaluate", "first", "--steps", "--cost", "--json")
    result = json.loads(out)
    assert status == 0 and result["accuracy"] == result["steps"]["accuracy"][-1] == trained[1]["test_accuracy"]
    assert len(result["steps"]["loss"]) == len(result["cost"]["steps"]["effective_macs"]) == 8
    cost = result["cost"]
    assert sum(row["dense"] for row in cost["products"]) == cost["dense_operations"]
    assert cost["firing_rates"]["layers.0.neuron"] == pytest.approx(result["firing_rate"])
    status, out, _ = run("evaluate", "first", "--steps", "--cost")
    assert status == 0 and f"{100 * result['steps']['accuracy'][2]:.2f} %" in out
    assert f"{cost['effective_acs']:,.0f} a sample" in out and "layers.0.neuron.rates.from_states.1" in out
    for split, samples in (("test", result["steps"]["accuracy"]), ("validation", None)):
        words = ["plot", "first", "first", "--kind", "steps", "--labels", "a", "b", "--split", split, "--json"]
        status, out, err = run(*words)
        assert status == 0, err
        drawn = json.loads(out)
        assert drawn["runs"][0] == drawn["runs"][1] and len(drawn["runs"][0]["accuracy"]) == 8
        assert (drawn["runs"][0]["accuracy"] == samples) == (split == "test")
    assert (tmp_path / "first" / "steps.png").stat().st_size > 5000


def test_runs_of_other_lengths_share_a_picture_and_of_other_measures_do_not(run, trained):
    pixels = ["--order", "pixels", "--neuron", "lstm", "--norm", "none", "--rule", "bptt"]
    assert run("train", *QUICK, *pixels, "--out", "pixels")[0] == 0
    assert run("plot", "first", "pixels", "--kind", "steps", "--out", "steps.svg")[0] == 0
    with open("steps.svg") as file:
        assert "share of the sequence" in file.read()
    adding = ["--length", "4", "--iterations", "1", "--held-out", "4", "--epochs", "1", "--batch-size", "4", "--hidden", "3"]
    assert run("train", "adding", *adding, "--out", "adding")[0] == 0
    status, out, err = run("plot", "adding", "--kind", "steps", "--json")
    assert status == 0 and len(json.loads(out)["runs"][0]["mse"]) == 4
    status, _, err = run("plot", "first", "adding", "--kind", "steps")
    assert status == 2 and err == "fptt: first has accuracy, adding mse: draw each by itself\n"


def test_the_threads_of_other_tests_are_left_alone(run):
    before = torch.get_num_threads()
    assert run("train", *QUICK)[0] == 0
    assert torch.get_num_threads() == before


def test_export_of_a_run(run, trained):
    status, out, err = run("export", "first", "--json")
    assert status == 0, err
    step = torch.export.load(json.loads(out)["exported"]).module()
    state = [torch.zeros([max(size, 1) for size in leaf["shape"]]) for leaf in json.loads(out)["state"]]
    state = [s.to(getattr(torch, leaf["dtype"])) for s, leaf in zip(state, json.loads(out)["state"], strict=True)]
    assert step(torch.zeros(1, 8), torch.tensor(True), *state)[0].shape == (1, 10)
    assert run("export", "first", "--out", "step.onnx")[2].count("\n") == 1


def test_benchmark(run, tmp_path):
    words = ["--rules", "online-bptt", "--window", "2", "--neuron", "lif", "--readout", "fixed", "--values", "2", "3"]
    words += ["--width", "4", "--batch-size", "2", "--repeats", "1", "--eager"]
    status, out, err = run("benchmark", *words, "--out", "measured", "--json")
    assert status == 0, err
    rows = json.loads(out)["rows"]
    assert [row["time_steps"] for row in rows] == [2, 3] and all(row["step_ms"] > 0 and row["window"] == 2 for row in rows)
    assert json.loads((tmp_path / "measured.json").read_text())["rows"] == rows
    assert (tmp_path / "measured.png").stat().st_size > 10_000


@pytest.mark.parametrize("rule", ["fptt", "bptt", "tbptt", "online-bptt", "sltt", "ottt", "eprop"])
@pytest.mark.parametrize("network", [{}, {"channels": (2,)}, {"detector": 32}], ids=["dense", "conv", "detector"])
def test_every_rule_is_measured(rule, network):
    if network and rule in {"ottt", "eprop"}:
        pytest.skip("for dense layers")
    point = Point(rule=rule, neuron="lif", readout="fixed", time_steps=3, width=4, batch_size=2, compiled=False, **network)
    sequences = Sequences(point)
    assert sequences.run() > 0 and sequences.lasting_mb() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--values", "0"], "--time-steps must be at least 1"),
        (["--out", "nowhere/measured"], "there is no folder nowhere"),
        (["--values", "2", "--channels", "2", "2", "2", "2", "2", "--eager"], "leaves nothing of a map"),
        (["--rules", "eprop", "--precision", "bfloat16"], "bfloat16 is too coarse"),
        (["--values", "2", "--detector", "33", "--eager"], "size must be a positive multiple of 32"),
    ],
)
def test_benchmarks_that_cannot_be(run, words, message):
    status, _, err = run("benchmark", "--rules", "fptt", *words)
    assert status == 2 and message in err.splitlines()[-1] and "Traceback" not in err
