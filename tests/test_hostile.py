"""Hostile gradients: scales, spikes, denormals, NaN, infinities, and what is singular.

Streams of a few steps in a handful of trees, one compiled scan each. What is promised:
with finite gradients nothing else comes out; a step that isn't finite is what the policy
says, and is forgotten; gates share out the whole budget and leave every objective its
floor; what comes out is the gated gradients' sum. And that attacks are forgotten within
the number of steps that ``eagc`` states.
"""

import functools
import inspect
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import ml_dtypes
import numpy as np
import optax
import pytest

from eagc_jax import (
    aggregators,
    assess_energy,
    eagc,
    elastic_projection,
    soft_gate,
    sum_objectives,
    testing,
)

STEPS = 5
EPS = float(np.finfo(np.float32).eps)
FLOOR = 0.2


class Layer(NamedTuple):
    kernel: Any
    bias: Any


TREES = {
    "one": {"scalar": ((), "float32"), "none": None},
    "mixed": {
        "layer": Layer(((3, 2), "float32"), ((2,), "float32")),
        "rest": (
            ((), "float32"),
            None,
            ((0,), "float32"),
            {"half": ((4,), "bfloat16")},
        ),
        "short": ((3,), "float16"),
    },
    "many": {"kernel": ((2, 3), "float32"), "half": ((2, 2), "bfloat16"), "vast": None},
}
TREES["five"] = {"layer": TREES["mixed"]["layer"], "rest": TREES["mixed"]["rest"]}
NUMBERS = {"one": 1, "mixed": 3, "many": 16, "five": 5}
MIXTURE = {"magnitude": 1.0, "progress": 0.7, "exploratory": 0.3, "sensitivity": 0.2}
WEIGHTS = {"mixed": (1.0, 0.5, 2.0)}

# name: tree, options
EAGC = {
    "one": ("one", {}),
    "channel": ("mixed", {"energy": MIXTURE, "nonfinite": "skip_objective"}),
    "tensor": ("mixed", {"granularity": "tensor", "temperature": 0.1, "slew": 2.0}),
    "global": ("mixed", {"granularity": "global", "scale": "global"}),
    "element": ("mixed", {"granularity": "element", "nonfinite": "skip_update"}),
    "fisher": ("mixed", {"energy": "fisher", "nonfinite": "skip_update"}),
    "guarded": ("mixed", {"descent_guard": 0.3, "nonfinite": "skip_objective"}),
    "many": ("many", {"temperature": 0.05, "nonfinite": "skip_objective"}),
}
# A compilation each; the others repeat what these show.
QUICK = ("one", "channel", "global")


# ---------------------------------------------------------------------------
# Streams
# ---------------------------------------------------------------------------


def is_spec(node):
    return type(node) is tuple and len(node) == 2 and isinstance(node[1], str)


def specs_of(tree):
    return jax.tree.leaves(TREES[tree], is_leaf=is_spec)


def build(tree, leaves):
    structure = jax.tree.structure(TREES[tree], is_leaf=is_spec)
    return jax.tree.unflatten(structure, leaves)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def params_of(tree):
    return build(tree, [np.ones(s, dtype_of(d)) for s, d in specs_of(tree)])


def streams(tree):
    """Leaves ``(steps, K, *shape)`` of a tree, and who is finite at each step."""
    drawn = testing.strategies.per_objective_updates(
        NUMBERS[tree], params_of(tree), steps=STEPS
    )
    return drawn.map(
        lambda found: (
            jax.tree.leaves(found),
            testing.strategies.finite_objectives(found, STEPS),
        )
    )


def row(stack, step):
    return jax.tree.map(lambda x: x[step], stack)


def assert_finite(tree, what):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32))), (
            what + jax.tree_util.keystr(path)
        )


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


# ---------------------------------------------------------------------------
# eagc
# ---------------------------------------------------------------------------


