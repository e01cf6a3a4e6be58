"""A zoo: for every property a transformation that breaks it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

# ---------------------------------------------------------------------------
# Aggregators
# ---------------------------------------------------------------------------


def of_rows(function):
    """An aggregator from a function of ``(K, n)`` to ``(n,)``."""

    def update(updates, state, params=None):
        del params
        leaves, structure = jax.tree.flatten(updates)
        found = function(jnp.concatenate([x.reshape(len(x), -1) for x in leaves], 1))
        ends = np.cumsum([x[0].size for x in leaves])[:-1]
        parts = jnp.split(found, ends)
        shaped = [p.reshape(x.shape[1:]) for p, x in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def norms(rows):
    return jnp.linalg.norm(rows, axis=1, keepdims=True)


def total(rows):
    return jnp.sum(rows, axis=0)


def unit(vector):
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-30)


AGGREGATORS = {
    "non_conflicting": total,
    "descends": lambda rows: rows[0],
    "permutation_equivariant": lambda rows: rows[0] + 2 * total(rows),
    "rotation_equivariant": lambda rows: jnp.max(rows, axis=0),
    "scale_invariant": lambda rows: total(rows * norms(rows)) + total(rows),
    "homogeneous": lambda rows: total(rows * norms(rows)),
    "normalized": total,
    "rescaling_invariant": total,
    "linear_under_scaling": lambda rows: jnp.median(rows, axis=0),
    "nonnegative_weights": lambda rows: total(rows) - 2 * rows[-1],
    "weighted_sum": lambda rows: jnp.max(rows, axis=0),
    "follows_agreement": lambda rows: jnp.sign(total(rows)),
    "stationary_at_pareto": lambda rows: unit(total(rows)),
    "moves_unless_stationary": lambda rows: 0 * rows[0],
    "zero_at_zero": lambda rows: total(rows) + 1e-6,
    "sum_for_one_objective": lambda rows: total(rows) / 2,
    "finite_on_hostile_input": lambda rows: total(rows) / jnp.linalg.norm(total(rows)),
    "propagates_nonfinite": lambda rows: jnp.nan_to_num(total(rows)),
}

# ---------------------------------------------------------------------------
# Transformations
# ---------------------------------------------------------------------------


def stateless(function):
    """An ordinary transformation from a function of one leaf."""
    return optax.stateless(lambda updates, params: jax.tree.map(function, updates))


def with_state(init, update):
    return optax.GradientTransformation(init, lambda u, s, p=None: update(u, s, p))


def counted(start, add):
    """Updates unchanged, a counter in the state."""
    return with_state(lambda params: start(), lambda u, s, p: (u, add(s)))


def needs_numbers(updates, state, params):
    scale = 2.0 if float(optax.tree.norm(updates)) > 0 else 1.0
    return jax.tree.map(lambda g: scale * g, updates), state


def on_the_host(g):
    """A callback that doesn't say how it is mapped."""
    return jax.pure_callback(lambda x: np.asarray(x), jax.typeof(g), g)


def forgets_a_leaf(params):
    return {"kind": jnp.zeros((), jax.tree.leaves(params)[0].dtype)}


def fills_none(updates, params):
    def leaf(g):
        return jnp.zeros(()) if g is None else g

    return jax.tree.map(leaf, updates, is_leaf=lambda g: g is None)


def on_one_device(updates, params):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda g: jax.lax.with_sharding_constraint(g, place), updates)


def filled_late(updates, state, params):
    return updates, {"seen": jnp.ones(())}


def kept(updates, state, params):
    return updates, state


TRANSFORMATIONS = {
    "output": stateless(lambda g: g[None]),
    "state": counted(lambda: jnp.asarray(0.0), lambda s: s + jnp.float32(1.0)),
    "jit": with_state(optax.init_empty_state, needs_numbers),
    "vmap": stateless(on_the_host),
    "scan": counted(lambda: jnp.zeros((), jnp.int32), lambda s: s + 0.5),
    "donation": with_state(lambda params: {"start": params}, kept),
    "none_leaves": optax.stateless(fills_none),
    "empty_tree": with_state(forgets_a_leaf, kept),
    "mixed_dtypes": stateless(lambda g: g.astype(jnp.float32)),
    "x64": stateless(lambda g: (g * 1.0).astype(jnp.float32)),
    "strict_dtypes": stateless(lambda g: g * jnp.ones((), jnp.int32)),
    "strict_ranks": stateless(lambda g: g + jnp.zeros(g.shape[-1:], g.dtype)),
    "sharding": optax.stateless(on_one_device),
    "serialization": with_state(lambda params: {}, filled_late),
}
