"""GradDrop: each entry keeps the gradients of one sign, drawn at random."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from eagc_jax._checks import (
    SHARE,
    check_num_objectives,
    check_vector,
    concrete,
)
from eagc_jax._trees import named_leaves, named_specs, widened
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.aggregators._draws import uniform_by_coordinate
from eagc_jax.typing import OptState, Params, PyTree


class GradDropState(NamedTuple):
    """Where the random signs come from."""

    key: jax.Array  # shape=(2,), uint32: PRNG key of the next step.


@_direct.shows_options
def graddrop(
    num_objectives: int,
    *,
    leak: float | jax.typing.ArrayLike = 0.0,
    seed: int = 0,
    param_specs: PyTree = None,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps, in each entry, the gradients of one sign, drawn by its share.

    Entry by entry, with :math:`U\sim\mathrm{Unif}[0,1)` shared by the objectives,

    .. math:: P = \tfrac12\Big(1+\frac{\sum_kg_k}{\sum_k|g_k|}\Big), \qquad
              d = \sum_k \big(l_k + (1-l_k)M_k\big)\,g_k,

    where :math:`M_k` keeps positive entries if :math:`P>U` and negative ones if not. U is
    a hash of the step's key, the leaf and the entry's place in it, in multiples of
    :math:`2^{-24}`: the same draws however parameters are sharded.

    Without leaks every entry is exactly the sum of the positive parts or that of the
    negative ones, and the update's expectation is the plain sum. The division is without
    the published 1e-8, and entries that are zero in all objectives give 0: the law holds
    at every scale. Guarantee: at a joint minimum, and only there, updates vanish; single
    steps can oppose an objective. Length: "sum". Cost: one pass for who is finite, one
    elementwise pass with a hash per parameter: at least 2K read and 1 written, in copies
    of the parameters. Memory: a key.

    Args:
      num_objectives: K, a Python int.
      leak: :math:`l` in [0, 1], a number or K of them; 1 passes an objective unchanged.
      seed: of the key in the state.
      param_specs: inside ``shard_map`` with ``axis_name``, the parameters' tree of
        ``PartitionSpec``: draws are then those of one device. Without it every part of a
        leaf draws for itself: other numbers of the same law.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`; gradients are multiplied by the preference
        first.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. State:
      :class:`DirectState`, ``method`` a ``GradDropState``.

    Raises:
      ValueError: bad arguments (at once); complex leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import graddrop
      >>> tx = graddrop(2)
      >>> grads = {"w": jnp.array([[1.0, 2.0, 0.0], [3.0, -1.0, 0.0]])}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(3)}))
      >>> float(update["w"][0]), float(update["w"][1]) in (2.0, -1.0)
      (4.0, True)

    References:
      Chen et al., `Just Pick a Sign <https://arxiv.org/abs/2010.06808>`_, 2020,
      algorithm 1 (on parameter gradients, without the batch).
    """
    number = check_num_objectives(num_objectives)
    leaks = check_vector("leak", leak, number, SHARE)
    known = concrete(leak)
    leaky = known is None or bool(np.any(known != 0))
    specs = named_specs(param_specs)

    def init(params: Params) -> GradDropState:
        del params
        return GradDropState(jax.random.PRNGKey(seed))

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        _direct.check_real(step.updates, "graddrop")
        key, this = jax.random.split(state.key)
        leaves = named_leaves(step.updates)
        words = jax.random.bits(this, (len(leaves), 2), jnp.uint32)
        out = []
        for index, (name, leaf) in enumerate(leaves.items()):
            dtype = widened(leaf).dtype
            uniform = uniform_by_coordinate(
                words[index], leaf, dtype, step.names, _spec(specs, name)
            )
            out.append(_drop(step.rows(leaf), uniform, leaks if leaky else None))
        treedef = jax.tree.structure(step.updates)
        return jax.tree.unflatten(treedef, out), GradDropState(key)

    method = _direct.Method("graddrop", "sum", init, apply, weighs=False)
    return _direct.from_method(num_objectives, method, **options)


def _spec(specs: dict[str, PartitionSpec] | None, name: str) -> PartitionSpec | None:
    if specs is None:
        return None
    if name not in specs:
        raise ValueError(
            f"param_specs has no leaf '{name}'; it has {list(specs)[:5]}. It must be a "
            "tree like params."
        )
    return specs[name]


def _drop(
    rows: list[jax.Array], uniform: jax.Array, leaks: jax.Array | None
) -> jax.Array:
    """K gradients and uniform numbers, all ``(*shape)``, to the update ``(*shape)``."""
    # P > U is put without its division: XLA then makes one pass of it on CPU.
    positive = [jnp.maximum(row, 0) for row in rows]
    negative = [jnp.minimum(row, 0) for row in rows]
    up, down = _arithmetic.total(positive), _arithmetic.total(negative)
    # The second says the same, where a product of tiny numbers is rounded to them.
    chosen = (up > uniform * (up - down)) | (down == 0)
    if leaks is not None:
        up = up + _arithmetic.weighted(negative, leaks)
        down = down + _arithmetic.weighted(positive, leaks)
    return jnp.where(chosen, up, down)
