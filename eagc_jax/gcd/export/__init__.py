"""Writing what was discovered in the formats of other tools."""

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
