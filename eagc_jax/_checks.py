"""Checks of arguments, made where they are numbers: at once, or while tracing.

What is found wrong raises ValueError and names the argument or leaf, what was found and
what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from eagc_jax._trees import named_leaves
from eagc_jax.typing import Params, Updates

# What to do with an objective whose gradient has a NaN or an infinity.
Nonfinite = Literal["propagate", "skip_objective", "skip_update"]
NONFINITE_POLICIES: tuple[Nonfinite, ...] = get_args(Nonfinite)
# The same of a gradient that stands alone: there is no objective to leave out.
SingleNonfinite = Literal["propagate", "skip_update"]
SINGLE_NONFINITE_POLICIES: tuple[SingleNonfinite, ...] = get_args(SingleNonfinite)

# ---------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------


def concrete(value: object) -> np.ndarray | None:
    """The value as NumPy, or None for a tracer (``inject_hyperparams``) or a schedule.

    Arguments are checked where they are numbers; a traced one can't be checked, and
    must not stop the program from being traced.
    """
    if value is None or callable(value) or isinstance(value, Tracer):
        return None
    return np.asarray(value)


class Interval(NamedTuple):
    """Where a number must lie; ``str`` ends the sentence "it must ..."."""

    low: float
    high: float
    with_low: bool = True  # whether the end belongs to it.
    with_high: bool = True

    def holds(self, values: np.ndarray) -> bool:
        """Whether every number lies inside; NaN, and what is no number, lies nowhere."""
        if values.dtype.kind in "cmMOSU":
            return False
        above = values >= self.low if self.with_low else values > self.low
        below = values <= self.high if self.with_high else values < self.high
        return bool(np.all(above & below))

    @property
    def notation(self) -> str:
        """``[0, 1)``."""
        left, right = "[" if self.with_low else "(", "]" if self.with_high else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"lie in {self.notation}"
        bound = f"{'>=' if self.with_low else '>'} {self.low:g}"
        if self.with_high:
            return f"be {bound}"
        positive = self.low == 0 and not self.with_low
        return "be positive and finite" if positive else f"be a finite number {bound}"


FINITE = Interval(-math.inf, math.inf, with_low=False, with_high=False)
DECAY = Interval(0, 1, with_high=False)
SHARE = Interval(0, 1)
NONNEGATIVE = Interval(0, math.inf, with_high=False)
POSITIVE = Interval(0, math.inf, with_low=False, with_high=False)


def check_number(name: str, value: object, interval: Interval, also: str = "") -> None:
    """Raises ValueError where a known value isn't a number in the interval.

    Args:
      name: of the argument.
      value: a number, a tracer, a schedule or None; only the first can be wrong.
      interval: where it must lie.
      also: what the message adds about the unit, or about what else may be given.
    """
    known = concrete(value)
    if known is not None and not (known.shape == () and interval.holds(known)):
        raise ValueError(f"{name} must {interval}{also}, got {value!r}.")


def check_count(name: str, value: object, least: int, also: str = "") -> None:
    """Raises ValueError for what isn't a Python int of at least ``least``."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}.{also}")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raises ValueError for a value that isn't one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")


# ---------------------------------------------------------------------------
# Objectives
# ---------------------------------------------------------------------------


def check_num_objectives(num_objectives: int) -> int:
    """Returns ``num_objectives`` as an int of at least 1, or raises ValueError."""
    try:
        number = int(num_objectives)
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        raise ValueError(
            "num_objectives must be a Python int, since it fixes shapes; got "
            f"{num_objectives!r}. Under optax.inject_hyperparams, name it in "
            "static_args."
        ) from error
    if number != num_objectives or number < 1:
        raise ValueError(f"num_objectives must be an int >= 1, got {num_objectives!r}.")
    return number


def check_index(name: str, index: object, number: int) -> None:
    """Raises ValueError for what isn't the index of an objective; it may be traced."""
    known = concrete(index)
    if known is None:
        return
    if known.shape != () or known.dtype.kind not in "iu" or not 0 <= known < number:
        raise ValueError(
            f"{name} must be the index of one of the {number} objectives, 0 to "
            f"{number - 1}; got {index!r}."
        )


def check_position(name: str, index: int, number: int) -> int:
    """An objective's index counted from either end, as one from 0; or ValueError."""
    if not -number <= index < number:
        raise ValueError(f"{name} is objective {index}, but there are {number}.")
    return int(index) % number


def check_mask(active_mask: jax.typing.ArrayLike | None, number: int) -> jax.Array:
    """``active_mask`` as ``(K,)`` bool, all True for None."""
    if active_mask is None:
        return jnp.ones((number,), bool)
    mask = jnp.asarray(active_mask)
    if mask.shape != (number,):
        raise ValueError(
            f"active_mask must have one entry for each of the {number} objectives, got "
            f"shape {mask.shape}."
        )
    return mask.astype(bool)


def check_rows(name: str, mask: jax.typing.ArrayLike, number: int) -> jax.Array:
    """A mask over the rows of an array, ``(number,)`` bool; ValueError for another."""
    if np.shape(mask) != (number,):
        raise ValueError(
            f"{name} must have one entry a row, shape ({number},); got "
            f"{np.shape(mask)}."
        )
    return jnp.asarray(mask, bool)


