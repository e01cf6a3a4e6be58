"""What a command says when it is interrupted: how to go on."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Iterator

from eagc_jax.gcd.runs.folder import to_go_on
from eagc_jax.gcd.sources.strings import shown


@contextlib.contextmanager
def says_how_to_go_on(out: pathlib.Path) -> Iterator[None]:
    """Where the user interrupts, prints the command that goes on.

    Args:
      out: folder of the run, in which its settings and checkpoints are.

    Raises:
      SystemExit: with the exit code of an interrupted command.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        settings = to_go_on(out)
        if settings is not None:
            given = shlex.quote(str(settings)), shlex.quote(str(out))
            print(
                f"interrupted; what is finished is kept in {shown(out)}. To go on:\n"
                f"  eagc discover --settings {given[0]} --out {given[1]}",
                file=sys.stderr,
            )
            raise SystemExit(_code(interrupt)) from None
        raise


def _code(interrupt: KeyboardInterrupt) -> int:
    """As shells have it: 128, and the number of the signal."""
    from eagc_jax.gcd.training.checkpoints import Terminated

    return 143 if isinstance(interrupt, Terminated) else 130
