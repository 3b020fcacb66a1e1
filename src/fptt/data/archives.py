"""The files of a data set, in a folder, a .zip or a .tar.gz alike, so that archives need not be unpacked."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from fptt.errors import InputError

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)
LARGEST = 2**31  # bytes of a file in an archive; a larger one is taken for damage


def files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in ``path`` whose name is ``wanted``; names are relative and have forward slashes.

    Those of a folder come in order of their names, those of an archive in its own order: one pass reads it all.
    Raises InputError where a file cannot be read or the archive is damaged.
    """
    try:
        if path.is_dir():
            for name, _ in listing(path):
                if wanted(name):
                    yield name, (path / name).read_bytes()
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    if not member.is_dir() and wanted(member.filename):
                        _check(member.file_size)
                        yield member.filename, archive.read(member)
        else:
            with tarfile.open(path, "r:*") as archive:
                for entry in archive:
                    if entry.isfile() and wanted(entry.name) and (file := archive.extractfile(entry)):
                        _check(entry.size)
                        yield entry.name.removeprefix("./"), file.read()
                while archive.fileobj and archive.fileobj.read(2**20):
                    pass  # to the end, where the checksum of a .gz is compared
    except DAMAGE as error:
        raise InputError(
            f"{path} is damaged ({' '.join(str(error).split()) or type(error).__name__}): download it again"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path} ({error.strerror or error})") from None


def _check(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"a file of {size:,} bytes")


def listing(path: Path) -> list[tuple[str, tuple[int, int]]]:
    """Sorted names of all files below ``path``, each with its size and time of change; of an archive, itself."""
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [file.stat() for file in found]
    names = [file.relative_to(path if path.is_dir() else path.parent).as_posix() for file in found]
    return [(name, (stat.st_size, stat.st_mtime_ns)) for name, stat in zip(names, stats, strict=True)]


def find(root: Path, names: tuple[str, ...], what: str) -> Path:
    """The first of ``root``/name that exists, as a folder or, with a suffix of ``SUFFIXES``, as an archive.

    Raises InputError, naming ``what`` is missing, where there is none.
    """
    for name in names:
        for candidate in (root / name, *(root / (name + suffix) for suffix in SUFFIXES)):
            if candidate.is_dir() or (candidate.suffix and candidate.is_file()):
                return candidate
    places = " or ".join(str(root / name) for name in names)
    raise InputError(f"{what} is not in {places}: give the folder that holds it with --data or $FPTT_DATA (see docs/events.md)")


def parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts
