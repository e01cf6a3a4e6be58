"""A state that isn't this transformation's: refused while tracing, in words.

One row a stateful thing, one column a mistake: a checkpoint of another number of
objectives, of another tree, with other options, of an older version, or restored as bare
dicts.
"""

import collections
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eagc_jax
from eagc_jax import aggregators, features, gradients, scaling
from eagc_jax.blocks import ByLeaf

PARAMS = {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)}
OTHER_TREE = {"kernel": PARAMS["kernel"], "scale": PARAMS["bias"]}
OTHER_SHAPE = {"kernel": np.zeros((3, 5), np.float32), "bias": PARAMS["bias"]}

# name: (factory of K, other options that make another state or None)
PER_OBJECTIVE = {
    "eagc_article": (
        lambda number, **other: eagc_jax.eagc(number, preset="article", **other),
        {"granularity": "tensor"},
    ),
    "assess_energy": (eagc_jax.assess_energy, {"energy": "fisher"}),
    "assess_energy_direction": (
        lambda number, **other: eagc_jax.assess_energy(
            number, **{"energy": "progress", **other}
        ),
        {"direction_decay": None},
    ),
    "soft_gate": (eagc_jax.soft_gate, {"granularity": "element"}),
    "soft_gate_element": (
        lambda number, **other: eagc_jax.soft_gate(
            number, granularity="element", **other
        ),
        {"smoothing": 0.0},
    ),
    "elastic_projection": (eagc_jax.elastic_projection, {"energy": None}),
    "elastic_projection_current": (
        lambda number, **other: eagc_jax.elastic_projection(
            number, **{"energy": "current", **other}
        ),
        {"energy": "running"},
    ),
    "accumulate_objectives": (
        lambda number: aggregators.accumulate_objectives(
            aggregators.mean(number), number, every=2
        ),
        None,
    ),
}
NEED = {"gradnorm": {"layers": "kernel"}}
OF_CLASSES = {"from_weighting", "accumulate_objectives"}
AGGREGATORS = {
    name: (
        lambda number, name=name: getattr(aggregators, name)(
            number, **NEED.get(name, {})
        ),
        None,
    )
    for name in aggregators.__all__
    if inspect.isfunction(getattr(aggregators, name)) and name not in OF_CLASSES
} | {"eagc": (eagc_jax.eagc, {"granularity": "tensor"})}
OF_ONE = {
    "scale_by_adamp": (scaling.scale_by_adamp, None),
    "scale_by_diffgrad": (scaling.scale_by_diffgrad, None),
    "scale_by_stability": (scaling.scale_by_stability, {"granularity": "channel"}),
}
K = 5  # krum needs that many


def made(name, number=K, **other):
    if name in OF_ONE:
        return OF_ONE[name][0](**other)
    return (PER_OBJECTIVE | AGGREGATORS)[name][0](number, **other)


def update(name, state, number=K):
    """Traced only: what is refused is refused before anything runs."""
    tx = optax.with_extra_args_support(made(name, number))
    lead = () if name in {*OF_ONE, "momentum_conflict_free"} else (number,)
    grads = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((*lead, *p.shape), p.dtype), PARAMS
    )
    losses = jax.ShapeDtypeStruct((number,), jnp.float32)
    return jax.eval_shape(
        lambda g, s, v: tx.update(g, s, PARAMS, value=v), grads, state, losses
    )


def without_target(state):
    """What a checkpoint gives that is restored without one: dicts and lists."""
    if hasattr(state, "_asdict"):
        return {n: without_target(value) for n, value in state._asdict().items()}
    if isinstance(state, tuple | list):
        return [without_target(value) for value in state]
    return state


def an_older_versions(state):
    """The same class without its last field."""
    if type(state) is tuple:  # of a chain
        return (an_older_versions(state[0]), *state[1:])
    fields = state._fields[:-1]
    kind = collections.namedtuple(type(state).__name__, fields)
    return kind(*(getattr(state, field) for field in fields))


def refused():
    return pytest.raises(ValueError, match=r"(?s)init")


ROWS = [*PER_OBJECTIVE, *AGGREGATORS, *OF_ONE]


def shapeless(name):
    """Whether its state holds nothing of the parameters' shapes."""
    leaves = jax.tree.leaves(jax.eval_shape(made(name).init, PARAMS))
    return all(np.shape(leaf)[-1:] != (4,) for leaf in leaves)


