"""What ``assess_energy`` remembers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import check_same_names, check_same_shapes
from eagc_jax._trees import named_leaves
from eagc_jax.blocks import ByLeaf
from eagc_jax.energy.float32 import float32_zeros
from eagc_jax.energy.options import Options
from eagc_jax.typing import Params, PyTree


class AssessEnergyState(NamedTuple):
    """What ``assess_energy`` saw last, and the averages that its energies need."""

    energies: ByLeaf
    # By leaf: relative energies, shape=(K, *block), float32; 1 is the objective's mean
    # over the shared leaves. At granularity "element" their mean, (K,).
    gradient_rms: ByLeaf  # by leaf, shape=(K,), float32, in the gradient's units.
    nonfinite_count: jax.Array  # shape=(K,), int32: steps with a NaN or an infinity.
    # Like params, float32 (complex64 where they are complex): running average of the
    # weighted sum, or ().
    direction: PyTree
    second_moment: PyTree  # like params, float32: that of its square, or ().
    count: jax.Array  # shape=(), int32: steps in which the averages moved.


def initial_state(
    params: Params,
    options: Options,
    number: int,
    *,
    keeps_direction: bool,
    keeps_moment: bool,
) -> AssessEnergyState:
    """Zeros; averages only where an energy needs them."""
    leaves = named_leaves(params)
    layout = blocks_lib.layout_of_params(
        options.granularity, leaves, options.names, options.specs
    )
    zeros = layout.zeros(leaves, number)
    return AssessEnergyState(
        energies=layout.show(zeros),
        gradient_rms=layout.show_leaves(layout.leaf_means(zeros)),
        nonfinite_count=jnp.zeros((number,), jnp.int32),
        direction=jax.tree.map(float32_zeros, params) if keeps_direction else (),
        second_moment=optax.tree.zeros_like(params, dtype=jnp.float32)
        if keeps_moment
        else (),
        count=jnp.zeros([], jnp.int32),
    )


def check_averages(
    state: AssessEnergyState, leaves: dict[str, jax.Array], kept: dict[str, bool]
) -> None:
    """Raises ValueError where a state's running averages are of other energies."""
    for field, wanted in kept.items():
        found = named_leaves(getattr(state, field))
        if bool(found) != wanted:
            raise ValueError(
                f"the state keeps {'a' if found else 'no'} running '{field}', but these "
                f"energies need {'one' if wanted else 'none'}: it was made with another "
                "energy, direction_decay or moment_decay. Call init again."
            )
        if wanted:
            shapes = {name: np.shape(leaf)[1:] for name, leaf in leaves.items()}
            check_same_names(shapes, found, "updates", f"the state's {field}")
            check_same_shapes(shapes, {n: np.shape(x) for n, x in found.items()}, 1)
