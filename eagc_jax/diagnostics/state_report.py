"""Reading what was decided out of an optimizer state."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from eagc_jax.aggregators._base import AggregateState
from eagc_jax.aggregators.elastic_cone import ElasticConeState
from eagc_jax.blocks import ByLeaf
from eagc_jax.energy import AssessEnergyState
from eagc_jax.gating import SoftGateState
from eagc_jax.typing import OptState, PyTree


class Report(NamedTuple):
    """What the coordinator saw and did in the last step, objective by layer.

    Plain NumPy arrays; ``print`` shows a table. K objectives, L layers (leaves that are
    assessed together, in name order; one, "global", at that granularity). The state of an
    elastic cone, which is what :func:`eagc_jax.eagc` is by default, is one layer whatever
    its blocks: "global", or "global#2" where that is taken.
    """

    layers: tuple[str, ...]  # L names.
    energies: np.ndarray  # (K, L): geometric mean of the relative energies over the
    # layer's blocks that the objective reaches (the gate compares logarithms); 0 where
    # it reaches none. Of an elastic cone the running norms, over its blocks.
    gates: np.ndarray  # (K, L): mean factor on the objective's gradient.
    switches: np.ndarray  # (L,): changes of the leading objective so far, all blocks.
    leaves: tuple[str, ...]  # names of all leaves, for gradient_rms.
    gradient_rms: np.ndarray  # (K, leaves): root mean square of the gradient.
    nonfinite_count: np.ndarray  # (K,): steps with a NaN or an infinity; of several
    # groups (optax.partition), those of the group that had most; of gates, if any.
    count: int  # steps gated so far.

    def __str__(self) -> str:
        number = self.gates.shape[0]
        width = max([len(name) for name in self.layers] + [5])
        columns = [f"energy[{k}]" for k in range(number)]
        columns += [f"gate[{k}]" for k in range(number)]
        lines = ["  ".join(["layer".ljust(width), *columns, "switches"])]
        for index, name in enumerate(self.layers):
            values = [*self.energies[:, index], *self.gates[:, index]]
            cells = [
                f"{value:.4g}".rjust(len(column))
                for value, column in zip(values, columns, strict=True)
            ]
            cells.append(str(self.switches[index]).rjust(len("switches")))
            lines.append("  ".join([name.ljust(width), *cells]))
        return "\n".join(lines)


def report(opt_state: OptState) -> Report:
    """Energies, gates and switches of the last step, found anywhere in a state.

    Args:
      opt_state: the state of an optimizer with :func:`eagc_jax.eagc` in it: of a chain,
        ``named_chain``, ``partition`` (the groups' layers are put together),
        ``inject_hyperparams``, or an ``nnx.Optimizer``'s ``opt_state``. Call it outside
        of ``jit``; inside, read the state with ``optax.tree.get(opt_state, "gates")``.

    Returns:
      A ``Report`` of NumPy arrays.

    Raises:
      ValueError: no coordinator in the state, traced values, or a batch of states.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import diagnostics, eagc
      >>> params = {"w": jnp.ones(4)}
      >>> grads = {"w": jnp.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])}
      >>> tx = optax.chain(eagc(2, balance=1.0), optax.sgd(0.1))
      >>> _, state = tx.update(grads, tx.init(params), params)
      >>> print(diagnostics.report(state))
      layer   energy[0]  energy[1]  gate[0]  gate[1]  switches
      global          2          4      1.5     0.75         0
      >>> tx = eagc(2, preset="article", granularity="tensor")
      >>> _, state = tx.update(grads, tx.init(params), params)
      >>> print(diagnostics.report(state))
      layer  energy[0]  energy[1]  gate[0]  gate[1]  switches
      w              1          1        1        1         0
    """
    gates = _find(opt_state, SoftGateState)
    assessed = _find(opt_state, AssessEnergyState)
    cones = [
        state
        for state in _find(opt_state, AggregateState)
        if isinstance(state.method, ElasticConeState)
    ]
    if not gates and not cones:
        raise ValueError(
            "opt_state holds no soft_gate and no elastic_cone: pass the state of an "
            "optimizer that has eagc_jax.eagc in its chain."
        )
    switches = _merge([state.switches for state in gates])
    if any(value.ndim for value in switches.values()) or any(
        _array(state.count).ndim for state in cones
    ):
        raise ValueError(
            "opt_state is a batch of states (vmap); report takes one: "
            "jax.tree.map(lambda x: x[i], opt_state)."
        )
    factors = _merge([state.gates for state in gates])
    energies = _merge([state.energies for state in assessed])
    rms = _merge([state.gradient_rms for state in assessed])
    energies = energies if set(factors) <= set(energies) else {}
    for cone in cones:
        name = _free("global", factors)
        switches[name] = np.zeros([], np.int32)
        factors[name] = _array(cone.method.gates).T
        energies[name] = _energies_of(cone.method)
    layers = tuple(sorted(factors))
    number = next(iter(factors.values())).shape[0] if factors else 0
    # Behind a gate, NaN that is propagated is every objective's.
    nonfinite = [_array(state.nonfinite_count) for state in assessed or cones]
    return Report(
        layers=layers,
        energies=_per_layer(energies, layers, number, _geometric_mean),
        gates=_per_layer(factors, layers, number),
        switches=np.array([switches[name] for name in layers], np.int32),
        leaves=tuple(sorted(rms)),
        gradient_rms=_per_layer(rms, tuple(sorted(rms)), number),
        nonfinite_count=np.max(nonfinite, axis=0)
        if nonfinite
        else np.zeros(number, np.int32),
        count=max(int(_array(state.count)) for state in [*gates, *cones]),
    )


def _energies_of(cone: ElasticConeState) -> np.ndarray:
    """``(K, blocks)`` running norms; 0 where no gradient was seen."""
    logs = np.float64(
        _array(cone.log_energies)
    )  # a norm's range is wider than float32's
    return np.where(_array(cone.counts) > 0, np.exp(logs), 0.0).T


def _find(tree: PyTree, kind: type) -> list[PyTree]:
    found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in found if isinstance(node, kind)]


def _merge(groups: list[ByLeaf]) -> dict[str, np.ndarray]:
    """One dict of NumPy arrays; a name that comes twice is numbered."""
    merged: dict[str, np.ndarray] = {}
    for group in groups:
        if not isinstance(group, ByLeaf):  # the stand-in of a tree without leaves
            continue
        # NumPy before leaves are taken out of it: each would be a JAX operation.
        arrays: PyTree = tuple(_array(values) for values in group.groups)
        for name, value in ByLeaf(arrays, group.places).items():
            merged[_free(name, merged)] = np.asarray(value)
    return merged


def _free(name: str, taken: dict[str, np.ndarray]) -> str:
    """The name, numbered where it is taken."""
    key, again = name, 2
    while key in taken:
        key, again = f"{name}#{again}", again + 1
    return key


def _array(value: PyTree) -> np.ndarray:
    # Flax wraps the arrays of an nnx.Optimizer; the core doesn't import Flax.
    value = value.get_value() if hasattr(value, "get_value") else value
    if isinstance(value, Tracer):
        raise ValueError(
            "report reads concrete values: call it outside of jit, or read the state "
            "inside with optax.tree.get(opt_state, 'gates')."
        )
    return np.asarray(value)


def _per_layer(
    values: dict[str, np.ndarray],
    names: tuple[str, ...],
    number: int,
    mean: Callable[[np.ndarray], np.ndarray] = lambda blocks: blocks.mean(axis=1),
) -> np.ndarray:
    """(K, L) means over blocks; NaN where nothing was assessed."""
    table = np.full((number, len(names)), np.nan, np.float32)
    for index, name in enumerate(names):
        if name in values:
            table[:, index] = mean(values[name].reshape(number, -1))
    return table


def _geometric_mean(blocks: np.ndarray) -> np.ndarray:
    """(K,) geometric means of the positive entries of (K, blocks), 0 where none is."""
    positive = blocks > 0
    logs = np.log(np.where(positive, blocks, 1.0)).sum(axis=1)
    number = positive.sum(axis=1)
    return np.where(number > 0, np.exp(logs / np.maximum(number, 1)), 0.0)
