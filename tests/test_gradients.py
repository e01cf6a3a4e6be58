"""K gradients: against jax.jacrev and K calls of jax.grad, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax import (
    value_and_grads,
    value_and_grads_at_feature,
    value_and_grads_by_batch,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {"first": normal(0, 3, 4), "bias": normal(1, 4), "second": normal(2, 4, 2)}
X = normal(7, 5, 3)


def losses_of(params, x):
    """Three losses of different scales, one of which doesn't reach "second"."""
    hidden = jnp.tanh(x @ params["first"] + params["bias"])
    out = hidden @ params["second"]
    return jnp.stack(
        [jnp.mean(out**2), 1e3 * jnp.mean(jnp.cos(out)), jnp.mean(hidden**4)]
    )


@functools.cache
def losses_and_jacobian():
    """Of the three losses; compiled once for all tests."""
    return jax.jit(lambda p: (losses_of(p, X), jax.jacrev(losses_of)(p, X)))(PARAMS)


def separate_gradients(losses_fn, number, *args, argnums=0):
    """The same by ``number`` independent calls of jax.grad."""

    @jax.jit
    def gradients(*args):
        return [
            jax.grad(lambda *a, k=k: losses_fn(*a)[k], argnums=argnums)(*args)
            for k in range(number)
        ]

    return jax.tree.map(lambda *leaves: np.stack(leaves), *gradients(*args))


def assert_close(left, right, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert jnp.shape(a) == jnp.shape(b)
        assert jnp.result_type(a) == jnp.result_type(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# --- value_and_grads ----------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_equals_jacrev_and_separate_gradients(wrap):
    losses, gradients = wrap(value_and_grads(losses_of))(PARAMS, X)
    expected, jacobian = losses_and_jacobian()
    assert_close(losses, expected)
    assert_close(gradients, jacobian)
    assert_close(gradients, separate_gradients(losses_of, 3, PARAMS, X))
    assert np.all(gradients["second"][2] == 0)


FORMS = {
    "array": jnp.stack,
    "tuple": tuple,
    "list": list,
    "dict": lambda losses: dict(zip(["a", "b", "c"], losses, strict=True)),
    # given in another order than the one of their names
    "unsorted": lambda losses: dict(zip("cab", losses[2:] + losses[:2], strict=True)),
    "nested": lambda losses: {"x": (losses[0], losses[1]), "y": losses[2]},
}


@pytest.mark.parametrize("form", FORMS)
def test_losses_come_back_in_their_form(form):
    def losses_fn(params, x):
        return FORMS[form](list(losses_of(params, x)))

    losses, gradients = jax.jit(value_and_grads(losses_fn))(PARAMS, X)
    expected, jacobian = losses_and_jacobian()
    assert_close(losses, FORMS[form](list(np.asarray(expected))))
    assert_close(gradients, jacobian)


def test_auxiliary_data_comes_along():
    def losses_fn(params, x):
        return losses_of(params, x), {"rows": x.shape[0], "mean": jnp.mean(x)}

    (losses, aux), gradients = value_and_grads(losses_fn, has_aux=True)(PARAMS, X)
    expected, jacobian = losses_and_jacobian()
    assert_close(losses, expected)
    assert_close(gradients, jacobian)
    assert aux["rows"] == 5
    assert_close(aux["mean"], np.mean(X))


@pytest.mark.parametrize("argnums", [0, 1, -1, -2, np.int64(1), (0,), (1, 0), [0, 1]])
def test_argnums_choose_as_in_jax_grad(argnums):
    expected = separate_gradients(losses_of, 3, PARAMS, X, argnums=_ints(argnums))
    found = jax.jit(value_and_grads(losses_of, argnums=argnums))(PARAMS, X)[1]
    assert_close(found, expected)


def _ints(argnums):
    return tuple(argnums) if isinstance(argnums, tuple | list) else int(argnums)


def test_keyword_arguments_are_passed_on():
    def losses_fn(w, *, scale):
        return jnp.stack([w * scale, w**2])

    losses, gradients = value_and_grads(losses_fn)(3.0, scale=np.float32(5))
    assert losses.tolist() == [15.0, 9.0]
    assert gradients.tolist() == [5.0, 6.0]


def test_vmap_equals_a_loop():
    batch = normal(3, 3, 3, 4)

    def run(first):
        return value_and_grads(losses_of)({**PARAMS, "first": first}, X)

    together = jax.jit(jax.vmap(run))(batch)
    run = jax.jit(run)
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *[run(b) for b in batch])
    # Batched sums add up in another order: float32 rounds to about 1e-7 of the largest.
    for found, expected in zip(
        jax.tree.leaves(together), jax.tree.leaves(alone), strict=True
    ):
        bound = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("number", [1, 16, 17, 20])
def test_any_number_of_objectives(number):
    """From 17 on all are pulled back in one batched pass."""
    scales = np.arange(1, number + 1, dtype=np.float32)

    def losses_fn(w):
        return jnp.sum(jnp.sin(w[None, :] * scales[:, None]), axis=1)

    w = np.float32([0.3, -0.7])
    losses, gradients = jax.jit(value_and_grads(losses_fn))(w)
    assert losses.shape == (number,)
    expected = scales[:, None] * np.cos(np.outer(scales, w))
    np.testing.assert_allclose(gradients, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [2, 18])
def test_tuples_of_many_losses(number):
    w = np.float32([1, 2])
    losses, gradients = jax.jit(
        value_and_grads(lambda w: tuple(k * jnp.sum(w) for k in range(number)))
    )(w)
    assert [float(x) for x in losses] == [3.0 * k for k in range(number)]
    np.testing.assert_array_equal(gradients, np.arange(number)[:, None] * np.ones(2))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_gradients_have_the_leaf_dtype(dtype):
    params = {"low": np.ones(2, dtype), "single": np.ones(2, np.float32)}

    def losses_fn(p):
        total = jnp.sum(p["low"].astype(jnp.float32) * p["single"])
        return {"single": total, "low": total.astype(dtype)}

    losses, gradients = jax.jit(value_and_grads(losses_fn))(params)
    assert losses["low"].dtype == dtype
    assert gradients["low"].dtype == dtype
    assert gradients["single"].dtype == jnp.float32
    np.testing.assert_array_equal(gradients["low"], np.ones((2, 2)))


def test_float64_under_x64():
    with jax.enable_x64(True):
        fn = jax.jit(value_and_grads(lambda w: jnp.stack([w[0] ** 3, w[0]])))
        _, gradients = fn(np.array([0.1]))
        assert gradients.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(gradients)[0, 0], 3 * 0.1**2, rtol=1e-14)


