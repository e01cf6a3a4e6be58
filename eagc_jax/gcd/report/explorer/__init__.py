"""The page: one HTML file on which a discovery is looked at and corrected."""

from eagc_jax.gcd.report.explorer.page import write_page

__all__ = ["write_page"]
