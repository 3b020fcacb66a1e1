"""Files that are written whole or not at all, and JSON that every reader of JSON reads."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fptt.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write beside ``path``, which takes its place when all is done, and is gone if anything fails.

    Raises InputError where it cannot be written.
    """
    if not path.name:
        raise InputError(f"cannot write a file without a name ({str(path)!r}): give one")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}): choose another place for it") from None
    finally:
        with suppress(OSError):  # where nothing could be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def to_json(value: Any, **options: Any) -> str:
    """``json.dumps``, with null for what is no finite number: JSON knows no NaN."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