def test_a_loss_that_is_a_constant_has_no_gradient():
    losses, gradients = value_and_grads(lambda w: (jnp.sum(w), 0.0))(np.ones(2))
    assert [float(x) for x in losses] == [2.0, 0.0]
    assert gradients.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_none_leaves_stay_none():
    params = {"w": np.ones(2, np.float32), "frozen": None}
    fn = value_and_grads(lambda p: jnp.stack([jnp.sum(p["w"])] * 2))
    _, gradients = jax.jit(fn)(params)
    assert gradients["frozen"] is None
    assert gradients["w"].shape == (2, 2)


def test_nnx_state_as_params():
    model = nnx.jit(lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0)))()
    graphdef, params = nnx.split(model, nnx.Param)

    def losses_fn(params):
        out = nnx.merge(graphdef, params)(X)
        return jnp.stack([jnp.mean(out), jnp.mean(out**2)])

    losses, gradients = jax.jit(value_and_grads(losses_fn))(params)
    expected = jax.jit(lambda p: (losses_fn(p), jax.jacrev(losses_fn)(p)))(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    assert_close((losses, gradients), expected)


def flops(function, *args):
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return cost["flops"]


def trunk(layers, x):
    return functools.reduce(lambda h, w: jnp.tanh(h @ w), layers, x)


@pytest.mark.parametrize("number", [2, 3])
def test_the_forward_pass_is_shared(number):
    """At most (1 + 2K) / 3 of one gradient; the losses themselves are not free."""
    layers = [np.ones((64, 64), np.float32)] * 6
    x = np.ones((32, 64), np.float32)

    def losses_fn(layers, x):
        out = trunk(layers, x)
        return jnp.stack([jnp.mean(out ** (k + 2)) for k in range(number)])

    def total(layers, x):
        return jnp.sum(losses_fn(layers, x))

    one = flops(jax.value_and_grad(total), layers, x)
    several = flops(value_and_grads(losses_fn), layers, x)
    assert several <= ((1 + 2 * number) / 3 + 0.05) * one


# --- the cheap forms ----------------------------------------------------------------


def head_loss(name, power):
    def loss(heads, z, x):
        del x
        return jnp.mean((z @ heads[name]) ** power)

    return loss


HEAD_LOSSES = {"b": head_loss("b", 2), "a": head_loss("a", 4), "c": head_loss("b", 3)}


def trunk_and_heads(features, classes):
    layers = [np.float32(0.3) * normal(1, features, features)] * 2
    heads = {"a": normal(2, features, classes), "b": normal(3, features, classes)}
    return layers, heads, normal(4, 8, features)


def composed(layers, heads, x):
    z = trunk(layers, x)
    return {name: loss(heads, z, x) for name, loss in HEAD_LOSSES.items()}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_at_feature_equals_the_composed_losses(wrap):
    layers, heads, x = trunk_and_heads(4, 3)
    losses, (at_trunk, at_heads) = wrap(value_and_grads_at_feature(trunk, HEAD_LOSSES))(
        layers, heads, x
    )
    exact = jax.jit(value_and_grads(composed, argnums=(0, 1)))
    losses_, (trunk_, heads_) = exact(layers, heads, x)
    assert_close(losses, losses_)
    assert_close(at_trunk, trunk_)
    assert_close(at_heads, heads_)
    assert np.all(at_heads["b"][0] == 0)  # objective "a" has no use for head b
    assert np.all(at_heads["a"][1:] == 0)


def test_at_feature_takes_a_sequence_and_a_tree_of_features():
    def feature_fn(w, x):
        return {"sum": w + x, "product": w * x}

    fn = value_and_grads_at_feature(
        feature_fn,
        [lambda h, z, x: h * z["sum"] * z["product"], lambda h, z, x: z["sum"] ** 2],
    )
    losses, (trunk_, head) = jax.jit(fn)(*np.float32([2, 5, 3]))
    assert isinstance(losses, tuple)
    assert [float(x) for x in losses] == [150.0, 25.0]
    # d/dw h (w + x) w x = h x (2 w + x); d/dw (w + x)^2 = 2 (w + x)
    assert trunk_.tolist() == [105.0, 10.0]
    assert head.tolist() == [30.0, 0.0]


def test_at_feature_saves_work_where_heads_are_heavy():
    layers, heads, x = trunk_and_heads(16, 256)
    cheap = flops(value_and_grads_at_feature(trunk, HEAD_LOSSES), layers, heads, x)
    general = flops(value_and_grads(composed, argnums=(0, 1)), layers, heads, x)
    assert cheap < 0.75 * general


def test_at_feature_with_many_objectives():
    number = 18
    fn = value_and_grads_at_feature(
        lambda w, x: w * x, [lambda h, z, x, k=k: h * z**k for k in range(number)]
    )
    losses, (at_trunk, at_head) = jax.jit(fn)(*np.ones(3, np.float32))
    assert len(losses) == number
    np.testing.assert_allclose(at_trunk, np.arange(number), rtol=1e-6)
    np.testing.assert_allclose(at_head, np.ones(number))


def fit(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def shrink(params, batch):
    return jnp.mean(batch) * jnp.sum(params["w"] ** 2)


def test_by_batch_equals_separate_gradients():
    params = {"w": np.float32([1, -2]), "unused": np.ones(3, np.float32)}
    batches = {
        "fit": {"x": normal(0, 3, 2), "y": np.ones(3, np.float32)},
        "also": np.arange(4, dtype=np.float32),
    }
    losses, gradients = value_and_grads_by_batch({"fit": fit, "also": shrink})(
        params, batches
    )
    values, both = {}, []
    for name, loss in (("also", shrink), ("fit", fit)):  # "also" comes before "fit"
        values[name], one = jax.jit(jax.value_and_grad(loss))(params, batches[name])
        both.append(one)
    assert_close(losses, values)
    assert_close(gradients, jax.tree.map(lambda a, b: np.stack([a, b]), *both))
    assert np.all(gradients["unused"] == 0)


def test_by_batch_takes_sequences():
    params = {"w": np.float32([1, -2])}
    fn = jax.jit(value_and_grads_by_batch([shrink, shrink]))
    losses, gradients = fn(params, [np.ones(2), np.full(5, 2.0)])
    assert isinstance(losses, tuple)
    assert [float(x) for x in losses] == [5.0, 10.0]
    assert gradients["w"].tolist() == [[2.0, -4.0], [4.0, -8.0]]
