"""Gram matrices of per-example gradients of convolutions and attention: vmap(grad)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax.gradients import conv_gram, per_example_two_phase, tap_conv, tap_dense
from eagc_jax.gradients.taps import ExampleProbe

B = 4
DIMENSIONS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def conv(x, kernel, options):
    axes = x.ndim - 2

    def each(name):
        value = options.get(name, 1)
        return (value,) * axes if isinstance(value, int) else value

    return jax.lax.conv_general_dilated(
        x,
        kernel,
        each("strides"),
        options.get("padding", "SAME"),
        rhs_dilation=each("dilation"),
        dimension_numbers=DIMENSIONS[axes],
        feature_group_count=options.get("groups", 1),
        precision="highest",
    )


def flat_gram(gradients):
    rows = np.concatenate(
        [np.float64(g).reshape(B, -1) for g in jax.tree.leaves(gradients)], axis=1
    )
    return rows @ rows.T


def found_gram(losses_fn, params, x):
    """What the taps find: the cotangent of the probe."""
    probe = ExampleProbe(jnp.zeros((B, B)))
    out, pullback = jax.vjp(lambda p: losses_fn(params, p, x), probe)
    return pullback(jnp.ones_like(out))[0].rows


CASES = {
    "same": ((7, 6, 3), {"window": (3, 3)}, 5),
    "strided": ((8, 7, 2), {"window": (3, 2), "strides": (2, 1)}, 3),
    "valid": ((7, 7, 2), {"window": 3, "padding": "VALID", "dilation": 2}, 3),
    "padded": ((5, 4, 2), {"window": 2, "padding": [(1, 0), (0, 2)]}, 3),
    "depthwise": ((5, 5, 4), {"window": 3, "groups": 4}, 8),
    "grouped": ((5, 5, 4), {"window": 3, "groups": 2, "strides": 2}, 6),
    "line": ((9, 3), {"window": 4, "strides": 3}, 4),
    "one position": ((3, 3, 8), {"window": 3, "padding": "VALID"}, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_conv_gram_is_that_of_the_gradients(name):
    shape, options, out = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, *shape)).astype(np.float32)
    axes = len(shape) - 1
    window = options["window"]
    window = (window,) * axes if isinstance(window, int) else window
    kernel_shape = (*window, shape[-1] // options.get("groups", 1), out)
    kernel = rng.normal(size=kernel_shape).astype(np.float32)
    y = jax.eval_shape(lambda x: conv(x, kernel, options), x)
    aim = rng.normal(size=y.shape).astype(np.float32)

    def loss(params, x, aim):
        y = conv(x[None], params[0], options)[0] + params[1]
        return jnp.sum(jnp.sin(y) * aim)

    def cotangent(x, aim):
        return jnp.cos(conv(x[None], kernel, options)[0]) * aim

    @jax.jit
    def by_examples(params, x, aim):
        gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, aim)
        return gradients, jax.vmap(cotangent)(x, aim)

    def grams(x, d):
        return [conv_gram(x, d, bias=bias, **options) for bias in (True, False)]

    params = kernel, np.zeros(out, np.float32)
    gradients, d = by_examples(params, x, aim)
    # Not compiled once: operation by operation is what takes the time.
    with_bias, without = (grams if name == "line" else jax.jit(grams))(x, d)
    # Sums of some hundred products of order 1 in float32, relative to the largest.
    expected = flat_gram(gradients)
    size = np.abs(expected).max()
    np.testing.assert_allclose(with_bias, expected, atol=1e-5 * size)
    np.testing.assert_allclose(without, flat_gram(gradients[0]), atol=1e-5 * size)


# --- a network ----------------------------------------------------------------------


def network():
    rng = np.random.default_rng(1)

    def normal(*shape):
        return np.float32(rng.normal(size=shape) / np.sqrt(shape[-2]))

    return {
        "one": {"kernel": normal(3, 3, 2, 4), "bias": np.zeros(4, np.float32)},
        "two": {"kernel": normal(3, 3, 4, 6)},
        "head": {"kernel": normal(6, 3), "bias": np.ones(3, np.float32)},
    }


IMAGES = np.random.default_rng(2).normal(size=(B, 8, 8, 2)).astype(np.float32)


def logits_of(params, probe, x):
    """On whole batches."""
    h = conv(x, params["one"]["kernel"], {"strides": 2}) + params["one"]["bias"]
    h = jnp.tanh(tap_conv(h, x, probe, window=3, strides=2))
    y = conv(h, params["two"]["kernel"], {})
    y = jnp.tanh(tap_conv(y, h, probe, window=(3, 3), bias=False))
    y = y.mean((-3, -2))
    out = y @ params["head"]["kernel"] + params["head"]["bias"]
    return tap_dense(out, y, probe)


def losses_of(params, probe, x):
    return jnp.sum(jnp.sin(logits_of(params, probe, x)), axis=-1)


def loss_of_one(params, probe, x):
    """In a model of one example, whose convolutions have no batch."""
    h = (
        conv(x[None], params["one"]["kernel"], {"strides": 2})[0]
        + params["one"]["bias"]
    )
    h = jnp.tanh(tap_conv(h, x, probe, window=3, strides=2))
    y = conv(h[None], params["two"]["kernel"], {})[0]
    y = jnp.tanh(tap_conv(y, h, probe, window=(3, 3), bias=False)).mean((0, 1))
    out = y @ params["head"]["kernel"] + params["head"]["bias"]
    return jnp.sum(jnp.sin(tap_dense(out, y, probe)))


def expected_gram(losses_fn, params, x):
    def one(params, x):
        return losses_fn(params, None, x[None])[0]

    return flat_gram(jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, x))


MAPPED = jax.vmap(loss_of_one, in_axes=(None, 0, 0))


@pytest.mark.parametrize("losses_fn", [losses_of, MAPPED], ids=["batch", "vmap"])
def test_a_convolutional_network(losses_fn):
    params = network()
    found = jax.jit(lambda p, x: found_gram(losses_fn, p, x))(params, IMAGES)
    expected = expected_gram(losses_of, params, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_the_weighted_gradient_of_a_convolutional_network():
    params = network()
    step = per_example_two_phase(losses_of, lambda gram: 1 / jnp.diagonal(gram))
    losses, gradient, weights = jax.jit(step)(params, IMAGES)

    def weighted(params):
        losses = losses_of(params, None, IMAGES)
        return jnp.sum(weights * losses), losses

    expected, expected_losses = jax.jit(jax.grad(weighted, has_aux=True))(params)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# --- attention ----------------------------------------------------------------------

HEADS, WIDTH = 2, 6


def attention_losses(params, probe, x):
    """One block of self-attention, ``(B, T, width)``; projections are dense layers."""

    def project(name, x):
        out = x @ params[name]["kernel"] + params[name]["bias"]
        return tap_dense(out, x, probe)

    def heads(name):
        return project(name, x).reshape(*x.shape[:2], HEADS, -1)

    q, k, v = (heads(name) for name in "qkv")
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(WIDTH / HEADS)
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    out = project("out", mixed.reshape(x.shape))
    return jnp.sum(jnp.sin(out), axis=(1, 2))


@pytest.mark.parametrize("tokens", [3, 20])  # the double sum, and the gradients
def test_attention(tokens):
    rng = np.random.default_rng(3)
    params = {
        name: {
            "kernel": np.float32(rng.normal(size=(WIDTH, WIDTH)) / 2),
            "bias": np.float32(rng.normal(size=WIDTH)),
        }
        for name in ("q", "k", "v", "out")
    }
    x = rng.normal(size=(B, tokens, WIDTH)).astype(np.float32)
    found = jax.jit(lambda p, x: found_gram(attention_losses, p, x))(params, x)
    expected = expected_gram(attention_losses, params, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


# --- arguments ----------------------------------------------------------------------

X, Y = np.ones((B, 8, 8, 2), np.float32), np.ones((B, 8, 8, 4), np.float32)
PROBE = ExampleProbe(jnp.zeros((B, B)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tap_conv(Y, X, jnp.zeros(B), window=3), "per_example_two_phase"),
        (lambda: tap_conv(Y, X[:2], PROBE, window=3), "examples first"),
        (lambda: tap_conv(Y, X, PROBE, window=3, padding="VALID"), r"\(6, 6\)"),
        (lambda: tap_conv(Y, X, PROBE, window=3, padding="same"), "padding must be"),
        (lambda: tap_conv(Y, X, PROBE, window=3, padding=[(0, 0)]), "2 pairs"),
        (lambda: tap_conv(Y, X, PROBE, window=(3, 0)), "window must be"),
        (lambda: tap_conv(Y, X, PROBE, window=3, groups=3), "groups"),
        (lambda: tap_conv(Y[:, 0], X, PROBE, window=3), "channels last"),
        (lambda: conv_gram(X, Y[:2], window=3), "same examples"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_a_probe_it_is_the_identity():
    assert tap_conv(Y, X, None, window=3) is Y
