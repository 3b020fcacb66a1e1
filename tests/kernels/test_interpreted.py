"""Triton interprets from its import on or never: the tests of kernels in another process, where it does."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy
import pytest

from fptt.kernels import blocks

FILES = ("test_ltc_kernels.py", "test_scan_kernels.py")


def interprets() -> bool:
    """Triton 3.6, the one of torch 2.11, interprets ``range`` by a conversion that NumPy refuses from 2.4 on."""
    old = numpy.lib.NumpyVersion(numpy.__version__) < "2.4.0"
    return blocks.INSTALLED and (old or not version("triton").startswith("3.6."))


@pytest.mark.skipif(not interprets(), reason="needs Triton, from 3.7 on beside NumPy from 2.4 on")
def test_in_the_interpreter():
    files = [str(Path(__file__).with_name(file)) for file in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout


def test_triton_is_imported_by_the_first_kernel_alone():
    code = "import sys, fptt.models.sequence; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
