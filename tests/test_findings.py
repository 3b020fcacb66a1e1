"""The notebooks of docs/findings: every cell runs, and what is committed is what they show."""

import importlib.util
import json
import re
import sys
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
        patch.setenv("MPLBACKEND", "agg")
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        patch.syspath_prepend(FINDINGS)
        spec.loader.exec_module(module)
        with module.shell() as shell:
            yield module, shell
            plt.switch_backend("agg")
            plt.ioff()


def texts(notebook):
    """What is printed, and values as text, without spaces, of every cell."""
    return [
        re.sub(r"\s+", "", "".join(output.get("text", output.get("data", {}).get("text/plain", []))))
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_cell_runs_and_shows_what_is_committed(page, executor):
    module, shell = executor
    committed, fresh = json.loads(page.read_text()), module.execute(shell, page)
    pictures = [
        ["image/png" in output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", [])]
        for notebook in (committed, fresh)
    ]
    assert any(pictures[1]) and pictures[0] == pictures[1]
    if "from evidence import" in page.read_text():  # a function of results/, not of the machine
        assert texts(fresh) == texts(committed), "results/ has changed: run python docs/findings/execute.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_small_and_of_no_machine(page):
    text = page.read_text()
    assert len(text) < 150_000
    assert not re.search(r"/home/|/tmp/|/root/|/work/|[A-Z]:\\\\", text)
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
    assert texts(module.execute(shell, tmp_path / "page.ipynb")) == ["0", "'y'"]


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
