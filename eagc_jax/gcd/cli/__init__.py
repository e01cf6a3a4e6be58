"""The command `eagc`. Each subcommand is a file: it parses, calls, and prints.

Exit codes: 0, it worked (items that were left out with `--on-bad-item skip` are listed);
1, `eagc doctor` found problems; 2, what was asked for can't be done, and one line says
why; 3, `eagc predict` left out items that can't be read, and named them; 130,
interrupted. Nothing is half-written in any case.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence

_INSTALL = "pip install 'eagc_jax[gcd]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: as typed, without the program's name; None for those of the process.

    Returns:
      The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if importlib.util.find_spec("tyro") is None:
        if list(given) == ["doctor"]:  # a bug report is welcome all the same
            return _without_extras()
        print(f"eagc: the command needs more packages: {_INSTALL}", file=sys.stderr)
        return 2
    from eagc_jax.gcd.cli import commands, errors

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever a file is called is printed
            stream.reconfigure(errors="backslashreplace")
    return errors.guarded(lambda: commands.parse(given).run())


def _without_extras() -> int:
    """`eagc doctor`, where only the core is installed."""
    from eagc_jax.gcd.cli import system

    for line in system.report():
        print(line)
    print(f"without the extra gcd there is no discovery: {_INSTALL}")
    return 0
