"""An Optax transformation in everything that JAX may do with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import optax

from eagc_jax._checks import check_count, check_num_objectives
from eagc_jax.testing.failures import PropertyError, Violation
from eagc_jax.testing.transformations import modes, traced
from eagc_jax.testing.transformations.subject import (
    Subject,
    example_params,
    example_updates,
)
from eagc_jax.typing import PyTree

TransformationProperty: TypeAlias = Literal[
    "output",
    "state",
    "jit",
    "vmap",
    "scan",
    "donation",
    "none_leaves",
    "empty_tree",
    "mixed_dtypes",
    "x64",
    "strict_dtypes",
    "strict_ranks",
    "sharding",
    "serialization",
]
TRANSFORMATION_PROPERTIES: dict[
    TransformationProperty, Callable[[Subject], Violation | None]
] = {
    name: getattr(modes, name, None) or getattr(traced, name)
    for name in get_args(TransformationProperty)
}


class Checked(NamedTuple):
    """What was asserted, and what was not."""

    held: tuple[TransformationProperty, ...]
    left_out: dict[TransformationProperty, str]  # by name, why.


def assert_transformation(
    transformation: optax.GradientTransformation,
    num_objectives: int | None = None,
    properties: Collection[TransformationProperty] | None = None,
    *,
    leave_out: Collection[TransformationProperty] = (),
    params: PyTree | None = None,
    extra_args: Mapping[str, jax.typing.ArrayLike] | None = None,
    tolerance: float = 1e-4,
    steps: int = 3,
    seed: int = 0,
    rounding: Collection[str] = (),
) -> Checked:
    """Asserts that an Optax transformation works in everything that JAX does with it.

    ``output``, ``state``: updates have the parameters' kinds, the state keeps its own.
    ``jit``, ``vmap``, ``scan``, ``donation``, ``sharding``: the same numbers compiled,
    mapped, in a loop, with donated buffers, on two devices. ``serialization``: the
    state's arrays are all there is to save. ``none_leaves``, ``empty_tree``,
    ``mixed_dtypes``, ``x64``: what trees may hold. ``strict_dtypes``, ``strict_ranks``:
    JAX's stricter rules. :mod:`eagc_jax.testing.transformations` defines each.

    Args:
      transformation: with ``init`` and ``update``. What is random in it must come from
        its state.
      num_objectives: None for an ordinary one, of gradients ``(*shape)``; K for one of
        gradients ``(K, *shape)``, whether it keeps the axis or not.
      properties: names; None for all.
      leave_out: names of properties that are not claimed.
      params: a tree of float32 arrays; None for a small one.
      extra_args: keyword arguments for ``update``, e.g. ``{"value": losses}``.
      tolerance: how far numbers may be off, relative to the largest entry of a leaf;
        XLA orders and contracts operations as it likes. Updates, whose terms may cancel,
        may also be off by one rounding of their largest entry.
      steps: that are compared, from a fresh state.
      seed: of the first step's gradients, which are normal.
      rounding: names of fields or keys of the state that hold rounding errors, as a
        solver's residual: 0 in one order of operations, 1e-8 in another. Their numbers
        are not compared.

    Returns:
      What held and what was left out, with the reason: ``sharding`` on one device.

    Raises:
      PropertyError: (an AssertionError) a property does not hold. It says which, on
        which input, what was found, and what would have been accepted.
      ValueError: an unknown name.

    Examples:
      >>> import optax
      >>> from eagc_jax import testing
      >>> checked = testing.assert_transformation(optax.sgd(0.1, momentum=0.9))
      >>> "donation" in checked.held
      True
    """
    number = None if num_objectives is None else check_num_objectives(num_objectives)
    check_count("steps", steps, 1)
    wanted = [*TRANSFORMATION_PROPERTIES] if properties is None else properties
    _check_names("properties", wanted)
    _check_names("leave_out", leave_out)
    if isinstance(rounding, str):
        raise ValueError(f"rounding must be a collection of names, got {rounding!r}.")
    subject = Subject(
        transformation,
        number,
        example_params() if params is None else params,
        dict(extra_args or {}),
        tolerance,
        steps,
        seed,
        params is not None,
        rounding,
    )
    held: list[TransformationProperty] = []
    left_out: dict[TransformationProperty, str] = {}
    for name, check in TRANSFORMATION_PROPERTIES.items():
        if name in leave_out:
            left_out[name] = "asked for"
        elif name in wanted and name == "sharding" and len(jax.devices()) < 2:
            left_out[name] = "there is one device"
        elif name in wanted:
            _assert_one(name, check, subject)
            held.append(name)
    return Checked(tuple(held), left_out)


def _check_names(argument: str, names: Collection[str]) -> None:
    known = [*TRANSFORMATION_PROPERTIES]
    unknown = [name for name in names if name not in known]
    if isinstance(names, str) or unknown:
        wrong = names if isinstance(names, str) else unknown
        raise ValueError(f"{argument} must be names of {known}, got {wrong!r}.")


def _assert_one(
    name: TransformationProperty,
    check: Callable[[Subject], Violation | None],
    subject: Subject,
) -> None:
    hint = f'Not claimed? leave_out=("{name}",)'
    given = subject.line(traced.DTYPES.get(name))
    try:
        violation = check(subject)
    except Exception as error:  # whatever the transformation raises breaks it
        message = str(error).strip().split("\n")[0]
        violation = Violation(f"{type(error).__name__}: {message}", "no error")
        raise PropertyError(name, given, violation, hint) from error
    if violation is not None:
        raise PropertyError(name, given, violation, hint)


__all__ = [
    "TRANSFORMATION_PROPERTIES",
    "Checked",
    "TransformationProperty",
    "assert_transformation",
    "example_params",
    "example_updates",
]
