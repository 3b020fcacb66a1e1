"""The notebooks of docs/findings: every cell runs, and what is committed is what they show."""

import importlib.util
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fptt import plots

FINDINGS = Path(__file__).parent.parent / "docs" / "findings"
PAGES = sorted(FINDINGS.glob("*.ipynb"))


@pytest.fixture(scope="module")
def executor():
    """docs/findings/execute.py and a shell of it, without a trace after the tests."""
    pytest.importorskip("IPython", reason="notebooks: uv pip install -e '.[notebooks]'")
    spec = importlib.util.spec_from_file_location("execute", FINDINGS / "execute.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "")  # executing the module sets it
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        patch.syspath_prepend(FINDINGS)
        spec.loader.exec_module(module)
        with module.shell() as shell:
            yield module, shell
            plt.switch_backend("agg")
            plt.ioff()


def shown(notebook):
    """What is printed, and values as HTML or text, of every cell, without spaces."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    data = [output.get("data", {}) for output in outputs]
    texts = [o.get("text") or d.get("text/html") or d.get("text/plain", []) for o, d in zip(outputs, data, strict=True)]
    return [re.sub(r"\s+", "", "".join(text)) for text in texts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_cell_runs_and_shows_what_is_committed(page, executor):
    module, shell = executor
    committed, fresh = json.loads(page.read_text()), module.execute(shell, page)
    pictures = [
        ["image/png" in output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", [])]
        for notebook in (committed, fresh)
    ]
    assert pictures[0] == pictures[1]
    if "from evidence import" in page.read_text():  # a function of results/, not of the machine
        assert shown(fresh) == shown(committed), "results/ has changed: run python docs/findings/execute.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_small_and_of_no_machine(page):
    text = page.read_text()
    assert len(text) < 150_000
    assert not [place for place in (tempfile.gettempdir(), FINDINGS.parents[1], sys.prefix) if str(place) in text]
    assert set(json.loads(text)["metadata"]["language_info"]) == {"name"}
    assert f"({page.name})" in (FINDINGS / "README.md").read_text()


def test_a_cell_that_fails_says_where(executor, tmp_path):
    module, shell = executor
    cells = [{"cell_type": "code", "source": [source], "outputs": []} for source in ("x = 0\n", "print(x)\n1 / x")]
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(ZeroDivisionError) as raised:
        module.execute(shell, tmp_path / "page.ipynb")
    assert raised.value.__notes__ == ["in cell 1 of page.ipynb"]
    cells[1]["source"] = ["print(x)\n'y'"]
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": cells}))
    assert shown(module.execute(shell, tmp_path / "page.ipynb")) == ["0", "'y'"]


GRID = """\
neuron,rule,runs,score,mean,sd,difference,difference_sd,firing_rate,peak_memory_mb,training_seconds,parameters
ltc,BPTT,3,test_accuracy,0.9,0.01,0.0,0.0,0.2,900.4,120.0,1000
ltc,FPTT,3,test_accuracy,0.95,0.012,0.05,0.005,0.1,500.0,60.0,1000
lif,BPTT,3,test_accuracy,0.8,0.02,-0.1,0.09,0.1,500.0,60.0,900
"""
ONE = "rule,runs,score,mean,sd,firing_rate,peak_memory_mb,training_seconds,parameters\nSLTT,1,test_mse,0.01,,,500,60,9\n"


@pytest.fixture
def results(executor, tmp_path, monkeypatch):
    """A copy of results/ with two comparisons and an adding task of another length in it."""
    import evidence

    shutil.copytree(evidence.RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    for name, table in (("ablations", GRID), ("errors", ONE), ("sequential-mnist", GRID)):
        folder = tmp_path / "results" / name
        folder.mkdir(exist_ok=True)
        (folder / "table.csv").write_text(table)
    plots.save(plots.lines({"": {"": ([0, 1], [0, 1])}}, "", ""), tmp_path / "results" / "ablations" / "picture.png")
    run = tmp_path / "results" / "adding77" / "ltc-bptt"
    shutil.copytree(tmp_path / "results" / "adding" / "ltc", run)
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("length: 200", "length: 77"))
    (run / "summary.json").write_text((run / "summary.json").read_text().replace('"rule": "fptt"', '"rule": "bptt"'))
    return evidence


def test_pages_take_in_evidence_that_arrives(executor, results):
    module, shell = executor
    text = {
        page: "\n".join(shown(module.execute(shell, FINDINGS / f"{page}.ipynb")))
        for page in ("ablations", "sequential", "adding", "length")
    }
    assert "90.00±1.00%" in text["ablations"] and "+5.00±0.50%" in text["ablations"]
    assert "ablations:ltc,FPTT:betterby5.00±1.24points" in text["ablations"], "4.303 standard errors"
    assert "lif,BPTT" not in text["ablations"], "a difference of two standard errors, from three seeds"
    assert "sequential-mnist:ltcFPTThas95.00±1.20%" in text["sequential"]
    assert "ltcwithbptt:T=77:learnt(" in text["adding"]


def test_scores_over_seeds_and_in_the_direction_of_the_metric(results):
    runs = results.runs("nmnist/*", "adding/*")
    cells = results.cells(runs, ["task", "rule", "neuron"])
    fptt = [
        100 * json.loads((results.RESULTS / f"nmnist/fptt-seed{n}/summary.json").read_text())["test_accuracy"] for n in range(3)
    ]
    assert cells.runs["nmnist", "fptt", "ltc"] == 3
    assert cells.score["nmnist", "fptt", "ltc"] == f"{np.mean(fptt):.2f} ± {np.std(fptt, ddof=1):.2f} %"
    assert cells.score["adding", "fptt", "alif"].startswith("0.1") and "±" not in cells.score["adding", "fptt", "alif"]
    worse = GRID.replace("test_accuracy", "test_mse").replace("0.05,0.005", "0.05,0.001")
    (results.RESULTS / "ablations" / "table.csv").write_text(worse)
    assert results.clear_differences("ablations") == ["ltc, FPTT: worse by 0.0500 ± 0.0025"]


def test_lines_with_bands_in_panels():
    x = np.arange(1, 5)
    figure = plots.lines(
        {"a": {"one": (x, x, 0.5 * x), "two": (x, 2 * x)}, "b": {"two": (x, x)}}, "x", "y", log="xy", marker="o"
    )
    left, right = figure.axes
    assert [line.get_color() for line in right.lines] == [left.lines[1].get_color()] == [plots.COLOURS[1]]
    assert left.get_xscale() == left.get_yscale() == "log" and left.get_ylabel() == "y"
    band = left.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 0.5 and band[:, 1].max() == 6
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["one", "two"]
    plt.close(figure)


def test_surfaces_share_their_colours():
    figure = plots.surfaces([0, 1], [0, 1, 2], {"a": np.zeros((3, 2)), "b": np.ones((3, 2))}, xlabel="x", ylabel="y", label="z")
    meshes = [axis.collections[0] for axis in figure.axes[:2]]
    assert [mesh.get_clim() for mesh in meshes] == [(0, 1), (0, 1)]
    assert meshes[1].get_array().shape == (3, 2) and figure.axes[-1].get_ylabel() == "z"
    plt.close(figure)
