"""Soft gating: a smooth, bounded, sum-preserving rescaling of each objective."""

from eagc_jax.gating.gate import soft_gate
from eagc_jax.gating.state import BlockMemory, SoftGateState
from eagc_jax.gating.temperature import minimum_temperature

__all__ = ["BlockMemory", "SoftGateState", "minimum_temperature", "soft_gate"]
