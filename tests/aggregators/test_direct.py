"""Aggregators on full gradients: float64 replays of the equations, laws, edge cases."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators
from eagc_jax.aggregators.krum import squared_distances
from eagc_jax.aggregators.sam_gs import norm_similarity
from tests.aggregators import gram_oracles

K, STEPS = 3, 10
# Ten steps of float32 on numbers of order 1: a few dozen roundings.
CLOSE = {"rtol": 3e-5, "atol": 3e-6}
PARAMS = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
SPLIT = 6  # entries of "a" in a flat gradient
OPTIONS = {"sam_gs": {"scale": "norm"}}


def tree(flat):
    """Flat gradients ``(..., 10)`` to the tree."""
    flat = np.asarray(flat, np.float32)
    lead = flat.shape[:-1]
    return {"a": flat[..., :SPLIT].reshape(*lead, 2, 3), "b": flat[..., SPLIT:]}


def flat(out):
    return np.concatenate([np.float64(out[n]).ravel() for n in PARAMS])


def stream(seed=0, steps=STEPS, scale=1.0, number=K):
    """``(steps, K, 10)``: steady conflicting directions and noise, of unlike norms."""
    rng = np.random.default_rng(seed)
    steady = rng.normal(size=(number, 10))
    steady[-1] -= 1.5 * steady[0]
    noise = 0.7 * rng.normal(size=(steps, number, 10))
    norms = np.geomspace(1.0, 3.0, number)[:, None]
    # Rounded to float32 before it is scaled, so that every scale sees the same numbers.
    return np.float64(np.float32(norms * (steady + noise))) * scale


@functools.cache
def compiled(name, number=K, **options):
    """A transformation and its jitted update: compiled once for the whole file."""
    tx = getattr(aggregators, name)(number, **{**OPTIONS.get(name, {}), **options})
    return tx, jax.jit(tx.update)


def run(pair, gradients):
    """Updates and states over the gradients, all objectives active."""
    tx, update = pair
    state, outs, states = tx.init(PARAMS), [], []
    active = np.ones(len(gradients[0]), bool)
    for g in gradients:
        out, state = update(tree(g), state, PARAMS, active_mask=active)
        outs.append(flat(out))
        states.append(state)
    return np.array(outs), states


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

    outs = flat(leaking(jnp.ones(K)))
    np.testing.assert_allclose(outs, g.sum(0), rtol=1e-5, atol=1e-6)
    plain, _ = run((tx, compiled("graddrop")[1]), [g])  # the seed is the state's
    leaky = flat(leaking(jnp.array([1.0, 0.0, 0.25])))
    positive = np.isclose(plain[0], np.maximum(g, 0).sum(0), rtol=1e-5)
    kept = np.where(positive, np.maximum(g, 0), np.minimum(g, 0))
    leaks = np.array([1.0, 0.0, 0.25])[:, None]
    expected = np.sum(kept + leaks * (g - kept), axis=0)
    np.testing.assert_allclose(leaky, expected, **CLOSE)


def test_graddrop_draws_anew_in_each_step_and_leaf():
    tx = aggregators.graddrop(2)
    params = {"a": jnp.zeros(200), "b": jnp.zeros(200)}
    g = {n: jnp.stack([jnp.ones(200), -jnp.ones(200)]) for n in params}
    update, state = jax.jit(tx.update), tx.init(params)
    first, state = update(g, state)
    second, _ = update(g, state)
    for left, right in ((first["a"], first["b"]), (first["a"], second["a"])):
        assert 50 < int(jnp.sum(left == right)) < 150
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
        return float(similarity(jnp.array(norms, jnp.float32)))

    assert of(2.0, 2.0) == 1.0
    assert of(0.0, 0.0) == 1.0
    assert of(0.0, 1.0) == 0.0
    assert of(3.0) == 1.0
    np.testing.assert_allclose(of(1e-30, 2e-30), 0.8, rtol=1e-6)
    active = jnp.array([True, True, False])
    assert float(similarity(jnp.array([1.0, 1.0, 9.0]), active)) == 1.0


# --- GCond --------------------------------------------------------------------------


# Decisions closer than this are ties, or no conflict: part of the method's definition.
TIE = 1e-5


class Gcond:
    """Vectors, not Gram matrices; the authors' constants or the relative ones.

    ``clear`` is how far the closest decision so far (which pair, whether it conflicts,
    who wins) was from the other outcome, in what float32 may be off by there: eps times
    the lengths of the parts that each gradient is made of, over its own.
    """

    def __init__(self, number, relative, thresholds=(-0.8, -0.5, 0.0)):
        self.number, self.relative, self.thresholds = number, relative, thresholds
        self.previous, self.before = np.zeros((number, 10)), np.zeros(number)
        self.average = None if relative else np.ones(number)
        self.history, self.momentum, self.t = [], np.zeros(10), 0
        self.clear = np.inf

    def decide(self, distance, doubt):
        self.clear = min(self.clear, abs(distance) / doubt / np.finfo(np.float32).eps)
        return distance > 0

    def angle(self, c):
        critical, main, weak = self.thresholds
        if c >= main:
            return math.pi / 2 * (1 - (c - main) / (weak - main))
        if c > critical:
            return math.pi / 2 * (1 + ((c - main) / (critical - main)) ** 2)
        return math.pi

    def i_wins(self, g, spread, i, j):
        if len(self.history) == 3 and set(self.history) == {i}:
            return False
        if len(self.history) == 3 and set(self.history) == {j}:
            return True
        sizes = np.linalg.norm(g, axis=1)
        strength = sizes / self.average
        score = {}
        for k in (i, j):
            both = sizes[k] * np.linalg.norm(self.previous[k])
            stability = g[k] @ self.previous[k] / both if both else 0.0
            share = strength[k] / (strength[i] + strength[j])
            score[k] = 0.8 * max(stability, 0.0) + 0.2 * share
        lead = score[i] - score[j]
        doubt = spread[i] * spread[j] + self.before[i] + self.before[j]
        if self.decide(abs(lead) - TIE, doubt):
            return lead > 0
        return self.decide(sizes[i] / sizes[j] - (1 - TIE), spread[i] * spread[j])

    def worst_pair(self, g, spread, floor):
        """The pair in conflict with the smallest cosine, if there is any."""
        sizes = np.linalg.norm(g, axis=1)
        pairs = [
            (g[i] @ g[j] / (sizes[i] * sizes[j]), i, j)
            for i in range(self.number)
            for j in range(i + 1, self.number)
            if sizes[i] >= floor and sizes[j] >= floor
        ]
        bound = self.thresholds[2] - TIE
        if not pairs or min(pairs)[0] >= bound:
            for c, i, j in pairs:
                self.decide(c - bound, spread[i] * spread[j])
            return None
        worst, i, j = min(pairs)
        doubt = spread[i] * spread[j]
        self.decide(bound - worst, doubt)
        for c, k, m in pairs:
            if (k, m) != (i, j):
                self.decide(c - worst, doubt + spread[k] * spread[m])
        return worst, i, j

    def step(self, g):
        g, n = g.copy(), np.linalg.norm(g, axis=1)
        parts = n.copy()
        self.average = n if self.average is None else 0.95 * self.average + 0.05 * n
        conflicts = 0
        for _ in range(2 * self.number):
            sizes = np.linalg.norm(g, axis=1)
            spread = parts / sizes
            floor = 1e-5 * n.max() if self.relative else 1e-4
            pair = self.worst_pair(g, spread, floor)
            if pair is None:
                break
            c, i, j = pair
            w, x = (i, j) if self.i_wins(g, spread, i, j) else (j, i)
            self.history = [*self.history, w][-3:]
            alpha, inner = self.angle(c), g[w] @ g[x]
            for_w = math.sin(alpha) * inner / sizes[x] ** 2
            for_x = math.sin(min(alpha, math.pi / 2)) * inner / sizes[w] ** 2
            g[w], g[x] = g[w] - for_w * g[x], g[x] - for_x * g[w]
            parts[[w, x]] += np.abs([for_w, for_x]) * parts[[x, w]]
            conflicts += 1
        self.previous, self.before = g, parts / np.linalg.norm(g, axis=1)
        self.t += 1
        self.momentum = 0.85 * self.momentum + 0.15 * g.sum(0)
        return self.momentum / (1 - 0.85**self.t), conflicts


# float32 replays float64 as long as no decision is within its rounding. A cosine is a
# sum over ten entries, two products of three, at most six projections and a division:
# 5 + 3 + 6 + 2 roundings of eps, each in units of ``doubt``. Streams with a closer
# decision are left out, before the package sees them: one in ten of these seeds.
ROUNDINGS = 16


@functools.cache
def clear_streams(count, relative=True):
    """The first streams in which float32 can't decide otherwise, and their replays."""
    found = []
    for seed in range(50):
        oracle, gradients = Gcond(K, relative), stream(seed)
        replay = [(*oracle.step(g), list(oracle.history)) for g in gradients]
        if oracle.clear >= ROUNDINGS:
            found.append((gradients, replay))
        if len(found) == count:
            return found
    raise AssertionError("too few clear streams")


