"""The tiny problem's data and backbone, made once for all tests of a session."""

import dataclasses

import pytest
from flax import nnx

from eagc_jax.gcd import data, models
from tests.gcd import tiny


@pytest.fixture(scope="session")
def split():
    whole = data.load_digits()
    few = dataclasses.replace(whole, images=whole.images[:96], labels=whole.labels[:96])
    return data.split_categories(few, range(5))


@pytest.fixture(scope="session")
def backbone():
    return nnx.jit(lambda: models.VisionTransformer(tiny.VIT, rngs=nnx.Rngs(0)))()
