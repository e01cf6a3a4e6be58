r"""Several rewards, one policy: advantages of K rewards into one.

Pure functions of arrays ``(K, *prompts, group)``: K rewards of a group of answers to each
prompt, larger is better. What they return goes into the policy's own loss, as a single
reward's advantages would.

==================================================== ==================================
the rewards                                          use
==================================================== ==================================
are one                                              :func:`group_advantages` (GRPO)
differ in unit and spread                            :func:`decoupled_advantages` (GDPO)
conflict                                             :func:`coordinated_advantages`
conflict, and K policy gradients are affordable      :func:`surrogate_losses`, with
                                                     :func:`eagc_jax.value_and_grads` and
                                                     an aggregator
have levels that must be reached                     :func:`lagrangian`
==================================================== ==================================
"""

from eagc_jax.rewards.advantages import decoupled_advantages, group_advantages
from eagc_jax.rewards.conflict import coordinated_advantages, surrogate_losses
from eagc_jax.rewards.constraints import Lagrangian, LagrangianState, lagrangian

__all__ = [
    "Lagrangian",
    "LagrangianState",
    "coordinated_advantages",
    "decoupled_advantages",
    "group_advantages",
    "lagrangian",
    "surrogate_losses",
]