@pytest.mark.parametrize("relative", [True, False])
def test_gcond_is_its_equations(relative):
    options = {} if relative else {"relative": False}
    seen, winners = set(), set()
    for gradients, replay in clear_streams(5, relative):
        outs, states = run(compiled("gcond", **options), gradients)
        for (expected, conflicts, history), out, state in zip(
            replay, outs, states, strict=True
        ):
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-5)
            assert int(state.method.conflicts) == conflicts
            found = [w for w in state.method.history.tolist() if w >= 0]
            assert found == history
            seen.add(conflicts)
            winners.add(tuple(found))
    assert len(seen) >= 3
    assert len(winners) >= 4
    # Three wins in a row happen, and the replay then has the winner lose.
    assert any(len(set(w)) == 1 and len(w) == 3 for w in winners)


def test_gcond_gives_ties_to_the_longer_gradient_at_every_scale_and_order():
    """In a first conflict no one has a past: scores are equal, whatever the norms."""
    g = np.zeros((K, 10))
    g[0, 0], g[1, :2] = 1.0, 3.3 * np.array([-0.9, math.sqrt(1 - 0.81)])
    expected = g[0] + g[1] - (g[0] @ g[1]) / (g[1] @ g[1]) * g[1]
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]):
        for scale in (1.0, 0.1, 7e-9, 3e7):
            outs, states = run(compiled("gcond"), [scale * g[order]])
            np.testing.assert_allclose(outs[0] / scale, expected, **CLOSE)
            assert states[0].method.history.tolist() == [-1, -1, order.index(1)]


