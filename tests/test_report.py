"""fptt report: what the folder of evidence says, beside what was published."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from fptt.report.claims import claims, published, shown
from fptt.report.reading import read, settings_of

HOME = Path(__file__).parent.parent


def add_run(folder, accuracy=0.9, seed=0, task="digits", score="test_accuracy", settings="", **summary):
    """A run folder as a training leaves it, without its checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"task: {task}\nformat: 1\nversion: 0.1.0\nrule: fptt\nneuron: ltc\nseed: {seed}\nepochs: 3\n{settings}"
    )
    (folder / "metrics.jsonl").write_text('{"epoch": 3}\n')
    known = {"task": task, "rule": "fptt", "neuron": "ltc", "seed": seed, "epochs": 3, "parameters": 1234, score: accuracy}
    about = {
        "firing_rate": float("nan"),
        "seconds_per_epoch": 1.5,
        "version": "0.1.0",
        "machine": "M",
        "command": f"fptt train {task}",
    }
    (folder / "summary.json").write_text(json.dumps({**known, **about, **summary}))


def add_measurement(path, **record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": "fptt benchmark", "version": "0.1.0", "machine": "M", **record}))


def add_comparison(folder, rows, table="| rule | error |\n|---|---|\n| [fptt](runs.csv) | 0.01 |\n"):
    folder.mkdir(parents=True)
    names = list(rows[0])
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    (folder / "table.md").write_text(table)
    (folder / "picture.png").write_bytes(b"")
    (folder / "grid.yaml").write_text("task: adding\n")


def row(seed, mse, command, **more):
    about = {"version": "0.1.0", "machine": "M", "command": command}
    return {"rule": "FPTT-K", "neuron": "ltc", "task": "adding", "seed": seed, "epochs": 2, "test_mse": mse, **about, **more}


@pytest.fixture
def results(tmp_path):
    """results/ in the working folder, with runs of two seeds, one by BPTT, a comparison and a measurement; and docs/."""
    folder = tmp_path / "results"
    add_run(folder / "digits" / "a", 0.9)
    add_run(folder / "digits" / "b", 0.94, seed=1, settings="threads: 2\n")
    add_run(folder / "digits" / "bptt", 0.85, rule="bptt", settings="lr: 0.5\n")
    config = folder / "digits" / "bptt" / "config.yaml"
    config.write_text(config.read_text().replace("rule: fptt", "rule: bptt"))
    (folder / "digits" / "curves.png").write_bytes(b"")
    command = "fptt train adding --length 1000 --iterations 50 --epochs 2 --seed "
    add_comparison(folder / "adding1000", [row(seed, 0.01 + seed / 100, command + str(seed)) for seed in range(3)])
    rows = [{"rule": rule, "time_steps": t, "training_mb": mb, "parameters": 5, "batch_size": 1}
            for rule, t, mb in (("fptt", 10, 7.0), ("bptt", 10, 9.0), ("fptt", 99, 7.2), ("bptt", 99, 1234.5))]  # fmt: skip
    add_measurement(folder / "memory.json", rows=rows)
    (folder / "memory.png").write_bytes(b"")
    (tmp_path / "docs").mkdir()
    return folder


def written(run, *arguments):
    status, _, err = run("report", *arguments)
    assert status == 0, err
    return Path("docs/reproduction.md").read_text()


def test_runs_are_grouped_over_seeds(run, results):
    page = written(run)
    first = "| [a](../results/digits/a), [b](../results/digits/b) | digits | fptt | ltc |"
    assert f"{first} 0.001 |" not in page  # what does not vary has no column, and threads and seeds do not count
    assert (
        "92.00 ± 2.83 % (2 seeds)" in page
        and "[bptt](../results/digits/bptt) | digits | bptt | ltc | 0.5 | 3 | 1,234 | 85.00 %" in page
    )
    assert "fptt train digits\n```" in page and "![digits/curves.png](../results/digits/curves.png)" in page


@pytest.mark.parametrize(
    "starts",
    [("short/seed0", "short/seed1", "other/seed2", "short/seed30"), ("short", "short-seed1", "other-seed2", "short-seed30")],
)
def test_runs_that_began_with_those_of_their_seeds_are_grouped(tmp_path, starts):
    for seed, start in enumerate(starts):
        add_run(tmp_path / "digits" / str(seed), seed=seed, settings=f"start: {start}\n")
    assert [len(group.results) for group in read(tmp_path).groups] == [2, 1, 1]


def test_comparisons_and_measurements_are_taken_in(run, results):
    page = written(run)
    assert "### [adding1000](../results/adding1000)" in page and "| [fptt](../results/adding1000/runs.csv) | 0.01 |" in page
    assert "[grid.yaml](../results/adding1000/grid.yaml)" in page
    assert "![adding1000/picture.png](../results/adding1000/picture.png)" in page
    assert "### [memory.json](../results/memory.json)" in page and "![memory.png](../results/memory.png)" in page
    assert "| bptt | 99 | 1234.5 |" in page and "parameters 5, batch_size 1" in page


def test_claims_say_how_they_were_tested(results):
    found = {claim.claim: claim for claim in claims(read(results))}
    [adding] = found["Adding, T = 1,000: LTC by FPTT learns it"].measured
    assert adding.value == "error 0.0200 ± 0.0100 (3 seeds)" and adding.paths == ("adding1000/runs.csv",)
    assert adding.conditions == "reduced: batches 100 of 10,000"
    [memory] = found["Memory of training does not grow with the sequence; that of BPTT does"].measured
    assert memory.value == "fptt 7 → 7 MB; bptt 9 → 1,234 MB" and memory.conditions.startswith("10 → 99 steps")
    [pair] = found["FPTT comes near BPTT's accuracy, or exceeds it"].measured
    assert pair.value == "digits, ltc: fptt 92.00 ± 2.83 % (2 seeds), bptt 85.00 %"
    assert pair.conditions == "updates per sequence 8, 1; differing in lr 0.01, 0.5"
    assert found["CIFAR10-DVS: LTC convolutions by FPTT"].measured == ()


def test_rules_of_a_grid_that_chooses_a_rate_are_paired_each_at_its_own(results):
    scores = {("fptt", 0.1): 0.5, ("fptt", 0.2): 0.6, ("bptt", 0.1): 0.8, ("bptt", 0.2): 0.7}
    rows = [
        {"rule": rule, "lr": lr, "seed": 0, "version": "0.1.0", "machine": "M", "test_accuracy": score}
        | {"command": f"fptt train smnist --rule {rule}{' --parts 7' * (rule == 'fptt')} --lr {lr}"}
        for (rule, lr), score in scores.items()
    ]
    folder = results / "rates"
    add_comparison(folder, rows)
    claim = "FPTT comes near BPTT's accuracy, or exceeds it"

    def paired():
        [found] = [found for found in claims(read(results)) if found.claim == claim]
        return [(pair.value, pair.conditions) for pair in found.measured if "smnist" in pair.value]

    assert len(paired()) == 2, "all that were run, where nothing was chosen"
    (folder / "grid.yaml").write_text("vary:\n  rule: [fptt, bptt]\n  lr: [0.1, 0.2]\nchoose: lr\n")
    (folder / "table.csv").write_text("rule,lr,mean\nfptt,0.2,0.6\nbptt,0.1,0.8\n")
    [(value, conditions)] = paired()
    assert value == "smnist, ltc: fptt 60.00 %, bptt 80.00 %"
    assert conditions == "updates per sequence 7, 1; differing in lr 0.2, 0.1"


def test_what_reduces_a_run(results):
    def of(**summary):
        folder = results / "smnist" / "a"
        shutil.rmtree(folder, ignore_errors=True)
        sizes = {"train_samples": 60000, "batch_size": 512, "hidden": [256, 256], "pool": 1, **summary}
        settings = "".join(f"{name}: {value}\n" for name, value in sizes.items())
        add_run(folder, 0.5, task="smnist", settings=settings, epochs=sizes.pop("epochs", 250))
        [measured] = next(claim for claim in claims(read(results)) if claim.claim.startswith("S-MNIST")).measured
        return measured.conditions

    assert of() == ""
    assert of(epochs=6) == "reduced: epochs 6 of 250"
    assert of(pool=2) == "reduced: pool 2 instead of 1"
    assert of(hidden=[64, 64], batch_size=128) == "reduced: hidden 64-64 of 256-256; batch size 128 instead of 512"
    assert of(parts=28) == "otherwise: parts 28 instead of none"
    assert of(epochs=300) == "otherwise: epochs 300 instead of 250"


def test_a_claim_that_was_not_tested_says_so(run, results):
    page = written(run)
    [line] = [line for line in page.splitlines() if "CIFAR10-DVS" in line]
    assert "| not quoted |" in line and "**not measured**" in line


def test_training_accuracy_is_called_so(results):
    add_run(results / "dvs-gesture" / "a", 1.0, task="dvs-gesture", score="train_accuracy", train_samples=10)
    [measured] = next(claim for claim in claims(read(results)) if claim.claim.startswith("DVS128")).measured
    assert measured.value == "100.00 % on what it was trained on" and "train samples 10 of 1,116" in measured.conditions


def test_every_published_figure_has_a_source():
    for entry in published():
        assert entry["claim"] and entry["source"] and entry["link"].startswith("https://") and entry["evidence"]


def test_the_same_evidence_gives_the_same_bytes(run, results, tmp_path):
    page = written(run)
    copy = tmp_path / "other" / "results"
    shutil.copytree(results, copy)
    assert run("report", str(copy), "--out", "page.md")[0] == 0
    assert Path("page.md").read_text().replace("(other/results", "(../results") == page


def test_check(run, results):
    assert run("report", "--check")[0] == 1
    page = written(run)
    assert run("report", "--check") == (0, "", "")
    summary = results / "digits" / "a" / "summary.json"
    summary.write_text(summary.read_text().replace("0.9,", "0.91,"))
    status, out, err = run("report", "--check", "--json")
    assert status == 1 and json.loads(out)["current"] is False
    assert err == "fptt: docs/reproduction.md is not what results says: write it anew with fptt report\n"
    assert Path("docs/reproduction.md").read_text() == page


def test_json(run, results):
    status, out, _ = run("report", "--json")
    result = json.loads(out)
    assert status == 0 and (result["runs"], result["comparisons"], result["measurements"]) == (3, 1, 1)
    assert {"claim", "published", "source", "link", "measured"} == set(result["claims"][0])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("digits/a/config.yaml", "[", "config.yaml is damaged"),
        ("digits/a/config.yaml", None, "digits/a"),
        ("digits/a/metrics.jsonl", "{", "metrics.jsonl is damaged"),
        ("digits/a/metrics.jsonl", None, "metrics.jsonl is missing"),
        ("digits/a/summary.json", "{", "summary.json is damaged"),
        ("digits/a/summary.json", '{"seed": 0}', "summary.json has no 'command'"),
        ("digits/a/summary.json", '{"command": "c", "version": "0", "machine": "M"}', "summary.json has none of the figures"),
        ("digits/a/summary.json", "[1]", "summary.json is damaged"),
        ("digits/a/summary.json", None, "digits/a"),
        ("memory.json", "{", "memory.json is damaged"),
        ("memory.json", '{"rows": []}', "memory.json does not say"),
        ("memory.json", '{"command": "c", "version": "0", "machine": "M", "rows": [1]}', "memory.json is damaged"),
        ("memory.json", b"\xff\xfe", "memory.json cannot be read"),
        ("adding1000/table.md", None, "table.md cannot be read"),
        ("adding1000/grid.yaml", "{", "grid.yaml is damaged"),
        ("adding1000/runs.csv", "a,b\n", "runs.csv has no rows"),
        ("adding1000/runs.csv", "a,b\n1,2\n", "runs.csv, row 1"),
        ("adding1000/runs.csv", "command\nfptt train none\n", "unknown task 'none'"),
        (
            "adding1000/runs.csv",
            "command,version,machine,test_mse\nfptt train adding,0,M,low\n",
            "runs.csv has none of the figures",
        ),
    ],
)
def test_what_is_damaged_or_missing_is_named(run, results, name, content, message):
    path = results / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = run("report")
    assert status == 2 and not out and message in err and err.count("\n") == 1, err
    assert not Path("docs/reproduction.md").exists()


def test_folders_that_are_not_there(run, results):
    for arguments in (["nowhere"], ["--out", "nowhere/page.md"]):
        status, _, err = run("report", *arguments)
        assert status == 2 and "there is no folder nowhere" in err


def test_settings_of_a_command():
    words = "fptt train fashion --lr 1e-3 --hidden 8 --no-flip --compile --data null"
    given = settings_of(shlex.split(words))
    assert given["rule"] == "fptt" and given["channels"] == [16, 32, 64]
    assert given == settings_of(["fptt", "train", "fashion"]) | {
        "lr": 0.001,
        "hidden": [8],
        "flip": False,
        "compile": True,
        "data": None,
    }  # fmt: skip
    assert shown([1000, 0.5, True]) == "1,000-0.5-yes"


def test_the_page_of_this_repository_is_current(run):
    out = HOME / "docs" / "reproduction.md"
    status, _, err = run("report", str(HOME / "results"), "--out", str(out), "--check")
    assert status == 0, err
    for target in re.findall(r"\]\((?!http)([^)]+)\)", out.read_text()):
        assert (out.parent / target).exists(), target
