"""One network, several tasks at once.

The error is the geometric mean of the objectives' held-out errors: shares of wrong
classes, and squared errors over the variance.
"""

from benchmarks.evidence.tasks.multitask import (
    intents,
    scales,
    two_images,
    wrong_labels,
)

__all__ = ["intents", "scales", "two_images", "wrong_labels"]