@functools.cache
def runner(tx, tree):
    """jit of: a stream of gradients -> updates and states after each step."""
    params = params_of(tree)
    losses = np.ones(NUMBERS[tree], np.float32)

    def run(leaves, mask):
        def body(state, inputs):
            given, present = inputs
            updates, state = tx.update(
                build(tree, given), state, params, value=losses, active_mask=present
            )
            return state, (updates, state)

        return jax.lax.scan(body, tx.init(params), (leaves, mask))[1]

    return jax.jit(run)


def run(tx, tree, leaves, mask=None):
    steps = leaves[0].shape[0]
    mask = np.ones((steps, NUMBERS[tree]), bool) if mask is None else mask
    return jax.tree.map(np.asarray, runner(tx, tree)(leaves, mask))


@functools.cache
def coordinator(name):
    tree, options = EAGC[name]
    options = {"warmup_steps": 0, "weights": WEIGHTS.get(tree), **options}
    return eagc(NUMBERS[tree], preset="article", floor=FLOOR, **options)


def check_policy(policy, tree, updates, states, leaves, finite):
    """What comes out of each step, its structure and dtypes, and a state unharmed."""
    structure = jax.tree.structure(params_of(tree))
    assert jax.tree.structure(updates) == structure
    for leaf, (shape, dtype) in zip(
        jax.tree.leaves(updates), specs_of(tree), strict=True
    ):
        assert leaf.shape[1:] == shape
        assert leaf.dtype == dtype_of(dtype)
    assert_finite(states, "state")
    if hasattr(states, "nonfinite_count") or type(states) is tuple:
        count = optax.tree.get(states, "nonfinite_count")
        np.testing.assert_array_equal(count, np.cumsum(~finite, axis=0))
    for step, whole in enumerate(finite.all(axis=1)):
        outs = [np.asarray(u, np.float32) for u in jax.tree.leaves(row(updates, step))]
        if not whole and policy == "propagate":
            assert all(np.all(np.isnan(out)) for out in outs)
        elif not whole and policy == "skip_update":
            assert all(np.all(out == 0) for out in outs)
        elif not any(dtype == "float16" for _, dtype in specs_of(tree)):
            assert_finite(outs, "update")  # float16 overflows where sums are larger


def check_gates(name, states, weights, floor=FLOOR):
    """They sum to the budget, and none is below its floor."""
    gates = states[1].gates
    for leaf, values in gates.items():
        values = np.asarray(values)
        axis_first = np.moveaxis(values, 1, 0)
        expected = np.sum(weights)
        rounding = 8 * len(weights) * EPS
        total = np.sum(axis_first.astype(np.float64), axis=0)
        np.testing.assert_allclose(total, expected, rtol=rounding, err_msg=leaf)
        lowest = axis_first.reshape(len(weights), -1).min(axis=1)
        assert np.all(lowest >= floor * np.asarray(weights) * (1 - 4 * EPS)), leaf


def check_sums(name, updates, states, leaves, finite):
    """Updates are the gated gradients' sum, in float64 from the gates that are shown."""
    options = EAGC[name][1]
    policy = options.get("nonfinite", "propagate")
    if options.get("granularity") in ("global", "element"):
        return  # shown for all leaves at once, or as a mean
    gates = states[1].gates
    names = list(gates)
    for index, out in enumerate(jax.tree.leaves(updates)):
        for step in range(STEPS):
            if policy != "skip_objective" and not finite[step].all():
                continue
            grads = leaves[index][step].astype(np.float64)
            keep = finite[step].reshape(-1, *(1,) * (grads.ndim - 1))
            gate = np.asarray(gates[names[index]])[step].astype(np.float64)
            terms = np.where(keep, grads, 0.0) * gate
            found = out[step].astype(np.float64)
            eps = float(ml_dtypes.finfo(out.dtype).eps)
            tiny = float(ml_dtypes.finfo(out.dtype).smallest_subnormal)
            top = float(ml_dtypes.finfo(out.dtype).max)
            size = np.sum(np.abs(terms), axis=0)
            # Sums in float32, of gated gradients in the leaf's dtype, rounded to it;
            # below it, and below float32's normal numbers, XLA may give zeros.
            bound = (2 + len(terms)) * EPS * size + 2 * eps * size
            bound = bound + len(terms) * (tiny + float(np.finfo(np.float32).tiny))
            # A gate above 1 may take float16 beyond its range (documented).
            inside = np.all(np.abs(terms) < top * (1 - eps), axis=0)
            inside &= np.abs(terms.sum(0)) < top * (1 - eps)
            assert np.all((np.abs(found - terms.sum(0)) <= bound) | ~inside)


