"""What all methods on losses or full gradients share: scale, masks, edges, options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators
from tests.aggregators.gcond_oracle import clear_streams
from tests.aggregators.streams import (
    CLOSE,
    OPTIONS,
    PARAMS,
    K,
    compiled,
    flat,
    run,
    stream,
    tree,
)

NAMES = ("graddrop", "sam_gs", "gcond", "moco", "trimmed_mean", "krum")

EVERYONE = np.ones(K, bool)


def warm(tx, update):
    state = tx.init(PARAMS)
    for g in stream(steps=3):
        _, state = update(tree(g), state, PARAMS, active_mask=EVERYONE)
    return state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [2.0**-50, 2.0**50])
def test_updates_are_of_degree_one(name, scale):
    tx, update = compiled(name)
    state, other = tx.init(PARAMS), tx.init(PARAMS)
    for one, scaled in zip(stream(), stream(scale=scale), strict=True):
        out, state = update(tree(one), state, PARAMS, active_mask=EVERYONE)
        big, other = update(tree(scaled), other, PARAMS, active_mask=EVERYONE)
        size = np.linalg.norm(flat(out))
        assert np.linalg.norm(flat(big) / scale - flat(out)) <= 1e-5 * size


# What is skipped doesn't depend on the method: once for trees and once for weights.
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *((name, None) for name in NAMES),
        ("moco", "skip_update"),
        ("krum", "skip_update"),
    ],
)
def test_nonfinite_objectives_touch_no_state(name, policy):
    tx, update = compiled(name, **({"nonfinite": policy} if policy else {}))
    before = warm(tx, update)
    g = stream()[4]
    g[1, 3] = np.nan
    out, after = update(tree(g), before, PARAMS, active_mask=EVERYONE)
    np.testing.assert_array_equal(flat(out), np.full(10, 0.0 if policy else np.nan))
    assert after.nonfinite_count.tolist() == [0, 1, 0]
    after = after._replace(nonfinite_count=before.nonfinite_count)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_objective_is_as_an_absent_one(name):
    tx, update = compiled(name, nonfinite="skip_objective")
    before = warm(tx, update)
    g = stream()[4]
    g[1, 3] = np.inf
    others = np.array([True, False, True])
    out, after = update(tree(g), before, PARAMS, active_mask=EVERYONE)
    absent, masked = update(tree(g), before, PARAMS, active_mask=others)
    assert np.all(np.isfinite(flat(out)))
    np.testing.assert_array_equal(flat(out), flat(absent))
    assert after.nonfinite_count.tolist() == [0, 1, 0]
    assert masked.nonfinite_count.tolist() == [0, 0, 0]
    jax.tree.map(np.testing.assert_array_equal, after.method, masked.method)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(after.method))
    nobody = np.zeros(K, bool)
    out, same = update(tree(g), before, PARAMS, active_mask=nobody)
    np.testing.assert_array_equal(flat(out), np.zeros(10))
    jax.tree.map(np.testing.assert_array_equal, before, same)


@pytest.mark.parametrize("name", NAMES)
def test_edges(name):
    tx, update = compiled(name)
    g = stream()[0]
    out, state = update(tree(0 * g), tx.init(PARAMS), PARAMS, active_mask=EVERYONE)
    np.testing.assert_array_equal(flat(out), np.zeros(10))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
    row = g.copy()
    row[1] = 0.0
    out, state = update(tree(row), tx.init(PARAMS), PARAMS, active_mask=EVERYONE)
    assert np.all(np.isfinite(flat(out)))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
    # The same gradient K times: it, or K times it.
    out, _ = update(
        tree(np.stack([g[0]] * K)), tx.init(PARAMS), PARAMS, active_mask=EVERYONE
    )
    out, one = flat(out), g[0]
    if name == "sam_gs":  # elementwise modulation keeps the signs and the norm
        assert np.all(np.sign(out) == np.sign(one))
        np.testing.assert_allclose(
            np.linalg.norm(out), K * np.linalg.norm(one), rtol=1e-5
        )
    else:
        factor = {"graddrop": K, "gcond": K, "moco": 0.5}.get(name, 1)
        np.testing.assert_allclose(out, factor * one, **CLOSE)


def test_one_objective():
    every = {name: compiled(name, 1)[0] for name in NAMES}

    @jax.jit
    def update(grads):
        return {n: tx.update(grads, tx.init(PARAMS))[0] for n, tx in every.items()}

    g = stream(number=1)[0]
    for name, out in update(tree(g)).items():
        found = flat(out)
        if name == "sam_gs":
            assert np.all(np.sign(found) == np.sign(g[0]))
            length = np.linalg.norm(g)
            np.testing.assert_allclose(np.linalg.norm(found), length, rtol=1e-5)
        else:  # MoCo has tracked half of it
            expected = g[0] * (0.5 if name == "moco" else 1)
            np.testing.assert_allclose(found, expected, **CLOSE, err_msg=name)


# Not graddrop, which draws.
@pytest.mark.parametrize("name", ["sam_gs", "gcond", "moco", "trimmed_mean", "krum"])
def test_permuting_objectives_changes_nothing(name):
    tx, update = compiled(name)
    order = np.array([2, 0, 1])
    state, other = tx.init(PARAMS), tx.init(PARAMS)
    gradients, _ = clear_streams(1)[0]  # arg-mins and ties of gcond have no equals
    for g in gradients[:4]:
        out, state = update(tree(g), state, PARAMS, active_mask=EVERYONE)
        same, other = update(tree(g[order]), other, PARAMS, active_mask=EVERYONE)
    np.testing.assert_allclose(flat(out), flat(same), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_scan_and_vmap(name):
    options = OPTIONS.get(name, {})
    tx = getattr(aggregators, name)(3, **options)
    params = {
        "w": np.zeros((2, 2), jnp.bfloat16),
        "none": None,
        "b": np.zeros(3, np.float32),
    }
    draw = np.random.default_rng(0).normal
    grads = jax.tree.map(
        lambda p: draw(size=(2, 3, 3, *p.shape)).astype(p.dtype), params
    )

    def train(grads):
        def body(state, g):
            out, state = tx.update(g, state, params)
            return state, out

        return jax.lax.scan(body, tx.init(params), grads)[1]

    both = jax.jit(jax.vmap(train))
    outs = both(grads)
    assert outs["w"].dtype == jnp.bfloat16
    assert outs["b"].dtype == jnp.float32
    turned = both(jax.tree.map(lambda g: g[::-1], grads))
    outs, turned = jax.device_get((outs, turned))
    for n in ("w", "b"):  # the batch's entries know nothing of each other
        np.testing.assert_array_equal(outs[n][::-1], turned[n])
        assert np.any(np.float32(outs[n][0]) != np.float32(outs[n][1]))
    assert tx.update({}, tx.init({}))[0] == {}
    optax.tree.map_params(tx, lambda x: x, tx.init(params))


def test_preference_multiplies_gradients_and_length_is_a_choice():
    g, u = stream(steps=1)[0], np.array([3.0, 2.0, 1.0])
    for name in ("graddrop", "trimmed_mean"):
        tx, update = compiled(name)
        scaled = tree(g * (u / u.mean())[:, None])
        scaled, _ = update(scaled, tx.init(PARAMS), PARAMS, active_mask=EVERYONE)
        preferred, _ = run(compiled(name, preference=tuple(u)), [g])
        np.testing.assert_allclose(preferred[0], flat(scaled), rtol=1e-5, atol=1e-5)
    mean = (u / u.sum()) @ g
    published = {"scale": "published"}
    for rescale, length in (("norm_of_mean", 1.0), ("sum", K)):
        pair = compiled("sam_gs", preference=tuple(u), rescale=rescale, **published)
        outs, _ = run(pair, [g])
        expected = length * np.linalg.norm(mean)
        np.testing.assert_allclose(np.linalg.norm(outs), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("graddrop", {"leak": 1.5}, "leak"),
        ("graddrop", {"leak": (0.1, 0.2)}, "leak"),
        ("sam_gs", {"gamma": 2.0}, "gamma"),
        ("sam_gs", {"scale": "unit"}, "scale"),
        ("sam_gs", {"max_norm": 0.0}, "max_norm"),
        ("gcond", {"thresholds": (0.0, -0.5, -0.8)}, "thresholds"),
        ("gcond", {"power": 0.0}, "power"),
        ("gcond", {"momentum": 1.0}, "momentum"),
        ("gcond", {"window": -1}, "window"),
        ("gcond", {"max_projections": -1}, "max_projections"),
        ("gcond", {"score_weights": (1.0, -1.0)}, "score_weights"),
        ("moco", {"tracking_rate": 2.0}, "tracking_rate"),
        ("moco", {"projection": "l2"}, "projection"),
        ("moco", {"regularization": -1.0}, "regularization"),
        ("trimmed_mean", {"trim": 2}, "trim"),
        ("krum", {"byzantine": 1}, "byzantine"),
        ("krum", {"selected": 0}, "selected"),
    ],
)
def test_bad_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(aggregators, name)(K, **options)


def test_complex_leaves_are_refused_where_signs_are_needed():
    params = {"w": np.zeros(2, np.complex64)}
    tx = aggregators.graddrop(2)
    with pytest.raises(ValueError, match="complex"):
        jax.jit(tx.update)({"w": np.ones((2, 2), np.complex64)}, tx.init(params))


def test_a_state_of_something_else_is_refused():
    tx = aggregators.sam_gs(K)
    g = tree(stream(steps=1)[0])
    with pytest.raises(ValueError, match="must be a DirectState"):
        tx.update(g, optax.EmptyState())
    with pytest.raises(ValueError, match="of 2 objectives"):
        tx.update(g, aggregators.sam_gs(2).init(PARAMS))
    with pytest.raises(ValueError, match=r"isn't one of sam_gs .* MocoState"):
        tx.update(g, aggregators.moco(K).init(PARAMS))
    other = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(5)}
    with pytest.raises(ValueError, match="isn't one of sam_gs"):
        tx.update(g, tx.init(other))
    state = tx.init(PARAMS)
    older = state._replace(method=tuple(state.method)[:4])
    with pytest.raises(ValueError, match="an older version's"):
        tx.update(g, older)


def test_axis_name_is_checked():
    with pytest.raises(ValueError, match="axis_name"):
        aggregators.graddrop(K, axis_name=3)
    tx = aggregators.trimmed_mean(K, axis_name="model")
    with pytest.raises(ValueError, match=r"no jax\.shard_map"):
        tx.update(tree(stream(steps=1)[0]), tx.init(PARAMS))


MODES = {
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "no rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "64 bits": lambda: jax.enable_x64(True),
}
VARIANTS = {
    "graddrop": [{"leak": 0.5}],
    "sam_gs": [{"scale": "norm"}],
    "gcond": [{"relative": False, "memory_dtype": jnp.bfloat16}],
    "moco": [{"projection": "softmax", "relative": False}],
}
FROM_LOSSES = ("gradnorm", "dwa", "famo", "imtl_l", "smooth_chebyshev")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*NAMES, *FROM_LOSSES])
def test_states_keep_their_types_in_every_mode(name, mode):
    """Traced in a scan over steps, leaves of several dtypes; warnings are errors."""
    params = {"w": np.zeros((3, 4), jnp.bfloat16), "b": np.zeros((), np.float32)}
    length = {"preference": (1.0, 2.0, 3.0), "rescale": "norm_of_mean"}
    with MODES[mode]():
        if mode == "64 bits":
            params["wide"] = np.zeros(2, np.float64)
        grads = jax.tree.map(lambda p: np.ones((5, K, *p.shape), p.dtype), params)
        for options in ({}, length, *VARIANTS.get(name, [])):
            tx = getattr(aggregators, name)(K, **options)

            def step(state, now, tx=tx):
                out, state = tx.update(now[0], state, params, value=now[1])
                return state, out

            state = jax.eval_shape(tx.init, params)
            losses = np.ones((5, K), np.float32)
            kept, outs = jax.eval_shape(
                lambda s, *now, step=step: jax.lax.scan(step, s, now),
                state,
                grads,
                losses,
            )
            assert jax.tree.map(jnp.result_type, kept) == jax.tree.map(
                jnp.result_type, state
            )
            for leaf in ("w", "b"):
                assert outs[leaf].dtype == params[leaf].dtype
