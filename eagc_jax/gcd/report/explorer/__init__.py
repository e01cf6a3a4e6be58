"""The page: a discovery to look at and to decide on, in one HTML file."""

from eagc_jax.gcd.report.explorer.page import write_page

__all__ = ["write_page"]
