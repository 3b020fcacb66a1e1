"""The archives of the recorded data sets as they were published, known by their md5 sums.

The sums are those that SpikingJelly 2.0.0 checks what it downloads with; tonic 1.7.0 has the same for N-MNIST and SHD.
"""

import hashlib
from pathlib import Path

from fptt.errors import InputError

SUMS = {
    "N-MNIST": {
        "train.zip": "20959b8e626244a1b502305a9e6e2031",
        "test.zip": "69ca8762b2fe404d9b9bad1103e97832",
    },
    "DVS128 Gesture": {"dvsgesture.tar.gz": "8a5c71fb11e24e5ca5b11866ca6c00a1"},
    "CIFAR10-DVS": {
        "airplane.zip": "0afd5c4bf9ae06af762a77b180354fdd",
        "automobile.zip": "8438dfeba3bc970c94962d995b1b9bdd",
        "bird.zip": "a9c207c91c55b9dc2002dc21c684d785",
        "cat.zip": "52c63c677c2b15fa5146a8daf4d56687",
        "deer.zip": "b6bf21f6c04d21ba4e23fc3e36c8a4a3",
        "dog.zip": "f379ebdf6703d16e0a690782e62639c3",
        "frog.zip": "cad6ed91214b1c7388a5f6ee56d08803",
        "horse.zip": "e7cbbf77bec584ffbf913f00e682782a",
        "ship.zip": "41c7bd7d6b251be82557c6cce9a7d5c9",
        "truck.zip": "89f3922fd147d9aeff89e76a2b0b70a7",
    },
    "SHD": {
        "shd_train.h5.zip": "f3252aeb598ac776c1b526422d90eecb",
        "shd_test.h5.zip": "1503a5064faa34311c398fb0a1ed0a6f",
    },
}  # by the names of ``catalogue`` and of the files, in small letters


def compare(name: str, path: Path) -> dict[Path, tuple[str, str]]:
    """The md5 sum of each known archive of data set ``name`` in ``path`` (or ``path`` itself), and the published one."""
    known = SUMS.get(name, {})
    found = [file for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.name.lower() in known]
    return {file: (_md5(file), known[file.name.lower()]) for file in found if file.is_file()}


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})") from None
