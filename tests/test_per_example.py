"""One objective per example: against jax.vmap(jax.grad), to rounding."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax.gradients import (
    ExampleProbe,
    dense_gram,
    per_example_two_phase,
    tap,
    tap_dense,
)

EXAMPLES, WIDTH, CLASSES = 6, 5, 3


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {
    "scale": 1 + np.float32(0.1) * normal(0, WIDTH),
    "first": {"kernel": normal(1, WIDTH, 7), "bias": normal(2, 7)},
    "second": {"kernel": normal(3, 7, CLASSES)},
}


def dense(params, x, probe):
    out = x @ params["kernel"] + params.get("bias", 0.0)
    return tap_dense(out, x, probe, bias="bias" in params)


def of_one(params, probe, x, y):
    scaled = x * tap(params["scale"], probe)
    hidden = jnp.tanh(dense(params["first"], scaled, probe))
    return jnp.sum((dense(params["second"], hidden, probe) - y) ** 2)


mapped = jax.vmap(of_one, in_axes=(None, 0, 0, 0))


def on_batches(params, probe, x, y):
    hidden = jnp.tanh(dense(params["first"], x * params["scale"], probe))
    out = dense(params["second"], hidden, probe)
    return jnp.sum((out - y) ** 2, axis=tuple(range(1, out.ndim)))


def equal_norms(gram):
    return 1 / jnp.sqrt(jnp.diagonal(gram))


of_params = jax.grad(lambda p, x, y: of_one(p, None, x, y))
jacobian_of = jax.jit(jax.vmap(of_params, in_axes=(None, 0, 0)))
losses_of = jax.jit(lambda p, x, y: mapped(p, None, x, y))


def oracle(params, x, y, names):
    """Every example's gradient by vmap(grad), and the Gram matrix in float64."""
    jacobian = jacobian_of(params, x, y)
    chosen = jax.tree.leaves({name: jacobian[name] for name in names})
    rows = [np.asarray(j, np.float64).reshape(len(x), -1) for j in chosen]
    rows = np.concatenate(rows, axis=1)
    return jacobian, rows @ rows.T


def batch(positions):
    shape = (EXAMPLES,) if positions is None else (EXAMPLES, positions)
    return normal(5, *shape, WIDTH), normal(6, *shape, CLASSES)


def gram_and_step(losses_fn, *args):
    """The Gram matrix as the weighting sees it, and what the step returns."""
    seen = []

    def weighting(gram):
        jax.debug.callback(lambda g: seen.append(np.asarray(g)), gram)
        return equal_norms(gram)

    out = jax.jit(per_example_two_phase(losses_fn, weighting))(*args)
    jax.effects_barrier()
    return seen[0], out


# Positions: none; few, where products of positions are cheaper; many, where B gradients.
@pytest.mark.parametrize("positions", [None, 2, 40])
@pytest.mark.parametrize("form", ["mapped", "batches"])
def test_equals_the_gradients_of_the_examples(form, positions):
    x, y = batch(positions)
    names = ("first", "second", "scale") if form == "mapped" else ("first", "second")
    losses_fn = mapped if form == "mapped" else on_batches
    jacobian, gram = oracle(PARAMS, x, y, names)
    found, (losses, gradient, weights) = gram_and_step(losses_fn, PARAMS, x, y)
    root = np.sqrt(np.diagonal(gram))
    # Float32 sums in another order: 1e-5 of the norms is about a hundred roundings.
    cosines, scale = gram / np.outer(root, root), np.outer(root, root)
    np.testing.assert_allclose(found / scale, cosines, rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses, losses_of(PARAMS, x, y), rtol=1e-5)
    np.testing.assert_allclose(weights, 1 / root, rtol=1e-5)
    # What isn't tapped, the scale on batches, is trained by the weighted loss too.
    for leaf, rows in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(jacobian), strict=True
    ):
        expected = np.tensordot(np.asarray(weights, np.float64), rows, axes=1)
        bound = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 3), (50,)])
def test_the_gram_matrix_of_a_dense_layer(shape, bias):
    """Both formulae, against gradients formed in float64."""
    a, d = normal(0, 4, *shape, 3), normal(1, 4, *shape, 2)
    wide_a, wide_d = (
        np.asarray(x, np.float64).reshape(4, -1, x.shape[-1]) for x in (a, d)
    )
    rows = np.einsum("btm,btn->bmn", wide_a, wide_d).reshape(4, -1)
    if bias:
        rows = np.concatenate([rows, wide_d.sum(1)], axis=1)
    expected = rows @ rows.T
    bound = 1e-5 * np.diagonal(expected).max()
    # Compiled, and once not.
    call = dense_gram if shape == (2,) else jax.jit(dense_gram, static_argnames="bias")
    found = call(a, d, bias=bias)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_low_precision_inputs_have_a_float32_gram_matrix():
    """Exactly that of the rounded inputs: sums are made in float32."""
    a, d = normal(0, 4, 64).astype(jnp.bfloat16), normal(1, 4, 64).astype(jnp.bfloat16)
    found = jax.jit(dense_gram)(a, d)
    assert found.dtype == jnp.float32
    a, d = np.asarray(a, np.float64), np.asarray(d, np.float64)
    np.testing.assert_allclose(found, (a @ a.T + 1) * (d @ d.T), rtol=1e-4, atol=1e-3)


