"""What a command that fails says: one line on stderr and an exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

_NAMES = (
    *("text_column", "path_column", "label_column", "id_column", "split_column"),
    *("truth_column", "on_bad_item", "num_classes", "max_iterations", "batch_size"),
    *("image_size", "compute_dtype", "at_least"),
)
_SETTING = re.compile(rf"\b({'|'.join(_NAMES)})\b(?:=\"(\w+)\")?")


def guarded(command: Callable[[], int]) -> int:
    """Runs it; what is wrong with its input is said in a line, without a traceback.

    Args:
      command: returns an exit code.

    Returns:
      That code; or 2 where the input, the disk or an installation is to blame, 130 where
      the user interrupted.
    """
    try:
        return command()
    except KeyboardInterrupt:
        return _failed("interrupted; the same command goes on from what is cached", 130)
    except BrokenPipeError:  # who reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        return _failed(_missing(error))
    except OSError as error:
        return _failed(_as_typed(_of_system(error)))
    except (ValueError, LookupError) as error:
        if os.environ.get("EAGC_TRACEBACK"):
            raise
        return _failed(_as_typed(str(error)) + _hint(error))
    except SystemExit as end:
        return _failed(end.code) if isinstance(end.code, str) else int(end.code or 0)


def _failed(message: str, code: int = 2) -> int:
    print(f"eagc: {message}", file=sys.stderr)
    return code


def _missing(error: ModuleNotFoundError) -> str:
    if error.name is None:  # of weights; it says the line itself
        return str(error)
    return f"{error.name} is not installed: pip install 'eagc_jax[gcd]'"


def _of_system(error: OSError) -> str:
    if error.filename is None:
        return str(error.args[-1] if error.args else error)
    return f"{error.filename!r}: {error.strerror}"


def _as_typed(message: str) -> str:
    """Settings by the names that they have on the command line."""

    def flag(match: re.Match[str]) -> str:
        value = match[2]
        name = "--" + match[1].replace("_", "-")
        return name if value is None else f"{name} {value}"

    return _SETTING.sub(flag, message)


def _hint(error: Exception) -> str:
    from eagc_jax.gcd.sources import BadItem

    if isinstance(error, BadItem) and "on_bad_item" not in str(error):
        return "; --on-bad-item skip leaves such items out"
    return ""
