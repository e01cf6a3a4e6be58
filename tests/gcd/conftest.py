"""The tiny problem's data and backbone, made once for all tests of a session."""

import pytest
from flax import nnx

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones import vit as models
from tests.gcd import tiny


@pytest.fixture(scope="session")
def split():
    return sources.pose(tiny.digits(), range(5))


@pytest.fixture(scope="session")
def backbone():
    return nnx.jit(lambda: models.VisionTransformer(tiny.VIT, rngs=nnx.Rngs(0)))()
