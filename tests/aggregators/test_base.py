"""What every aggregator built on a weighting can do: options, masks, blocks, state."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax import aggregators, gram_matrix, weightings
from eagc_jax.aggregators._weighting import Weighting, stateless
from eagc_jax.solvers.nnqp import no_solve

K = 2  # a closed form: little to compile
SHAPES = {"bias": (5,), "kernel": (4, 3), "scale": ()}


def gradients(seed=0, number=K, dtype=np.float32):
    draw = np.random.default_rng(seed).normal
    tree = {n: draw(size=(number, *s)) for n, s in SHAPES.items()}
    # Opposed for the most part, so that projections have something to do.
    for g in tree.values():
        g[1] -= 1.5 * g[0]
    return {n: g.astype(dtype) for n, g in tree.items()}


upgrad = jax.jit(weightings.upgrad)


@jax.jit
def upgrad_of(updates):
    return weightings.upgrad(gram_matrix(updates))


@jax.jit
def dualproj_of(updates):
    return weightings.dualproj(gram_matrix(updates))


def params(dtype=np.float32):
    return {name: np.zeros(shape, dtype) for name, shape in SHAPES.items()}


def combine(updates, weights):
    return {n: np.tensordot(weights, g, 1) for n, g in updates.items()}


def assert_trees_close(left, right, **tolerances):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), **tolerances
        )


@functools.cache
def make(name, number=K, **options):
    """An aggregator; the same one for the same options, so that it compiles once."""
    return getattr(aggregators, name)(number, **options)


@functools.cache
def compiled(tx):
    return jax.jit(tx.update)


def once(tx, updates, state=None, **extra):
    state = tx.init(params()) if state is None else state
    return compiled(tx)(updates, state, **extra)


def test_it_is_the_weighted_sum_of_the_pure_weighting():
    updates = gradients()
    found, state = once(make("upgrad"), updates)
    weights = upgrad_of(updates)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-6)
    assert_trees_close(found, combine(updates, weights), rtol=1e-5, atol=1e-6)
    assert int(state.count) == 1


@pytest.mark.parametrize("granularity", ["global", "channel"])
def test_what_does_not_look_at_the_gram_matrix_computes_none(granularity):
    tx = make("mean", 3, granularity=granularity, nonfinite="skip_objective")
    updates, state = gradients(number=3), tx.init(params())
    text = str(jax.make_jaxpr(tx.update)(updates, state))
    assert "_entry_by_entry" not in text  # a kernel of the Gram matrix
    kept = {name: leaf[[0, 2]] for name, leaf in updates.items()}
    for value in (np.nan, np.inf, -np.inf):
        bad = {**updates, "kernel": updates["kernel"].copy()}
        bad["kernel"][1, 0, 0] = value
        found, after = once(tx, bad, state)
        assert_trees_close(found, combine(kept, np.ones(2) / 2), rtol=1e-6, atol=1e-7)
        assert after.nonfinite_count.tolist() == [0, 1, 0]
    for options in ({"rescale": "norm_of_mean"}, {"certify": True}):
        tx = make("mean", 3, granularity=granularity, **options)
        text = str(jax.make_jaxpr(tx.update)(updates, tx.init(params())))
        assert "_entry_by_entry" in text  # these need it


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_blocks_are_solved_one_by_one(granularity):
    updates = gradients()
    found, state = once(make("upgrad", granularity=granularity), updates)

    @jax.jit
    def leaf_by_leaf(updates):
        grams = {n: gram_matrix({n: g}, granularity) for n, g in updates.items()}
        return {n: jax.vmap(weightings.upgrad)(gram) for n, gram in grams.items()}

    expected = leaf_by_leaf(updates)
    for name, leaf in updates.items():
        shown = np.asarray(state.weights[name])
        np.testing.assert_allclose(shown.reshape(K, -1), expected[name].T, rtol=1e-5)
        applied = np.sum(leaf * shown, axis=0)
        np.testing.assert_allclose(found[name], applied, rtol=1e-5, atol=1e-6)


def test_leaves_keep_their_dtype():
    dtype = jnp.bfloat16
    updates = gradients(dtype=dtype)
    tx = make("upgrad")
    found, state = compiled(tx)(updates, tx.init(params(dtype)))
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype(dtype)}
    wide = jax.tree.map(lambda x: x.astype(np.float32), updates)
    weights = upgrad_of(wide)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-5)


@pytest.mark.parametrize("exponent", [-50, 50])
def test_direction_at_scales_of_1e_15_and_1e15(exponent):
    tx = make("upgrad")
    plain, _ = once(tx, gradients())
    factor = np.float32(2.0**exponent)
    scaled, _ = once(tx, jax.tree.map(lambda g: g * factor, gradients()))
    scaled = jax.tree.map(lambda g: np.asarray(g) / factor, scaled)
    assert_trees_close(scaled, plain, rtol=1e-6, atol=1e-6)


# -- scale conventions ----------------------------------------------------------------


def norm(tree):
    return np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in tree.values()))


def of_length(name, *lengths, **options):
    """The update with each ``rescale``, in one program, and the gradients' mean."""
    every = {r: make(name, rescale=r, **options) for r in lengths}

    @jax.jit
    def update(grads):
        return {r: tx.update(grads, tx.init(params()))[0] for r, tx in every.items()}

    mean = {n: np.mean(g, axis=0) for n, g in gradients().items()}
    return jax.device_get(update(gradients())), mean


