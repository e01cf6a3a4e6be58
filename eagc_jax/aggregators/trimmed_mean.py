"""Coordinate-wise trimmed mean: no single objective decides an entry."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import check_num_objectives
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.typing import OptState, PyTree

# Up to this many objectives are sorted by a network of minima and maxima, which fuses;
# XLA's sort along the leading axis of a large array is many times slower on CPU.
_NETWORK_LIMIT = 16


@_direct.shows_options
def trimmed_mean(
    num_objectives: int, *, trim: int | None = None, **options: Unpack[DirectOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""The mean of each entry without its b largest and b smallest values.

    Entry by entry, with the values sorted, :math:`g_{(1)}\le\dots\le g_{(K)}`,

    .. math:: d = \frac1{K-2b}\sum_{k=b+1}^{K-b} g_{(k)} .

    b = 0 is the mean, b = (K - 1)/2 the median. With n objectives active, b is at most
    (n - 1)/2. Guarantee (paper): bounded error where at most b of K gradients are
    arbitrary and the others estimate the same thing; made for workers rather than
    objectives, it discards the gradients that only one objective needs. Length: "mean".
    Cost: one pass for who is finite, one with a sort of K values an entry (minima and
    maxima up to K = 16): at least 2K read and 1 written, in copies of the parameters.
    Memory: none.

    Args:
      num_objectives: K, a Python int.
      trim: b >= 0 with 2b < K; None for 1, or 0 where K < 3.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`; gradients are multiplied by the preference
        first.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. State:
      :class:`DirectState`.

    Raises:
      ValueError: bad arguments (at once); complex leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import trimmed_mean
      >>> tx = trimmed_mean(4)
      >>> grads = {"w": jnp.array([[1.0], [2.0], [4.0], [1e6]])}
      >>> tx.update(grads, tx.init({"w": jnp.zeros(1)}))[0]["w"]
      Array([3.], dtype=float32)

    References:
      Yin et al., `Byzantine-Robust Distributed Learning
      <https://arxiv.org/abs/1803.01498>`_, 2018, definition 2.
    """
    number = check_num_objectives(num_objectives)
    trim = int(number >= 3) if trim is None else trim
    if not isinstance(trim, int) or trim < 0 or 2 * trim >= number:
        raise ValueError(
            f"trim must be an int >= 0 with 2 * trim < {number} objectives, got {trim!r}."
        )

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        _direct.check_real(step.updates, "trimmed_mean")
        count = jnp.sum(step.active, dtype=jnp.int32)
        cut = jnp.minimum(trim, jnp.maximum(count - 1, 0) // 2)
        rank = jnp.arange(number, dtype=jnp.int32)
        kept = (rank >= cut) & (rank < count - cut)
        share = 1 / jnp.maximum(count - 2 * cut, 1).astype(jnp.float32)

        def reduce(leaf):
            rows = enumerate(step.rows(leaf))
            # The absent come last.
            ordered = _sorted([jnp.where(step.active[k], x, jnp.inf) for k, x in rows])
            inside = [jnp.where(kept[k], row, 0) for k, row in enumerate(ordered)]
            return _arithmetic.total(inside) * share.astype(inside[0].dtype)

        return jax.tree.map(reduce, step.updates), state

    method = _direct.Method(
        "trimmed_mean", "mean", lambda params: (), apply, weighs=False
    )
    return _direct.from_method(num_objectives, method, **options)


def _sorted(rows: list[jax.Array]) -> list[jax.Array]:
    """The rows' entries in increasing order."""
    number = len(rows)
    if number > _NETWORK_LIMIT:
        return list(jnp.sort(jnp.stack(rows), axis=0))
    rows = list(rows)
    for turn in range(number):  # odd-even transposition
        for k in range(turn % 2, number - 1, 2):
            low, high = rows[k], rows[k + 1]
            rows[k], rows[k + 1] = jnp.minimum(low, high), jnp.maximum(low, high)
    return rows
