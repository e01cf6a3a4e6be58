"""Ways to get the gradients of K objectives, and what each is for.

Three functions give K gradients, leaves ``(K, *shape)``, for an aggregator or
:func:`eagc_jax.eagc`:

======================================== ==============================================
objectives                               use
======================================== ==============================================
share inputs and everything else         :func:`value_and_grads`
meet in one feature, then own heads      :func:`value_and_grads_at_feature`
have batches of their own                :func:`value_and_grads_by_batch`
======================================== ==============================================

The other functions take a ``weighting``, a pure function from a ``(K, K)`` Gram matrix to
``(K,)`` weights, and give one gradient, that of the weighted loss, for ordinary Optax:
``(losses, gradient, weights)``.

======================================== ==============================================
need                                     use
======================================== ==============================================
no K gradients in memory                 :func:`two_phase`
the same in a model that scans           :func:`tapped_two_phase`, :func:`tap`
about the cost of one gradient           :func:`value_and_grad_from_representation`
the same, any model                      :func:`stale_weights`
an objective per example                 :func:`per_example_two_phase`
one objective a step                     :func:`value_and_grad_of_one`
======================================== ==============================================
"""

from eagc_jax.gradients._common import LossFunctions, Weighting
from eagc_jax.gradients.at_feature import value_and_grads_at_feature
from eagc_jax.gradients.by_batch import value_and_grads_by_batch
from eagc_jax.gradients.conv_taps import conv_gram, tap_conv
from eagc_jax.gradients.exact import value_and_grads
from eagc_jax.gradients.from_representation import value_and_grad_from_representation
from eagc_jax.gradients.of_one import value_and_grad_of_one
from eagc_jax.gradients.stale import (
    StaleWeightsState,
    init_stale_weights,
    stale_weights,
)
from eagc_jax.gradients.tapped import (
    per_example_two_phase,
    tapped_grams,
    tapped_two_phase,
)
from eagc_jax.gradients.taps import ExampleProbe, dense_gram, tap, tap_dense
from eagc_jax.gradients.two_phase import two_phase, value_and_gram

__all__ = [
    "ExampleProbe",
    "LossFunctions",
    "StaleWeightsState",
    "Weighting",
    "conv_gram",
    "dense_gram",
    "init_stale_weights",
    "per_example_two_phase",
    "stale_weights",
    "tap",
    "tap_conv",
    "tap_dense",
    "tapped_grams",
    "tapped_two_phase",
    "two_phase",
    "value_and_grad_from_representation",
    "value_and_grad_of_one",
    "value_and_grads",
    "value_and_grads_at_feature",
    "value_and_grads_by_batch",
    "value_and_gram",
]
