"""The tests marked `rounding` again, with the compiler as users have it.

The others run with flags that compile quickly (conftest.py); where an answer hangs on
what the compiler fuses and contracts, that isn't enough.
"""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
FILES = [
    str(path)
    for path in sorted(TESTS.rglob("test_*.py"))
    if "pytest.mark.rounding" in path.read_text(encoding="utf-8")
]


@pytest.mark.slow
def test_rounding_is_as_promised():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "rounding and not slow"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist", *FILES],
        cwd=TESTS.parent,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
