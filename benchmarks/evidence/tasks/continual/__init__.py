"""Data that arrives in sessions: the new session's loss against that of a few kept rows.

The error is the share of wrong classes over all sessions' test rows, after the last one.
"""

from benchmarks.evidence.tasks.continual import sessions

__all__ = ["sessions"]
