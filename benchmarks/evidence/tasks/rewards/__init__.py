"""Several rewards of one policy.

The error is one over the geometric mean of the expected rewards, each over its largest.
"""

from benchmarks.evidence.tasks.rewards import policies

__all__ = ["policies"]
