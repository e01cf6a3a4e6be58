"""The probe: a function, and a command.

``eagc_jax.probe(losses_fn, params, batches, optimizer=...)`` is
:func:`eagc_jax.diagnostics.probe`. ``python -m eagc_jax.probe module:function`` probes
what a function describes, and prints what was found.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import types
from collections.abc import Sequence

from eagc_jax.diagnostics.probing import ProbeReport, probe
from eagc_jax.diagnostics.probing.command import run

__all__ = ["ProbeReport", "probe"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, probes, prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eagc_jax.probe",
        description="Measures how objectives' gradients stand to each other in a few "
        "steps of your own training, and says whether coordination may help.",
        epilog="For example: python -m eagc_jax.probe mytraining:problem --run-steps "
        "20000 --json probe.json, with a function problem() that returns a dict of "
        "losses_fn, params, batches and optimizer.",
    )
    parser.add_argument("target", help="module:function or file.py:function")
    parser.add_argument("--steps", type=int, help="to measure, at most")
    parser.add_argument(
        "--run-steps", type=int, help="of the whole training: 2 %% of them are measured"
    )
    parser.add_argument("--json", type=pathlib.Path, help="file for all figures")
    parser.add_argument("--figure", type=pathlib.Path, help="file for the figure")
    options = parser.parse_args(arguments)
    try:
        report = run(
            options.target,
            steps=options.steps,
            run_steps=options.run_steps,
            json_file=options.json,
            figure_file=options.figure,
        )
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"eagc_jax.probe: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0


class _Callable(types.ModuleType):
    """This module, which can be called as the function that has its name."""

    def __call__(self, *args, **kwargs) -> ProbeReport:
        return probe(*args, **kwargs)


if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__].__class__ = _Callable
