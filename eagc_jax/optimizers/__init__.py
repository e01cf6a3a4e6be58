"""Conflict where the parameters feel it: aggregators in the metric of an optimizer.

``aware``: the transformation. ``recognise``: which optimizers are understood, by their
states; ``program``: what a program shows of what they do. ``probe``: the preconditioner,
measured by asking the optimizer itself; one file a kind of it: ``diagonal``, ``sign``,
``matrix``. ``certificate``: what the applied update does to every objective.
"""

from eagc_jax.optimizers.aware import OptimizerAwareState, optimizer_aware

__all__ = ["OptimizerAwareState", "optimizer_aware"]
