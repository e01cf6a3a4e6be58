"""A finished discovery run as plots, a contact sheet and one self-contained page."""

from eagc_jax.gcd.report.write import write_report

__all__ = ["write_report"]
