"""One step: gradients through the cut at the feature, coordination, measurements."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eagc_jax import diagnostics, features, value_and_grads
from eagc_jax.gcd.methods import Batch
from eagc_jax.gcd.training import measures, step
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination


@dataclasses.dataclass(frozen=True)
class Toy:
    """Two objectives that compile fast; a step asks no more of a method."""

    objective_weights = (0.25, 0.75)
    objective_roles = ("labeled", "unlabeled")

    def objectives(self, head, state, features, batch):
        """Squares on labeled rows; consistency of the views, pulled to 1."""
        outputs = head(features)
        mask = jnp.tile(batch.labeled_mask, 2)[:, None]
        wanted = jnp.tile(jax.nn.one_hot(batch.labels, outputs.shape[1]), (2, 1))
        first, second = jnp.split(outputs, 2)
        found = (
            jnp.sum(mask * (outputs - wanted) ** 2),
            jnp.mean((jnp.tanh(first) - second) ** 2) + jnp.mean((outputs - 1) ** 2),
        )
        return found, state + 1


TOY = Toy()
WEIGHTS = np.array(TOY.objective_weights, np.float32)
MODES = ("released", "paper", "unsupervised_only")
# Two orders of summation in float32 over 16 rows and 5 tokens, through two blocks.
TOLERANCE = 2e-5


def assert_close(found, expected, tolerance=TOLERANCE):
    """Trees of equal leaves, to a share of each leaf's largest entry."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale + 1e-30)


class Setting:
    """A model cut at the feature, a batch, and what the coordinator needs."""

    def __init__(self, backbone, trainable_blocks):
        rng = np.random.default_rng(trainable_blocks)
        images = rng.random((16, 8, 8, 1), np.float32)

        @nnx.jit
        def make(backbone):
            head = nnx.Linear(8, 4, rngs=nnx.Rngs(1))
            model = DiscoveryModel(backbone, head, trainable_blocks=trainable_blocks)
            tokens = model.tokens(images)
            return model, tokens, model.features(tokens)

        model, self.tokens, z = make(backbone)
        graphdef, trainable, frozen = nnx.split(model, model.is_trainable, ...)
        self.params = nnx.to_pure_dict(trainable)
        mask = np.arange(8) % 2 == 0
        labels = np.where(mask, np.arange(8) % 3, -1)
        self.batch = Batch(jnp.array(labels), jnp.array(mask), jnp.float32(1))
        self.rebuild = lambda p: nnx.merge(graphdef, nnx.State(p), frozen)
        self.state = _coordinator(z[:8][mask])
        # Another model than the student, as after a while of training.
        self.reference = jax.tree.map(
            lambda leaf: leaf * 1.3, step.below_of(self.params)
        )

    def problem(self, summed):
        return step.Problem(TOY, self.rebuild, summed)

    def losses(self, params, between=lambda z: (z, z)):
        """Both objectives of the whole model, with something at the feature."""
        model = self.rebuild(params)
        of = between(model.features(self.tokens))
        return jnp.stack(
            [TOY.objectives(model.head, 0, of[k], self.batch)[0][k] for k in (0, 1)]
        )

    def coordination(self, mode, strength=1.0, **changes):
        settings = FeatureCoordination(mode=mode, decay_epochs=9, **changes)
        strength = jnp.float32(strength)
        return step.Coordination(settings, self.reference, self.state, strength)

    def gradients(self, summed, coordination, measure):
        problem = self.problem(summed)
        found = step.gradients(
            problem, self.params, self.tokens, self.batch, coordination, measure, 4
        )
        assert found.method_state is not None
        return found.gradients, found.coordinator, found.seen


@jax.jit
def _coordinator(labeled):
    conceptor = features.conceptor(labeled)
    energies = features.energy_ratio(labeled, conceptor)
    return features.init_coordinator(conceptor, energies)


@pytest.fixture(scope="module")
def settings(backbone):
    return functools.cache(lambda blocks: Setting(backbone, blocks))


def diagnosed(gradients):
    """What `diagnostics` makes of gradients by objective: GDC, norms, cosines."""
    blocks = gradients.get("backbone", {})
    rows = [jax.tree.map(lambda g, k=k: WEIGHTS[k] * g[k], blocks) for k in (0, 1)]
    return (
        diagnostics.gradient_deviation(*rows),
        diagnostics.gradient_norms(gradients),
        diagnostics.pairwise_cosines(gradients),
    )


@pytest.fixture(scope="module")
def plain(settings):
    """Without coordination: by objective, summed, and of the whole model."""

    @functools.cache
    def compute(blocks):
        setting = settings(blocks)

        @jax.jit
        def all_of(params, measure):
            def setting_of(problem, params, measure):
                found = step.gradients(
                    problem, params, setting.tokens, setting.batch, None, measure, 4
                )
                return found.gradients, found.method_state, found.seen

            each = setting_of(setting.problem(False), params, measure)
            total = setting_of(setting.problem(True), params, False)
            whole = value_and_grads(setting.losses)(params)
            return each, total, whole, diagnosed(whole[1])

        # NumPy from here on: op by op, each operation would be compiled.
        return jax.device_get(
            (all_of(setting.params, True), all_of(setting.params, False))
        )

    return compute