OF_TREES = [n for n in ROWS if not (n in AGGREGATORS and shapeless(n))]
OF_SHAPES = [n for n in OF_TREES if not shapeless(n)]


# Of aggregators test_modes.py shows it.
@pytest.mark.parametrize("name", [*PER_OBJECTIVE, *OF_ONE])
def test_its_own_state_is_taken(name):
    update(name, jax.eval_shape(made(name).init, PARAMS))


@pytest.mark.parametrize("name", [*PER_OBJECTIVE, *AGGREGATORS])
def test_of_another_number_of_objectives(name):
    state = jax.eval_shape(made(name, K + 1).init, PARAMS)
    with refused():
        update(name, state)


@pytest.mark.parametrize(
    ("name", "params"),
    [*((n, OTHER_TREE) for n in OF_TREES), *((n, OTHER_SHAPE) for n in OF_SHAPES)],
)
def test_of_another_tree(name, params):
    with refused():
        update(name, jax.eval_shape(made(name).init, params))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("spoil", [without_target, an_older_versions])
def test_of_another_version_or_restored_without_a_target(name, spoil):
    state = spoil(jax.eval_shape(made(name).init, PARAMS))
    if name == "eagc_article" and spoil is without_target:
        state = tuple(state)  # optax.chain refuses a list by itself
    with refused():
        update(name, state)


def grouped_as_before(node):
    """Values by leaf as 0.1 kept them: with the axes that a block spans."""
    if not isinstance(node, ByLeaf):
        return node
    groups = list(node.groups)
    for place in node.places:
        if len(place.ones) < len(place.shape):
            *lead, _, _ = groups[place.group].shape
            groups[place.group] = np.zeros((*lead, 1, *place.shape), np.float32)
    places = [place._replace(ones=()) for place in node.places]
    return ByLeaf(tuple(groups), tuple(places))


@pytest.mark.parametrize("name", ["eagc_article", "assess_energy", "soft_gate"])
def test_grouped_as_an_older_version_did(name):
    state = jax.eval_shape(made(name).init, PARAMS)
    state = jax.tree.map(
        grouped_as_before, state, is_leaf=lambda node: isinstance(node, ByLeaf)
    )
    with refused():
        update(name, state)


WITH_OPTIONS = {
    n: other
    for n, (_, other) in {**PER_OBJECTIVE, **AGGREGATORS, **OF_ONE}.items()
    if other
}


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_of_other_options(name):
    state = jax.eval_shape(made(name, **WITH_OPTIONS[name]).init, PARAMS)
    with refused():
        update(name, state)


# --- states that are no transformation's ------------------------------------------------

Z = np.ones((6, 4), np.float32)
MASK = np.arange(6) < 3


def coordinated(state):
    return features.coordinate(Z, Z, MASK, state)


def edited(state):
    return features.coordinate_gradients(Z, Z, Z, MASK, state)


def refreshed(state):
    return features.refresh_conceptor(state, Z)


def stepped(state):
    fn = gradients.stale_weights(
        lambda w: jnp.stack([w, w**2]), lambda gram: gram[0], recompute_every=2
    )
    return fn(jnp.ones(()), state)


def fed(state):
    return features.add_features(state, Z)


COORDINATOR = features.init_coordinator(np.eye(4, dtype=np.float32), 0.5)
FUNCTIONS = {
    "coordinate": (coordinated, COORDINATOR),
    "coordinate_gradients": (edited, COORDINATOR),
    "refresh_conceptor": (refreshed, COORDINATOR),
    "add_features": (fed, features.init_moment(4)),
    "stale_weights": (stepped, gradients.init_stale_weights(2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("spoil", [without_target, an_older_versions])
def test_functions_refuse_it_too(name, spoil):
    function, state = FUNCTIONS[name]
    jax.eval_shape(function, state)
    with refused():
        jax.eval_shape(function, spoil(state))


def test_of_features_of_another_width():
    narrow = features.init_coordinator(np.eye(3, dtype=np.float32), 0.5)
    for function in (coordinated, edited, refreshed):
        with pytest.raises(ValueError, match=r"channels|as the moment is"):
            jax.eval_shape(function, narrow)
    with pytest.raises(ValueError, match="losses"):
        jax.eval_shape(stepped, gradients.init_stale_weights(3))