def check_eagc(name, data):
    tree, options = EAGC[name]
    leaves, finite = data.draw(streams(tree))
    updates, states = run(coordinator(name), tree, leaves)
    policy = options.get("nonfinite", "propagate")
    check_policy(policy, tree, updates, states, leaves, finite)
    weights = WEIGHTS.get(tree, (1.0,) * NUMBERS[tree])
    check_gates(name, states, weights)
    check_sums(name, updates, states, leaves, finite)


@pytest.mark.parametrize("name", QUICK)
@hypothesis.given(data=st.data())
def test_eagc(name, data):
    check_eagc(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", EAGC)
@hypothesis.settings(max_examples=500)
@hypothesis.given(data=st.data())
def test_eagc_more(name, data):
    check_eagc(name, data)


# ---------------------------------------------------------------------------
# The stages by themselves, and elastic projection
# ---------------------------------------------------------------------------

STAGES = {
    "assess_energy": optax.chain(assess_energy(5, energy=MIXTURE), sum_objectives()),
    "soft_gate": optax.chain(soft_gate(5, warmup_steps=0), sum_objectives()),
    "elastic_projection": optax.chain(
        elastic_projection(5, eep_weight=1.0), sum_objectives()
    ),
    "elastic_projection_global": optax.chain(
        elastic_projection(5, energy="current", granularity="global"), sum_objectives()
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n == "elastic_projection" else [pytest.mark.slow])
        for n in STAGES
    ],
)
@hypothesis.given(data=st.data())
def test_stages(name, data):
    leaves, finite = data.draw(streams("five"))
    tx = optax.with_extra_args_support(STAGES[name])
    updates, states = run(tx, "five", leaves)
    assert_finite(states, "state")
    for step in np.flatnonzero(finite.all(axis=1)):
        assert_finite(row(updates, step), "update")


# ---------------------------------------------------------------------------
# Aggregators
# ---------------------------------------------------------------------------

NOT_METHODS = {"from_weighting", "accumulate_objectives", "momentum_conflict_free"}
NEED = {"gradnorm": {"layers": "layer/kernel"}}
AGGREGATORS = [
    name
    for name in aggregators.__all__
    if inspect.isfunction(getattr(aggregators, name)) and name not in NOT_METHODS
]


@functools.cache
def aggregator(name, policy):
    return getattr(aggregators, name)(5, nonfinite=policy, **NEED.get(name, {}))


def check_aggregator(name, policy, data):
    leaves, finite = data.draw(streams("five"))
    absent = data.draw(st.lists(st.integers(0, 4), min_size=STEPS, max_size=STEPS))
    mask = np.arange(5) != np.array(absent)[:, None]
    updates, states = run(aggregator(name, policy), "five", leaves, mask)
    # What an absent objective's gradients hold doesn't matter.
    check_policy(policy, "five", updates, states, leaves, finite | ~mask)


@pytest.mark.parametrize("name", ["pcgrad", "trimmed_mean"])
@hypothesis.given(data=st.data())
def test_aggregators(name, data):
    check_aggregator(name, "skip_objective", data)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["propagate", "skip_objective", "skip_update"])
@pytest.mark.parametrize("name", AGGREGATORS)
@hypothesis.settings(max_examples=100)
@hypothesis.given(data=st.data())
def test_aggregators_more(name, policy, data):
    check_aggregator(name, policy, data)