@pytest.mark.parametrize(
    "blocks", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_the_cut_gives_the_gradients_of_the_whole_model(plain, blocks):
    (each, total, (losses, whole), _), _ = plain(blocks)
    np.testing.assert_allclose(each[2]["losses"], losses, rtol=1e-6)
    assert ("backbone" in whole) == (blocks > 0)
    # Without a trained block there is no angle between gradients of it.
    assert np.isnan(each[2]["gradient_deviation"]) == (blocks == 0)
    assert_close(each[0], whole)
    weighted = jax.tree.map(lambda leaf: np.tensordot(WEIGHTS, leaf, 1), whole)
    assert_close(total[0], weighted)
    np.testing.assert_allclose(total[2]["losses"], losses, rtol=1e-6)
    assert each[1] == total[1] == 5  # the method's state, a step later


@pytest.mark.parametrize("blocks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_measurements_are_those_of_each_losss_gradient(plain, settings, blocks):
    (each, total, _, (deviation, norms, cosines)), (unmeasured, *_) = plain(blocks)
    seen = each[2]
    assert deviation > 1e-3  # what follows means something
    np.testing.assert_allclose(seen["gradient_deviation"], deviation, rtol=1e-4)
    names = measures.layer_names(settings(blocks).params)
    for index, name in enumerate(names):
        np.testing.assert_allclose(
            seen["gradient_norms"][:, index], norms[name], rtol=1e-4
        )
        np.testing.assert_allclose(
            seen["cosines"][index], cosines[name][0, 1], atol=1e-4
        )
    for part in ("gradient_deviation", "gradient_norms", "cosines"):
        assert seen[part].shape == unmeasured[2][part].shape
        assert np.isnan(unmeasured[2][part]).all()
        assert part not in total[2]  # never measured at all


def test_a_trace_has_a_place_for_what_was_not_measured(plain):
    (each, total, *_), _ = plain(1)
    full, short = measures.trace(each[2], ()), measures.trace(total[2], ())
    assert full.gates.shape == short.gates.shape == (2, 0)
    assert np.isnan(short.gradient_deviation)
    assert short.gradient_norms.shape == (2, 0)
    assert np.isnan(full.labeled_reference)
    assert np.isnan(full.projection_quantiles).all()


@pytest.fixture(scope="module")
def coordinated(settings):
    """By mode, of a strength: the step's two forms, and `coordinate` in the model."""

    @functools.cache
    def compiled(mode):
        setting = settings(1)

        def between(blocks):
            reference = setting.rebuild({**setting.params, **blocks})
            reference = reference.features(setting.tokens)

            def coordinate(z):
                mask, state = setting.batch.labeled_mask, setting.state
                z, _, _ = features.coordinate(z, reference, mask, state, mode=mode)
                return z if mode == "unsupervised_only" else (z, z)

            return coordinate

        @jax.jit
        def all_of(strength):
            coordination = setting.coordination(mode, strength)
            each = setting.gradients(False, coordination, True)
            total = setting.gradients(True, coordination, False)

            def whole(blocks):
                params = {**setting.params, "backbone": blocks}
                losses = setting.losses(params, between(setting.reference))
                return WEIGHTS @ losses

            return each, total, jax.grad(whole)(setting.params["backbone"])

        return all_of

    return functools.cache(
        lambda mode, strength: jax.device_get(compiled(mode)(strength))
    )


@pytest.mark.parametrize(
    "mode",
    [pytest.param(m, marks=pytest.mark.slow if m == "paper" else ()) for m in MODES],
)
def test_both_forms_of_a_coordinated_step_are_the_published_one(
    coordinated, plain, mode
):
    each, total, whole = coordinated(mode, 1.0)
    (raw, *_), _ = plain(1)
    assert_close(total[0]["backbone"], whole)
    weighted = jax.tree.map(lambda leaf: np.tensordot(WEIGHTS, leaf, 1), each[0])
    assert_close(weighted, total[0])
    # The heads' gradients are what they were.
    assert_close(each[0]["head"], raw[0]["head"])
    if mode == "unsupervised_only":  # AGA alone touches the supervised gradient
        difference = jax.tree.map(lambda a, b: a - b, each[0], raw[0])["backbone"]
        assert all(np.any(leaf[1]) for leaf in jax.tree.leaves(difference))
    for part in ("removed", "added", "labeled_reference", "projection_quantiles"):
        assert np.all(np.isfinite(each[2][part]))
        np.testing.assert_allclose(
            each[1].labeled_reference, each[2]["labeled_reference"]
        )
    assert each[2]["removed"] > 0
    assert each[2]["added"] > 0
    assert each[1].step == 1


@pytest.mark.parametrize("mode", MODES)
def test_measurements_are_of_raw_gradients(coordinated, plain, mode):
    each, _, _ = coordinated(mode, 1.0)
    (raw, *_), _ = plain(1)
    for part in ("gradient_deviation", "gradient_norms", "cosines"):
        np.testing.assert_allclose(each[2][part], raw[2][part], rtol=1e-5, atol=1e-6)


def test_coordination_of_strength_0_is_none_at_all(coordinated, plain):
    each, total, _ = coordinated("released", 0.0)
    (raw, raw_total, *_), _ = plain(1)
    assert_close(each[0], raw[0])
    assert_close(total[0], raw_total[0])


def test_strength_scales_what_is_done(coordinated, plain):
    (_, raw, *_), _ = plain(1)
    half, full = (coordinated("paper", s)[1][0]["backbone"] for s in (0.5, 1.0))
    between = jax.tree.map(lambda a, b: (a + b) / 2, raw[0]["backbone"], full)
    assert_close(half, between)
