"""The command `eagc`, which ends itself by a signal once a checkpoint is written.

    python -m tests.gcd.stopping NUMBER SIGNAL discover ...

Watching the folder from outside comes too late where a run ends within milliseconds.
"""

import os
import signal
import sys

from eagc_jax.gcd import cli
from eagc_jax.gcd.training.checkpoints import keeper


class StoppingShelf(keeper.Shelf):
    """A shelf of checkpoints on which one of a number is followed by a signal."""

    number = 0
    signal = signal.SIGKILL

    def add(self, fill):
        number = super().add(fill)
        if number == self.number:
            os.kill(os.getpid(), self.signal)
        return number


def main(number, name, *arguments):
    StoppingShelf.number = int(number)
    StoppingShelf.signal = signal.Signals[name]
    keeper.Shelf = StoppingShelf
    return cli.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
