"""What an assertion of this package raises: a property, an input, what was found."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """What a check found on one input."""

    found: str  # a sentence, with the number that is too large.
    tolerance: str  # what would have been accepted.


class PropertyError(AssertionError):
    """A property does not hold.

    Attributes:
      property: its name, as in ``properties=``.
      given: a line of Python that gives the input again (``np`` is NumPy, ``testing``
        is :mod:`eagc_jax.testing`).
      found: what was found on it.
      tolerance: what would have been accepted.
    """

    def __init__(self, name: str, given: str, violation: Violation, hint: str = ""):
        self.property = name
        self.given = given
        self.found: str = violation.found
        self.tolerance: str = violation.tolerance
        lines = [
            f"{name} does not hold.",
            f"  given:    {given}",
            f"  found:    {violation.found}",
            f"  accepted: {violation.tolerance}",
        ]
        super().__init__("\n".join([*lines, *([f"  {hint}"] if hint else [])]))
