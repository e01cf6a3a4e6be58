"""`eagc probe`: does a training of several objectives need an aggregator?"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Probe:
    """Measures whether coordination may help a training of your own, in a few steps.

    Prints how the objectives' gradients stand to each other, what the optimizer's steps
    do to each loss, and a verdict. The function takes no arguments and returns a dict of
    losses_fn, params, batches and optimizer, as eagc_jax.probe takes them.

    For example: eagc probe mytraining:problem; eagc probe train.py:problem --run-steps
    20000 --json probe.json --figure probe.png
    """

    # module:function, or file.py:function.
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    # Steps to measure, at most. By default, all batches but no more than 100.
    steps: int | None = None
    # Steps of the whole training: no more than 2 % of them are measured.
    run_steps: int | None = None
    # File to write all figures to.
    json: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    # File to draw to: .png, .svg or .pdf.
    figure: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None

    def run(self) -> int:
        """Probes and prints."""
        from eagc_jax.diagnostics.probing.command import run

        report = run(
            self.target,
            steps=self.steps,
            run_steps=self.run_steps,
            json_file=self.json,
            figure_file=self.figure,
        )
        print(report)
        return 0