def check_weights(
    weights: Sequence[float] | jax.typing.ArrayLike | None,
    num_objectives: int,
    name: str = "weights",
) -> jax.Array:
    """K numbers >= 0, loss weights or a preference, as float32; ones for None.

    Raises:
      ValueError: wrong length, or negative, or not finite, or all zero.
    """
    if weights is None:
        return jnp.ones((num_objectives,), jnp.float32)
    shape = np.shape(weights)
    if shape != (num_objectives,):
        raise ValueError(
            f"{name} must have one entry for each of the {num_objectives} objectives, "
            f"shape ({num_objectives},); got shape {shape}."
        )
    known = concrete(weights)
    if known is not None and not NONNEGATIVE.holds(known):
        raise ValueError(f"{name} must be finite and >= 0, got {known.tolist()}.")
    if known is not None and not np.any(known > 0):
        raise ValueError(f"{name} must not all be zero: nothing would be trained.")
    return jnp.asarray(weights, jnp.float32)


def check_preference(
    preference: Sequence[float] | jax.typing.ArrayLike | None, number: int
) -> jax.Array:
    """A preference as ``(K,)`` float32, ones for None: see :func:`check_weights`."""
    return check_weights(preference, number, "preference")


def check_vector(
    name: str,
    value: Sequence[float] | jax.typing.ArrayLike,
    number: int,
    interval: Interval = FINITE,
) -> jax.Array:
    """A number, or K of them, as ``(K,)`` float32; raises ValueError otherwise."""
    known = concrete(value)
    if np.shape(value) not in ((), (number,)) or (
        known is not None and not interval.holds(known)
    ):
        raise ValueError(
            f"{name} must be a number in {interval.notation}, or one for each of the "
            f"{number} objectives; got {value!r}."
        )
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (number,))


# ---------------------------------------------------------------------------
# Trees
# ---------------------------------------------------------------------------


def check_objective_axis(
    updates: Updates, num_objectives: int | None, params: Params = None
) -> int:
    """Checks that every leaf is ``(K, *param.shape)``; returns K.

    Args:
      updates: per-objective updates.
      num_objectives: K, or None to take it from the first leaf.
      params: the parameters, or None where the caller has none.

    Returns:
      K; 1 for a tree without leaves where ``num_objectives`` is None.

    Raises:
      ValueError: names the leaf, what was found and what to do.
    """
    leaves = named_leaves(updates)
    for name, leaf in leaves.items():
        shape = np.shape(leaf)
        if num_objectives is None and shape:
            num_objectives = shape[0]
        if not shape or shape[0] != num_objectives:
            raise ValueError(
                f"leaf '{name}' has shape {shape}, but per-objective updates have the "
                f"objective axis first: ({num_objectives}, *param.shape). Get them from "
                "eagc_jax.value_and_grads or eagc_jax.stack_objectives, and put this "
                "transformation first in the chain, before anything that reduces."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise ValueError(
                f"leaf '{name}' has dtype {jnp.result_type(leaf)}; gradients are "
                "floating point. Partition integer parameters out before init."
            )
    if params is not None:
        _check_against_params(leaves, named_leaves(params))
    return 1 if num_objectives is None else num_objectives


def _check_against_params(
    leaves: dict[str, jax.Array], params: dict[str, jax.Array]
) -> None:
    check_same_names(leaves, params, "updates", "params")
    for name, leaf in leaves.items():
        if np.shape(leaf)[1:] != np.shape(params[name]):
            raise ValueError(
                f"leaf '{name}' has shape {np.shape(leaf)}, expected "
                f"(K, *param.shape) = {(np.shape(leaf)[0], *np.shape(params[name]))}."
            )


def check_gradient(updates: Updates, params: Params = None) -> None:
    """Raises ValueError unless it is one gradient, real and like the parameters."""
    leaves = named_leaves(updates)
    for name, leaf in leaves.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"leaf '{name}' has dtype {jnp.result_type(leaf)}; this scaling needs "
                "real floating point gradients. Partition other parameters out before."
            )
    if params is None:
        return
    known = named_leaves(params)
    check_same_names(leaves, known, "updates", "params")
    for name, leaf in leaves.items():
        if np.shape(leaf) != np.shape(known[name]):
            raise ValueError(
                f"leaf '{name}' has shape {np.shape(leaf)}, its parameter "
                f"{np.shape(known[name])}. Reduce per-objective updates, (K, *shape), "
                "with an aggregator or sum_objectives first."
            )


def check_same_names(
    left: Mapping[str, object],
    right: Mapping[str, object],
    left_name: str,
    right_name: str,
) -> None:
    """Raises ValueError where two trees don't have the same leaves."""
    missing = [name for name in right if name not in left]
    extra = [name for name in left if name not in right]
    if missing or extra:
        raise ValueError(
            f"{left_name} and {right_name} are different trees: {left_name} lacks "
            f"{missing[:5]} and has {extra[:5]} besides. Call init again with the tree "
            "that is trained."
        )


def check_same_shapes(
    found: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, tuple[int, ...]],
    number: int,
) -> None:
    """Raises ValueError where blocks have other shapes than those in the state."""
    for name, shape in found.items():
        if shape != kept[name]:
            raise ValueError(
                f"leaf '{name}' gives blocks of shape {(number, *shape)}, but the state "
                f"holds {(number, *kept[name])}: init saw a parameter of another "
                "shape, or the leaf lacks its objective axis, (K, *param.shape)."
            )
