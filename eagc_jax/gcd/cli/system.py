"""What a bug report needs to know of a machine; none of it asks for an extra."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Iterator

CORE = ("jax", "jaxlib", "numpy", "optax")
EXTRAS = ("gcd", "photos", "text", "tensorboard", "notebooks")
_VARIABLES = ("JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
_REQUIRED = re.compile(r"^([\w.-]+)(\[.*?\])?(.*?);.*extra == ['\"](\w+)['\"]")


def report() -> Iterator[str]:
    """Lines: versions, the machine, extras with what they lack, devices.

    No line names a person, a host or a folder.

    Examples:
      >>> lines = list(report())
      >>> lines[0].startswith("eagc_jax ")
      True
      >>> any(line.startswith("extra gcd: ") for line in lines)
      True
    """
    import eagc_jax

    yield (
        f"eagc_jax {eagc_jax.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()} on {platform.machine()}"
    )
    yield f"core: {_listed(CORE)}"
    shared = required("gcd")
    for extra in EXTRAS:
        packages = required(extra)
        missing = [name for name in packages if version(name) is None]
        if not packages:
            yield f"extra {extra}: not known to the installed package"
        elif missing:
            yield f"extra {extra}: not complete, {', '.join(missing)} not installed"
        else:
            own = [name for name in packages if extra == "gcd" or name not in shared]
            yield f"extra {extra}: complete ({_listed(own)})"
    yield _devices()
    for name in _VARIABLES:
        if name in os.environ:
            yield f"  {name}={os.environ[name]}"


def required(extra: str, lines: Iterable[str] | None = None) -> tuple[str, ...]:
    """The packages that an extra asks for, other extras of eagc_jax left out.

    Args:
      extra: its name.
      lines: requirements as distributions state them; None for those of eagc_jax.

    Examples:
      >>> required("b", ["one>=1; extra == 'a'", "two>=2 ; extra == 'b'"])
      ('two',)
    """
    if lines is None:
        try:
            lines = importlib.metadata.requires("eagc_jax") or ()
        except importlib.metadata.PackageNotFoundError:
            lines = ()
    found = (_REQUIRED.match(line) for line in lines)
    names = (match[1] for match in found if match and match[4] == extra)
    return tuple(name for name in names if name.replace("-", "_") != "eagc_jax")


def version(package: str) -> str | None:
    """The version that is installed, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _listed(packages: Iterable[str]) -> str:
    return ", ".join(
        f"{name} {version(name) or 'is not installed'}" for name in packages
    )


def _devices() -> str:
    """JAX's devices, or why there are none: a driver that fails is worth reporting."""
    import jax

    try:
        found = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    except RuntimeError as error:
        return f"devices: none, {' '.join(str(error).split())}"
    kinds = ", ".join(
        f"{found.count(kind)} x {kind}" if found.count(kind) > 1 else kind
        for kind in dict.fromkeys(found)
    )
    wide = ", 64-bit types on" if jax.config.read("jax_enable_x64") else ""
    return f"devices: {kinds}; {os.cpu_count()} CPU cores{wide}"