@pytest.mark.parametrize("name", ["mean", "mgda", "upgrad"])
def test_rescale(name):
    found, mean = of_length(name, "native", "sum", "mean", "norm_of_mean")
    native = found["native"]
    for rescale, factor in {"sum": K, "mean": 1}.items():
        expected = {n: g * factor for n, g in native.items()}
        assert_trees_close(found[rescale], expected, rtol=1e-6)
    found = found["norm_of_mean"]
    np.testing.assert_allclose(norm(found), norm(mean), rtol=1e-5)
    cosine = sum(np.vdot(found[n], native[n]) for n in found) / norm(found)
    np.testing.assert_allclose(cosine / norm(native), 1.0, rtol=1e-5)


def test_rescale_of_a_method_without_the_gradients_length():
    found, mean = of_length("mgda", "mean", "sum", normalizer="l2")
    for rescale, factor in {"mean": 1, "sum": K}.items():
        np.testing.assert_allclose(norm(found[rescale]), factor * norm(mean), rtol=1e-5)


def test_an_update_that_cancels_stays_zero_when_rescaled():
    updates = {n: np.stack([g[0], -2 * g[0]]) for n, g in gradients().items()}
    found, _ = once(make("upgrad", rescale="norm_of_mean"), updates)
    assert norm(found) < 1e-5


def test_preference():
    updates = {"w": np.eye(2, dtype=np.float32)}
    tx = make("upgrad", preference=(3.0, 1.0))
    found, _ = compiled(tx)(updates, tx.init({"w": np.zeros(2, np.float32)}))
    np.testing.assert_allclose(found["w"], [0.75, 0.25])


# -- absent and non-finite objectives -------------------------------------------------


def test_an_absent_objective_is_as_if_it_were_not_there():
    updates = gradients(number=3)
    rest = {n: g[[0, 2]] for n, g in updates.items()}
    spoilt = {n: g.copy() for n, g in updates.items()}
    for g in spoilt.values():
        g[1] = np.nan
    mask = np.array([True, False, True])
    found, state = once(make("dualproj", 3), spoilt, active_mask=mask)
    expected, small = once(make("dualproj"), rest)
    assert_trees_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = np.asarray(state.weights)
    np.testing.assert_allclose(weights[mask], small.weights, rtol=1e-5)
    assert weights[1] == 0.0
    np.testing.assert_array_equal(state.nonfinite_count, 0)


