"""Ways to get the gradients of K objectives: one interface, a way a file.

Three ways give K gradients, leaves ``(K, *shape)``, for an aggregator or
:func:`eagc_jax.eagc`:

======================================== ==============================================
objectives                               use
======================================== ==============================================
share inputs and everything else         :func:`value_and_grads`
meet in one feature, then own heads      :func:`value_and_grads_at_feature`
have batches of their own                :func:`value_and_grads_by_batch`
======================================== ==============================================

The others take a ``weighting``, a pure function from a ``(K, K)`` Gram matrix to
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
from eagc_jax.gradients.exact import value_and_grads

__all__ = [
    "LossFunctions",
    "Weighting",
    "value_and_grads",
    "value_and_grads_at_feature",
    "value_and_grads_by_batch",
]
