"""What shows while tracing: kinds of outputs and states, and JAX's stricter rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.testing.failures import Violation
from eagc_jax.testing.transformations.comparing import (
    differing_kinds,
    differing_numbers,
)
from eagc_jax.testing.transformations.subject import (
    Subject,
    example_updates,
)
from eagc_jax.typing import PyTree

# Of the leaves, one after another, where a property is about them.
DTYPES: dict[str, tuple[str, ...]] = {
    "mixed_dtypes": ("float32", "bfloat16", "float16"),
    "x64": ("float64", "float32"),
}


def _wrong_output(subject: Subject, out: PyTree, params: PyTree) -> Violation | None:
    """Leaves are the parameters', in shape and dtype; or K of them, all with the axis."""
    accepted = [params]
    if subject.number is not None:
        accepted.append(example_updates(subject.seed, subject.number, params))
    found = [
        differing_kinds(jax.eval_shape(lambda t=tree: t), _strong(out), "updates")
        for tree in accepted
    ]
    return None if None in found else found[0]


def _strong(tree: PyTree) -> PyTree:
    """Without weak types, which an update may have."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _wrong_kinds(subject: Subject, params: PyTree) -> Violation | None:
    out, before, after = subject.traced(params)
    wrong = _wrong_output(subject, out, params)
    return wrong or differing_kinds(before, after, "state")


def output(subject: Subject) -> Violation | None:
    """Updates have the parameters' structure, shapes and dtypes.

    With K objectives they may keep the axis of the objectives, in every leaf.
    """
    out, _, _ = subject.kinds
    return _wrong_output(subject, out, subject.params)


def state(subject: Subject) -> Violation | None:
    """The state keeps its structure, shapes, dtypes and weak types from ``init`` on.

    Else ``jax.jit`` compiles again, and ``jax.lax.scan`` refuses it.
    """
    _, before, after = subject.kinds
    return differing_kinds(before, after, "state")


def mixed_dtypes(subject: Subject) -> Violation | None:
    """In a tree of float32, bfloat16 and float16, each leaf's update has its dtype.

    And the state keeps its kinds.
    """
    return _wrong_kinds(subject, _cast(subject.params, DTYPES["mixed_dtypes"]))


def x64(subject: Subject) -> Violation | None:
    """With 64-bit types on, float64 stays float64, and float32 beside it float32."""
    with jax.enable_x64(True):
        return _wrong_kinds(subject, _cast(subject.params, DTYPES["x64"]))


def strict_dtypes(subject: Subject) -> Violation | None:
    """Nothing depends on implicit promotion of dtypes.

    ``jax.numpy_dtype_promotion("strict")``; of Optax's own, Adam and schedules do.
    """
    with jax.numpy_dtype_promotion("strict"):
        return _wrong_kinds(subject, subject.params)


def strict_ranks(subject: Subject) -> Violation | None:
    """Nothing depends on implicit broadcasting: ``jax.numpy_rank_promotion("raise")``."""
    with jax.numpy_rank_promotion("raise"):
        return _wrong_kinds(subject, subject.params)


def _cast(params: PyTree, dtypes: tuple[str, ...]) -> PyTree:
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(
        structure,
        [jnp.asarray(x, dtypes[i % len(dtypes)]) for i, x in enumerate(leaves)],
    )


def _beside(params: PyTree, leaf: jax.Array | None) -> PyTree:
    """One leaf more, after the others."""
    if isinstance(params, dict):
        return {**params, "~more": leaf}
    return (params, leaf)


def _without(tree: PyTree) -> PyTree:
    if isinstance(tree, dict):
        return {name: leaf for name, leaf in tree.items() if name != "~more"}
    return tree[0]


def none_leaves(subject: Subject) -> Violation | None:
    """A leaf None stays None, and changes nothing of the others."""
    return _unchanged_by(subject, None)


def empty_tree(subject: Subject) -> Violation | None:
    """A tree without leaves gives one; a leaf without entries changes no other.

    ``optax.tree.map_params`` calls ``init`` with a tree without leaves.
    """
    out, before, after = subject.traced({})
    if jax.tree.leaves(out):
        return Violation(f"of an empty tree it made {out}", "an empty tree")
    wrong = differing_kinds(before, after, "state of an empty tree, ")
    return wrong or _unchanged_by(subject, jnp.zeros((0, 3)))


def _unchanged_by(subject: Subject, leaf: jax.Array | None) -> Violation | None:
    """The others' updates are those of the tree without the leaf."""
    params = _beside(subject.params, leaf)
    updates = example_updates(subject.seed, subject.number, params)

    def step(updates: PyTree, params: PyTree) -> PyTree:
        return subject.step(updates, subject.tx.init(params), params)[0]

    program, shapes = jax.make_jaxpr(step, return_shape=True)(updates, params)
    more = shapes["~more"] if isinstance(shapes, dict) else shapes[1]
    if leaf is None and more is not None:
        return Violation(f"of None it made {more}", "None")
    plain, expected = jax.make_jaxpr(step, return_shape=True)(
        subject.given()[0], subject.params
    )
    wrong = differing_kinds(_strong(expected), _strong(_without(shapes)), "updates")
    if wrong or str(plain) == str(program):  # nothing to run: it is the same program
        return wrong
    found = _without(jax.jit(step)(updates, params))
    first = subject.reference.updates[0]
    return differing_numbers(first, found, subject.tolerance, "updates")
