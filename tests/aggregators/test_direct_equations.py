"""Methods on full gradients: float64 replays of their equations, and their laws."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators
from eagc_jax.aggregators.krum import squared_distances
from eagc_jax.aggregators.sam_gs import norm_similarity
from tests.aggregators import gram_oracles
from tests.aggregators.streams import (
    CLOSE,
    PARAMS,
    K,
    compiled,
    flat,
    run,
    stream,
    tree,
)

# --- GradDrop -----------------------------------------------------------------------


def test_graddrop_gives_positive_or_negative_parts_and_the_sum_on_average():
    g = stream(steps=1)[0]
    g[:, 0], g[1:, 1] = 0.0, 0.0  # an entry without a gradient, and one with one only
    tx = aggregators.graddrop(K)
    state = tx.init(PARAMS)

    def one(key):
        method = state.method._replace(key=key)
        return tx.update(tree(g), state._replace(method=method))[0]

    draws = 20000
    outs = jax.jit(jax.vmap(one))(jax.random.split(jax.random.PRNGKey(1), draws))
    outs = np.concatenate([np.float64(outs[n]).reshape(draws, -1) for n in PARAMS], 1)
    g = np.float64(np.float32(g))
    up, down = np.maximum(g, 0).sum(0), np.minimum(g, 0).sum(0)
    is_up, is_down = np.isclose(outs, up, rtol=1e-6), np.isclose(outs, down, rtol=1e-6)
    assert np.all(is_up | is_down)
    assert np.any(is_up & ~is_down)
    assert np.any(is_down & ~is_up)
    spread = (up - down) / 2 / math.sqrt(draws)  # at most, of a two-valued mean
    assert np.all(np.abs(outs.mean(0) - g.sum(0)) <= 5 * spread + 1e-5)
    # The share of positive draws is P: not some other law with the same mean.
    share = 0.5 * (1 + g.sum(0) / np.maximum(np.abs(g).sum(0), 1e-30))
    mixed = (up > 0) & (down < 0)
    found = is_up.mean(0)[mixed]
    assert np.all(np.abs(found - share[mixed]) <= 5 * 0.5 / math.sqrt(draws))


def test_graddrop_leaks():
    g = stream(steps=1)[0]
    tx = aggregators.graddrop(K, seed=3)

    @jax.jit
    def leaking(leak):
        return aggregators.graddrop(K, leak=leak).update(tree(g), tx.init(PARAMS))[0]

    outs = flat(leaking(np.ones(K, np.float32)))
    np.testing.assert_allclose(outs, g.sum(0), rtol=1e-5, atol=1e-6)
    plain, _ = run((tx, compiled("graddrop")[1]), [g])  # the seed is the state's
    leaky = flat(leaking(np.float32([1.0, 0.0, 0.25])))
    positive = np.isclose(plain[0], np.maximum(g, 0).sum(0), rtol=1e-5)
    kept = np.where(positive, np.maximum(g, 0), np.minimum(g, 0))
    leaks = np.array([1.0, 0.0, 0.25])[:, None]
    expected = np.sum(kept + leaks * (g - kept), axis=0)
    np.testing.assert_allclose(leaky, expected, **CLOSE)


def test_graddrop_draws_anew_in_each_step_and_leaf():
    tx = aggregators.graddrop(2)
    params = {n: np.zeros(200, np.float32) for n in "ab"}
    g = {n: np.stack([x + 1, x - 1]) for n, x in params.items()}
    update, state = jax.jit(tx.update), tx.init(params)
    first, state = update(g, state)
    second, _ = update(g, state)
    for left, right in ((first["a"], first["b"]), (first["a"], second["a"])):
        assert 50 < np.sum(np.asarray(left) == np.asarray(right)) < 150
    again, _ = update(g, tx.init(params))
    np.testing.assert_array_equal(first["a"], again["a"])


# --- SAM-GS -------------------------------------------------------------------------


def sam_gs_oracle(gradients, gamma, scale, clip=1.0):
    M, v, outs = np.zeros_like(gradients[0]), 0.0, []
    for t, g in enumerate(gradients, start=1):
        n = np.linalg.norm(g, axis=1)
        pairs = [(i, j) for i in range(len(n)) for j in range(i)]
        s = np.mean([2 * n[i] * n[j] / (n[i] ** 2 + n[j] ** 2) for i, j in pairs])
        M = 0.9 * M + 0.1 * g
        v = 0.99 * v + 0.01 * (1 - s) ** 2 + 1e-8
        if s < gamma:
            d = n.mean() * np.sum(g / n[:, None], axis=0)
        else:
            d = np.sum(g * np.abs(M / (1 - 0.9**t)), axis=0) / np.sqrt(
                v / (1 - 0.99**t)
            )
        if scale == "norm":
            d = d * np.linalg.norm(g.sum(0)) / np.linalg.norm(d)
        else:
            d = len(n) * d
            if clip is not None:
                d = d * min(1.0, clip / np.linalg.norm(d))
        outs.append(d)
    return np.array(outs)


@pytest.mark.parametrize(
    ("scale", "clip"), [("published", 1.0), ("published", None), ("norm", None)]
)
def test_sam_gs_is_its_equations(scale, clip):
    gradients = stream(2)
    norms = np.linalg.norm(gradients, axis=-1)
    ratios = np.stack([norms[:, i] / norms[:, j] for i, j in ((0, 1), (0, 2), (1, 2))])
    gamma = float(
        np.median(np.mean(2 / (ratios + 1 / ratios), axis=0))
    )  # both branches
    outs, states = run(
        compiled("sam_gs", gamma=gamma, scale=scale, max_norm=clip), gradients
    )
    similar = [float(s.method.similarity) >= gamma for s in states]
    assert any(similar)
    assert not all(similar)
    expected = sam_gs_oracle(gradients, gamma, scale, clip)
    size = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(outs / size, expected / size, **CLOSE)


def test_sam_gs_keeps_each_gradients_signs():
    g = stream(steps=1)[0]
    g[1:] = 0.0
    outs, _ = run(compiled("sam_gs"), [g] * 2)
    assert np.all(np.sign(outs[-1]) == np.sign(g[0]))


def test_similarity_of_norms():
    similarity = jax.jit(norm_similarity)

    def of(*norms):
        return float(similarity(np.float32(norms)))

    assert of(2.0, 2.0) == 1.0
    assert of(0.0, 0.0) == 1.0
    assert of(0.0, 1.0) == 0.0
    assert of(3.0) == 1.0
    np.testing.assert_allclose(of(1e-30, 2e-30), 0.8, rtol=1e-6)
    active = np.array([True, True, False])
    assert float(similarity(np.float32([1.0, 1.0, 9.0]), active)) == 1.0


# --- MoCo ---------------------------------------------------------------------------


def simplex(x):
    ordered = np.sort(x)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(x) + 1)
    return np.maximum(x - excess[np.nonzero(ordered > excess)[0][-1]], 0)


@pytest.mark.parametrize(
    ("relative", "projection"),
    [(True, "simplex"), (False, "simplex"), (True, "softmax")],
)
def test_moco_is_its_equations(relative, projection):
    tx = aggregators.moco(
        K,
        relative=relative,
        projection=projection,
        regularization=0.3,
        weight_rate=0.2 if relative else lambda t: 0.02 / t**0.5,
    )
    gradients = stream()
    outs, states = run((tx, jax.jit(tx.update)), gradients)
    Y, w = np.zeros((K, 10)), np.full(K, 1 / K)
    for t, (g, out, state) in enumerate(zip(gradients, outs, states, strict=True), 1):
        Y = Y - 0.5 / t**0.5 * (Y - g)
        G = Y @ Y.T
        G = G / np.mean(np.diag(G)) if relative else G
        rate = 0.2 if relative else 0.02 / t**0.5
        w = w - rate * (G + 0.3 * np.eye(K)) @ w
        w = simplex(w) if projection == "simplex" else np.exp(w) / np.exp(w).sum()
        np.testing.assert_allclose(state.method.weights, w, **CLOSE)
        np.testing.assert_allclose(out, w @ Y, **CLOSE)


def test_moco_settles_at_the_least_norm():
    tx = aggregators.moco(2, tracking_rate=0.5, weight_rate=0.2)
    g = {"w": np.float32([[2.0, 0.0], [0.0, 1.0]])}

    def body(state, _):
        out, state = tx.update(g, state)
        return state, out["w"]

    start = tx.init({"w": np.zeros(2, np.float32)})
    outs = np.asarray(jax.lax.scan(body, start, length=200)[1])
    np.testing.assert_allclose(outs[-1], [0.4, 0.8], rtol=1e-4)


def test_moco_of_an_absent_objective_waits():
    tx, update = compiled("moco")
    state = tx.init(PARAMS)
    everyone, two = np.ones(K, bool), np.array([True, True, False])
    for g in stream(steps=3):
        _, state = update(tree(g), state, PARAMS, active_mask=everyone)
    out, after = update(tree(stream(1)[0]), state, PARAMS, active_mask=two)
    old, new = jax.device_get((state.method, after.method))
    assert new.weights[2] == old.weights[2]
    np.testing.assert_allclose(new.weights.sum(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(new.tracked["a"][2], old.tracked["a"][2])
    w = np.float64(new.weights[:2]) / np.float64(new.weights[:2]).sum()
    np.testing.assert_allclose(
        out["a"], np.tensordot(w, np.float64(new.tracked["a"][:2]), 1), **CLOSE
    )


# --- trimmed mean and Krum ----------------------------------------------------------


@pytest.mark.parametrize(("number", "trim"), [(5, 0), (5, 1), (5, 2), (18, 4)])
def test_trimmed_mean_is_its_definition(number, trim):
    g = stream(number=number, steps=1)[0]
    outs, _ = run(compiled("trimmed_mean", number, trim=trim), [g])
    ordered = np.sort(np.float32(g), axis=0)
    expected = np.float64(ordered[trim : number - trim]).mean(0)
    np.testing.assert_allclose(outs[0], expected, **CLOSE)


def test_trimmed_mean_trims_among_the_active():
    g = stream(number=5, steps=1)[0]
    tx, update = compiled("trimmed_mean", 5, trim=2)
    for absent in ([0], [1, 3], [0, 1, 2], [0, 1, 3, 4]):
        mask = np.ones(5, bool)
        mask[absent] = False
        out, _ = update(tree(g), tx.init(PARAMS), PARAMS, active_mask=mask)
        left = np.sort(g[mask], axis=0)
        cut = min(2, (len(left) - 1) // 2)
        np.testing.assert_allclose(
            flat(out), left[cut : len(left) - cut].mean(0), **CLOSE
        )


@pytest.mark.parametrize(("faulty", "chosen"), [(2, 1), (1, 3), (0, 7)])
def test_krum_is_its_definition(faulty, chosen):
    number = 7
    tx, update = compiled("krum", number, byzantine=faulty, selected=chosen)
    for g in stream(5, steps=3, number=number):
        out, state = update(tree(g), tx.init(PARAMS), PARAMS)
        distances = ((g[:, None] - g[None]) ** 2).sum(-1)
        near = np.sort(distances, axis=1)[:, 1 : number - faulty - 1]
        best = np.argsort(near.sum(1))[:chosen]
        np.testing.assert_allclose(flat(out), g[best].mean(0), **CLOSE)
        assert set(np.flatnonzero(np.asarray(state.weights))) == set(best.tolist())


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("number", [2, 5, 17])
def test_distances_are_exact_where_gradients_nearly_agree(number, looped, monkeypatch):
    if looped:  # the path of one CPU device, in blocks that don't divide the leaf
        module = sys.modules[squared_distances.__module__]
        monkeypatch.setattr(module, "may_be_sharded", lambda leaf: False)
        monkeypatch.setattr(module, "_BLOCK_ENTRIES", 16 * number**2)
    rng = np.random.default_rng(0)
    g = (1000 + rng.integers(0, 3, size=(number, 50)) / 1024).astype(np.float32)
    found = jax.jit(squared_distances)({"w": g}, g.max())
    wide = np.float64(g)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(-1) / wide.max() ** 2
    # Through the Gram matrix, 1e6 against 1e-6, nothing would be left. Dividing by the
    # largest entry rounds each entry by half an ulp, of 16 to 32 ulps of difference.
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-12)


def test_krum_sees_differences_that_the_gram_matrix_has_lost():
    """The third is the closest to the others, by 2^-12 of gradients of length 7."""
    g = np.ones((4, 50), np.float32)
    g[[0, 1], [0, 1]] += 2.0**-11
    g[3, :] += 2.0**-9
    tx = aggregators.krum(4)
    state = tx.init({"w": np.zeros(50, np.float32)})
    _, state = jax.jit(tx.update)({"w": g}, state)
    np.testing.assert_array_equal(state.weights, [0.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize("name", ["krum", "trimmed_mean"])
def test_one_arbitrary_gradient_does_not_matter(name):
    honest = 1 + 0.1 * np.random.default_rng(0).normal(size=(5, 10))
    options = {"trim": 1} if name == "trimmed_mean" else {}
    tx, update = compiled(name, 5, **options)
    for attack in (1e30, -1e30, 0.0):
        g = honest.copy()
        g[2] = attack
        out, _ = update(tree(g), tx.init(PARAMS), PARAMS, active_mask=np.ones(5, bool))
        others = np.delete(honest, 2, axis=0)
        assert np.all(flat(out) >= others.min(0) - 1e-6)
        assert np.all(flat(out) <= others.max(0) + 1e-6)


# --- M-ConFIG -----------------------------------------------------------------------


def m_config_oracle(gradients, turns, eps=1e-8):
    m, n = np.zeros((K, 10)), np.zeros(K, int)
    f, v, t, outs, directions = np.zeros(10), np.zeros(10), 0, [], []
    for g, k in zip(gradients, turns, strict=True):
        n[k] += 1
        m[k] = 0.9 * m[k] + 0.1 * g
        if np.any(n == 0):
            outs.append(np.zeros(10))
            directions.append(None)
            continue
        t += 1
        d = gram_oracles.config(m / (1 - 0.9**n)[:, None])
        new = d * (1 - 0.9**t)
        q, f = (new - 0.9 * f) / 0.1, new
        v = 0.999 * v + 0.001 * q**2
        outs.append(d / (np.sqrt(v / (1 - 0.999**t)) + eps))
        directions.append(d)
    return np.array(outs), directions


@pytest.mark.parametrize("cyclic", [True, False])
def test_momentum_conflict_free_is_its_equations(cyclic):
    tx, update = compiled("momentum_conflict_free")
    gradients = stream(3, steps=14)
    turns = np.arange(14) % K if cyclic else [1, 1, 0, 1, 2, 2, 0, 2, 1, 0, 0, 0, 2, 1]
    given = [gradients[t, k] for t, k in enumerate(turns)]
    expected, directions = m_config_oracle(given, turns)
    state = tx.init(PARAMS)
    for t, (g, k) in enumerate(zip(given, turns, strict=True)):
        extra = {} if cyclic else {"objective": jnp.asarray(k)}
        out, state = update(tree(g), state, PARAMS, **extra)
        # The pseudo gradient is a difference, tenfold: 1e-6 becomes 1e-5 and more.
        np.testing.assert_allclose(flat(out), expected[t], rtol=1e-3, atol=1e-4)
        if directions[t] is not None:
            m = np.concatenate(
                [np.float64(state.momenta[n]).reshape(K, -1) for n in PARAMS], axis=1
            )
            d = np.float64(state.weights) @ m
            np.testing.assert_allclose(d, directions[t], rtol=1e-4, atol=1e-4)
            cosines = m @ d / np.linalg.norm(m, axis=1) / np.linalg.norm(d)
            np.testing.assert_allclose(cosines, cosines[0], rtol=1e-3)
            assert cosines[0] > 0


def test_momentum_conflict_free_is_the_same_at_every_scale():
    tx, update = compiled("momentum_conflict_free", eps=0.0)
    outs = {}
    for scale in (2.0**-50, 1.0, 2.0**50):
        gradients = stream(3, steps=7, scale=scale)
        state = tx.init(PARAMS)
        for t in range(7):
            out, state = update(tree(gradients[t, t % K]), state, PARAMS)
        outs[scale] = flat(out)
    for scale in (2.0**-50, 2.0**50):
        np.testing.assert_allclose(outs[scale], outs[1.0], rtol=1e-4)


@pytest.mark.parametrize("policy", ["propagate", "skip_update"])
def test_momentum_conflict_free_of_nonfinite_gradients(policy):
    options = {} if policy == "propagate" else {"nonfinite": policy}
    tx, update = compiled("momentum_conflict_free", **options)
    state = tx.init(PARAMS)
    for g in stream(steps=4)[:, 0]:
        _, state = update(tree(g), state, PARAMS)
    bad = tree(stream()[0, 0])
    bad["a"][0, 0] = np.inf
    out, after = update(bad, state, PARAMS)
    fill = np.nan if policy == "propagate" else 0.0
    np.testing.assert_array_equal(flat(out), np.full(10, fill))
    assert int(after.nonfinite_count) == 1
    assert int(after.step) == int(state.step) + 1  # it has had its turn
    same = after._replace(nonfinite_count=state.nonfinite_count, step=state.step)
    jax.tree.map(np.testing.assert_array_equal, state, same)


def test_momentum_conflict_free_of_what_it_is_not_for():
    tx = aggregators.momentum_conflict_free(2)
    params = {"w": jnp.zeros(3)}
    state = tx.init(params)
    with pytest.raises(ValueError, match="without an objective axis"):
        tx.update({"w": jnp.zeros((2, 3))}, state)
    with pytest.raises(ValueError, match=r"objective must be an int in \[0, 2\)"):
        tx.update({"w": jnp.zeros(3)}, state, objective=2)
    with pytest.raises(ValueError, match="nonfinite"):
        aggregators.momentum_conflict_free(2, nonfinite="skip_objective")
    assert tx.update({}, tx.init({}))[0] == {}


# --- accumulation -------------------------------------------------------------------


def test_accumulation_is_the_mean_over_the_microbatches_that_had_it():
    gradients = stream(6, steps=6)
    masks = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 1]])
    inner = optax.chain(aggregators.dwa(K), optax.adam(0.1))
    tx = aggregators.accumulate_objectives(inner, K, every=3)
    values = np.arange(18.0).reshape(6, K).astype(np.float32)
    update, direct = jax.jit(tx.update), jax.jit(inner.update)
    state, plain = tx.init(PARAMS), inner.init(PARAMS)
    for t, g in enumerate(gradients):
        mask = masks[t].astype(bool)
        g = np.where(mask[:, None], g, np.nan)
        value = np.where(mask, values[t], np.nan).astype(np.float32)
        out, state = update(tree(g), state, PARAMS, active_mask=mask, value=value)
        if t % 3 < 2:
            np.testing.assert_array_equal(flat(out), np.zeros(10))
            continue
        window = slice(t - 2, t + 1)
        seen = masks[window].sum(0)
        share = masks[window] / np.maximum(seen, 1)
        mean = np.einsum("tk,tkn->kn", share, gradients[window])
        loss = np.sum(share * values[window], axis=0).astype(np.float32)
        expected, plain = direct(
            tree(mean), plain, PARAMS, active_mask=seen > 0, value=loss
        )
        np.testing.assert_allclose(flat(out), flat(expected), **CLOSE)
    with pytest.raises(ValueError, match="every"):
        aggregators.accumulate_objectives(inner, K, every=0)
