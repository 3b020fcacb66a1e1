"""Execute the notebooks of this folder in place: python docs/findings/execute.py [NAME ...]

All run in this process, one after the other, in IPython's shell as in Jupyter's kernel, each with names of its own; in the same
environment they show the same. With --out FOLDER, the notebooks here stay as they are.
"""

import argparse
import base64
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as in a kernel, before fptt.plots is imported

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from traitlets.config import Config

HERE = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def small(png: str) -> str:
    """A picture in base64 with 32 colours, which is a third of its size and looks the same."""
    smaller = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        picture.convert("RGB").quantize(32, Image.Quantize.FASTOCTREE).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def bundle(data: dict[str, Any]) -> dict[str, Any]:
    """A display's data by type as notebooks hold them: text as lines, pictures in base64, tables not as plain text too."""
    kinds = [kind for kind in data if kind != "text/plain" or "text/html" not in data]
    return {kind: small(data[kind]) if kind == "image/png" else lines(data[kind]) for kind in kinds}


class Result(DisplayHook):
    """Keeps the value of a cell's last expression."""

    def write_output_prompt(self) -> None: ...

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        output = {"output_type": "execute_result", "data": bundle(format_dict), "metadata": {}}
        self.shell.outputs.append({**output, "execution_count": self.prompt_count})


class Publisher(DisplayPublisher):
    """Keeps what is displayed, figures among it."""

    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        self.shell.outputs.append({"output_type": "display_data", "data": bundle(data), "metadata": {}})


class Shell(InteractiveShell):
    displayhook_class = Result
    display_pub_class = Publisher
    outputs: list[dict[str, Any]]

    def enable_gui(self, gui: str | None = None) -> None: ...

    def execute(self, source: str) -> list[dict[str, Any]]:
        """What a cell prints and shows. Raises what it raises."""
        self.outputs, printed = [], io.StringIO()
        with redirect_stdout(printed):
            self.run_cell(source, store_history=True).raise_error()
        text = printed.getvalue()
        stream = [{"output_type": "stream", "name": "stdout", "text": lines(text)}] if text else []
        return stream + self.outputs


@contextmanager
def shell() -> Iterator[Shell]:
    """A shell that leaves nothing in the user's folders."""
    with tempfile.TemporaryDirectory() as folder:
        one = Shell.instance(ipython_dir=folder, config=Config({"HistoryManager": {"enabled": False}}))
        try:
            yield one
        finally:
            Shell.clear_instance()


def execute(shell: Shell, path: Path) -> dict[str, Any]:
    """The notebook at ``path`` with fresh outputs."""
    notebook = json.loads(path.read_text())
    shell.reset(new_session=True)
    shell.enable_matplotlib("inline")
    count = 0
    with chdir(HERE):
        for number, cell in enumerate(notebook["cells"]):
            cell["metadata"] = {}
            if cell["cell_type"] == "code":
                count += 1
                try:
                    cell["outputs"] = shell.execute("".join(cell["source"]))
                except BaseException as error:
                    error.add_note(f"in cell {number} of {path.name}")
                    raise
                cell["execution_count"] = count
    return {**notebook, "metadata": METADATA}


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute notebooks in place.")
    parser.add_argument("names", nargs="*", help="notebooks, such as neuron; default all")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to; default in place")
    options = parser.parse_args()
    paths = [HERE / f"{name.removesuffix('.ipynb')}.ipynb" for name in options.names] or sorted(HERE.glob("*.ipynb"))
    sys.path.insert(0, str(HERE))
    with shell() as one:
        for path in paths:
            notebook = execute(one, path)
            (options.out / path.name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
