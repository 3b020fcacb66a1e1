"""Any recording of an event camera, its format told by its content."""

import re
from pathlib import Path
from typing import Any

from fptt.data import formats
from fptt.data.events import Events, checked
from fptt.errors import InputError

# Sensors of Prophesee's cameras by the plug-in that their recordings name where these do not give the size.
PLUGINS = {b"gen31": (640, 480), b"gen3": (640, 480), b"genx320": (320, 320), b"gen4": (1280, 720), b"imx636": (1280, 720)}
UNKNOWN = (0, 0)  # size of a sensor
FORMATS = "AEDAT 2.0, 3.1 or 4, EVT2, EVT3, .dat, or N-MNIST's .bin"


def read(path: Path) -> Events:
    """The events of the file at ``path``: AEDAT 2.0, 3.1 or 4, Prophesee's EVT2, EVT3 or .dat, or N-MNIST's .bin.

    AEDAT 4, EVT2 and EVT3 are read by evlib (see docs/events.md), the others by ``fptt.data.formats``.
    Raises InputError where the file is missing, damaged, empty, of another format, or its library is not installed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(2**16)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})") from None
    name, suffix = str(path), path.suffix.lower()
    if formats.version(head) == "4.0":
        size = _first(head, rb'key="sizeX" type="int">(\d+)<[^>]*>\s*<attr key="sizeY" type="int">(\d+)<')
        return _evlib(path, size or UNKNOWN)
    if head.startswith(b"#!AER-DAT"):
        return formats.aedat(path.read_bytes(), name)
    match = re.match(rb"(%[^\n]*\n)+", head)
    header = match[0].lower() if match else b""
    if re.search(rb"^% (format )?evt ?\d", header, re.MULTILINE):
        return _evlib(path, _size_of_prophesee(header))
    if header and suffix == ".dat":
        return formats.dat(path.read_bytes(), name)
    if suffix == ".bin":
        return formats.nmnist(path.read_bytes(), name)
    raise InputError(f"{path} is no recording of a known format: {FORMATS}")


def _evlib(path: Path, size: tuple[int, int]) -> Events:
    try:
        import evlib
    except ImportError as error:
        raise InputError(f"reading {path} needs the package evlib: pip install 'fptt[recordings]' ({error})") from None
    try:
        table = evlib.load_events(str(path)).collect()
        t, p = table["t"].dt.total_microseconds().to_numpy(), table["polarity"].to_numpy() > 0
        x, y = table["x"].to_numpy(), table["y"].to_numpy()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise _damaged(path, error) from None
    return _sized(Events(t, x, y, p, *size), path)


def _sized(events: Events, path: Path) -> Events:
    """Checked events; a sensor whose size the file does not tell is taken to end at the outermost events."""
    if not events.width and len(events.t):
        events = events._replace(width=int(events.x.max()) + 1, height=int(events.y.max()) + 1)
    return checked(events, str(path))


def _size_of_prophesee(header: bytes) -> tuple[int, int]:
    """(width, height) from "geometry 640x480", "height=480;width=640" or the camera's plug-in."""
    if size := _first(header, rb"geometry (\d+)x(\d+)"):
        return size
    width, height = _first(header, rb"width=(\d+)"), _first(header, rb"height=(\d+)")
    if width and height:
        return width[0], height[0]
    plugin = re.search(rb"^% plugin_name (\S+)", header, re.MULTILINE)
    return next((size for key, size in PLUGINS.items() if plugin and key in plugin[1]), UNKNOWN)


def _first(content: bytes, pattern: bytes) -> tuple[Any, ...] | None:
    match = re.search(pattern, content, re.MULTILINE)
    return tuple(int(group) for group in match.groups()) if match else None


def _damaged(path: Path, error: BaseException) -> InputError:
    said = "".join(letter for letter in " ".join(str(error).split()) if letter.isprintable() and letter != "\ufffd")
    return InputError(f"{path} is damaged ({said[:200] or type(error).__name__})")
