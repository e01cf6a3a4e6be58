"""Ways that give one weighted gradient: against K gradients by jax.jacrev.

Float32 sums in another order: each entry is compared to 1e-5 of the largest of its leaf,
about a hundred roundings.
"""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import value_and_grads, value_and_grads_at_feature
from eagc_jax.gradients import (
    StaleWeightsState,
    init_stale_weights,
    stale_weights,
    tap,
    tapped_grams,
    tapped_two_phase,
    two_phase,
    value_and_grad_from_representation,
    value_and_grad_of_one,
    value_and_gram,
)

DEPTH, WIDTH, NUMBER = 3, 5, 3
X = np.random.default_rng(7).normal(size=(6, WIDTH)).astype(np.float32)


def make_params(dtype=jnp.float32):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.normal(size=shape) / WIDTH**0.5).astype(dtype)

    return {
        "layers": {
            "kernel": normal(DEPTH, WIDTH, WIDTH),
            "bias": normal(DEPTH, WIDTH),
        },
        "tied": normal(WIDTH, WIDTH),
        "head": normal(WIDTH, 2),
    }


def model(params, probe, x, remat=False):
    """A scan over layers between two uses of tied weights, then a head: three losses."""
    tied, head = tap(params["tied"], probe), tap(params["head"], probe)

    def body(h, layer):
        layer = tap(layer, probe)
        return jnp.tanh(h @ layer["kernel"] + layer["bias"]), None

    body = jax.checkpoint(body) if remat else body
    z, _ = jax.lax.scan(body, x @ tied, params["layers"])
    out = (z @ tied.T) @ jnp.concatenate([head, -head], axis=0)[:WIDTH]
    out = out.astype(jnp.float32)
    return {
        "b": 1e3 * jnp.mean(jnp.cos(out)),
        "a": jnp.mean(out**2),
        "c": jnp.mean(z.astype(jnp.float32) ** 4),  # doesn't reach the head
    }


def losses_of(params, x):
    return model(params, None, x)


def equal_norms(gram):
    """Weights that depend on the whole Gram matrix, of either sign."""
    root = jnp.sqrt(jnp.diagonal(gram))
    cosines = gram / root[:, None] / root[None, :]
    return (jnp.sum(cosines, axis=1) - 0.5) / root


def first_row(gram):
    """Cosines with the first objective over the norms of the others: at most 1."""
    root = jnp.sqrt(jnp.diagonal(gram))
    return gram[0] / root / jnp.maximum(root[0], root)


compiled_norms = jax.jit(equal_norms)


@functools.cache
def jacobian_and_losses(losses_fn):
    def vector(params, *args):
        losses = losses_fn(params, *args)
        return jnp.stack(jax.tree.leaves(losses)), losses

    return jax.jit(jax.jacrev(vector, has_aux=True))


def oracle(losses_fn, params, *args):
    """Losses, Gram matrix in float64 and K gradients, by jax.jacrev."""
    jacobian, losses = jacobian_and_losses(losses_fn)(params, *args)
    rows = [np.asarray(j, np.float64) for j in jax.tree.leaves(jacobian)]
    rows = np.concatenate([r.reshape(r.shape[0], -1) for r in rows], axis=1)
    return losses, rows @ rows.T, jacobian


def combined(jacobian, weights):
    return jax.tree.map(
        lambda j: np.tensordot(
            np.asarray(weights, np.float64), np.asarray(j, np.float64), axes=1
        ),
        jacobian,
    )


def assert_near(found, expected, tolerance=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(f) == jnp.shape(e)
        bound = tolerance * np.abs(np.asarray(e, np.float64)).max()
        np.testing.assert_allclose(
            np.asarray(f, np.float64), np.asarray(e, np.float64), rtol=0, atol=bound
        )


def assert_gram_near(found, expected, tolerance=1e-5):
    """Every entry to ``tolerance`` of its two norms' product."""
    root = np.sqrt(np.diagonal(expected))
    scale = np.outer(root, root)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


PARAMS = make_params()
LOSSES, GRAM, JACOBIAN = oracle(losses_of, PARAMS, X)


def assert_is_the_weighted_gradient(out, tolerance=1e-5):
    losses, gradient, weights = out
    assert list(losses) == ["a", "b", "c"]
    assert_near(losses, LOSSES)
    expected = compiled_norms(GRAM.astype(np.float32))
    # Weights of the rounded Gram matrix: as exact as its worst cosine.
    np.testing.assert_allclose(weights, expected, rtol=10 * tolerance)
    assert_near(gradient, combined(JACOBIAN, weights), tolerance)


def raises(*words):
    return pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, words)))


