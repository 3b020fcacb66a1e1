"""What the README shows, runs."""

import re
import shlex
from pathlib import Path

import pytest

from event_files import aedat2, some_events
from fptt import cli, tasks
from fptt.tasks.settings import make_task

HOME = Path(__file__).parent.parent
README = (HOME / "README.md").read_text()
PEERS = ("spikingjelly", "snntorch", "sinabs", "norse")
PAGES = [README, *(path.read_text() for path in sorted((HOME / "docs").glob("*.md")))]


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", "\n".join(PAGES), re.DOTALL))
def test_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recording.aedat").write_bytes(aedat2(some_events(n=5000)))
    try:
        exec(compile(code, "an example", "exec"), {})
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PEERS:
            raise
        pytest.skip(f"needs {error.name}: uv pip install -e '.[peers]'")


def test_commands_parse():
    commands = [
        line.split("#")[0] for line in re.search(r"## The command\n\n```sh\n(.*?)```", README, re.DOTALL)[1].splitlines()
    ]
    words = [shlex.split(line) for line in commands]
    assert {line[1] for line in words} == set(cli.COMMANDS)
    for line in words:
        if line[1] == "train" and "&&" not in line and "arrays" not in line:
            name, options = (line[2], line[3:]) if len(line) > 2 and not line[2].startswith("-") else ("digits", line[2:])
            make_task(tasks.get(name), options)


@pytest.mark.parametrize(
    "page", [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_pictures_and_pages_exist(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
