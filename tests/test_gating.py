"""The gate against the float64 oracle, and every property its definition promises."""

import functools
import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import assess_energy, eagc, soft_gate, sum_objectives
from tests.oracles import SHAPES, Oracle, gradient_stream, parameters, remembered

GRANULARITIES = ("global", "tensor", "channel", "element")
STEPS = 6
MIXTURE = (("magnitude", 1.0), ("progress", 0.7), ("exploratory", 0.4))
MIXTURE += (("sensitivity", 0.5), ("fisher", 0.3))

# Numbers of the gate are traced, so that one compilation serves every combination.
DEFAULTS = {
    "temperature": 1.0,
    "floor": 0.2,
    "smoothing": 0.9,
    "hysteresis": 0.0,
    "slew": np.inf,
    "warmup_steps": 0.0,
}
COMBINATIONS = {
    "defaults": DEFAULTS,
    "warm-up": DEFAULTS | {"temperature": 0.3, "floor": 0.0, "warmup_steps": 4.0},
    "all": {
        "temperature": 0.5,
        "floor": 0.1,
        "smoothing": 0.7,
        "hysteresis": 0.15,
        "slew": 0.6,
        "warmup_steps": 3.0,
    },
}


def unequal(number):
    return np.linspace(0.5, 2.0, number, dtype=np.float32)


@functools.lru_cache(maxsize=64)  # programs take memory maps, which are limited
def runner(number, energy, granularity, scale, guarded=False, nonfinite="propagate"):
    """jit of: a stream of gradients -> final state, and each step's outcome."""
    energy = energy if isinstance(energy, str) else dict(energy)

    def run(grads, params, options, weights, guard):
        tx = eagc(
            number,
            preset="article",
            energy=energy,
            granularity=granularity,
            scale=scale,
            weights=weights,
            descent_guard=guard if guarded else None,
            nonfinite=nonfinite,
            **options,
        )

        def body(state, g):
            updates, state = tx.update(g, state, params)
            return state, (updates, shown(state, "gates"), shown(state, "energies"))

        return jax.lax.scan(body, tx.init(params), grads)

    return jax.jit(run)


def shown(state, name):
    return optax.tree.get(state, name)


def run(number, energy, granularity, scale, options, grads, **extra):
    weights = extra.pop("weights", np.ones(number, np.float32))
    guard = extra.pop("guard", None)
    function = runner(number, energy, granularity, scale, guard is not None, **extra)
    guard = 0.0 if guard is None else guard
    return jax.device_get(function(grads, parameters(), options, weights, guard))


# ---------------------------------------------------------------------------
# 1. The oracle
# ---------------------------------------------------------------------------


