"""A small transformer on sentences: predicting them, and doing something with them.

The error is the geometric mean of the objectives' held-out errors.
"""

from benchmarks.evidence.tasks.language import classifying, instructing

__all__ = ["classifying", "instructing"]