# --- two phases ---------------------------------------------------------------------


@pytest.mark.parametrize("gram", ["columns", "batched"])
def test_two_phase_is_the_weighted_gradient(gram):
    out = jax.jit(two_phase(losses_of, equal_norms, gram=gram))(PARAMS, X)
    assert_is_the_weighted_gradient(out)


@pytest.mark.parametrize("gram", ["columns", "batched"])
def test_the_gram_matrix_is_that_of_the_gradients(gram):
    losses, found = jax.jit(value_and_gram(losses_of, gram=gram))(PARAMS, X)
    assert_near(losses, LOSSES)
    assert found.dtype == jnp.float32
    assert_gram_near(found, GRAM)
    np.testing.assert_array_equal(found, found.T)


def test_two_phase_not_compiled_with_aux_argnums_and_keywords():
    def losses_fn(x, params, *, scale):
        return (params["w"] * x, scale * x**2), {"rows": 5}

    step = two_phase(losses_fn, lambda g: jnp.ones(2), argnums=(1, 0), has_aux=True)
    (losses, aux), (of_params, of_x), weights = step(3.0, {"w": 2.0}, scale=0.5)
    assert [float(x) for x in losses] == [6.0, 4.5]
    assert aux == {"rows": 5}
    assert (float(of_params["w"]), float(of_x)) == (3.0, 5.0)
    assert weights.tolist() == [1.0, 1.0]
    (_, aux), gram = value_and_gram(losses_fn, argnums=(1, 0), has_aux=True)(
        3.0, {"w": 2.0}, scale=0.5
    )
    assert aux == {"rows": 5}
    assert gram.tolist() == [[13.0, 6.0], [6.0, 9.0]]


@pytest.mark.parametrize("gram", ["columns", "batched"])
def test_two_phase_through_a_custom_backward_pass(gram):
    """custom_vjp has no forward mode; its backward pass, here a doubled one, is used."""

    @jax.custom_vjp
    def doubled(x):
        return x

    doubled.defvjp(lambda x: (x, None), lambda _, cotangent: (2 * cotangent,))

    def losses_fn(w):
        return jnp.stack([jnp.sum(doubled(w) ** 2), jnp.sum(w)])

    w = np.float32([1, 2])
    _, found = jax.jit(value_and_gram(losses_fn, gram=gram))(w)
    assert found.tolist() == [[80.0, 12.0], [12.0, 2.0]]


@pytest.mark.parametrize("gram", ["columns", "batched"])
def test_two_phase_with_checkpointed_layers(gram):
    step = two_phase(lambda p, x: model(p, None, x, remat=True), equal_norms, gram=gram)
    assert_is_the_weighted_gradient(jax.jit(step)(PARAMS, X))


@pytest.mark.parametrize("way", ["columns", "batched", "taps"])
def test_low_precision_parameters(way):
    """Gradients in bfloat16; weights of their Gram matrix in float32."""
    params = make_params(jnp.bfloat16)
    x = X.astype(jnp.bfloat16)
    _, gram, jacobian = oracle(losses_of, params, x)
    if way == "taps":
        step = tapped_two_phase(model, first_row)
    else:
        step = two_phase(losses_of, first_row, gram=way)
    _, gradient, weights = jax.jit(step)(params, x)
    assert weights.dtype == jnp.float32
    # Two backward passes that XLA fuses differently round bfloat16 (2^-8) differently,
    # at about ten places one after the other.
    expected = np.asarray(jax.jit(first_row)(gram))
    np.testing.assert_allclose(weights, expected, rtol=0, atol=0.05)
    for leaf, expected in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(params), strict=True
    ):
        assert leaf.dtype == expected.dtype
    assert_near(gradient, combined(jacobian, weights), 0.05)


def test_many_objectives_and_no_objective_axis_in_the_result():
    scales = np.arange(1, 21, dtype=np.float32)

    def losses_fn(w):
        return jnp.sum(jnp.sin(w[None, :] * scales[:, None]), axis=1)

    w = np.float32([0.3, -0.7])
    jacobian = scales[:, None] * np.cos(np.outer(scales, w))
    step = two_phase(losses_fn, lambda g: g[0] / g[0, 0])
    losses, gradient, weights = jax.jit(step)(w)
    assert losses.shape == weights.shape == (20,)
    expected = (jacobian @ jacobian.T)[0] / (jacobian[0] @ jacobian[0])
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(gradient, expected @ jacobian, rtol=1e-4)


# --- taps ---------------------------------------------------------------------------