def check_against_oracle(
    number, energy, granularity, scale, combination, guard, weights
):
    options = COMBINATIONS[combination]
    grads, params = gradient_stream(number, STEPS, seed=number), parameters()
    weights = unequal(number) if weights else np.ones(number, np.float32)
    state, (updates, gates, energies) = run(
        number, energy, granularity, scale, options, grads, weights=weights, guard=guard
    )
    oracle = Oracle(
        SHAPES,
        number,
        energy=energy if isinstance(energy, str) else dict(energy),
        granularity=granularity,
        scale=scale,
        weights=weights,
        descent_guard=guard,
        **options,
    )
    # float32 rounds a sum of squares by about 1e-6 of it, a log energy by as much, a
    # logit by that over the temperature. Fisher energies divide by the square of a sum
    # in which objectives cancel to 1 % or less: there a hundred times that.
    tolerance = 2e-4 if energy in ("fisher", MIXTURE) else 1e-5
    budget = weights.sum()
    for step in range(STEPS):
        g = {name: value[step] for name, value in grads.items()}
        expected = oracle.step(g, params)
        for name, value in expected.energies.items():
            found = energies[name][step]
            if granularity == "element":
                value = value.reshape(number, -1).mean(axis=1)
            np.testing.assert_allclose(found, value, rtol=10 * tolerance, atol=1e-10)
        for name, value in expected.gates.items():
            found = gates[name][step]
            if granularity == "element":
                value = value.reshape(number, -1).mean(axis=1)
            np.testing.assert_allclose(found, value, rtol=0, atol=tolerance * budget)
        for name, value in expected.updates.items():
            found = updates[name][step]
            bound = tolerance * budget * np.abs(g[name]).max(axis=0) + 1e-30
            assert np.all(np.abs(found - value) <= bound), (name, step)
    for field in ("average", "logits", "visits"):
        for name, value in oracle.as_arrays(getattr(oracle, field)).items():
            found = getattr(remembered(state[1], name), field)
            np.testing.assert_allclose(found, value, rtol=0, atol=10 * tolerance)
    assert state[0].count == state[1].count == STEPS
    if state[0].direction:
        for name, value in oracle.direction_arrays().items():
            np.testing.assert_allclose(
                state[0].direction[name], value, rtol=1e-5, atol=1e-5
            )
    if state[0].second_moment:
        for name, value in oracle.second_moment_arrays().items():
            np.testing.assert_allclose(
                state[0].second_moment[name], value, rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize(
    ("number", "energy", "granularity", "scale", "guard"),
    [
        (2, "magnitude", "channel", "objective", None),
        (2, MIXTURE, "tensor", "objective", 0.5),
        (3, MIXTURE, "global", "global", 0.3),
        (3, MIXTURE, "channel", "objective", None),
        (3, "magnitude", "element", "global", 0.3),
    ],
)
def test_equals_the_oracle(number, energy, granularity, scale, guard, combination):
    weights = combination != "defaults"
    check_against_oracle(
        number, energy, granularity, scale, combination, guard, weights
    )


ENERGIES = ("magnitude", "progress", "exploratory", "sensitivity", "fisher", MIXTURE)


@pytest.mark.slow
@pytest.mark.parametrize("guard", [None, 0.4])
@pytest.mark.parametrize("scale", ["objective", "global"])
@pytest.mark.parametrize("energy", ENERGIES, ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_equals_the_oracle_everywhere(number, granularity, energy, scale, guard):
    for combination, weights in itertools.product(COMBINATIONS, (False, True)):
        check_against_oracle(
            number, energy, granularity, scale, combination, guard, weights
        )


@pytest.mark.parametrize(
    "granularity", [pytest.param("channel", marks=pytest.mark.slow), "element"]
)
def test_equals_the_oracle_without_jit_and_with_plain_numbers(granularity):
    # Without smoothing a gate per element keeps nothing: another path.
    options = {"smoothing": 0.0, "slew": None, "warmup_steps": 2, "floor": 0.1}
    options |= {"granularity": granularity, "temperature": 0.5}
    shapes = {"kernel": (2, 3)}
    tx, oracle = eagc(2, preset="article", **options), Oracle(shapes, 2, **options)
    state = tx.init({"kernel": np.zeros((2, 3), np.float32)})
    for g in np.random.default_rng(0).normal(size=(3, 2, 2, 3)).astype(np.float32):
        updates, state = tx.update({"kernel": g}, state)
        expected = oracle.step({"kernel": g}).updates["kernel"]
        bound = 1e-5 * np.abs(g).max(axis=0)
        assert np.all(np.abs(updates["kernel"] - expected) <= bound)


# ---------------------------------------------------------------------------
# 2. Properties
# ---------------------------------------------------------------------------

# A small tree: blocks of every kind, a head that objective 0 alone reaches.
few = hypothesis.settings(
    max_examples=20, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
SMALL = {"head": (2,), "kernel": (2, 3), "vector": (2,)}
finite = st.floats(-8, 8, width=32, allow_subnormal=False)


def small_gradients(number, elements=finite):
    sizes = {name: (number, *shape) for name, shape in SMALL.items()}
    arrays = {n: hnp.arrays(np.float32, s, elements=elements) for n, s in sizes.items()}

    def behead(tree):
        # Below 1e-15 squares leave the range in which float32 is accurate.
        tree = {
            n: np.where(np.abs(v) < 1e-6, np.float32(0), v) for n, v in tree.items()
        }
        tree["head"][1:] = 0.0
        return tree

    return st.fixed_dictionaries(arrays).map(behead)


def random_gradients(number, seed=0):
    rng = np.random.default_rng(seed)
    tree = {
        name: rng.normal(size=(number, *shape)).astype(np.float32)
        * np.exp(rng.normal(size=(number,) + (1,) * len(shape))).astype(np.float32)
        for name, shape in SMALL.items()
    }
    tree["head"][1:] = 0.0
    return tree


@functools.cache
def small_runner(number, granularity, scale, guarded, jit):
    """One step: (reduced updates, gates, each objective's rescaled gradient)."""

    def run(grads, options, weights, guard):
        shared = {"granularity": granularity, "weights": weights}
        tx = optax.chain(
            assess_energy(number, scale=scale, **shared),
            soft_gate(
                number, descent_guard=guard if guarded else None, **shared, **options
            ),
        )
        params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), grads)
        rescaled, state = tx.update(grads, tx.init(params), params)
        reduced, _ = sum_objectives().update(rescaled, optax.EmptyState())
        return reduced, shown(state, "gates"), rescaled

    return jax.jit(run) if jit else run


def gated(grads, granularity, scale, *, weights=None, guard=None, jit=True, **options):
    number = grads["head"].shape[0]
    options = {k: np.float32(v) for k, v in (DEFAULTS | options).items()}
    weights = np.ones(number) if weights is None else weights
    function = small_runner(number, granularity, scale, guard is not None, jit)
    out = function(
        grads, options, np.asarray(weights, np.float32), np.float32(guard or 0.0)
    )
    return jax.tree.map(np.asarray, out)


def expand(weights, ndim):
    return np.asarray(weights).reshape(-1, *[1] * (ndim - 1))


_sum = jax.jit(lambda grads, weights: sum_objectives(weights).update(grads, ())[0])


def plain_sum(grads, weights, jit=True):
    if jit:
        return _sum(grads, np.asarray(weights, np.float32))
    return sum_objectives(weights).update(grads, ())[0]


@pytest.mark.parametrize(
    ("number", "granularity", "jit"),
    [
        *(
            pytest.param(number, name, True, marks=pytest.mark.rounding)
            for number in (2, 5)
            for name in GRANULARITIES
        ),
        pytest.param(3, "channel", False, marks=pytest.mark.slow),
    ],
)
def test_equal_energies_give_exactly_the_plain_weighted_sum(number, granularity, jit):
    rng = np.random.default_rng(number)
    grads = {
        # Signs don't change an energy by one bit.
        name: np.repeat(value, number, axis=0)
        * rng.choice([-1, 1], size=(number, *value.shape[1:])).astype(np.float32)
        for name, value in random_gradients(1).items()
    }
    # Sums of odd weights are rounded; of these powers of two no product is, so that a
    # compiler's choice to fuse a product with a sum can't change the last bit.
    odd, exact = [0.3, 1.7, 1.1, 0.9, 2.3], [0.5, 2.0, 1.0, 4.0, 1.0]
    for weights in (odd, exact):
        weights = np.asarray(weights[:number], np.float32)
        options = {"temperature": 0.01, "floor": 0.1, "weights": weights, "jit": jit}
        found, gates, rescaled = gated(grads, granularity, "objective", **options)
        for name, value in grads.items():
            expected = expand(weights, value.ndim) * value
            np.testing.assert_array_equal(rescaled[name], expected)
        if weights[0] == exact[0] or not jit:
            for name, value in plain_sum(grads, weights, jit).items():
                np.testing.assert_array_equal(found[name], value)
        for value in gates.values():
            # Per element a rounded mean is shown, and that alone is not exact.
            rounding = 1e-6 if granularity == "element" else 0.0
            expected = expand(weights, value.ndim)
            np.testing.assert_allclose(value - expected, 0.0, atol=rounding)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("scale", ["objective", "global"])
def test_plain_sum_at_infinite_temperature_and_at_floor_one(granularity, scale):
    grads, weights = random_gradients(3), np.asarray([0.7, 1.0, 1.9], np.float32)
    for options in ({"temperature": np.inf, "floor": 0.0}, {"floor": 1.0}):
        _, _, rescaled = gated(grads, granularity, scale, weights=weights, **options)
        for name, value in grads.items():
            expected = expand(weights, value.ndim) * value
            np.testing.assert_array_equal(rescaled[name], expected)
    # And the difference really is the gate's: it is not the plain sum otherwise.
    _, _, rescaled = gated(grads, granularity, scale, weights=weights)
    if (granularity, scale) != ("global", "objective"):
        plain = expand(weights, 3) * grads["kernel"]
        assert not np.allclose(rescaled["kernel"], plain, rtol=1e-3)


@pytest.mark.parametrize("scale", ["objective", "global"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@hypothesis.given(
    grads=small_gradients(3),
    floor=st.floats(0, 1, width=32, allow_subnormal=False),  # which XLA flushes to 0
    temperature=st.floats(0.0625, 16, width=32),
    weights=hnp.arrays(np.float32, 3, elements=st.floats(0.0625, 4, width=32)),
)
@few
def test_gates_sum_to_the_budget_and_keep_to_their_bounds(
    granularity, scale, grads, floor, temperature, weights
):
    _, gates, _ = gated(
        grads, granularity, scale, weights=weights, floor=floor, temperature=temperature
    )
    budget = float(weights.sum())
    for value in gates.values():
        w = expand(weights, value.ndim)
        np.testing.assert_allclose(value.sum(axis=0), budget, rtol=2e-6)
        assert np.all(value >= floor * w * (1 - 1e-6))
        assert np.all(value <= (floor * w + (1 - floor) * budget) * (1 + 1e-6))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_winner_takes_all_at_a_tiny_temperature(granularity):
    kernel = np.zeros((3, 2, 3), np.float32)
    kernel[:] = np.asarray([1, 3, 2], np.float32).reshape(3, 1, 1)
    vector = np.asarray([[5.0, 5.0], [5.0, -5.0], [1.0, 1.0]], np.float32)
    grads = {"head": np.zeros((3, 2), np.float32), "kernel": kernel, "vector": vector}
    grads["head"][0] = 100.0
    weights = (1.0, 3.0, 2.0)
    for temperature in (1e-3, 1e-30):
        options = {"temperature": temperature, "floor": 0.0, "weights": weights}
        _, gates, _ = gated(grads, granularity, "global", **options)
        np.testing.assert_array_equal(
            np.unique(gates["kernel"].reshape(3, -1), axis=1), [[0.0], [6.0], [0.0]]
        )
        # A tie is split by the prior: 1 to 3 of the whole budget of 6.
        np.testing.assert_allclose(gates["vector"].ravel(), [1.5, 4.5, 0.0], rtol=1e-6)
        # A head that one objective reaches keeps its weight exactly.
        np.testing.assert_array_equal(gates["head"].ravel(), weights)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_structural_zeros_take_no_part(granularity):
    grads, weights = random_gradients(3), np.asarray([0.7, 1.0, 1.9], np.float32)
    grads["kernel"][2, :, 1] = 0.0
    _, _, out = gated(grads, granularity, "global", weights=weights, temperature=0.3)
    # Multiplied by the number of objectives without the mask: the main trap.
    np.testing.assert_array_equal(out["head"][0], weights[0] * grads["head"][0])
    np.testing.assert_array_equal(out["head"][1:], 0.0)
    if granularity in ("channel", "element"):
        alone = {name: value[:2] for name, value in grads.items()}
        _, _, two = gated(
            alone, granularity, "global", weights=weights[:2], temperature=0.3
        )
        np.testing.assert_allclose(
            out["kernel"][:2, :, 1], two["kernel"][:, :, 1], rtol=1e-5
        )


@pytest.mark.parametrize(
    ("number", "energy", "granularity", "scale", "guard"),
    [  # compiled for the oracle already
        (2, MIXTURE, "tensor", "objective", 0.5),
        (2, "magnitude", "channel", "objective", None),
        (3, MIXTURE, "global", "global", 0.3),
        (3, "magnitude", "element", "global", 0.3),
    ],
)
def test_homogeneous_of_degree_one(number, energy, granularity, scale, guard):
    grads = gradient_stream(number, STEPS)

    def at(factor):
        scaled = {name: np.float32(factor) * value for name, value in grads.items()}
        options = COMBINATIONS["all"]
        out = run(number, energy, granularity, scale, options, scaled, guard=guard)
        return out[1]

    expected, expected_gates, _ = at(1.0)
    # Fisher energies lose digits where objectives cancel; the others don't.
    tolerance = 2e-4 if energy == MIXTURE else 1e-5
    for factor in (1e-15, 1e-6, 1e6, 1e15):
        found, gates, _ = at(factor)
        for name, value in expected_gates.items():
            np.testing.assert_allclose(gates[name], value, atol=tolerance)
        for name, value in expected.items():
            bound = number * tolerance * np.abs(grads[name]).max(axis=1)
            assert np.all(np.abs(found[name] / factor - value) <= bound), name


@pytest.mark.parametrize("granularity", GRANULARITIES)
@hypothesis.given(
    grads=small_gradients(3),
    exponents=st.tuples(*[st.floats(-6, 6)] * 3),
)
@few
def test_rescaling_a_loss_changes_no_gate_in_objective_scale(
    granularity, grads, exponents
):
    factors = np.asarray([10.0**e for e in exponents], np.float32)
    _, expected, _ = gated(grads, granularity, "objective", temperature=0.5)
    scaled = {
        name: value * expand(factors, value.ndim) for name, value in grads.items()
    }
    _, found, _ = gated(scaled, granularity, "objective", temperature=0.5)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=3e-5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("scale", ["objective", "global"])
def test_permutation_equivariant(granularity, scale):
    grads, weights = random_gradients(3), np.asarray([0.7, 1.0, 1.9], np.float32)
    _, _, expected = gated(grads, granularity, scale, weights=weights, temperature=0.3)
    for order in itertools.permutations(range(3)):
        order = list(order)
        permuted = {name: value[order] for name, value in grads.items()}
        _, _, found = gated(
            permuted, granularity, scale, weights=weights[order], temperature=0.3
        )
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value[order], rtol=1e-5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_one_objective_is_the_identity(granularity):
    grads = random_gradients(1)
    for weight in (1.0, 0.3):
        _, _, out = gated(grads, granularity, "global", weights=[weight], floor=0.0)
        for name, value in grads.items():
            np.testing.assert_array_equal(out[name], np.float32(weight) * value)


def test_one_global_block_in_objective_scale_is_the_plain_sum():
    grads, weights = random_gradients(3), (0.7, 1.0, 1.9)
    _, gates, rescaled = gated(
        grads, "global", "objective", weights=weights, temperature=0.01, floor=0.0
    )
    weights = np.asarray(weights, np.float32)
    np.testing.assert_array_equal(gates["global"], weights)
    for name, value in grads.items():
        expected = expand(weights, value.ndim) * value
        np.testing.assert_array_equal(rescaled[name], expected)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@hypothesis.given(
    grads=small_gradients(2),
    temperature=st.floats(0.125, 16, width=32),
    floor=st.floats(0, 1, width=32, allow_subnormal=False),  # which XLA flushes to 0
)
@few
def test_two_equal_objectives_share_by_the_sigmoid_of_the_energy_ratio(
    granularity, grads, temperature, floor
):
    _, gates, _ = gated(
        grads, granularity, "global", temperature=temperature, floor=floor
    )
    axes = {"tensor": (1, 2), "channel": (1,)}[granularity]
    energy = np.mean(grads["kernel"].astype(np.float64) ** 2, axis=axes)
    one, two = np.atleast_2d(energy.T).T
    both = (one > 0) & (two > 0)
    one, two = np.where(both, one, 1.0), np.where(both, two, 1.0)
    # An epsilon of 1e-8 of the mean over shared leaves is added to either energy.
    flat = [grads[name].reshape(2, -1) for name in ("kernel", "vector")]
    shared = [leaf for leaf in flat if np.all(np.any(leaf != 0, axis=1))]
    if shared:
        squares = np.concatenate(shared, axis=1).astype(np.float64) ** 2
        one, two = one + 1e-8 * squares.mean(), two + 1e-8 * squares.mean()
    p = 1 / (1 + np.exp(-np.log(one / two) / temperature))
    expected = np.where(both, 2 * (0.5 + (1 - floor) * (p - 0.5)), 1.0)
    found = np.asarray(gates["kernel"])[0].reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def block_products(left, right, granularity):
    """Inner products per block of ``{name: shape}`` trees, one array a leaf."""
    products = {}
    for name, value in left.items():
        product = np.asarray(value, np.float64) * np.asarray(right[name], np.float64)
        axes = {
            "element": (),
            "channel": (0,) if product.ndim == 2 else None,
        }.get(granularity)
        products[name] = product if granularity == "element" else product.sum(axis=axes)
    if granularity == "global":
        products = {"global": sum(np.sum(value) for value in products.values())}
    return products


@pytest.mark.parametrize("granularity", GRANULARITIES)
@hypothesis.given(grads=small_gradients(2), temperature=st.floats(0.0625, 16, width=32))
@few
def test_two_objectives_in_global_scale_always_descend(granularity, grads, temperature):
    options = {"temperature": temperature, "floor": 0.0}
    _, _, out = gated(grads, granularity, "global", **options)
    update = {name: value.sum(axis=0) for name, value in out.items()}
    total = {name: value.sum(axis=0) for name, value in grads.items()}
    first = {name: value[0] for name, value in grads.items()}
    second = {name: value[1] for name, value in grads.items()}
    # a_k n_k^2 is the product of the gated gradient with the gradient.
    gated_first = {name: value[0] for name, value in out.items()}
    gated_second = {name: value[1] for name, value in out.items()}
    pairs = (
        (update, total),
        (first, first),
        (second, second),
        (gated_first, first),
        (gated_second, second),
    )
    products = [block_products(*pair, granularity) for pair in pairs]
    if granularity == "global":
        # The block that is gated: leaves that one objective alone reaches stay as they
        # are, and add what is never negative.
        shared = [n for n, v in grads.items() if v.reshape(2, -1).any(axis=1).all()]
        products = [
            block_products(
                *({n: side[n] for n in shared} for side in pair), granularity
            )
            for pair in pairs
        ]
    for name in products[0]:
        inner, n1, n2, an1, an2 = (np.atleast_1d(p[name]) for p in products)
        n1, n2 = np.sqrt(n1), np.sqrt(n2)
        a1n1 = an1 / np.where(n1 > 0, n1, 1.0)
        a2n2 = an2 / np.where(n2 > 0, n2, 1.0)
        bound = (n1 - n2) * (a1n1 - a2n2)
        slack = 1e-5 * (n1 + n2) ** 2
        assert np.all(bound >= -slack)
        assert np.all(inner >= bound - slack)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@hypothesis.given(
    grads=small_gradients(3), eta=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
)
@few
def test_descent_guard_keeps_its_promise(granularity, grads, eta):
    weights = np.asarray([1.0, 0.5, 2.0], np.float32)
    options = {"temperature": 0.1, "floor": 0.0, "weights": weights}
    found, gates, _ = gated(grads, granularity, "objective", guard=eta, **options)
    plain = {n: np.tensordot(weights, v, axes=(0, 0)) for n, v in grads.items()}
    size = {n: 4 * np.abs(v).sum(axis=0) for n, v in grads.items()}
    inner = block_products(found, plain, granularity)
    square = block_products(plain, plain, granularity)
    slack = block_products(size, size, granularity)
    for name, value in inner.items():
        assert np.all(value >= eta * square[name] - 1e-5 * slack[name])
    for value in gates.values():
        np.testing.assert_allclose(value.sum(axis=0), weights.sum(), rtol=1e-5)
        assert np.all(np.asarray(value) >= -1e-6)


def test_descent_guard_mends_a_case_that_ascends_without_it():
    # In the kernel objective 0 is strong but this is a small part of its gradient;
    # objective 1 is weak and this is all of its gradient: it wins, and ascends.
    grads = {
        "head": np.zeros((2, 2), np.float32),
        "kernel": np.stack([np.full((2, 3), 2.0), np.full((2, 3), -1.0)]),
        "vector": np.asarray([[100.0, 100.0], [0.01, 0.01]]),
    }
    grads = {name: value.astype(np.float32) for name, value in grads.items()}
    options = {"temperature": 0.5, "floor": 0.0}
    without, _, _ = gated(grads, "tensor", "objective", **options)
    np.testing.assert_allclose(without["kernel"], -2.0, rtol=1e-3)  # P is +1
    for eta in (0.1, 0.6, 1.0):
        update, gates, _ = gated(grads, "tensor", "objective", guard=eta, **options)
        np.testing.assert_allclose(update["kernel"], eta, rtol=1e-4)
        assert gates["kernel"].sum() == pytest.approx(2.0)
        # A block that descends enough is left alone, to the bit.
        unguarded, _, _ = gated(grads, "tensor", "objective", **options)
        np.testing.assert_array_equal(update["vector"], unguarded["vector"])


@pytest.mark.parametrize(
    ("energy", "granularity", "scale", "guard"),
    [  # compiled for the oracle already
        (MIXTURE, "global", "global", 0.3),
        (MIXTURE, "channel", "objective", None),
        ("magnitude", "element", "global", 0.3),
    ],
)
def test_an_objective_of_weight_zero_takes_no_part(energy, granularity, scale, guard):
    pair = gradient_stream(2, STEPS)
    # The third reaches everything, the head included, and dwarfs the others.
    third = gradient_stream(1, STEPS, seed=7)
    grads = {
        name: np.concatenate([value, 1e6 * third[name]], axis=1)
        for name, value in pair.items()
    }
    options, weights = COMBINATIONS["all"], np.asarray([0.5, 2.0, 0.0], np.float32)
    _, (found, gates, energies) = run(
        3, energy, granularity, scale, options, grads, weights=weights, guard=guard
    )
    oracle = Oracle(
        SHAPES,
        2,
        energy=energy if isinstance(energy, str) else dict(energy),
        granularity=granularity,
        scale=scale,
        weights=weights[:2],
        descent_guard=guard,
        **options,
    )
    for step in range(STEPS):
        g = {name: value[step] for name, value in pair.items()}
        expected = oracle.step(g, parameters())
        for name, value in expected.updates.items():
            bound = 5e-4 * np.abs(g[name]).max(axis=0)
            assert np.all(np.abs(found[name][step] - value) <= bound), (name, step)
        for name, value in expected.gates.items():
            if granularity == "element":
                value = value.reshape(2, -1).mean(axis=1)
                assert gates[name][step, 2] == 0
            np.testing.assert_allclose(gates[name][step, :2], value, atol=5e-4)
            np.testing.assert_array_equal(energies[name][step, 2], 0.0)


def test_a_leaf_named_as_the_global_block_is_a_leaf():
    def step(names):
        one, two = names
        grads = {
            one: np.asarray([[1.0, 1.0], [2.0, 3.0]], np.float32),
            two: np.asarray([[50.0, 40.0], [0.0, 0.0]], np.float32),
        }
        params = {name: np.zeros(2, np.float32) for name in names}
        tx = eagc(
            2, preset="article", granularity="global", scale="global", warmup_steps=0
        )
        updates, _ = jax.jit(lambda g: tx.update(g, tx.init(params), params))(grads)
        return updates[one], updates[two]

    expected = step(("a", "b"))
    for names in (("global", "other"), ("other", "global")):
        found = step(names)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


# ---------------------------------------------------------------------------
# The gate over time
# ---------------------------------------------------------------------------


@functools.cache
def single_block_runner(number, temperature=None):
    def run(energies, options, weights):
        if temperature is not None:
            options = options | {"temperature": temperature}
        tx = eagc(
            number,
            preset="article",
            scale="global",
            granularity="tensor",
            weights=weights,
            **options,
        )

        def body(state, energy):
            _, state = tx.update(jnp.sqrt(energy)[:, None], state)
            gate = state[1]
            return state, (gate.gates["params"], remembered(gate, "params").logits)

        state, seen = jax.lax.scan(body, tx.init(jnp.zeros(1)), energies)
        return state, jax.tree.map(lambda x: x[..., 0], seen)

    return jax.jit(run)


def single_block(log_ratios, weights=(1.0, 1.0), temperature=None, **options):
    """Gates ``(steps, 2)`` and logits of one block whose log energy ratio is given."""
    ratios = np.asarray(log_ratios, np.float64)
    energies = np.exp(np.stack([ratios / 2, -ratios / 2], axis=1)).astype(np.float32)
    options = {k: np.float32(v) for k, v in (DEFAULTS | options).items()}
    if temperature is not None:
        options.pop("temperature")
    function = single_block_runner(2, temperature)
    state, (gates, logits) = function(
        energies, options, np.asarray(weights, np.float32)
    )
    return state, np.asarray(gates), np.asarray(logits)


def test_smoothing_is_bias_corrected_and_in_the_log_domain():
    ratios = np.asarray([2.0, -1.0, 3.0, 0.5, 0.5])
    _, _, unsmoothed = single_block(ratios, smoothing=0.0)
    np.testing.assert_allclose(unsmoothed[:, 0], ratios / 2, atol=1e-6)
    _, _, smooth = single_block(ratios, smoothing=0.9)
    np.testing.assert_allclose(smooth[0], unsmoothed[0], rtol=1e-6)  # first step
    ages = [0.9 ** np.arange(n, -1, -1) for n in range(5)]
    expected = [a @ ratios[: n + 1] / 2 / a.sum() for n, a in enumerate(ages)]
    np.testing.assert_allclose(smooth[:, 0], expected, atol=2e-6)


def test_temperature_can_be_a_schedule_of_the_step():
    def schedule(count):
        return jnp.where(count < 2, jnp.inf, 1.0 / jnp.maximum(count, 1))

    _, gates, logits = single_block(
        [1.0] * 5, temperature=schedule, smoothing=0.0, floor=0.0
    )
    np.testing.assert_array_equal(gates[:2], 1.0)
    np.testing.assert_allclose(logits[2:, 0], [1.0, 1.5, 2.0], rtol=1e-5)


def test_warm_up_starts_at_the_plain_sum_and_grows_linearly():
    _, gates, _ = single_block([2.0] * 6, warmup_steps=4, floor=0.2)
    p = 1 / (1 + np.exp(-2.0))
    strength = 0.8 * np.asarray([0, 0.25, 0.5, 0.75, 1.0, 1.0])
    np.testing.assert_array_equal(gates[0], 1.0)
    np.testing.assert_allclose(gates[:, 0], 1 + strength * (2 * p - 1), rtol=1e-6)


def test_hysteresis_ignores_what_stays_within_it():
    # Logits are half the log ratio: it moves by 0.1 at most, then for good.
    wobble = 1.0 + 0.2 * np.asarray([0, 1, -1, 1, -1, 0])
    _, gates, logits = single_block(
        [*wobble, 3.0, 2.8, -3.0], smoothing=0.0, hysteresis=0.25
    )
    np.testing.assert_allclose(logits[1:6, 0], 0.35, atol=1e-6)  # 0.6 less the play
    assert np.ptp(gates[1:6, 0]) < 1e-6
    np.testing.assert_allclose(logits[6:, 0], [1.25, 1.25, -1.25], atol=1e-6)


def test_slew_bounds_every_move_and_arrives():
    _, _, logits = single_block([4.0] * 5 + [-4.0] * 10, smoothing=0.0, slew=0.5)
    moves = np.diff(np.concatenate([[0.0], logits[:, 0]]))
    assert np.all(np.abs(moves) <= 0.5 + 1e-6)
    np.testing.assert_allclose(logits[4, 0], 2.0, atol=1e-6)
    way_back = np.maximum(2.0 - 0.5 * np.arange(1, 11), -2.0)
    np.testing.assert_allclose(logits[5:, 0], way_back, atol=1e-5)


def test_switches_count_changes_of_the_leader():
    ratios = [2.0, 2.0, -2.0, -2.0, 2.0, 0.0, 2.0, 1.0, -0.5]
    state, _, _ = single_block(ratios, smoothing=0.0)
    # 0 -> 1, 1 -> 0; a tie and back is none; 0 -> 1. The first leader is none either.
    assert state[1].switches["params"] == 3
    # With smoothing the leader is that of the average; with play it keeps the lead.
    state, _, _ = single_block(ratios, smoothing=0.9)
    assert state[1].switches["params"] < 3
    state, _, _ = single_block(ratios, smoothing=0.0, hysteresis=5.0)
    assert state[1].switches["params"] == 0


def test_weights_are_the_prior_of_the_gate():
    # Logits are relative to the prior mean; gates start from the weights.
    _, gates, logits = single_block([2.0], weights=(3.0, 1.0), floor=0.5)
    np.testing.assert_allclose(logits[0], [0.5, -1.5], atol=1e-6)
    share = 3 * np.e / (3 * np.e + 1 / np.e)
    np.testing.assert_allclose(
        gates[0],
        [4 * (0.75 + 0.5 * (share - 0.75)), 4 * (0.25 + 0.5 * (0.75 - share))],
        rtol=1e-6,
    )


def test_an_absent_objective_keeps_its_average():
    grads = np.full((5, 2, 1), 1.0, np.float32)
    grads[:, 0] = 3.0
    grads[2:4, 1] = 0.0
    tx = eagc(2, preset="article", scale="global", granularity="tensor", warmup_steps=0)

    def body(state, g):
        _, state = tx.update(g, state)
        return state, state[1].gates["params"][:, 0]

    start = tx.init(np.zeros(1, np.float32))
    state, gates = jax.device_get(jax.jit(lambda: jax.lax.scan(body, start, grads))())
    np.testing.assert_array_equal(gates[2], 1.0)
    np.testing.assert_array_equal(gates[3], 1.0)
    assert gates[1][0] > 1.2
    np.testing.assert_array_equal(remembered(state[1], "params").visits[:, 0], [5, 3])


@pytest.mark.slow
def test_works_with_strict_dtype_promotion():
    grads, params = gradient_stream(2, STEPS), parameters()
    with jax.numpy_dtype_promotion("strict"):
        tx = eagc(
            2,
            preset="article",
            energy=dict(MIXTURE),
            slew=0.5,
            hysteresis=0.1,
            descent_guard=0.1,
        )
        state = jax.jit(tx.init)(params)
        g = {name: jnp.asarray(value[0]) for name, value in grads.items()}
        g["vector"] = g["vector"].astype(jnp.bfloat16)
        params["vector"] = jnp.asarray(params["vector"], jnp.bfloat16)
        updates, _ = jax.jit(tx.update)(g, state, params)
    assert all(np.all(np.isfinite(np.float32(u))) for u in updates.values())


def test_an_empty_group_without_energies():
    tx = soft_gate(2)
    found, state = tx.update({}, tx.init({}), {})
    assert found == {}
    assert jax.tree.structure(state) == jax.tree.structure(tx.init({}))