def test_gcond_without_conflict_is_the_sum():
    g = np.abs(stream(steps=1)[0])
    outs, states = run(compiled("gcond"), [g])  # the first momentum is the update
    np.testing.assert_allclose(outs[0], g.sum(0), rtol=1e-5)
    assert int(states[0].method.conflicts) == 0


@pytest.mark.parametrize("cosine", [-0.1, -0.4, -0.5])
def test_gcond_of_a_mild_conflict_of_two_is_symmetric(cosine):
    """There, both lose the same share: g_i - s (g_i . g_j / |g_j|^2) g_j."""
    # One projection; what remains of the angle is for later ones.
    pair = compiled("gcond", 2, momentum=0.0, max_projections=1)
    g = np.zeros((2, 10))
    g[0, 0], g[1, :2] = 2.0, [cosine, math.sqrt(1 - cosine**2)]
    s = math.sin(math.pi / 2 * cosine / -0.5)
    inner = g[0] @ g[1]
    expected = g.sum(0) - s * inner * (g[1] + g[0] / 4)
    for order in (g, g[::-1]):
        np.testing.assert_allclose(run(pair, [order])[0][0], expected, **CLOSE)


def test_gcond_beyond_the_critical_cosine_projects_the_loser_alone():
    g = np.zeros((K, 10))
    g[0, 0], g[1, :2] = 1.0, [-0.9, math.sqrt(1 - 0.81)]
    outs, states = run(compiled("gcond"), [g])
    expected = g[0] + g[1] - (g[1] @ g[0]) * g[0]  # equal norms: it goes to the first
    np.testing.assert_allclose(outs[0], expected, **CLOSE)
    assert int(states[0].method.conflicts) == 1


def test_gcond_remembers_in_bfloat16_if_asked():
    tx = aggregators.gcond(K, memory_dtype=jnp.bfloat16)
    state = tx.init(PARAMS)
    _, after = jax.eval_shape(tx.update, tree(stream(steps=1)[0]), state)
    for method in (state.method, after.method):
        assert method.previous["a"].dtype == jnp.bfloat16


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
    g = {"w": jnp.array([[2.0, 0.0], [0.0, 1.0]])}

    def body(state, _):
        out, state = tx.update(g, state)
        return state, out["w"]

    _, outs = jax.lax.scan(body, tx.init({"w": jnp.zeros(2)}), length=200)
    np.testing.assert_allclose(outs[-1], [0.4, 0.8], rtol=1e-4)


def test_moco_of_an_absent_objective_waits():
    tx, update = compiled("moco")
    state = tx.init(PARAMS)
    everyone, two = np.ones(K, bool), np.array([True, True, False])
    for g in stream(steps=3):
        _, state = update(tree(g), state, PARAMS, active_mask=everyone)
    out, after = update(tree(stream(1)[0]), state, PARAMS, active_mask=two)
    old, new = state.method, after.method
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


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_distances_are_exact_where_gradients_nearly_agree(number):
    rng = np.random.default_rng(0)
    g = (1000 + rng.integers(0, 3, size=(number, 50)) / 1024).astype(np.float32)
    found = jax.jit(squared_distances)({"w": g})
    wide = np.float64(g)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(-1) / wide.max() ** 2
    # Through the Gram matrix, 1e6 against 1e-6, nothing would be left. Dividing by the
    # largest entry rounds each entry by half an ulp, of 16 to 32 ulps of difference.
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-12)


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


# --- all ----------------------------------------------------------------------------

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
    params = {"w": jnp.zeros((2, 2), jnp.bfloat16), "none": None, "b": jnp.zeros(3)}
    grads = jax.tree.map(
        lambda p: jax.random.normal(
            jax.random.key(0), (2, 3, 3, *p.shape), jnp.float32
        ).astype(p.dtype),
        params,
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
    params = {"w": jnp.zeros(2, jnp.complex64)}
    tx = aggregators.graddrop(2)
    with pytest.raises(ValueError, match="complex"):
        tx.update({"w": jnp.ones((2, 2), jnp.complex64)}, tx.init(params))
