"""A conceptor that follows the features, instead of one fixed before training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax._checks import concrete
from eagc_jax._states import check_kind
from eagc_jax.features.conceptors import (
    SecondMoment,
    add_features,
    conceptor_from_moment,
    init_moment,
)
from eagc_jax.features.coordinator import CoordinatorState


def refresh_conceptor(
    state: CoordinatorState,
    moment: SecondMoment | jax.Array,
    aperture: jax.typing.ArrayLike = 2.0,
    *,
    every: int = 1,
    normalize: bool = False,
) -> CoordinatorState:
    r"""Replaces the conceptor by that of newer labeled features, every n steps.

    The labeled reference :math:`\mu` is an average of energies under the old conceptor.
    It is carried over to the new one by the energy of the labeled features R in each:

    .. math:: \mu \leftarrow \min(1,\ \mu \cdot
      \mathrm{tr}(R C_{new}) / \mathrm{tr}(R C_{old}))

    so that projection weights don't jump because the scale of energies did; the same
    conceptor again leaves :math:`\mu` as it is. The released code never refreshes.

    Args:
      state: from :func:`coordinate`; its step says whether it is time: a positive
        multiple of ``every``.
      moment: the labeled features: a :class:`SecondMoment` that is fed in the loop
        (with a decay, so that it forgets), or features ``(N, D)``. A moment was fed with
        the center of the state, if that has one.
      aperture: alpha > 0.
      every: n >= 1. With ``jax.lax.cond``: the eigendecomposition, O(D^3), is computed
        in these steps only (under ``jax.vmap`` in all).
      normalize: for features, as in :func:`conceptor`.

    Returns:
      The state; as it was in other steps, and where the moment is empty or not finite.

    Raises:
      ValueError: ``every`` below 1, or shapes that don't fit together.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.features import init_coordinator, refresh_conceptor
      >>> state = init_coordinator(0.5 * jnp.eye(2), 0.4)._replace(step=jnp.int32(10))
      >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0]])  # R = diag(1, 0)
      >>> state = refresh_conceptor(state, z, aperture=2.0, every=10)
      >>> [[round(x, 3) for x in row] for row in state.conceptor.tolist()]
      [[0.8, 0.0], [0.0, 0.0]]
      >>> round(float(state.labeled_reference), 2)  # 0.4 * 0.8 / 0.5
      0.64
    """
    known = concrete(every)
    if known is not None and not known >= 1:
        raise ValueError(f"every must be at least 1, got {every!r}.")
    check_kind(state, CoordinatorState)
    if not isinstance(moment, SecondMoment):
        empty = init_moment(state.conceptor.shape[0])
        moment = add_features(empty, moment, normalize=normalize, center=state.center)
    if moment.total.shape != state.conceptor.shape:
        raise ValueError(
            f"moment is of {moment.total.shape[0]} channels, the conceptor has shape "
            f"{state.conceptor.shape}."
        )
    moment = jax.lax.stop_gradient(moment)
    due = (state.step > 0) & (state.step % every == 0) & (moment.weight > 0)
    due = due & jnp.all(jnp.isfinite(moment.total))

    def refreshed(state: CoordinatorState) -> CoordinatorState:
        new = conceptor_from_moment(moment, aperture)
        before = jnp.sum(moment.total * state.conceptor)  # tr(R C), C symmetric
        after = jnp.sum(moment.total * new)
        ratio = jnp.where(before > 0, after / jnp.where(before > 0, before, 1.0), 1.0)
        mu = jnp.clip(state.labeled_reference * ratio, 0.0, 1.0)
        return state._replace(conceptor=new, labeled_reference=mu)

    return jax.lax.cond(due, refreshed, lambda state: state, state)
