"""Our weightings against what TorchJD returns: tests/golden/torchjd.npz.

``benchmarks/golden_torchjd.py`` says how the file was made. Errors are relative to
``sum_k |w_k| n_k``, float64.
"""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from eagc_jax import weightings
from eagc_jax.testing import matrices as samplers
from tests.aggregators import properties

NUMBERS = (2, 3, 6)
FRANK_WOLFE_STEPS = 20_000
# Rounding of a method's own arithmetic, times the largest condition of the cosines
# (1e3 here): 2e-16 * 1e3, and a few operations. Least squares stop at 1e-8 of the
# parameters (SciPy's default), which fairness passes on with its condition.
EXACT, LEAST_SQUARES = 1e-11, 1e-5
METHODS = {
    "pcgrad": (weightings.pcgrad, EXACT),
    "imtl_g": (weightings.imtl_g, EXACT),
    "aligned_mtl": (weightings.aligned_mtl, EXACT),
    "upgrad": (weightings.upgrad, EXACT),
    "dualproj": (weightings.dualproj, EXACT),
    "conflict_free": (weightings.conflict_free, EXACT),
    "fairgrad_1": (functools.partial(weightings.fairgrad, alpha=1.0), LEAST_SQUARES),
    "fairgrad_2": (functools.partial(weightings.fairgrad, alpha=2.0), LEAST_SQUARES),
    "mgda": (weightings.mgda, None),  # theirs is only near the solution
}


@functools.cache
def golden():
    path = Path(__file__).parents[1] / "golden" / "torchjd.npz"
    with np.load(path) as file:
        return dict(file)


@functools.cache
def every(number):
    """Each method's weights ``(B, K)``, in float64, of one program."""

    def solve(gram):
        return {name: weighting(gram) for name, (weighting, _) in METHODS.items()}

    with jax.enable_x64(True):
        gram = samplers.gram_of(golden()[f"matrices_{number}"])
        return jax.device_get(jax.jit(jax.vmap(solve))(gram))


def ours(name, number):
    """Weights ``(B, K)`` and directions ``(B, n)``, all in float64."""
    found = every(number)[name]
    assert found.dtype == np.float64
    return found, np.einsum("bk,bkn->bn", found, golden()[f"matrices_{number}"])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "mgda"])
def test_same_as_torchjd(name, number):
    tolerance = METHODS[name][1]
    found, direction = ours(name, number)
    matrices = golden()[f"matrices_{number}"]
    size = properties.size_of(found, matrices)
    assert properties.error(direction, golden()[f"{name}_{number}"], size) <= tolerance


@pytest.mark.parametrize("number", NUMBERS)
def test_gradvac_same_as_torchjd_step_after_step(number):
    matrices = golden()[f"matrices_{number}"]
    with jax.enable_x64(True):
        step = jax.jit(lambda gram, targets: weightings.gradvac(gram, targets))
        targets, found = np.zeros((number, number)), []
        for gram in samplers.gram_of(matrices):
            weights, targets = step(gram, targets)
            found.append(np.asarray(weights))
    found = np.stack(found)
    direction = np.einsum("bk,bkn->bn", found, matrices)
    size = properties.size_of(found, matrices)
    assert properties.error(direction, golden()[f"gradvac_{number}"], size) <= EXACT


@pytest.mark.parametrize("number", NUMBERS)
def test_mgda_at_least_as_short_as_torchjd(number):
    # Frank-Wolfe is within 2 C / (k + 2) of the least squared norm after k steps, C at
    # most the squared diameter of the hull, here at most 4.
    _, direction = ours("mgda", number)
    least = np.sum(direction**2, axis=1)
    reached = np.sum(golden()[f"mgda_{number}"] ** 2, axis=1)
    assert np.all(least <= reached * (1 + 1e-12))
    assert np.all(reached - least <= 8 / (FRANK_WOLFE_STEPS + 2))


def test_matrices_conflict_enough_to_tell_methods_apart():
    for number in NUMBERS:
        matrices = golden()[f"matrices_{number}"]
        cosines = samplers.gram_of(samplers.unit_rows(matrices))
        assert np.mean(np.min(cosines, axis=(1, 2)) < -0.2) >= 0.5
        assert np.max(np.linalg.cond(cosines)) < 1e3