def test_no_objective_present_gives_zero():
    mask = np.zeros(K, bool)
    found, state = once(make("upgrad"), gradients(), active_mask=mask)
    assert norm(found) == 0.0
    np.testing.assert_array_equal(state.weights, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("policy", ["propagate", "skip_objective", "skip_update"])
def test_nonfinite_policies(policy, bad):
    updates = gradients()
    updates["bias"][1, 3] = bad
    tx = make("upgrad", nonfinite=policy, weight_smoothing=0.5)
    before = tx.init(params())
    found, after = once(tx, updates, before)
    np.testing.assert_array_equal(after.nonfinite_count, [0, 1])
    same = after._replace(nonfinite_count=before.nonfinite_count)
    if policy == "skip_objective":
        assert int(after.count) == 1
        assert_trees_close(found, {n: g[0] for n, g in updates.items()}, rtol=1e-6)
        return
    assert_trees_close(same, before, rtol=0)
    for leaf in found.values():
        if policy == "propagate":
            assert np.all(np.isnan(leaf))
        else:
            np.testing.assert_array_equal(leaf, 0.0)


# -- averages, stale weights, certificate ----------------------------------------------


@functools.cache
def scanned(tx):
    def step(state, updates):
        found, state = tx.update(updates, state)
        return state, (found, state)

    return jax.jit(lambda *given: jax.lax.scan(step, *given)[1])


def stack(trees):
    return jax.tree.map(lambda *x: np.stack(x), *trees)


def run(tx, sequence):
    """Updates and states of a sequence of gradients, in one scan."""
    return jax.device_get(scanned(tx)(tx.init(params()), stack(sequence)))


SEQUENCE = [gradients(seed) for seed in range(4)]


@jax.jit
def every_gram(sequence):
    return jax.vmap(gram_matrix)(sequence)


def test_weight_smoothing_is_a_bias_corrected_average():
    _, states = run(make("upgrad", weight_smoothing=0.8), SEQUENCE)
    average = np.zeros(K)
    for step, updates in enumerate(SEQUENCE):
        average = 0.8 * average + 0.2 * np.asarray(upgrad_of(updates))
        expected = average / (1 - 0.8 ** (step + 1))
        np.testing.assert_allclose(states.weights[step], expected, rtol=1e-5)


def test_gram_smoothing_is_a_bias_corrected_average():
    _, states = run(make("upgrad", gram_smoothing=0.8), SEQUENCE)
    average = np.zeros((K, K))
    for step, gram in enumerate(np.asarray(every_gram(stack(SEQUENCE)))):
        average = 0.8 * average + 0.2 * gram
        np.testing.assert_allclose(states.weights[step], upgrad(average), rtol=1e-4)


def test_gram_smoothing_at_a_tiny_scale():
    tiny = [{n: g * np.float32(2.0**-80) for n, g in gs.items()} for gs in SEQUENCE]
    tx = make("upgrad", gram_smoothing=0.8)
    np.testing.assert_allclose(
        run(tx, tiny)[1].weights, run(tx, SEQUENCE)[1].weights, rtol=1e-5
    )


def test_weights_are_kept_between_solves():
    found, states = run(make("upgrad", recompute_every=2), SEQUENCE)
    fresh = [upgrad_of(updates) for updates in SEQUENCE]
    for step, updates in enumerate(SEQUENCE):
        weights = fresh[step - step % 2]
        np.testing.assert_allclose(states.weights[step], weights, rtol=1e-5)
        expected = combine(updates, weights)
        at_step = {n: leaf[step] for n, leaf in found.items()}
        assert_trees_close(at_step, expected, rtol=1e-4, atol=1e-5)


def test_certify_projects_what_conflicts_and_leaves_the_rest():
    agreeing = {n: np.abs(g) for n, g in gradients().items()}
    for updates, steps_in in ((gradients(), 1), (agreeing, 0)):
        found, state = once(make("mean", certify=True), updates)
        assert int(state.fallbacks) == steps_in
        expected = combine(updates, dualproj_of(updates))
        assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)