@pytest.mark.parametrize("remat", [False, True])
def test_taps_give_the_gram_matrix_through_scan_and_checkpoint(remat):
    def losses_fn(params, probe, x):
        return model(params, probe, x, remat)

    losses, found = jax.jit(tapped_grams(losses_fn))(PARAMS, X)
    assert_near(losses, LOSSES)
    assert_gram_near(found, GRAM)
    out = jax.jit(tapped_two_phase(losses_fn, equal_norms))(PARAMS, X)
    assert_is_the_weighted_gradient(out)


def test_taps_give_a_gram_matrix_for_every_layer():
    def losses_fn(params, probe, x):
        probe = probe or {"layers": None, "rest": None}

        def body(h, layer_and_probe):
            layer = tap(*layer_and_probe)
            return jnp.tanh(h @ layer["kernel"] + layer["bias"]), None

        rest = tap({n: params[n] for n in ("tied", "head")}, probe["rest"])
        layers = (params["layers"], probe["layers"])
        z, _ = jax.lax.scan(body, x @ rest["tied"], layers)
        return jnp.mean(z**2), jnp.mean((z @ rest["head"]) ** 3)

    fn = tapped_grams(losses_fn, {"layers": (DEPTH,), "rest": ()})
    _, found = jax.jit(fn)(PARAMS, X)
    assert found["layers"].shape == (DEPTH, 2, 2)
    _, _, jacobian = oracle(lambda p: losses_fn(p, None, X), PARAMS)
    jacobian = jax.tree.map(np.asarray, jacobian)
    for layer in range(DEPTH):
        rows = np.concatenate(
            [
                np.asarray(j[:, layer], np.float64).reshape(2, -1)
                for j in jax.tree.leaves(jacobian["layers"])
            ],
            axis=1,
        )
        assert_gram_near(found["layers"][layer], rows @ rows.T)
    rest = [jacobian["tied"].reshape(2, -1), jacobian["head"].reshape(2, -1)]
    rest = np.concatenate([np.asarray(r, np.float64) for r in rest], axis=1)
    assert_gram_near(found["rest"], rest @ rest.T)


def test_tied_weights_tapped_at_every_use_give_another_matrix():
    """The pitfall that tap's docstring names: it can't be seen, so it is documented."""

    def losses_fn(w, probe, x, once):
        first = tap(w, probe)
        second = first if once else tap(w, probe)
        z = jnp.tanh(x @ first) @ second
        return jnp.mean(z**2), jnp.mean(jnp.cos(z))

    w = PARAMS["tied"]
    gram = oracle(lambda w: losses_fn(w, None, X, True), w)[1]
    for once in (True, False):
        fn = tapped_grams(lambda w, p, x, once=once: losses_fn(w, p, x, once))
        _, found = jax.jit(fn)(w, X)
        error = np.abs(found / gram - 1).max()
        assert error < 1e-4 if once else error > 0.01


def test_taps_keep_other_leaves_and_do_nothing_in_a_plain_backward_pass():
    def loss(w, probe):
        tree = tap({"w": w, "step": 3, "none": None}, probe)
        assert tree["step"] == 3
        assert tree["none"] is None
        return jnp.sum(tree["w"] ** 2)

    by_w, by_probe = jax.grad(loss, argnums=(0, 1))(np.float32([1, 2]), np.zeros(2))
    assert by_w.tolist() == [2.0, 4.0]
    assert by_probe.tolist() == [0.0, 0.0]


def test_taps_around_a_model_that_maps_over_examples_itself():
    """The weights aren't mapped there, so the tap stays outside of the map."""

    def losses_fn(w, probe, x):
        out = jax.vmap(lambda row: jnp.tanh(row @ tap(w, probe)))(x)
        return jnp.mean(out**2), jnp.mean(out**3)

    gram = oracle(lambda w: losses_fn(w, None, X), PARAMS["head"])[1]
    _, found = jax.jit(tapped_grams(losses_fn))(PARAMS["head"], X)
    assert_gram_near(found, gram)


def test_tapped_two_phase_under_vmap_equals_a_loop():
    step = tapped_two_phase(model, equal_norms)
    batch = np.stack([X, X[::-1] * np.float32(1.5)])
    together = jax.jit(jax.vmap(step, in_axes=(None, 0)))(PARAMS, batch)
    compiled = jax.jit(step)
    alone = [compiled(PARAMS, x) for x in batch]
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    assert_near(together, alone, 1e-4)


# --- weights from the representation ------------------------------------------------

HEADS = {"a": PARAMS["head"], "b": 2 * PARAMS["head"][::-1]}
HEAD_LOSSES = {
    "b": lambda heads, z, x: jnp.mean((z["rows"] @ heads["b"]) ** 2),
    "a": lambda heads, z, x: jnp.mean(jnp.cos(z["rows"] @ heads["a"])) * z["scale"],
    "c": lambda heads, z, x: jnp.mean((z["rows"] - x) ** 4),
}


