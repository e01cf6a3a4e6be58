"""Fronts in one program, against loops and known fronts; hypervolumes, against counts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators, pareto_front, value_and_grads
from eagc_jax.pareto import hypervolume, non_dominated, plot_fronts

# --- hypervolume --------------------------------------------------------------------


def counted_volume(points, reference):
    """By the cells of a grid through all coordinates: exact, and another way."""
    number = points.shape[1]
    inside = points[np.all(points < reference, axis=1)]
    if not len(inside):
        return 0.0
    cuts = [np.unique(np.append(inside[:, k], reference[k])) for k in range(number)]
    total = 0.0
    for cell in itertools.product(*(range(len(c) - 1) for c in cuts)):
        low = np.array([c[i] for c, i in zip(cuts, cell, strict=True)])
        high = np.array([c[i + 1] for c, i in zip(cuts, cell, strict=True)])
        if np.any(np.all(inside <= low, axis=1)):
            total += np.prod(high - low)
    return total


@pytest.mark.parametrize(("points", "number"), [(9, 1), (12, 2), (9, 3), (6, 4)])
def test_hypervolume_is_the_sum_of_its_cells(points, number):
    rng = np.random.default_rng(number)
    volume = jax.jit(hypervolume)
    for _ in range(5):
        losses = rng.uniform(0, 1.2, (points, number))
        losses[1] = losses[0]  # the same point twice
        found = volume(losses.astype(np.float32), np.ones(number, np.float32))
        expected = counted_volume(losses, np.ones(number))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_hypervolume_in_closed_form():
    # Of the points of x + y = 1 in steps of 1/n: 1/2 less the steps' half squares.
    x = np.linspace(0, 1, 11)
    found = hypervolume(np.stack([x, 1 - x], axis=1), np.ones(2))
    np.testing.assert_allclose(found, 0.5 - 10 * 0.1**2 / 2, rtol=1e-5)


def test_hypervolume_of_points_that_do_not_count():
    reference = np.ones(2)
    losses = np.array([[2.0, 0.0], [np.nan, 0.0], [1.0, 0.0]])
    assert hypervolume(losses, reference) == 0
    more = np.concatenate([losses, [[0.5, 0.5]]])
    np.testing.assert_allclose(hypervolume(more, reference), 0.25)


def test_non_dominated_is_its_definition():
    losses = np.random.default_rng(0).integers(0, 4, (30, 3)).astype(float)
    losses[3, 1] = np.nan
    found = non_dominated(losses)
    for p, keep in zip(losses, found, strict=True):
        beaten = any(np.all(q <= p) and np.any(q < p) for q in losses)
        assert keep == (not beaten and not np.isnan(p).any())


# --- fronts -------------------------------------------------------------------------

RAYS = np.stack([np.linspace(0.2, 0.8, 5), np.linspace(0.8, 0.2, 5)], axis=1)


def concave(x):
    """Two bumps around opposite points: a concave front."""
    return {
        "one": 1 - jnp.exp(-jnp.sum((x - 0.6) ** 2)),
        "two": 1 - jnp.exp(-jnp.sum((x + 0.6) ** 2)),
    }


START = np.float32([0.3, -0.5, 0.1])
OPTIONS = {"smooth_chebyshev": {"mu": 0.02}, "cosmos": {"cosine_weight": 8.0}}


def front(method, steps=600, **options):
    options = {**OPTIONS.get(method, {}), **options}
    return pareto_front(
        concave,
        START,
        RAYS,
        method=method,
        optimizer=optax.sgd(0.1),
        steps=steps,
        **options,
    )


def test_a_front_is_the_loop_over_its_preferences():
    found = jax.device_get(front("epo", steps=20))

    def along(ray):
        return optax.chain(aggregators.epo(2, preference=ray), optax.sgd(0.1))

    @jax.jit
    def moved(x, state, ray):
        losses, grads = value_and_grads(concave)(x)
        value = jnp.stack([losses["one"], losses["two"]])
        out, state = along(ray).update(grads, state, x, value=value)
        return optax.apply_updates(x, out), state, value

    for index, ray in enumerate(RAYS.astype(np.float32)):
        x, state = START, jax.jit(lambda x, ray: along(ray).init(x))(START, ray)
        for step in range(20):
            x, state, value = moved(x, state, ray)
            # Twenty steps, each a choice of a vertex: roundings of the same choices.
            np.testing.assert_allclose(
                found.history[index, step], value, rtol=2e-5, atol=1e-6
            )
        np.testing.assert_allclose(found.params[index], x, rtol=1e-4, atol=1e-5)
    assert found.preferences.shape == (5, 2)


@pytest.mark.parametrize(
    ("method", "equal"), [("epo", 0.02), ("smooth_chebyshev", 0.2)]
)
def test_preferences_are_met_on_a_concave_front(method, equal):
    found = front(method)
    products = np.asarray(found.losses) * RAYS
    np.testing.assert_allclose(products[:, 0], products[:, 1], rtol=equal)
    assert np.all(non_dominated(found.losses))
    # The smooth maximum is off by its mu of 0.02, some tenth of what is compared.
    x = np.asarray(found.params)  # on the front: multiples of (1, 1, 1)
    np.testing.assert_allclose(x - x.mean(1, keepdims=True), 0, atol=0.02)


def test_a_weighted_sum_finds_only_the_ends():
    ends = np.asarray(front("weighted_sum").losses)
    assert np.all(np.abs(ends[:, 0] - ends[:, 1]) > 0.5)
    reference = np.ones(2)
    assert hypervolume(front("epo").losses, reference) > 1.5 * hypervolume(
        ends, reference
    )


def test_cosmos_and_pmtl_point_along_their_rays():
    by_cosmos, by_pmtl = (np.asarray(front(m).losses) for m in ("cosmos", "pmtl"))
    unit = RAYS / np.linalg.norm(RAYS, axis=1, keepdims=True)
    along = by_cosmos / np.linalg.norm(by_cosmos, axis=1, keepdims=True)
    assert np.all(np.sum(along * unit, axis=1) > 0.97)
    np.testing.assert_array_equal(np.argmax(by_pmtl @ unit.T, axis=1), np.arange(5))


def test_a_function_makes_any_aggregator():
    def make(r):
        return aggregators.mean(2, preference=r)

    found = pareto_front(
        concave, START, RAYS, method=make, optimizer=optax.sgd(0.1), steps=30
    )
    expected = front("weighted_sum", steps=30)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)


def test_batches_and_starts_of_their_own():
    x = np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32)
    starts = np.arange(15, dtype=np.float32).reshape(5, 3) / 10

    def losses_fn(w, x):
        return jnp.mean((x @ w - 1) ** 2), jnp.mean((x @ w + 1) ** 2)

    found = pareto_front(
        losses_fn,
        starts,
        RAYS,
        method="weighted_sum",
        optimizer=optax.sgd(0.1),
        steps=7,
        batches=x,
        stacked=True,
    )

    @jax.jit
    @jax.grad
    def gradient(w, batch, ray):
        return jnp.stack(losses_fn(w, batch)) @ ray

    found = jax.device_get(found)
    for index, ray in enumerate(RAYS.astype(np.float32)):
        w = starts[index]
        for batch in x:
            w = w - np.float32(0.1) * np.asarray(gradient(w, batch, ray))
        np.testing.assert_allclose(found.params[index], w, rtol=1e-5, atol=1e-6)
        expected = np.mean((x[-1] @ w - 1) ** 2), np.mean((x[-1] @ w + 1) ** 2)
        np.testing.assert_allclose(found.losses[index], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("preferences", "options", "message"),
    [
        (RAYS[0], {}, r"shape \(P, 2\)"),
        (-RAYS, {}, "none of them zero"),
        (RAYS, {"steps": 0}, "steps must be an int >= 1"),
        (RAYS, {"method": "upgrad"}, "method must be one of"),
        (RAYS, {"method": "weighted_sum", "mu": 1.0}, "has no options"),
        (RAYS, {"method": lambda r: aggregators.mean(2), "mu": 1.0}, "by name"),
        (RAYS, {"stacked": True}, "preferences first"),
    ],
)
def test_bad_arguments(preferences, options, message):
    start = np.ones((3, 3)) if "stacked" in options else START
    with pytest.raises(ValueError, match=message):
        pareto_front(concave, start, preferences, **options)


def test_batches_that_are_not_as_many_as_steps():
    with pytest.raises(ValueError, match="the 3 steps first"):
        pareto_front(
            lambda x, b: (x[0] * b, x[1]), START, RAYS, steps=3, batches=np.ones(4)
        )


@pytest.mark.parametrize(
    ("losses", "reference", "message"),
    [
        (np.ones(3), np.ones(3), "P points of K losses"),
        (np.ones((3, 2)), np.ones(3), "one entry a loss"),
    ],
)
def test_bad_points(losses, reference, message):
    with pytest.raises(ValueError, match=message):
        hypervolume(losses, reference)


def test_the_figure_is_written(tmp_path):
    path = tmp_path / "runs" / "front.png"
    figure = plot_fronts(
        {"a": np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), "b": np.ones((1, 2))},
        reference=(2.0, 2.0),
        path=path,
    )
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert figure.axes[0].get_xlabel() == "loss 1"
    with pytest.raises(ValueError, match="draws two losses"):
        plot_fronts({"a": np.ones((2, 3))})
