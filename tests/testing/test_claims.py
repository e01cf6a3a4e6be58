"""Every aggregator has the properties that the table says it claims.

Those that are a Gram matrix and a weighting are tried as weightings by
``tests/aggregators/test_properties.py``; of these some are tried here by default.
"""

import functools
import inspect

import jax.numpy as jnp
import pytest

from eagc_jax import aggregators, testing
from eagc_jax.testing.properties import PROPERTIES

NOT_OF_A_STACK = {"from_weighting", "accumulate_objectives", "momentum_conflict_free"}
OPTIONS = {"gradnorm": {"layers": "kernel"}}
K = 4
# The others share their program with a weighting, or weigh losses as famo does.
QUICK = {
    "mean",
    "graddrop",
    "trimmed_mean",
    "krum",
    "gcond",
    "sam_gs",
    "moco",
    "famo",
}
NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in testing.CLAIMS
]


def test_every_aggregator_has_a_row():
    named = {
        name
        for name in aggregators.__all__
        if inspect.isfunction(getattr(aggregators, name))
    }
    assert named - NOT_OF_A_STACK == set(testing.CLAIMS)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_what_it_claims(name):
    claim = testing.CLAIMS[name]
    factory = functools.partial(getattr(aggregators, name), **OPTIONS.get(name, {}))
    testing.assert_aggregator(
        factory,
        K,
        claim.properties,
        extra_args={"value": jnp.ones(K)},
        tolerances=claim.tolerances,
        batch=8,
        max_examples=15,
    )


def test_the_table_shows_what_differs():
    lines = testing.claims_table().splitlines()
    assert len(lines) == len(testing.CLAIMS) + 2
    columns = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert "non conflicting" in columns
    assert "propagates nonfinite" not in columns  # all of them do
    upgrad = next(line for line in lines if line.startswith("| `upgrad` |"))
    assert upgrad.count(" yes ") == len(columns) - 2 - 1  # all but one
    for claim in testing.CLAIMS.values():
        assert claim.properties <= set(PROPERTIES)
        assert set(claim.tolerances) <= claim.properties