def test_parameters_tapped_on_a_constant_input():
    """A layer that doesn't see the example: its cotangents are still one for each."""

    def loss(params, probe, x):
        constant = np.ones(2, np.float32)
        out = tap_dense(constant @ params, constant, probe, bias=False)
        return jnp.sum(out * x)

    x = normal(0, 4, 3)
    losses_fn = jax.vmap(loss, in_axes=(None, 0, 0))
    found, _ = gram_and_step(losses_fn, np.ones((2, 3), np.float32), x)
    np.testing.assert_allclose(found, 2 * x @ x.T, rtol=1e-4, atol=1e-5)


def test_flax_layers_by_their_dot_general():
    """A layer of a framework is tapped where it multiplies: no change to the model."""

    @nnx.jit
    def make():
        first = nnx.Linear(WIDTH, 7, rngs=nnx.Rngs(0))
        return nnx.Sequential(first, nnx.relu, nnx.Linear(7, CLASSES, rngs=nnx.Rngs(1)))

    model = make()
    graphdef, params = nnx.split(model, nnx.Param)

    def losses_fn(params, probe, x, y):
        model = nnx.merge(graphdef, params)

        def tapped(inputs, kernel, *args, **kwargs):
            out = jax.lax.dot_general(inputs, kernel, *args, **kwargs)
            return tap_dense(out, inputs, probe)

        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.Linear):
                module.dot_general = tapped
        return jnp.sum((model(x) - y) ** 2, axis=1)

    x, y = batch(None)
    found, (_, gradient, weights) = gram_and_step(losses_fn, params, x, y)
    jacobian = jax.jit(jax.jacrev(lambda p: losses_fn(p, None, x, y)))(params)
    rows = [np.asarray(j, np.float64) for j in jax.tree.leaves(jacobian)]
    rows = np.concatenate([r.reshape(EXAMPLES, -1) for r in rows], axis=1)
    bound = 1e-5 * np.abs(rows @ rows.T).max()
    np.testing.assert_allclose(found, rows @ rows.T, rtol=0, atol=bound)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert weights.shape == (EXAMPLES,)


def test_aux_and_jit():
    def losses_fn(params, probe, x, y):
        return on_batches(params, probe, x, y), {"rows": x.shape[0]}

    x, y = batch(None)
    step = jax.jit(per_example_two_phase(losses_fn, equal_norms, has_aux=True))
    (losses, aux), gradient, _ = step(PARAMS, x, y)
    assert int(aux["rows"]) == EXAMPLES
    assert losses.shape == (EXAMPLES,)
    assert gradient["scale"].shape == (WIDTH,)


def test_the_work_is_less_than_twice_a_plain_step():
    """By operations: two backward passes, one of them without gradients of weights."""
    sizes = [128, 256, 256, 256, 10]
    params = [np.zeros(shape, np.float32) for shape in itertools.pairwise(sizes)]
    x = np.zeros((64, 128), np.float32)

    def losses_fn(params, probe, x):
        for kernel in params:
            x = jnp.tanh(tap_dense(x @ kernel, x, probe))
        return jnp.sum(x, axis=1)

    def flops(function):
        return jax.jit(function).lower(params, x).compile().cost_analysis()["flops"]

    plain = flops(jax.value_and_grad(lambda p, x: jnp.sum(losses_fn(p, None, x))))
    step = per_example_two_phase(losses_fn, lambda gram: gram[0])
    assert flops(step) < 2 * plain


def raises(*words):
    return pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, words)))


def test_wrong_use_is_named():
    probe = ExampleProbe(jnp.zeros((4, 4)))
    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    assert tap_dense(y, x, None) is y
    with raises("per_example_two_phase", "Array", "tap"):
        tap_dense(y, x, jnp.zeros(4))
    for out, inputs in [
        (y[:3], x),
        (y, x[:, None]),
        (y[:2], x[:2]),
        (y[0, 0], x[0, 0]),
    ]:
        with raises("outputs", str(out.shape), "inputs", str(inputs.shape), "(4, 4)"):
            tap_dense(out, inputs, probe)
    with raises("one row", "(4, 4)", "jax.vmap"):
        tap(x, probe)
    with raises("dense_gram", "(4, 3)", "(3, 2)"):
        dense_gram(x, y[:3])
    step = per_example_two_phase(lambda w, probe, x: w * x, lambda gram: gram[0, :1])
    with raises("weighting", "(4, 4)", "(4,)", "(1,)"):
        step(1.0, jnp.ones(4))

    def tapped(probe, x):
        return tap_dense(x, x, probe)

    row = ExampleProbe(jnp.zeros((2, 3)))  # three entries for two examples
    with raises("3 examples", "over 2"):
        jax.grad(lambda p: jnp.sum(jax.vmap(tapped)(p, jnp.ones((2, 3)))))(row)
