"""What was discovered, in the forms that other tools read: one format a file."""

from eagc_jax.gcd.export.registry import (
    Chosen,
    Exported,
    Only,
    export,
    formats,
    register,
    unregister,
)

__all__ = [
    "Chosen",
    "Exported",
    "Only",
    "export",
    "formats",
    "register",
    "unregister",
]
