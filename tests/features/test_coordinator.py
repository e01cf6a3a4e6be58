"""The coordinator against the published numbers, an oracle in float64, and itself."""

import functools
import inspect
import pathlib

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import features as F
from tests.features import oracle

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
B, D = 6, 5  # images in two views, channels


def case(seed=0, labeled=(True, False, True, False, False, True)):
    """Gradients (2, 2B, D), features, reference features, mask (B,), and a state."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(D, D)) * np.array([2.0, 1.0, 0.5, 0.1, 0.02])
    pool = (rng.normal(size=(30, D)) @ basis.T).astype(np.float32)
    z = rng.normal(size=(2 * B, D)).astype(np.float32)
    zhat = (z + 0.3 * rng.normal(size=z.shape)).astype(np.float32)
    g = rng.normal(size=(2, 2 * B, D)).astype(np.float32)
    *_, state = start(pool)
    return g, z, zhat, np.array(labeled), state


# One compilation instead of one an operation.
@functools.partial(jax.jit, static_argnames="normalize")
def start(pool, aperture=2.0, **structure):
    """(conceptor, energies, state) of labeled features."""
    matrix = F.conceptor(pool, aperture, **structure)
    energy = F.energy_ratio(pool, matrix, **structure)
    center = structure.get("center")
    return matrix, energy, F.init_coordinator(matrix, energy, center=center)


STATIC = ("aga_weight", "mode", "normalize", "supervised", "unsupervised")
coordinate_gradients = jax.jit(F.coordinate_gradients, static_argnames=STATIC)
alignment_gradient = jax.jit(jax.grad(F.alignment_loss), static_argnames="mode")


@functools.partial(jax.jit, static_argnames=STATIC)
def pulled_back(g, z, zhat, mask, state, **options):
    """(features, cotangent at them, shares, state, info) of ``coordinate``."""

    def fn(z, probe):
        out, *rest = F.coordinate(z, zhat, mask, state, probe=probe, **options)
        return out, rest

    out, pullback, (new, info) = jax.vjp(fn, z, jnp.zeros(2), has_aux=True)
    return out, *pullback(g), new, info


# ---------------------------------------------------------------------------
# The published numbers, and the equations in float64
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(5))
def test_published_numbers(number):
    with np.load(GOLDEN / f"coordinator_{number}.npz") as arrays:
        golden = dict(arrays)
    pool = golden["labeled_pool"]
    matrix, energy, state = start(pool, golden["aperture"])
    # Both sides are float32; the released code solves a linear system instead.
    np.testing.assert_allclose(matrix, golden["conceptor"], atol=1e-5)
    np.testing.assert_allclose(energy, golden["energy_pool"], atol=1e-5)
    np.testing.assert_allclose(state.labeled_reference, golden["mu0"], atol=1e-5)
    names = "upstream_gradient", "features", "reference_features", "labeled_mask"
    arguments = [golden[name] for name in names]
    options = {
        "aga_weight": float(golden["aga_weight"]),
        "eep_weight": golden["eep_weight"],
        "max_projection": None,
    }
    out, gradient, _, new, info = pulled_back(*arguments, state, **options)
    np.testing.assert_array_equal(out, golden["features"])
    np.testing.assert_allclose(new.labeled_reference, golden["mu_after"], atol=1e-5)
    np.testing.assert_allclose(info.energies, golden["energy"], atol=1e-5)
    weights = golden["projection_weight"]
    np.testing.assert_allclose(info.projection_weights, weights, atol=1e-5)
    np.testing.assert_allclose(gradient, golden["coordinated_gradient"], atol=1e-5)
    explicit, _, _ = coordinate_gradients(*arguments, state, **options)
    np.testing.assert_allclose(explicit, golden["coordinated_gradient"], atol=1e-5)
    if golden["eep_weight"] == 3:
        # The flip: along the conceptor's first direction the gradient changes its sign,
        # descent becomes ascent. The cap, on by default, prevents it.
        unlabeled = ~np.tile(golden["labeled_mask"], 2)
        first = np.linalg.eigh(golden["conceptor"])[1][:, -1]
        raw = (golden["upstream_gradient"] @ first)[unlabeled]
        assert np.all((np.asarray(gradient) @ first)[unlabeled] / raw < 0)
        del options["max_projection"]
        capped, _, info = coordinate_gradients(*arguments, state, **options)
        assert np.all((np.asarray(capped) @ first)[unlabeled] / raw > 0)
        assert np.max(info.projection_weights) == 1.0


@pytest.mark.parametrize("mode", ["released", "paper", "unsupervised_only"])
@pytest.mark.parametrize("eep", [0.5, 4.0])
@pytest.mark.parametrize("cap", [1.0, None])
def test_equations(mode, eep, cap):
    g, z, zhat, mask, state = case(1)
    labeled = np.tile(mask, 2)
    options = {"aga_weight": 0.7, "eep_weight": eep, "mode": mode}
    options["max_projection"] = cap
    expected, mu, energies, weights, shares = oracle.step(
        g,
        z,
        zhat,
        labeled,
        np.asarray(state.conceptor, np.float64),
        float(state.labeled_reference),
        eep=eep,
        mode=mode,
        cap=np.inf if cap is None else cap,
    )
    found, new, info = coordinate_gradients(g, z, zhat, mask, state, **options)
    # float32 throughout, values of size 1 to 10: about ten roundings of 6e-8 each.
    close = {"rtol": 2e-6, "atol": 2e-6}
    np.testing.assert_allclose(found, expected, **close)
    np.testing.assert_allclose(new.labeled_reference, mu, **close)
    np.testing.assert_allclose(info.energies, energies, **close)
    np.testing.assert_allclose(info.projection_weights, weights, **close)
    found_shares = [info.removed_share, info.added_share]
    np.testing.assert_allclose(found_shares, shares, **close)
    quartiles = np.quantile(weights[~labeled], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(info.quantiles, quartiles, **close)
    assert info.labeled_reference == new.labeled_reference
    assert new.step == 1
    # The same through the backward pass, of the total.
    cotangent = g if mode == "unsupervised_only" else g.sum(axis=0)
    out, total, probed, same, seen = pulled_back(
        cotangent, z, zhat, mask, state, **options
    )
    np.testing.assert_allclose(total, expected.sum(axis=0), rtol=4e-6, atol=4e-6)
    np.testing.assert_allclose(probed, shares, **close)
    chex.assert_trees_all_equal(same, new)
    chex.assert_trees_all_equal(seen[:4], info[:4])
    assert seen.removed_share is None
    assert out.shape == cotangent.shape
    np.testing.assert_array_equal(out, np.broadcast_to(z, out.shape))


def test_structure_options():
    g, z, zhat, mask, _ = case(2)
    rng = np.random.default_rng(2)
    pool = (rng.normal(size=(40, D)) + 1.5).astype(np.float32)
    center = oracle.rows(pool, True).mean(axis=0).astype(np.float32)
    structure = {"normalize": True, "center": center}
    matrix, energy, state = start(pool, 5.0, **structure)
    exact = oracle.conceptor(pool, 5.0, **structure)
    np.testing.assert_allclose(matrix, exact, atol=2e-6)
    np.testing.assert_allclose(energy, oracle.energies(pool, exact, **structure), 2e-5)
    found, _, _ = coordinate_gradients(g, z, zhat, mask, state, normalize=True)
    expected, *_ = oracle.step(
        g, z, zhat, np.tile(mask, 2), exact, float(energy.mean()), **structure
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    other, _, _ = coordinate_gradients(g, z, zhat, mask, state)
    assert np.max(np.abs(other - found)) > 1e-3


# ---------------------------------------------------------------------------
# Identities
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["released", "paper"])
def test_the_sum_over_objectives_is_the_coordinated_total(mode):
    g, z, zhat, mask, state = case(3)
    total, *_ = coordinate_gradients(g.sum(0), z, zhat, mask, state, mode=mode)
    each, *_ = coordinate_gradients(g, z, zhat, mask, state, mode=mode, supervised=1)
    np.testing.assert_allclose(each.sum(axis=0), total, rtol=1e-5, atol=2e-6)


def test_several_unsupervised_objectives():
    g, z, zhat, mask, state = case(4)
    g = np.concatenate([g, g[:1] * 2, g[1:] - g[:1]])  # K = 4
    options = {"mode": "unsupervised_only", "supervised": 1, "unsupervised": (3, 0)}
    edited, *_ = coordinate_gradients(g, z, zhat, mask, state, **options)
    pair = np.stack([g[1] + g[2], g[0] + g[3]])
    expected, *_ = coordinate_gradients(
        pair, z, zhat, mask, state, mode="unsupervised_only"
    )
    np.testing.assert_array_equal(edited[2], g[2])
    np.testing.assert_allclose(edited[1] + edited[2], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(edited[0] + edited[3], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["released", "paper"])
@pytest.mark.parametrize("views", [1, 2])
def test_alignment_is_the_gradient_of_its_loss(mode, views):
    g, z, zhat, mask, state = case(5)
    mask = mask if views == 2 else np.arange(2 * B) % 5 == 0
    gradient = np.asarray(alignment_gradient(z, zhat, mask, mode=mode))
    found, *_ = coordinate_gradients(
        np.zeros_like(z), z, zhat, mask, state, eep_weight=0.0, mode=mode
    )
    # The loss squares, and its gradient halves again: two more roundings.
    np.testing.assert_allclose(gradient, found, rtol=5e-7)
    # So the two ways of adding it agree.
    without, *_ = coordinate_gradients(g[0], z, None, mask, state, aga_weight=0)
    whole, *_ = coordinate_gradients(g[0], z, zhat, mask, state, mode=mode)
    np.testing.assert_allclose(without + gradient, whole, rtol=1e-5, atol=1e-6)


def test_k_pullbacks_through_the_feature():
    """Why AGA is a loss there: each pullback would add it."""
    g, z, zhat, mask, state = case(6)
    split = [np.asarray(pulled_back(part, z, zhat, mask, state)[1]) for part in g]
    gradient = np.asarray(alignment_gradient(z, zhat, mask))
    total = pulled_back(g.sum(axis=0), z, zhat, mask, state)[1]
    np.testing.assert_allclose(sum(split), total + gradient, rtol=1e-5, atol=2e-6)


def test_no_gradient_to_state_or_reference():
    g, z, zhat, mask, state = case(7)

    def loss(z, zhat, matrix, mu, weight):
        held = state._replace(conceptor=matrix, labeled_reference=mu)
        out, new, info = F.coordinate(z, zhat, mask, held, eep_weight=weight)
        decided = info.energies.sum() + info.quantiles.sum() + new.labeled_reference
        return jnp.sum(out * g[0]) + decided

    arguments = z, zhat, state.conceptor, state.labeled_reference, 0.5
    to_z, *others = jax.jit(jax.grad(loss, argnums=range(5)))(*arguments)
    assert not any(np.any(other) for other in others)
    # What was decided doesn't move the features either.
    expected = pulled_back(g[0], z, zhat, mask, state)[1]
    np.testing.assert_allclose(to_z, expected, rtol=1e-6, atol=1e-7)
    by_reference = jax.jit(jax.grad(F.alignment_loss, argnums=1))
    assert not np.any(by_reference(z, zhat, mask))


def test_without_labeled_and_without_unlabeled_rows():
    g, z, zhat, _, state = case(8)
    nothing, new, info = coordinate_gradients(
        g[0], z, zhat, np.zeros(2 * B, bool), state
    )
    assert new.labeled_reference == state.labeled_reference
    assert info.added_share == 0
    assert np.isfinite(nothing).all()
    assert float(F.alignment_loss(z, zhat, np.zeros(B, bool))) == 0.0
    everything, new, info = coordinate_gradients(
        g[0], z, zhat, np.ones(2 * B, bool), state
    )
    assert new.labeled_reference != state.labeled_reference
    assert not np.any(info.quantiles)
    assert info.removed_share == 0
    assert np.isfinite(everything).all()
    zero, _, info = coordinate_gradients(
        np.zeros_like(z), z, z, np.ones(B, bool), state
    )
    assert not np.any(zero)
    assert info.removed_share == info.added_share == 0


def test_a_nan_feature_does_not_poison_the_reference():
    g, z, zhat, mask, state = case(9)
    z = z.copy()
    z[0, 0] = np.nan  # a labeled row
    _, new, _ = coordinate_gradients(g[0], z, zhat, mask, state)
    assert new.labeled_reference == state.labeled_reference


@hypothesis.given(st.integers(0, 2**16), st.floats(0, 1), st.floats(0, 8))
@hypothesis.settings(max_examples=20)
def test_capped_projection_never_turns_a_gradient(seed, cap, weight):
    g, z, _, mask, state = case(seed)
    edited, _, info = coordinate_gradients(
        g[0], z, None, mask, state, aga_weight=0, eep_weight=weight, max_projection=cap
    )
    along = np.sum(np.asarray(edited) * g[0], axis=1)
    square = np.sum(g[0] ** 2, axis=1)
    # (1 - w) |g|^2 <= <g, (I - wC) g> <= |g|^2, C between 0 and 1.
    slack = 1e-5 * square
    assert np.all(along >= (1 - info.projection_weights) * square - slack)
    assert np.all(along <= square + slack)
    assert np.all((info.projection_weights >= 0) & (info.projection_weights <= cap))
    assert np.all(np.diff(info.quantiles) >= 0)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_gradients_scale_does_not_matter(scale):
    g, z, zhat, mask, state = case(10)
    options = {"aga_weight": 0}
    expected, _, info = coordinate_gradients(g, z, zhat, mask, state, **options)
    scaled = g * np.float32(scale)
    found, _, same = coordinate_gradients(scaled, z, zhat, mask, state, **options)
    found = np.asarray(found) / np.float32(scale)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(same.removed_share, info.removed_share, rtol=1e-5)


# ---------------------------------------------------------------------------
# Transformations of JAX, dtypes, checks
# ---------------------------------------------------------------------------


def test_under_vmap_jit_and_scan():
    g, z, zhat, mask, state = case(11)
    expected = pulled_back(g[0], z, zhat, mask, state)
    found = pulled_back.__wrapped__(g[0], z, zhat, mask, state)  # op by op
    chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=2e-6)
    stacked = jax.tree.map(lambda *x: np.stack(x), *[case(s)[:4] for s in (11, 12)])
    batched = jax.jit(jax.vmap(pulled_back, in_axes=(None, 0, 0, 0, None)))(
        g[0], *stacked[1:], state
    )
    batched = jax.device_get(batched)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[0], batched), expected, rtol=2e-6, atol=2e-6
    )

    def body(state, inputs):
        _, gradient, shares, state, info = pulled_back(*inputs, state)
        return state, (gradient, shares, info)

    batches = [case(s)[:4] for s in (13, 14, 15)]
    many = jax.tree.map(lambda *x: np.stack(x), *batches)
    many = (many[0][:, 0], *many[1:])
    both = jax.jit(lambda s, x: jax.lax.scan(body, s, x))(state, many)
    last, scanned = jax.device_get(both)
    for index, batch in enumerate(batches):
        state, out = body(state, (batch[0][0], *batch[1:]))
        at = jax.tree.map(lambda x, i=index: x[i], scanned)
        chex.assert_trees_all_close(at, out, rtol=2e-6, atol=2e-6)
    chex.assert_trees_all_close(last, state, rtol=2e-6)
    assert last.step == 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_features(dtype):
    g, z, zhat, mask, state = case(16)
    z, half = z.astype(dtype), g[0].astype(dtype)
    out, gradient, _, new, info = pulled_back(half, z, zhat, mask, state)
    assert out.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(out, z)
    assert new.labeled_reference.dtype == info.energies.dtype == jnp.float32
    wide = [x.astype(np.float32) for x in (half, z)]
    expected, *_ = coordinate_gradients(*wide, zhat, mask, state)
    # Decided in float32 from the rounded features; rounded once, on the way out.
    np.testing.assert_array_equal(gradient, np.asarray(expected).astype(dtype))


def test_the_state_survives_as_flat_arrays():
    g, z, zhat, mask, state = case(17)
    _, state, _ = coordinate_gradients(g[0], z, zhat, mask, state)
    leaves, structure = jax.tree.flatten(state)
    saved = [np.asarray(leaf) for leaf in leaves]
    restored = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in saved])
    chex.assert_trees_all_equal(
        coordinate_gradients(g[0], z, zhat, mask, restored),
        coordinate_gradients(g[0], z, zhat, mask, state),
    )


def _without(**changes):
    _, z, zhat, mask, state = case(18)
    arguments = {
        "features": z,
        "reference_features": zhat,
        "labeled_mask": mask,
        "state": state,
    }
    return arguments | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros((2, 3, 4))}, r"features must be \(N, D\)"),
        ({"reference_features": np.zeros((3, D))}, "reference_features must be those"),
        ({"reference_features": None}, "reference_features are needed"),
        ({"labeled_mask": np.zeros(5, bool)}, "labeled_mask must have one entry"),
        ({"mode": "both"}, "mode must be one of"),
        ({"eep_weight": -1.0}, "eep_weight must be a finite number"),
        ({"aga_weight": np.nan}, "aga_weight must be a finite number"),
        ({"max_projection": -0.5}, "max_projection must be"),
        ({"state": F.init_coordinator(np.eye(3), 0.5)}, "5 channels, the state's"),
        ({"probe": np.zeros(3)}, "probe must be"),
    ],
)
def test_messages(changes, message):
    with pytest.raises(ValueError, match=message):
        F.coordinate(**_without(**changes))
    if "probe" not in changes:
        with pytest.raises(ValueError, match=message):
            F.coordinate_gradients(np.zeros((2, 2 * B, D)), **_without(**changes))


@pytest.mark.parametrize(
    ("gradients", "options", "message"),
    [
        (np.zeros((3, D)), {}, "gradients must be"),
        (np.zeros((2 * B, D)), {"mode": "unsupervised_only"}, "per objective"),
        (np.zeros((2, 2 * B, D)), {"supervised": 2}, "supervised is objective 2"),
        (
            np.zeros((2, 2 * B, D)),
            {"unsupervised": (1, 5), "mode": "unsupervised_only"},
            "unsupervised is objective 5",
        ),
    ],
)
def test_messages_about_gradients(gradients, options, message):
    with pytest.raises(ValueError, match=message):
        F.coordinate_gradients(gradients, **_without(), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.init_coordinator(np.zeros((2, 3)), 0.5), r"must be \(D, D\)"),
        (lambda: F.init_coordinator(np.eye(2), []), "at least one energy"),
        (
            lambda: F.init_coordinator(np.eye(2), 0.5, center=np.zeros(3)),
            "center must have shape",
        ),
    ],
)
def test_messages_at_the_start(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_mask_of_two_views_is_no_concatenation():
    # Which the TPU's compiler makes of six exchanges where rows are divided over chips.
    g, z, zhat, mask, state = case()
    text = coordinate_gradients.lower(g, z, zhat, mask, state).as_text()
    joined = [line for line in text.splitlines() if "concatenate" in line]
    assert joined  # of numbers, the shares
    assert not any("xi1>" in line for line in joined)


@pytest.mark.parametrize(
    "name", [name for name in F.__all__ if inspect.isfunction(getattr(F, name))]
)
def test_functions_are_documented(name):
    documented = inspect.getdoc(getattr(F, name))
    for section in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert f"\n{section}\n" in documented, f"{name} lacks {section}"
    arguments = documented.split("\nArgs:\n")[1].split("\nReturns:\n")[0]
    for argument in inspect.signature(getattr(F, name)).parameters:
        assert f"  {argument}: " in arguments, f"{name} does not document {argument}"
