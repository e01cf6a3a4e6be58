"""The feature-level coordinator: identity forward, an edited gradient backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import (
    NONNEGATIVE,
    check_choice,
    check_number,
    check_position,
    concrete,
)
from eagc_jax._states import check_kind
from eagc_jax.features.alignment import (
    MODES,
    Mode,
    attraction,
    check_features,
    distance_to_reference,
    rows_of,
)
from eagc_jax.features.backward import Plan, edit, through
from eagc_jax.features.conceptors import energy_ratio
from eagc_jax.features.quartiles import quartiles

# Of the labeled reference. Fixed in the released code, and not named in the paper.
_REFERENCE_DECAY = 0.95
# On a ratio of energies, which has no unit; part of the released equations.
_REFERENCE_EPS = 1e-6


class CoordinatorState(NamedTuple):
    """What the coordinator carries from step to step."""

    conceptor: jax.Array  # shape=(D, D), float32: the labeled features' subspace.
    labeled_reference: jax.Array  # shape=(), float32: mu, labeled rows' mean energy.
    step: jax.Array  # shape=(), int32: batches coordinated.
    center: jax.Array  # shape=(D,), float32: subtracted before energies; zeros for raw.


class CoordinatorInfo(NamedTuple):
    """What one step decided, for logging. N rows."""

    energies: jax.Array  # shape=(N,), float32 in [0, 1], labeled rows too.
    projection_weights: jax.Array  # shape=(N,), float32: w; 0 on labeled rows.
    quantiles: jax.Array  # shape=(5,), float32: minimum, quartiles, maximum of w over
    # the unlabeled rows; 0 where there is none.
    labeled_reference: jax.Array  # shape=(), float32: mu as used in this step.
    removed_share: jax.Array | None = (
        None  # shape=(), float32: norm of what EEP removed
    )
    # over that of the gradient. None from ``coordinate``: see its ``probe``.
    added_share: jax.Array | None = (
        None  # shape=(), float32: the same of what AGA added.
    )


def init_coordinator(
    conceptor: jax.Array,
    labeled_energy: jax.typing.ArrayLike,
    *,
    center: jax.Array | None = None,
) -> CoordinatorState:
    """The state before the first step.

    Args:
      conceptor: C, ``(D, D)``, from :func:`conceptor` of labeled reference features.
      labeled_energy: energies of the same features, any shape, at least one: mu starts
        at their mean. (:func:`energy_ratio` of the pool, or its mean.)
      center: ``(D,)``, what the conceptor's features were centred by; None for raw.

    Returns:
      A ``CoordinatorState``: float32 but for the step.

    Raises:
      ValueError: a conceptor that isn't square, no energies, or a center of another
        length.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.features import conceptor, energy_ratio, init_coordinator
      >>> pool = jnp.array([[1.0, 0.0], [0.0, 0.5]])
      >>> c = conceptor(pool)
      >>> state = init_coordinator(c, energy_ratio(pool, c))
      >>> round(float(state.labeled_reference), 3)
      0.5
    """
    shape = np.shape(conceptor)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"conceptor must be (D, D), got {shape}.")
    if not np.size(labeled_energy):
        raise ValueError("labeled_energy must hold at least one energy, got none.")
    if center is not None and np.shape(center) != shape[:1]:
        raise ValueError(
            f"center must have shape {shape[:1]} for a conceptor {shape}; got "
            f"{np.shape(center)}."
        )
    mu = jnp.mean(jnp.asarray(labeled_energy).astype(jnp.float32))
    return CoordinatorState(
        conceptor=jnp.asarray(conceptor).astype(jnp.float32),
        labeled_reference=mu,
        step=jnp.zeros((), jnp.int32),
        center=jnp.zeros(shape[:1], jnp.float32)
        if center is None
        else jnp.asarray(center).astype(jnp.float32),
    )


def coordinate(
    features: jax.Array,
    reference_features: jax.Array | None,
    labeled_mask: jax.Array,
    state: CoordinatorState,
    *,
    aga_weight: jax.typing.ArrayLike = 0.7,
    eep_weight: jax.typing.ArrayLike = 0.5,
    mode: Mode = "released",
    max_projection: jax.typing.ArrayLike | None = 1.0,
    normalize: bool = False,
    probe: jax.Array | None = None,
) -> tuple[jax.Array, CoordinatorState, CoordinatorInfo]:
    r"""Lets features through, and edits the gradient that comes back.

    With energies :math:`e_i = e(z_i)` (:func:`energy_ratio`), the gradient
    :math:`g_i` of the total loss at :math:`z_i`:

    .. math::

      \mu &\leftarrow 0.95\,\mu + 0.05\,\mathrm{mean}_{labeled}\, e_i
        \quad\text{(kept where no row is labeled)} \\
      w_i &= \min(\lambda_p\,\mathrm{clip}(1 - e_i / (\mu + 10^{-6}), 0, 1),\ w_{max})
        \quad\text{(unlabeled; 0 if labeled)} \\
      \text{EEP: } g_i &\leftarrow g_i - w_i C g_i \\
      \text{AGA: } g_i &\leftarrow g_i + \lambda_a / (N_l D)\,(z_i - \hat z_i)
        \quad\text{(labeled)}

    An unlabeled feature outside the labeled features' subspace (of a novel class,
    supposedly) no longer moves inside it; labeled ones stay near the reference model's.
    Only what flows into the backbone changes, never a head's gradient.

    It composes with ``eagc()`` and every aggregator: these act on the parameters'
    gradients, this at the feature. But AGA is a constant, not linear in g, and is added
    once **per backward pass**: where K objectives are pulled back one by one
    (``eagc_jax.value_and_grads``) it would be added K times. Use ``aga_weight=0`` and
    :func:`alignment_loss` there, or :func:`coordinate_gradients`. The same under loss
    scaling, with which EEP scales by itself.

    Args:
      features: z, ``(N, D)``, any float dtype.
      reference_features: the reference model's features of the same images, ``(N, D)``;
        None where ``aga_weight`` is 0. No gradient flows to them or to the state.
      labeled_mask: ``(N,)`` bool, or ``(N/2,)`` for two views one after the other.
      state: from :func:`init_coordinator`.
      aga_weight: lambda_a >= 0.
      eep_weight: lambda_p >= 0. Published: 0.5; 3.0 with SimGCD on Cars and Aircraft.
      mode: "released", as above; "paper", AGA :math:`\lambda_a (z_i - \hat z_i)`, that
        is :math:`N_l D` times stronger; "unsupervised_only", where EEP leaves the
        supervised loss's gradient alone: see Returns.
      max_projection: :math:`w_{max}`. Above 1 the gradient inside the subspace changes
        its sign: descent becomes ascent. None for no cap, as released, which with
        ``eep_weight=3`` does so.
      normalize: whether rows have length 1 before the state's center is subtracted, for
        the energies; as for the conceptor.
      probe: None, or ``jnp.zeros(2)``: its gradient is (norm of what EEP removed, norm
        of what AGA added) over the gradient's norm, which is only known in the backward
        pass.

    Returns:
      (features, new state, ``CoordinatorInfo``). Features are the same numbers; in the
      mode "unsupervised_only" two copies ``(2, N, D)``: index 0 for the supervised
      loss, 1 for the unsupervised one.

    Raises:
      ValueError: shapes that don't fit together, weights out of range, an unknown mode.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.features import coordinate, init_coordinator
      >>> state = init_coordinator(jnp.diag(jnp.array([1.0, 0.0])), 1.0)
      >>> z = jnp.array([[0.0, 2.0], [2.0, 0.0]])  # outside the subspace, and inside
      >>> unlabeled = jnp.zeros(2, bool)
      >>> def loss(z):
      ...   z, _, _ = coordinate(z, z, unlabeled, state)
      ...   return jnp.sum(z)
      >>> jax.jit(jax.grad(loss))(z).round(3).tolist()
      [[0.5, 1.0], [1.0, 1.0]]

    References:
      EAGC, CVPR 2026, arXiv 2604.14176; the equations as in the authors' code.
    """
    _check(features, reference_features, state, aga_weight, eep_weight, max_projection)
    check_choice("mode", mode, MODES)
    options = (aga_weight, eep_weight, mode, max_projection, normalize)
    plan, state, info = jax.lax.stop_gradient(
        _decide(features, reference_features, labeled_mask, state, options)
    )
    probe = jnp.zeros((2,), jnp.float32) if probe is None else jnp.asarray(probe)
    if probe.shape != (2,) or not jnp.issubdtype(probe.dtype, jnp.floating):
        raise ValueError(f"probe must be jnp.zeros(2), got {jax.typeof(probe)}.")
    features = jnp.asarray(features)
    return through(mode == "unsupervised_only", features, probe, plan), state, info


def coordinate_gradients(
    gradients: jax.Array,
    features: jax.Array,
    reference_features: jax.Array | None,
    labeled_mask: jax.Array,
    state: CoordinatorState,
    *,
    aga_weight: jax.typing.ArrayLike = 0.7,
    eep_weight: jax.typing.ArrayLike = 0.5,
    mode: Mode = "released",
    max_projection: jax.typing.ArrayLike | None = 1.0,
    normalize: bool = False,
    supervised: int = 0,
    unsupervised: int | Sequence[int] = 1,
) -> tuple[jax.Array, CoordinatorState, CoordinatorInfo]:
    r"""Edits gradients at the features that are already at hand.

    What :func:`coordinate` does in a backward pass, for one gradient or for K. EEP is
    linear: it is applied to each objective's gradient; AGA is added to the supervised
    one, once. So the sum over the objectives is what :func:`coordinate` gives for the
    sum of the losses, and each can be pulled back into the backbone by itself, for
    ``eagc()`` or any aggregator.

    Args:
      gradients: at the features, ``(N, D)`` of the total loss, or ``(K, N, D)`` per
        objective; any float dtype.
      features: as in :func:`coordinate`.
      reference_features: as in :func:`coordinate`.
      labeled_mask: as in :func:`coordinate`.
      state: as in :func:`coordinate`.
      aga_weight: as in :func:`coordinate`.
      eep_weight: as in :func:`coordinate`.
      mode: as in :func:`coordinate`; "unsupervised_only" takes gradients per objective.
      max_projection: as in :func:`coordinate`.
      normalize: as in :func:`coordinate`.
      supervised: the objective that AGA is added to.
      unsupervised: the objective, or objectives, whose gradient EEP projects in the mode
        "unsupervised_only"; in the other modes it projects all.

    Returns:
      (gradients as they came in shape and dtype, new state, ``CoordinatorInfo`` with
      the two shares, of the sum over objectives).

    Raises:
      ValueError: as in :func:`coordinate`; gradients of another shape, or an objective
        that isn't there.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.features import coordinate_gradients, init_coordinator
      >>> state = init_coordinator(jnp.diag(jnp.array([1.0, 0.0])), 1.0)
      >>> z = jnp.array([[0.0, 2.0], [2.0, 0.0]])
      >>> g = jnp.ones((2, 2, 2))  # two objectives
      >>> g, state, info = coordinate_gradients(
      ...   g, z, z, jnp.array([False, True]), state, mode="unsupervised_only")
      >>> g[0].tolist(), g[1].round(3).tolist()
      ([[1.0, 1.0], [1.0, 1.0]], [[0.5, 1.0], [1.0, 1.0]])

    References:
      EAGC, CVPR 2026, arXiv 2604.14176; the equations as in the authors' code.
    """
    _check(features, reference_features, state, aga_weight, eep_weight, max_projection)
    check_choice("mode", mode, MODES)
    gradients = jnp.asarray(gradients)
    shape = np.shape(features)
    per_objective = gradients.ndim == 3
    if gradients.shape[-2:] != shape or gradients.ndim not in (2, 3):
        raise ValueError(
            f"gradients must be (N, D) as the features, {shape}, or per objective, "
            f"(K, N, D); got {gradients.shape}."
        )
    if mode == "unsupervised_only" and not per_objective:
        raise ValueError(
            "mode 'unsupervised_only' needs the gradients per objective, (K, N, D); got "
            f"{gradients.shape}. Differentiate each loss at the features."
        )
    number = gradients.shape[0] if per_objective else 1
    if not per_objective:
        supervised = 0
    supervised = check_position("supervised", supervised, number)
    projected = tuple(range(number))
    if mode == "unsupervised_only":
        single = isinstance(unsupervised, int | np.integer)
        which = (unsupervised,) if single else tuple(unsupervised)
        projected = tuple(
            sorted({check_position("unsupervised", k, number) for k in which})
        )
    options = (aga_weight, eep_weight, mode, max_projection, normalize)
    plan, state, info = jax.lax.stop_gradient(
        _decide(features, reference_features, labeled_mask, state, options)
    )
    stacked = gradients if per_objective else gradients[None]
    edited, shares = edit(stacked, plan, projected, supervised)
    edited = (edited if per_objective else edited[0]).astype(gradients.dtype)
    return edited, state, info._replace(removed_share=shares[0], added_share=shares[1])


# ---------------------------------------------------------------------------
# Forward: the decisions of one step
# ---------------------------------------------------------------------------


# aga_weight, eep_weight, mode, max_projection, normalize
_Options = tuple[
    jax.typing.ArrayLike, jax.typing.ArrayLike, Mode, jax.typing.ArrayLike | None, bool
]


def _decide(
    features: jax.Array,
    reference_features: jax.Array | None,
    labeled_mask: jax.Array,
    state: CoordinatorState,
    options: _Options,
) -> tuple[Plan, CoordinatorState, CoordinatorInfo]:
    aga_weight, eep_weight, mode, max_projection, normalize = options
    features, state = jax.lax.stop_gradient((jnp.asarray(features), state))
    labeled = rows_of(labeled_mask, np.shape(features)[0])
    energies = energy_ratio(
        features, state.conceptor, normalize=normalize, center=state.center
    )
    mu = _updated_reference(state.labeled_reference, energies, labeled)
    outside = jnp.clip(1 - energies / (mu + _REFERENCE_EPS), 0.0, 1.0)
    weights = jnp.where(labeled, 0.0, jnp.asarray(eep_weight, jnp.float32) * outside)
    if max_projection is not None:
        weights = jnp.minimum(weights, jnp.asarray(max_projection, jnp.float32))
    if reference_features is None:
        added = jnp.zeros(np.shape(features), jnp.float32)
    else:
        factor = attraction(labeled, np.shape(features)[1], aga_weight, mode)
        added = factor * distance_to_reference(features, reference_features, labeled)
    new_state = state._replace(
        labeled_reference=mu, step=optax.safe_increment(state.step)
    )
    info = CoordinatorInfo(energies, weights, quartiles(weights, ~labeled), mu)
    return Plan(state.conceptor, weights, added), new_state, info


def _updated_reference(
    mu: jax.Array, energies: jax.Array, labeled: jax.Array
) -> jax.Array:
    """After this batch; as before without a labeled row, or with one that is NaN."""
    number = jnp.sum(labeled, dtype=jnp.int32)
    total = jnp.sum(jnp.where(labeled, energies, 0.0))
    mean = total / jnp.maximum(number, 1).astype(jnp.float32)
    moved = _REFERENCE_DECAY * mu + (1 - _REFERENCE_DECAY) * mean
    return jnp.where((number > 0) & jnp.isfinite(mean), moved, mu)


# ---------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------


def _check(
    features: jax.Array,
    reference_features: jax.Array | None,
    state: CoordinatorState,
    aga_weight: jax.typing.ArrayLike,
    eep_weight: jax.typing.ArrayLike,
    max_projection: jax.typing.ArrayLike | None,
) -> None:
    check_features(features, reference_features)
    check_kind(state, CoordinatorState)
    dim = np.shape(features)[1]
    if np.shape(state.conceptor) != (dim, dim):
        raise ValueError(
            f"features have {dim} channels, the state's conceptor has shape "
            f"{np.shape(state.conceptor)}: make both from the same layer."
        )
    check_number("aga_weight", aga_weight, NONNEGATIVE)
    check_number("eep_weight", eep_weight, NONNEGATIVE)
    check_number("max_projection", max_projection, NONNEGATIVE)
    if reference_features is None and concrete(aga_weight) != 0:
        raise ValueError(
            "reference_features are needed for aga_weight != 0; got None. To do "
            "without them pass aga_weight=0, as a number that jit doesn't trace."
        )
