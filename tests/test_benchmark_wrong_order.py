"""benchmarks/wrong_order.py runs, and what it calls right is the coordinated mean."""

import json

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks import wrong_order
from eagc_jax import sum_objectives, value_and_grads


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    target = tmp_path_factory.mktemp("order") / "rows.json"
    with pytest.MonkeyPatch.context() as patch:
        kept = {n: wrong_order.COORDINATORS[n] for n in ("eagc", "plain sum")}
        patch.setattr(wrong_order, "COORDINATORS", kept)
        wrong_order.main(["--draws", "3", "--json", str(target)])
    return {row["coordinator"]: row for row in json.loads(target.read_text())}


def test_the_order_matters_to_what_is_not_linear(rows):
    assert rows["eagc"]["error"] > 1e-2
    assert rows["eagc"]["angle"] > 0.5


def test_the_order_does_not_matter_to_the_sum(rows):
    # Two means of eight in float32: a few roundings of entries, relative to the norm.
    assert rows["plain sum"]["error"] < 1e-6
    assert rows["plain sum"]["angle"] < 1e-4


def test_the_right_order_is_the_whole_batch():
    key = jax.random.key(3)

    @jax.jit
    def both(key):
        right, _ = wrong_order.both_orders(sum_objectives(), key)
        params, x, y = wrong_order.draw(key)
        x, y = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in (x, y))
        _, gradients = value_and_grads(wrong_order.losses_fn)(params, x, y)
        return right, ravel_pytree(sum_objectives().update(gradients, ())[0])[0]

    right, whole = both(key)
    np.testing.assert_allclose(right, whole, rtol=0, atol=1e-6 * np.linalg.norm(whole))