# -- methods with a state, randomness or losses ---------------------------------------


def test_a_method_may_have_a_state_and_a_key():
    def apply(problem, state):
        weights = jax.random.uniform(problem.key, (K,))
        return weights, state + 1, no_solve()

    method = Weighting(
        "dice",
        "convex",
        apply,
        init=lambda number: jnp.zeros([], jnp.int32),
        random=True,
    )
    make = functools.partial(
        aggregators.from_weighting, K, method, granularity="tensor"
    )
    tx = make(seed=1)  # whose update is all of theirs: the key is the state's
    _, state = once(tx, gradients())
    _, again = once(tx, gradients(), state)
    state, again = jax.device_get((state, again))
    np.testing.assert_array_equal(state.method, [1, 1, 1])
    np.testing.assert_array_equal(again.method, [2, 2, 2])
    drawn = state.weights.flat  # another draw in every block, step and seed
    assert len(np.unique(drawn)) == drawn.size
    assert not np.any(np.isclose(drawn, again.weights.flat))
    _, other = once(tx, gradients(), make(seed=2).init(params()))
    assert not np.any(np.isclose(drawn, other.weights.flat))
    _, same = once(tx, gradients(), make(seed=1).init(params()))
    np.testing.assert_array_equal(drawn, same.weights.flat)


def test_losses_reach_the_methods_that_need_them():
    tx = make("mgda", normalizer="loss")
    updates = {"w": np.eye(2, dtype=np.float32)}
    state = tx.init({"w": np.zeros(2, np.float32)})
    found, _ = compiled(tx)(updates, state, value=np.array([2.0, 1.0], np.float32))
    # Rows (1/2, 0) and (0, 1): weights 4/5 and 1/5 of them.
    np.testing.assert_allclose(found["w"], [0.4, 0.2], rtol=1e-5)
    with pytest.raises(ValueError, match="value=losses"):
        tx.update(updates, state)


# -- with the rest of Optax -----------------------------------------------------------


INJECTED = ("num_objectives", "recompute_every", "seed")


def test_in_a_chain_with_injected_hyperparameters_and_under_vmap():
    factory = optax.inject_hyperparams(aggregators.upgrad, static_args=INJECTED)
    tx = optax.chain(factory(K, weight_smoothing=0.5), optax.sgd(0.1))
    state = tx.init(params())
    update = jax.jit(jax.vmap(tx.update, in_axes=(0, None)))
    found, _ = jax.device_get(update(stack(SEQUENCE[:2]), state))
    for index, updates in enumerate(SEQUENCE[:2]):
        expected = combine(updates, -0.1 * np.asarray(upgrad_of(updates)))
        at_index = {n: leaf[index] for n, leaf in found.items()}
        assert_trees_close(at_index, expected, rtol=1e-4, atol=1e-5)


