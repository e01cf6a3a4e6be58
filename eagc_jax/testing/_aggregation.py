"""An aggregator, or a weighting, as a function of one ``(K, n)`` NumPy matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax.typing import PyTree

Weighting: TypeAlias = Callable[[jax.Array], jax.Array]
Factory: TypeAlias = Callable[[int], optax.GradientTransformation]
EPS = float(np.finfo(np.float32).eps)


class Answer(NamedTuple):
    """What an aggregator made of a matrix, float64."""

    direction: np.ndarray  # shape=(n,).
    size: float  # length of what the direction is a sum of: rounding is relative to it.
    weights: np.ndarray | None  # shape=(K,); None where they aren't known.


@dataclasses.dataclass
class Aggregation:
    """``A(J)``, compiled once for a shape and remembered for a matrix."""

    number: int
    width: int
    apply: Callable[[np.ndarray], Answer]
    of_number: Callable[[int], Aggregation] | None  # the same for another K.
    seen: dict[bytes, Answer] = dataclasses.field(default_factory=dict)

    def __call__(self, matrix: np.ndarray) -> Answer:
        """``A(J)`` of ``(K, n)``, which is rounded to float32."""
        matrix = np.asarray(matrix, np.float32)
        key = matrix.tobytes()
        if key not in self.seen:
            self.seen[key] = self.apply(matrix)
        return self.seen[key]


def width_of(number: int) -> int:
    """n, a multiple of 4 with room for more than K independent rows."""
    return max(8, 4 * (number // 4 + 1))


def of_weighting(weighting: Weighting, number: int) -> Aggregation:
    """``A(J) = w(J J^T)^T J``, w from the float32 Gram matrix, the sum in float64."""
    # One that is compiled already is not compiled again.
    solve = weighting if hasattr(weighting, "lower") else jax.jit(weighting)

    def apply(matrix: np.ndarray) -> Answer:
        rows = matrix.astype(np.float64)
        with np.errstate(all="ignore"):
            gram = (rows @ rows.T).astype(np.float32)
            weights = np.asarray(solve(jax.device_put(gram)), np.float64)
            size = float(np.sum(np.abs(weights) * np.linalg.norm(rows, axis=1)))
            return Answer(weights @ rows, size, weights)

    return Aggregation(
        number, width_of(number), apply, lambda other: of_weighting(weighting, other)
    )


def of_transformation(
    transformation: optax.GradientTransformation | Factory,
    number: int,
    extra_args: Mapping[str, jax.typing.ArrayLike],
) -> Aggregation:
    """One update from a fresh state, of a tree of two leaves, ``{"kernel", "bias"}``.

    The size is the longer of A(J) and A(|J|): the rows of |J|, entry by entry, have the
    same lengths and don't cancel.
    """
    made = isinstance(transformation, optax.GradientTransformation)
    tx = transformation if made else transformation(number)
    width = width_of(number)
    split = width - 2
    params = {"kernel": jnp.zeros((2, split // 2)), "bias": jnp.zeros(2)}

    def step(rows: jax.Array) -> jax.Array:
        updates = {
            "kernel": rows[:, :split].reshape(number, 2, split // 2),
            "bias": rows[:, split:],
        }
        found: PyTree = tx.update(updates, tx.init(params), params, **extra_args)[0]
        for name, leaf in params.items():
            if found[name].shape != leaf.shape:
                raise ValueError(
                    "transformation must reduce the objective axis: of updates "
                    f"{(number, *leaf.shape)} it made {found[name].shape} in leaf "
                    f"'{name}'; for one that keeps it, take assert_transformation, or "
                    "chain it with eagc_jax.sum_objectives()."
                )
        return jnp.concatenate([found["kernel"].reshape(-1), found["bias"]])

    compiled = jax.jit(step)

    def direction(matrix: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(matrix), np.float64)

    def apply(matrix: np.ndarray) -> Answer:
        found = direction(matrix)
        with np.errstate(all="ignore"):
            lengths = [np.linalg.norm(x) for x in (found, direction(np.abs(matrix)))]
        return Answer(found, float(max(lengths)), None)

    def of_number(other: int) -> Aggregation:
        cut = {
            name: np.asarray(value)[:other]
            if np.shape(value)[:1] == (number,)
            else value
            for name, value in extra_args.items()
        }
        return of_transformation(transformation, other, cut)

    return Aggregation(number, width, apply, None if made else of_number)
