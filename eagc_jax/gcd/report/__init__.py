"""Plots, a contact sheet and one self-contained HTML page of finished trainings."""

from eagc_jax.gcd.report.write import write_report

__all__ = ["write_report"]
