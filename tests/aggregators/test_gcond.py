"""GCond: a float64 replay of its equations; ties, two objectives, memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import aggregators
from tests.aggregators.gcond_oracle import clear_streams
from tests.aggregators.streams import (
    CLOSE,
    PARAMS,
    K,
    compiled,
    run,
    stream,
    tree,
)


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
