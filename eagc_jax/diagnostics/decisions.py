"""What any coordinator decided last, in one shape for all of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.aggregators._base import AggregateState
from eagc_jax.aggregators._direct import DirectState
from eagc_jax.aggregators.momentum_conflict_free import MomentumConflictFreeState
from eagc_jax.blocks import GLOBAL, ByLeaf
from eagc_jax.features.projection import ElasticProjectionState
from eagc_jax.gating import SoftGateState
from eagc_jax.typing import OptState, PyTree

Kind = Literal["gate", "weight", "projection"]
# Of every state that decides something: what it is, and the field that shows it.
_SHOWN: dict[type, tuple[Kind, str]] = {
    SoftGateState: ("gate", "gates"),
    AggregateState: ("weight", "weights"),
    DirectState: ("weight", "weights"),
    MomentumConflictFreeState: ("weight", "weights"),
    ElasticProjectionState: ("projection", "weights"),
}


class Decision(NamedTuple):
    """One number for every objective and layer. K objectives, L layers."""

    # "gate": what the objective's gradient was multiplied by, loss weight included;
    # "weight": the same, as an aggregator chose it; "projection": which share of the
    # conflicting component was taken out of it.
    kind: Kind
    layers: tuple[str, ...]  # L names, in name order; ("global",) for one decision.
    values: jax.Array  # (K, L), float32: means over each layer's blocks.


def decisions(opt_state: OptState) -> tuple[Decision, ...]:
    """What was decided in the last step, found anywhere in an optimizer's state.

    Args:
      opt_state: the state of an optimizer with :func:`eagc_jax.eagc`, an aggregator or
        :func:`eagc_jax.elastic_projection` in it: of a chain, ``named_chain``,
        ``partition`` (the groups' layers are put together), ``inject_hyperparams``,
        ``accumulate_objectives``, or an ``nnx.Optimizer``'s ``opt_state``. Inside of
        ``jit`` as well.

    Returns:
      A :class:`Decision` of each kind, in the order of the chain; none of what decides
      nothing (``sum_objectives``) or nothing that one number an objective could say
      (``graddrop``).

    Raises:
      ValueError: a batch of states (``vmap``).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import aggregators, diagnostics
      >>> tx = optax.chain(aggregators.mean(2), optax.sgd(0.1))
      >>> params = {"w": jnp.ones(3)}
      >>> _, state = tx.update({"w": jnp.ones((2, 3))}, tx.init(params), params)
      >>> (found,) = diagnostics.decisions(state)
      >>> found.kind, found.layers, found.values.tolist()
      ('weight', ('global',), [[0.5], [0.5]])
    """
    kinds = tuple(_SHOWN)
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    found: dict[Kind, dict[str, jax.Array]] = {}
    for state in nodes:
        if isinstance(state, kinds):
            kind, _ = _SHOWN[type(state)]
            for name, value in _by_layer(_shown(state)).items():
                _add(found.setdefault(kind, {}), name, value)
    return tuple(_decision(kind, values) for kind, values in found.items())


def _shown(state: OptState) -> PyTree:
    shown = getattr(state, _SHOWN[type(state)][1])
    if isinstance(state, DirectState) and isinstance(shown, tuple):
        return getattr(state.method, "weights", ())  # some methods keep them themselves
    return shown


def _by_layer(shown: PyTree) -> dict[str, jax.Array]:
    """By layer ``(K, *block)``; of one decision for all, "global"."""
    # Flax wraps the arrays of an nnx.Optimizer; the core doesn't import Flax.
    shown = jax.tree.map(_bare, shown, is_leaf=_is_wrapped)
    by_leaf = isinstance(shown, ByLeaf)
    if not by_leaf and not np.size(shown):
        return {}  # a method without weights, or a tree without leaves
    if (shown.lead if by_leaf else np.ndim(shown)) > 1:
        raise ValueError(
            "opt_state is a batch of states (vmap); decisions takes one: "
            "jax.tree.map(lambda x: x[i], opt_state), or vmap decisions."
        )
    return dict(shown) if by_leaf else {GLOBAL: jnp.asarray(shown)}


def _is_wrapped(node: object) -> bool:
    return hasattr(node, "get_value")


def _bare(node: PyTree) -> PyTree:
    return node.get_value() if _is_wrapped(node) else node


def _add(values: dict[str, jax.Array], name: str, value: jax.Array) -> None:
    """Under its name, or where another group has that, numbered."""
    key, again = name, 2
    while key in values:
        key, again = f"{name}#{again}", again + 1
    values[key] = value


def _decision(kind: Kind, values: dict[str, jax.Array]) -> Decision:
    layers = tuple(sorted(values))
    return Decision(kind, layers, _means([values[name] for name in layers]))


@jax.jit  # one program, not four operations a layer
def _means(values: list[jax.Array]) -> jax.Array:
    """``(K, L)``: means over the blocks of each ``(K, *block)``."""
    means = [jnp.mean(value.reshape(value.shape[0], -1), axis=1) for value in values]
    return jnp.stack(means, axis=1).astype(jnp.float32)