def features(trunk, x):
    return {"rows": jnp.tanh(x @ trunk["tied"]), "scale": jnp.mean(trunk["bias"])}


@pytest.mark.parametrize("weighted_heads", [False, True])
def test_weights_of_the_representation(weighted_heads):
    trunk = {"tied": PARAMS["tied"], "bias": np.arange(3, dtype=np.float32)}
    step = value_and_grad_from_representation(
        features, HEAD_LOSSES, equal_norms, weighted_heads=weighted_heads
    )
    losses, (at_trunk, at_heads), weights = jax.jit(step)(trunk, HEADS, X)

    def of_z(z):
        return {n: HEAD_LOSSES[n](HEADS, z, X) for n in "abc"}

    _, gram, _ = oracle(of_z, jax.jit(features)(trunk, X))
    expected = compiled_norms(gram.astype(np.float32))
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    fn = jax.jit(value_and_grads_at_feature(features, HEAD_LOSSES))
    exact, (trunks, heads) = fn(trunk, HEADS, X)
    assert_near(losses, exact)
    assert_near(at_trunk, combined(trunks, weights))
    plain = np.ones(NUMBER)
    assert_near(at_heads, combined(heads, weights if weighted_heads else plain))


def test_the_representation_takes_a_sequence_and_one_backward_pass_of_the_trunk():
    calls = []

    @jax.custom_vjp
    def trunk(w, x):
        return x * w

    def backward(residuals, cotangent):
        calls.append(1)
        w, x = residuals
        return jnp.sum(cotangent * x), cotangent * w

    trunk.defvjp(lambda w, x: (x * w, (w, x)), backward)
    losses = [lambda h, z, x, k=k: h * jnp.sum(z) * (k + 1) for k in range(5)]
    step = value_and_grad_from_representation(trunk, losses, lambda g: jnp.ones(5))
    args = np.float32(2), np.float32(3), np.ones(4, np.float32)
    found, (by_trunk, _), _ = jax.jit(step)(*args)
    assert isinstance(found, tuple)
    assert len(calls) == 1
    assert float(by_trunk) == 3.0 * 4 * 15


# --- stale weights ------------------------------------------------------------------


def test_stale_weights_change_every_n_steps():
    step = jax.jit(stale_weights(losses_of, equal_norms, recompute_every=3))
    exact = jax.jit(two_phase(losses_of, equal_norms))
    state = init_stale_weights(NUMBER)
    for index in range(5):
        x = X * np.float32(1 + 0.1 * index)
        losses, gradient, state = step(PARAMS, state, x)
        if index % 3 == 0:
            weights = exact(PARAMS, x)[2]
        np.testing.assert_allclose(state.weights, weights, rtol=1e-6)
        expected, _, jacobian = oracle(losses_of, PARAMS, x)
        assert_near(losses, expected)
        assert_near(gradient, combined(jacobian, weights))
    assert int(state.count) == 2


def test_stale_weights_that_are_not_finite_are_due_again():
    step = stale_weights(
        lambda w: ((w**2, w), {"w": w}),
        lambda g: jnp.diagonal(g),
        recompute_every=10,
        has_aux=True,
    )
    state = StaleWeightsState(np.int32(4), np.float32([1, np.nan]))
    (losses, aux), gradient, state = step(1.0, state)
    assert state.weights.tolist() == [4.0, 1.0]
    assert (float(losses[0]), float(aux["w"]), float(gradient)) == (1.0, 1.0, 9.0)
    assert int(state.count) == 1


# --- one objective a step -----------------------------------------------------------


def test_the_gradient_of_one():
    fn = jax.jit(value_and_grad_of_one(losses_of))
    for k in range(NUMBER):
        losses, gradient = fn(PARAMS, k, X)
        assert_near(losses, LOSSES)
        assert_near(gradient, jax.tree.map(lambda j, k=k: np.asarray(j)[k], JACOBIAN))
    assert fn._cache_size() == 1
    assert_near(fn(PARAMS, 99, X)[1], gradient)  # as the last


def test_the_gradient_of_one_of_k_functions_computes_only_that():
    functions = {
        "b": lambda w, x: jnp.sum(w * x),
        "a": lambda w, x: jnp.log(-jnp.sum(w)),  # NaN, and not computed
    }
    fn = jax.jit(value_and_grad_of_one(functions))
    loss, gradient = fn(np.float32([1, 2]), 1, np.float32([3, 4]))
    assert float(loss) == 11.0
    assert gradient.tolist() == [3.0, 4.0]


