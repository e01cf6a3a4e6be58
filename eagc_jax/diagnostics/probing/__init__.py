"""Do you need an aggregator? A few steps of your own training, measured."""

from eagc_jax.diagnostics.probing.advice import Verdict
from eagc_jax.diagnostics.probing.report import AppliedReport, ProbeReport
from eagc_jax.diagnostics.probing.running import probe

__all__ = ["AppliedReport", "ProbeReport", "Verdict", "probe"]
