"""Each task at its smallest: losses, gradients and measures are numbers that move."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.evidence import command, data, task
from benchmarks.evidence.tasks import measures
from benchmarks.evidence.tasks.continual import sessions
from benchmarks.evidence.tasks.language import transformer, words
from benchmarks.evidence.tasks.multitask import domains, two_images, wrong_labels
from benchmarks.evidence.tasks.rewards import policies
from tests.evidence.problems import GIVEN

# One of each kind of task; what differs between the others is their data.
SHOWN = {
    "physics": ("burgers", "helmholtz", "interface", "allen-cahn", "inverse"),
    "multitask": ("two-digits", "scales-cells", "wrong-digits"),
    "continual": ("split-digits", "intents"),
    "language": ("next-word-banking", "instructions-banking"),
    "rewards": ("table-units", "network-alike"),
}
CASES = [(family, name) for family, names in SHOWN.items() for name in names]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_task_can_be_trained(family, name):
    one = task.builders(family)[name](GIVEN)
    assert (one.family, one.name) == (family, name)

    @jax.jit
    def first_step(key, given):
        params = one.init(key, given)
        draw = task.Draw(given, key, jnp.int32(0), jnp.float32(0.5))
        losses, pull_back = jax.vjp(lambda p: jnp.stack(one.losses(p, draw)), params)
        (gradient,) = pull_back(jnp.ones(len(losses)))
        return losses, gradient, one.evaluate(params, given)

    found = first_step(jax.random.key(0), one.data)
    losses, gradient, found = jax.device_get(found)
    assert losses.shape == (one.number,)
    # A policy gradient's loss has the gradient that is wanted, and any sign.
    assert np.all(np.isfinite(losses) if family == "rewards" else losses > 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert found[one.metric] > 0
    assert all(value.shape == () for value in found.values())


def test_every_family_is_listed():
    assert set(task.builders("physics")) == set(SHOWN["physics"])
    with pytest.raises(ValueError, match="family must be one of physics"):
        task.builders("music")
    with pytest.raises(ValueError, match="name must not be taken in physics"):
        task.task("physics", "burgers")(lambda given: None)


def test_a_task_without_its_data_is_left_out_by_name(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("EAGC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert command.tasks("multitask", ["two-mnist"], GIVEN) == []
    assert (
        "multitask, two-mnist: left out. MNIST was not found" in capsys.readouterr().out
    )


def test_the_best_policy_is_right_in_half_of_the_symbols():
    one = task.builders("rewards")["table-units"](GIVEN)
    evaluate = jax.jit(one.evaluate)
    places, certain = np.arange(policies.LENGTH), 50.0 * np.eye(policies.SYMBOLS)
    symbols = np.where(places < policies.LENGTH // 2, one.data["own"], policies.BLANK)
    found = evaluate(certain[symbols], one.data)
    np.testing.assert_allclose(found["right"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(found["ended"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found["error"], 4 ** (1 / 3), rtol=1e-6)
    # A reward of nothing has a logarithm, too.
    blank = certain[np.zeros_like(symbols)]
    np.testing.assert_allclose(evaluate(blank, one.data)["error"], 10, rtol=1e-5)


def test_the_losses_have_the_policy_gradient():
    """Over many answers, the gradient of the expected rewards, in their units."""
    one = task.builders("rewards")["table-units"](GIVEN)
    logits = jax.jit(one.init)(jax.random.key(1), one.data)

    def by_answers(key):
        draw = task.Draw(one.data, key, jnp.int32(0), jnp.float32(0))
        return jax.jacobian(lambda p: jnp.stack(one.losses(p, draw)))(logits)

    keys = jax.random.split(jax.random.key(2), 2000)
    found = -np.mean(jax.jit(jax.vmap(by_answers))(keys), axis=0)

    @jax.jit
    @jax.jacobian
    def expected(p):
        measured = one.evaluate(p, one.data)
        return jnp.stack([10 * measured["right"], measured["short"], measured["ended"]])

    # The baseline is the group's own mean: a share of 1 / 32 of the gradient is lost.
    right = np.asarray(expected(logits)) * (1 - 1 / policies.GROUP)
    for k in range(3):
        error = np.linalg.norm(found[k] - right[k]) / np.linalg.norm(right[k])
        # The standard error of 64,000 answers is 0.02; a lost share is 0.03.
        assert error < 0.03, (k, error)


def test_two_images_overlap():
    a, b = np.ones((1, 8, 8)), np.full((1, 8, 8), 0.5)
    picture = np.asarray(two_images.composed(a, b)).reshape(12, 12)
    assert picture[0, 0] == 1
    assert picture[-1, -1] == 0.5
    assert picture[5, 5] == 1  # the brighter one
    assert picture[0, -1] == 0
    large = np.ones((1, 28, 28))
    found = jax.eval_shape(two_images.composed, large, large)
    assert found.shape == (1, 18 * 18)


def test_a_fifth_of_the_labels_is_wrong():
    right = np.arange(10_000) % 5
    wrong = wrong_labels.with_wrong(right, 5, 0.2)
    # A standard deviation is 0.004.
    assert abs(np.mean(wrong != right) - 0.2) < 0.016
    assert set(wrong) == set(range(5))
    np.testing.assert_array_equal(wrong, wrong_labels.with_wrong(right, 5, 0.2))


def test_sessions_divide_classes_or_permute_pixels():
    labeled = data.Labeled(
        np.arange(40.0).reshape(20, 2), np.arange(20) % 10, tuple("0123456789")
    )
    found = sessions.by_class(data.Halves(labeled, labeled))
    assert [set(one.train.classes) for one in found] == [
        {0, 1},
        {2, 3},
        {4, 5},
        {6, 7},
        {8, 9},
    ]
    stacked = sessions.arrays(found)
    assert stacked["x"].shape == (5, 4, 2)
    orders = sessions.permuted(data.Halves(labeled, labeled))
    np.testing.assert_array_equal(orders[0].train.items, labeled.items)
    for one in orders:
        np.testing.assert_array_equal(np.sort(one.test.items, axis=1), labeled.items)


def finite_losses(one, session, rows):
    """In the first session and in the second, of data poisoned in some places."""
    poisoned = np.array(one.data["x"])
    poisoned[session, rows] = np.nan
    losses = jax.jit(lambda params, draw: jnp.stack(one.losses(params, draw)))
    params = jax.jit(one.init)(jax.random.key(0), one.data)
    found = []
    for share in np.float32([0.0, 0.25]):
        held = {**one.data, "x": poisoned}
        draw = task.Draw(held, jax.random.key(1), np.int32(0), share)
        found.append(np.isfinite(losses(params, draw)).tolist())
    return found


def test_the_first_session_replays_itself():
    one = task.builders("continual")["split-digits"](GIVEN)
    found = finite_losses(one, slice(1, None), slice(None))
    assert found == [[True, True], [False, True]]


def test_only_what_was_kept_is_replayed(monkeypatch):
    monkeypatch.setattr(sessions, "KEPT", 2)
    one = task.builders("continual")["split-digits"](GIVEN)
    # The first session repeats any of its own rows, the second one those that were kept.
    found = finite_losses(one, 0, slice(2, None))
    assert found == [[False, False], [True, True]]


def test_sentences_become_numbers():
    known = words.vocabulary(["my card", "My pin", "lost"], 7)
    assert known == {"my": 4, "card": 5, "lost": 6}
    asked = words.encoded(["My lost pin!"], known, 8, ["card"])
    assert asked.tolist() == [[2, 4, 6, 1, 3, 5, 0, 0]]
    # A long sentence makes room for its answer.
    short = words.encoded(["my my my my my"], known, 5, ["lost card"])
    assert short.tolist() == [[2, 4, 3, 6, 5]]


def test_the_transformer_does_not_look_ahead():
    shape = transformer.Shape(vocabulary=9, length=6, width=8, heads=2, depth=2)
    init = jax.jit(transformer.init, static_argnums=1)
    params = init(jax.random.key(0), shape)
    both = np.array([[2, 4, 5, 6, 7, 8], [2, 4, 5, 6, 3, 8]])
    before, after = np.asarray(
        jax.jit(transformer.states, static_argnums=2)(params, both, 2)
    )
    np.testing.assert_allclose(before[:4], after[:4], atol=1e-6)
    assert np.abs(before[4:] - after[4:]).max(axis=1).min() > 1e-3
    full = jax.eval_shape(
        lambda: transformer.init(jax.random.key(0), transformer.Shape())
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(full)) < 3_000_000


def test_domains_are_ten_of_fifteen():
    numbers = domains.domain_numbers()
    assert len(numbers) == 150
    assert set(collections.Counter(numbers.values()).values()) == {15}


def test_errors_have_logarithms():
    logits = np.eye(3)
    assert measures.error_rate(logits, np.arange(3)) == pytest.approx(1 / 6)
    assert measures.error_rate(logits, np.array([0, 2, 1])) == pytest.approx(2 / 3)
    found = measures.geometric_mean([jnp.float32(0.1), jnp.float32(10.0)])
    assert found == pytest.approx(1.0, rel=1e-6)
