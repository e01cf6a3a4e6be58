"""What every energy is computed from: means over blocks and leaves."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import check_same_names
from eagc_jax._shards import split_over
from eagc_jax._trees import named_leaves
from eagc_jax.energy.float32 import as_float32, bounded, square
from eagc_jax.energy.options import ALIGNMENTS, EnergyKind, Options
from eagc_jax.objectives import expand_to
from eagc_jax.typing import Params, PyTree, Updates

# Added to the second moment, relative to its mean: keeps an entry in which the
# objectives cancel from looking infinitely important.
_FISHER_RIDGE = 1e-6


class Inputs(NamedTuple):
    """What the energies other than magnitude are computed from."""

    params: Params = None
    direction: PyTree = None
    second_moment: PyTree = None


class Step(NamedTuple):
    """The magnitudes, and what the non-finite policy made of the updates."""

    updates: Updates  # leaves (K, *shape), as they go on to the gate.
    squares: dict[str, jax.Array]  # by group: mean squares, 0 where dropped.
    leaf_squares: jax.Array  # shape=(K, leaves), the same per leaf.
    finite: jax.Array  # shape=(K,), bool.
    keep: jax.Array  # shape=(K,), bool: objectives in use.
    advance: jax.Array  # shape=(), bool: whether states may change.


def measure(
    leaves: dict[str, jax.Array],
    layout: blocks_lib.Layout,
    step: Step,
    options: Options,
    inputs: Inputs,
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, jax.Array]]:
    """What every energy is computed from, by kind: block means by group; leaf means."""
    wide = {
        name: as_float32(leaf)
        for name, leaf in blocks_lib.packed(leaves, layout.packs).items()
    }
    found = {"magnitude": step.squares}
    by_leaf = {"magnitude": step.leaf_squares}

    def collect(kind, integrand):
        values = {name: integrand(name, leaf) for name, leaf in wide.items()}
        means = jax.tree.map(bounded, layout.block_means(values))
        # The length of the running direction is the same for every objective.
        keep = jnp.ones((1,), bool) if kind == "length" else step.keep
        found[kind] = kept(means, keep)
        by_leaf[kind] = jnp.where(keep[:, None], layout.leaf_means(means), 0.0)

    def given(argument, energy):
        tree = required(getattr(inputs, argument), leaves, argument, energy)
        return blocks_lib.packed(
            {n: leaf[None] for n, leaf in tree.items()}, layout.packs
        )

    if "sensitivity" in options.mixture:
        theta = given("params", "sensitivity")
        collect("sensitivity", lambda name, leaf: square(leaf * theta[name]))
    if "fisher" in options.mixture:
        moment = given("second_moment", "fisher")
        moment = {
            n: ridged(v, options.names, layout.axes_of(n)) for n, v in moment.items()
        }
        collect("fisher", lambda name, leaf: square(leaf) / moment[name])
    if any(name in options.mixture for name in ALIGNMENTS):
        energy: EnergyKind = next(
            name for name in ALIGNMENTS if name in options.mixture
        )
        along = given("direction", energy)
        collect("along", lambda name, leaf: (leaf * jnp.conj(along[name])).real)
        collect("length", lambda name, leaf: square(along[name]))
    return found, by_leaf


def kept(values: dict[str, jax.Array], keep: jax.Array) -> dict[str, jax.Array]:
    """Zeros for the objectives that are dropped."""
    return {
        group: jnp.where(expand_to(keep, value.ndim), value, 0.0)
        for group, value in values.items()
    }


def ridged(
    moment: jax.Array, names: tuple[str, ...], axes: tuple[int, ...]
) -> jax.Array:
    """The second moment and a little of its mean; ones where it is 0 throughout.

    Of ``(1, *shape)``, or of several leaves; ``axes`` are one leaf's.
    """
    split = split_over(moment, names)
    total = jnp.sum(moment, axis=axes, keepdims=True)
    total = jax.lax.psum(total, split) if split else total
    size = math.prod(moment.shape[axis] for axis in axes)
    ridge = _FISHER_RIDGE / max(size * blocks_lib.axis_sizes(split), 1) * total
    return moment + jnp.where(ridge > 0, ridge, 1.0)


def required(
    tree: PyTree, leaves: dict[str, jax.Array], argument: str, energy: EnergyKind
) -> dict[str, jax.Array]:
    """What an energy needs, by leaf in float32; ValueError where it is not given."""
    if tree is None:
        raise ValueError(
            f"the energy '{energy}' needs {argument}: call update(updates, state, "
            f"params{'' if argument == 'params' else f', {argument}=...'})."
        )
    named = named_leaves(tree)
    check_same_names(leaves, named, "updates", argument)
    for name, leaf in named.items():
        if np.shape(leaf) != np.shape(leaves[name])[1:]:
            raise ValueError(
                f"leaf '{name}' of {argument} has shape {np.shape(leaf)}, expected the "
                f"parameter's, {np.shape(leaves[name])[1:]}."
            )
    return {name: as_float32(jnp.asarray(leaf)) for name, leaf in named.items()}
