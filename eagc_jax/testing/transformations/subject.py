"""A transformation with what it is given: parameters, gradients of some steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax.typing import PyTree

SHAPES: dict[str, PyTree] = {"kernel": (3, 4), "bias": (4,), "layers": ((2, 4), ())}


class Run(NamedTuple):
    """What some steps gave."""

    updates: list[PyTree]  # one for each step.
    state: PyTree  # after the last.


Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def example_params(dtypes: Sequence[str] = ("float32",)) -> PyTree:
    """Ones in a small tree of dicts and tuples, with a scalar.

    Args:
      dtypes: of the leaves, one after another, from the start again at the end.

    Examples:
      >>> from eagc_jax import testing
      >>> testing.example_params()["kernel"].shape
      (3, 4)
    """
    shapes, structure = jax.tree.flatten(SHAPES, is_leaf=_is_shape)
    kinds = [jnp.dtype(dtypes[index % len(dtypes)]) for index in range(len(shapes))]
    pairs = zip(shapes, kinds, strict=True)
    return jax.tree.unflatten(structure, [jnp.asarray(np.ones(s, d)) for s, d in pairs])


def example_updates(
    seed: int,
    num_objectives: int | None = None,
    params: PyTree | None = None,
) -> PyTree:
    """Normal gradients of ``params``, in their dtypes: the same for the same seed.

    Args:
      seed: an int.
      num_objectives: K for leaves ``(K, *shape)``; None for leaves ``(*shape)``.
      params: a tree; None for :func:`example_params`.

    Examples:
      >>> from eagc_jax import testing
      >>> testing.example_updates(0, num_objectives=5)["kernel"].shape
      (5, 3, 4)
    """
    lead = () if num_objectives is None else (num_objectives,)
    rng = np.random.default_rng(seed)

    def leaf(param: jax.Array) -> jax.Array:
        drawn = rng.normal(size=(*lead, *param.shape))
        return jnp.asarray(drawn.astype(np.dtype(param.dtype)))

    return jax.tree.map(leaf, example_params() if params is None else params)


@dataclasses.dataclass
class Subject:
    """What every check is given."""

    tx: optax.GradientTransformation
    number: int | None
    params: PyTree
    extra_args: Mapping[str, jax.typing.ArrayLike]
    tolerance: float
    steps: int
    seed: int
    own: bool  # whether the parameters are the caller's own.
    rounding: Collection[str] = ()  # names of what in the state measures rounding.

    def step(
        self, updates: PyTree, state: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree]:
        """One update."""
        return self.tx.update(updates, state, params, **self.extra_args)

    def given(self, seed: int | None = None) -> list[PyTree]:
        """Gradients of every step."""
        first = self.seed if seed is None else seed
        seeds = range(first, first + self.steps)
        return [example_updates(s, self.number, self.params) for s in seeds]

    def line(self, dtypes: tuple[str, ...] | None) -> str:
        """The line that gives the first step's gradients again."""
        params = "params" if self.own else None
        if dtypes is not None:
            params = (
                f"{params} in {dtypes}"
                if params
                else f"testing.example_params({dtypes})"
            )
        rest = f", {params}" if params else ""
        first = f"testing.example_updates({self.seed}, {self.number}{rest})"
        return first + (
            f", then seeds to {self.seed + self.steps - 1}" * (self.steps > 1)
        )

    def run(self, step: Step, state: PyTree, seed: int | None = None) -> Run:
        """All steps, with the parameters held."""
        found = []
        for updates in self.given(seed):
            out, state = step(updates, state, self.params)
            found.append(out)
        return Run(found, state)

    @functools.cached_property
    def compiled(self) -> Step:
        """``step`` under ``jax.jit``; an ``update`` that is compiled already as it is."""
        done = hasattr(self.tx.update, "lower") and not self.extra_args
        return self.tx.update if done else jax.jit(self.step)

    @functools.cached_property
    def start(self) -> PyTree:
        """The state that ``init`` makes, compiled."""
        init = self.tx.init
        return (init if hasattr(init, "lower") else jax.jit(init))(self.params)

    @functools.cached_property
    def reference(self) -> Run:
        """What the others are compared with: every step compiled."""
        return self.run(self.compiled, self.start)

    @functools.cached_property
    def kinds(self) -> tuple[PyTree, PyTree, PyTree]:
        """:meth:`traced` of the parameters as they are."""
        return self.traced(self.params)

    def traced(self, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """Updates, the state before and after one step of ``params``: kinds only."""
        updates = example_updates(self.seed, self.number, params)
        state = jax.eval_shape(self.tx.init, params)
        out, after = jax.eval_shape(self.step, updates, state, params)
        return out, state, after
