"""The probe as a command: of a function that says what is trained."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import pathlib
import sys
import types
from collections.abc import Callable, Mapping

from eagc_jax import _files
from eagc_jax.diagnostics.probing.report import ProbeReport
from eagc_jax.diagnostics.probing.running import probe
from eagc_jax.typing import PyTree

_NEEDED = ("losses_fn", "params", "batches")
_OTHERS = tuple(
    name for name in inspect.signature(probe).parameters if name not in _NEEDED
)


def run(
    target: str,
    *,
    steps: int | None = None,
    run_steps: int | None = None,
    json_file: pathlib.Path | None = None,
    figure_file: pathlib.Path | None = None,
) -> ProbeReport:
    """Probes what a function of the user's describes.

    Args:
      target: ``module:function`` or ``path/to/file.py:function``. The function takes no
        arguments and returns those of `probe`: a dict with ``losses_fn``, ``params``,
        ``batches`` and, if it likes, the others; or these three and the optimizer as a
        tuple.
      steps: see `probe`; beside what the function says.
      run_steps: see `probe`.
      json_file: to write all figures to, or None.
      figure_file: to draw to (.png, .svg, .pdf), or None.

    Returns:
      The report.

    Raises:
      ValueError: there is no such function, or it returns something else.
      OSError: a file can't be written.
      ModuleNotFoundError: a figure is asked for and Matplotlib is not installed.
    """
    arguments = _arguments(target, _found(target)())
    told = {"steps": steps, "run_steps": run_steps}
    arguments |= {name: value for name, value in told.items() if value is not None}
    report = probe(**arguments)
    if json_file is not None:
        _files.write_text(json_file, json.dumps(report.to_plain(), indent=1) + "\n")
    if figure_file is not None:
        report.figure().savefig(figure_file)
    return report


def _found(target: str) -> Callable[[], object]:
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(
            f"what is probed must be module:function or file.py:function, got {target!r}"
        )
    module = _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"there is no function {name!r} in {place}")
    return function


def _module(place: str) -> types.ModuleType:
    """By its name, looked for in the current folder too; or from a file."""
    if place.endswith(".py"):
        path = pathlib.Path(place)
        if not path.is_file():
            raise ValueError(f"there is no file {place}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    here = str(pathlib.Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not place.startswith(error.name):
            raise  # something that the module itself needs
        raise ValueError(
            f"there is no module {place!r}; it is looked for as Python does, and in "
            "the current folder"
        ) from error


def _arguments(target: str, given: object) -> dict[str, PyTree]:
    if isinstance(given, Mapping):
        wrong = [name for name in given if name not in _NEEDED + _OTHERS]
        missing = [name for name in _NEEDED if name not in given]
        if not wrong and not missing:
            return dict(given)
        found = f"a dict with {', '.join(map(repr, given))}"
    elif isinstance(given, tuple) and len(given) in (3, 4):
        return dict(zip((*_NEEDED, "optimizer"), given, strict=False))
    else:
        found = f"a {type(given).__name__}"
    raise ValueError(
        f"{target} must return a dict with {', '.join(_NEEDED)} and any of "
        f"{', '.join(_OTHERS)}; or (losses_fn, params, batches, optimizer). It returned "
        f"{found}."
    )