def test_it_is_an_aggregator_for_optax():
    from optax.experimental import aggregating

    tx = aggregating.process(optax.identity(), make("upgrad"), optax.sgd(1.0))
    found, _ = jax.jit(tx.update)(gradients(), tx.init(params()))
    expected, _ = once(make("upgrad"), gradients())
    assert_trees_close(
        found, {n: -np.asarray(g) for n, g in expected.items()}, rtol=1e-6
    )


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("granularity", ["global", "channel"])
def test_sharded_gradients_stay_where_they_are(granularity, axis_type):
    specs = {"kernel": P(None, "model"), "out": P("data", None)}
    shapes = {"kernel": (48, 32), "out": (32, 48)}
    draw = np.random.default_rng(0).normal
    updates = {n: draw(size=(K, *s)).astype(np.float32) for n, s in shapes.items()}
    zeros = jax.tree.map(lambda g: np.zeros_like(g[0]), updates)
    tx = make("upgrad", granularity=granularity)
    expected, _ = compiled(tx)(updates, tx.init(zeros))
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        where = {n: NamedSharding(mesh, spec) for n, spec in specs.items()}
        placed = {
            n: jax.device_put(g, NamedSharding(mesh, P(None, *specs[n])))
            for n, g in updates.items()
        }
        state = tx.init(jax.device_put(zeros, where))
        program = jax.jit(tx.update).lower(placed, state).compile()
        found, after = program(placed, state)
        # lax.scan asks this: a state whose type changes could not be carried.
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        if axis_type == AxisType.Explicit:  # where they are automatic it may split more
            for name, leaf in found.items():
                assert leaf.sharding.is_equivalent_to(where[name], leaf.ndim)
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)
    moves = r"= (.*) (?:all-gather|all-to-all|collective-permute)(?:-start)?\("
    for moved in re.findall(moves, program.as_text()):
        for shape in re.findall(r"\w+\[([\d,]*)\]", moved):
            # Block values: K x K or fewer for each of 32 + 48 channels; a leaf has 1536.
            size = np.prod([int(n) for n in shape.split(",") if n], dtype=int)
            assert size <= K * K * (32 + 48), moved


def test_an_empty_tree_passes():
    tx = make("upgrad")
    found, _ = tx.update({}, tx.init({}))
    assert found == {}


def test_a_problem_names_what_a_method_reads():
    """Losses, a cross-Gram matrix and an index come in fields of their own."""
    seen = []

    def solve(problem):
        seen.append(problem)
        return problem.values

    def reads(extra_args):
        return {"current": extra_args.get("current", 0)}

    tx = aggregators.from_weighting(2, stateless("x", "mean", solve, reads=reads))
    state = tx.init({"w": np.zeros(3, np.float32)})
    update = jax.jit(functools.partial(tx.update, current=1, other="ignored"))
    grads = {"w": np.ones((2, 3), np.float32)}
    _, state = update(grads, state, value=np.array([3.0, 4.0], np.float32))
    (problem,) = seen
    np.testing.assert_array_equal(state.weights, [3, 4])
    assert problem.current == 1
    assert problem.cross_gram is None


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rescale": "max"}, "rescale must be one of"),
        ({"granularity": "element"}, "granularity 'element'"),
        ({"granularity": "row"}, "granularity must be one of"),
        ({"weight_smoothing": 1.0}, "weight_smoothing must lie in"),
        ({"gram_smoothing": -0.1}, "gram_smoothing must lie in"),
        ({"recompute_every": 0}, "recompute_every must be an int"),
        ({"nonfinite": "ignore"}, "nonfinite must be one of"),
        ({"certify": 1}, "certify must be"),
        ({"preference": (1.0,)}, "one entry for each of the 2 objectives"),
        ({"preference": (-1.0, 1.0)}, "preference must be finite"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        aggregators.upgrad(2, **options)


def test_bad_calls_are_named():
    tx = make("upgrad")
    state = tx.init({"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match="objective axis"):
        tx.update({"w": jnp.zeros(3)}, state)
    with pytest.raises(ValueError, match="active_mask"):
        tx.update({"w": jnp.zeros((2, 3))}, state, active_mask=jnp.ones(3, bool))
    with pytest.raises(ValueError, match="normalizer"):
        make("mgda", normalizer="l1")
    with pytest.raises(ValueError, match="solver"):
        make("mgda", solver="cvx")
    with pytest.raises(ValueError, match="convention"):
        aggregators.from_weighting(2, stateless("x", "max", lambda problem: 0))
    blocks = make("upgrad", granularity="tensor")
    state = blocks.init({"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match="different trees"):
        blocks.update({"v": jnp.zeros((2, 3))}, state)
    with pytest.raises(ValueError, match="vmap for a batch"):
        weightings.upgrad(jnp.ones((2, 3, 3)))
