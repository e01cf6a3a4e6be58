"""Each property of transformations fails on one that breaks it; Optax's own are tried."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from optax.experimental import aggregating

from eagc_jax import aggregators, testing
from tests.testing.broken import TRANSFORMATIONS, on_the_host, with_state

NAMES = typing.get_args(testing.TransformationProperty)


def test_the_zoo_has_every_property():
    assert set(TRANSFORMATIONS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_one_fails_with_a_line_that_shows_it(name):
    with pytest.raises(testing.PropertyError) as caught:
        testing.assert_transformation(TRANSFORMATIONS[name], properties=[name])
    error = caught.value
    assert error.property == name
    assert f'leave_out=("{name}",)' in str(error)
    for part in (name, error.given, error.found, error.tolerance):
        assert part in str(error)
    line, _, seeds = error.given.partition(", then ")
    with jax.enable_x64(name == "x64"):
        updates = eval(line, {"testing": testing})
    assert updates["kernel"].shape == (3, 4)
    assert seeds == "seeds to 2"


# What most of the zoo breaks is one property: the others hold.
ALSO = {
    "output": {"scan", "jit"},  # shapes are what is wrong, not numbers
    "x64": set(),
    "donation": {"vmap", "scan", "jit", "serialization", "none_leaves"},
    "strict_ranks": {"jit", "x64", "strict_dtypes", "state"},
}


@pytest.mark.parametrize("name", ALSO)
def test_a_property_is_seen_by_itself(name):
    held = testing.assert_transformation(
        TRANSFORMATIONS[name], properties=sorted(ALSO[name])
    ).held
    assert set(held) == ALSO[name]


def test_per_objective_ones_may_keep_the_axis_or_not():
    properties = ["output", "state", "mixed_dtypes"]
    testing.assert_transformation(optax.identity(), 3, properties)
    testing.assert_transformation(aggregators.mean(3), 3, properties)
    half = optax.stateless(
        lambda updates, params: {**updates, "bias": updates["bias"][0]}
    )
    with pytest.raises(testing.PropertyError, match=r"updates\['kernel'\] is float32"):
        testing.assert_transformation(half, 3, properties)


def test_on_one_device_sharding_is_left_out_and_said_so(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None])
    checked = testing.assert_transformation(
        optax.identity(), properties=["sharding", "output"]
    )
    assert checked.held == ("output",)
    assert checked.left_out == {"sharding": "there is one device"}


def test_keys_in_the_state_and_parameters_of_ones_own():
    """Noise of typed keys; leaves of any name, in any tree."""
    noise = with_state(lambda params: {"key": jax.random.key(0)}, _with_noise)
    params = (jnp.ones((2, 2)), {"inner": jnp.ones(3)})
    checked = testing.assert_transformation(noise, params=params, properties=_NUMERIC)
    assert set(checked.held) == set(_NUMERIC)


_NUMERIC = ("jit", "vmap", "scan", "donation", "serialization", "none_leaves")


def _with_noise(updates, state, params):
    key, use = jax.random.split(state["key"])
    found = jax.tree.map(lambda g: g + jax.random.normal(use, g.shape), updates)
    return found, {"key": key}


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"properties must be names.*'sate'"):
        testing.assert_transformation(optax.identity(), properties=["sate"])
    with pytest.raises(ValueError, match="leave_out must be names"):
        testing.assert_transformation(optax.identity(), leave_out="jit")
    with pytest.raises(ValueError, match="steps"):
        testing.assert_transformation(optax.identity(), steps=0)
    with pytest.raises(ValueError, match="num_objectives"):
        testing.assert_transformation(optax.identity(), 0)


def test_the_cause_is_kept():
    tx = with_state(
        lambda params: (), lambda u, s, p: (jax.tree.map(on_the_host, u), s)
    )
    with pytest.raises(testing.PropertyError) as caught:
        testing.assert_transformation(tx, properties=["vmap"])
    assert caught.value.__cause__ is not None


# ---------------------------------------------------------------------------
# Optax's own
# ---------------------------------------------------------------------------

# Adam and what is made like it promote a counter to a float.
PROMOTES = ("strict_dtypes",)


def test_adam():
    checked = testing.assert_transformation(optax.adam(1e-3), leave_out=PROMOTES)
    assert set(checked.held) == set(NAMES) - {"strict_dtypes"}
    assert checked.left_out == {"strict_dtypes": "asked for"}
    with pytest.raises(
        testing.PropertyError, match=r"strict_dtypes(.*\n)*.*TypePromotion"
    ):
        testing.assert_transformation(optax.adam(1e-3), properties=PROMOTES)


@pytest.mark.parametrize(
    ("make", "leave_out"),
    [
        (contrib.acprop, PROMOTES),
        # Its state starts as the parameters themselves.
        (contrib.madgrad, (*PROMOTES, "donation")),
    ],
)
def test_of_contrib(make, leave_out):
    tx = make(1e-3)
    checked = testing.assert_transformation(tx, leave_out=leave_out)
    assert set(checked.held) == set(NAMES) - set(leave_out)
    for name in set(leave_out) - {"strict_dtypes"}:
        with pytest.raises(testing.PropertyError, match="same buffer twice"):
            testing.assert_transformation(tx, properties=[name])


def average(number):
    del number
    return aggregating.average_per_element_updates()


@pytest.mark.parametrize(
    "tx",
    [
        average(4),
        aggregating.average_incrementally_updates(0, accumulation_steps=2),
    ],
    ids=["average_per_element_updates", "average_incrementally_updates"],
)
def test_aggregating(tx):
    checked = testing.assert_transformation(tx, 4)
    assert set(checked.held) == set(NAMES)


def test_what_the_average_of_aggregating_claims():
    """It is the mean, and has its properties."""
    claimed = testing.CLAIMS["mean"].properties
    testing.assert_aggregator(average, 4, claimed)
    with pytest.raises(testing.PropertyError, match="non_conflicting"):
        testing.assert_aggregator(average, 4, ["non_conflicting"])
    found, _ = average(2).update({"w": np.array([[1.0, 3.0], [3.0, 5.0]])}, ())
    np.testing.assert_allclose(found["w"], [2.0, 4.0])


def test_aggregating_by_process_and_its_statistics():
    """The public parts that are left: ``process``, and an optimizer behind it."""
    tx = aggregating.process(optax.identity(), average(4), optax.sgd(0.1))
    testing.assert_transformation(tx, 4, ["output", "state", "jit", "scan", "vmap"])