def test_one_of_them_with_aux():
    fn = value_and_grad_of_one(lambda w: (jnp.stack([w, w**2]), {"w": w}), has_aux=True)
    (losses, aux), gradient = fn(3.0, jnp.int32(1))
    assert losses.tolist() == [3.0, 9.0]
    assert float(aux["w"]) == 3.0
    assert float(gradient) == 6.0


# --- memory -------------------------------------------------------------------------


def memory(function, *args):
    """Bytes a compiled program needs besides its arguments."""
    found = jax.jit(function).lower(*args).compile().memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


def deep(params, probe, x, scan):
    if scan:

        def body(h, w):
            return jnp.tanh(h @ tap(w, probe)), None

        x, _ = jax.lax.scan(body, x, params)
    else:
        for w in params:
            x = jnp.tanh(x @ tap(w, probe))
    return jnp.stack([jnp.mean(x ** (k + 2)) for k in range(6)])


@pytest.mark.parametrize("scan", [False, True], ids=["layers", "scan"])
def test_memory_over_the_summed_loss(scan):
    """In units of n, the parameters: what each way adds to the summed loss's gradient.

    For each of the six objectives the gradient of one layer, n / 12, may be there, in
    taps up to three times (as made, and as the two factors of a matrix product).
    """
    layers, width = 12, 128
    kernels = [np.zeros((width, width), np.float32)] * layers
    params = np.stack(kernels) if scan else kernels
    x = np.zeros((4, width), np.float32)
    n = 4 * layers * width**2

    def losses_fn(params, x):
        return deep(params, None, x, scan)

    def tapped(params, probe, x):
        return deep(params, probe, x, scan)

    def ones(gram):
        return 1 / jnp.diagonal(gram)

    def added(function):
        return (memory(function, params, x) - base) / n

    base = memory(jax.value_and_grad(lambda p, x: jnp.sum(losses_fn(p, x))), params, x)
    one_layer_each = 6 / layers
    exact = added(value_and_grads(losses_fn, loop=scan))
    assert exact < 5 + (1 if scan else one_layer_each) + 0.1
    # A loop returns its gradient whole, and makes it layer by layer.
    assert added(two_phase(losses_fn, ones)) < (1 + 1 / layers if scan else 0.3) + 0.1
    assert added(tapped_two_phase(tapped, ones)) < 3 * one_layer_each + 0.1


# --- wrong use ----------------------------------------------------------------------


def test_wrong_use_is_named():
    def two(w):
        return jnp.stack([jnp.sum(w), jnp.sum(w**2)])

    def ones(gram):
        return jnp.ones(gram.shape[0])

    w = jnp.ones(2)
    with raises("gram", "columns", "'rows'"):
        two_phase(two, ones, gram="rows")
    with raises("gram", "None"):
        value_and_gram(two, gram=None)
    with raises("weighting", "(2, 2)", "(2,)", "(3,)"):
        two_phase(two, lambda gram: jnp.ones(3))(w)
    with raises("losses_fn", "(2, 2)"):
        two_phase(lambda w: jnp.ones((2, 2)), ones)(w)
    with raises("argument 0", "int32"):
        two_phase(two, ones)(jnp.ones(2, jnp.int32))
    for n in (0, 1.5, True, None):
        with raises("recompute_every", repr(n)):
            stale_weights(two, ones, recompute_every=n)
    with raises("2 losses", "3", "init_stale_weights(2)"):
        stale_weights(two, ones, recompute_every=2)(w, init_stale_weights(3))
    with raises("k", "integer", "float32"):
        value_and_grad_of_one(two)(w, 1.0)
    with raises("k", "integer", "(2,)"):
        value_and_grad_of_one([jnp.sum, jnp.max])(w, jnp.arange(2))
    with raises("has_aux", "one function"):
        value_and_grad_of_one([jnp.sum], has_aux=True)
    with raises("at least one loss"):
        value_and_grad_of_one([])
    with raises("loss 'a'", "scalar", "(2,)"):
        value_and_grad_from_representation(
            lambda w: w, {"a": lambda head, z: z, "b": lambda head, z: z[0]}, ones
        )(w, w)
    with raises("probe", "(3, 2)", "layer"):
        tap(w, jnp.zeros((3, 2)))
    with raises("layers", "3.0"):
        tapped_grams(two, {"a": 3.0})


def test_the_code_of_the_page_runs():
    page = Path(__file__).parents[1] / "docs" / "gradients.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(code) == 3
    exec("\n".join(code), {})
