"""Tasks, a family a package; each task is one file that registers itself.

A new family's package (rewards, discovery) imports its files here below; the decorator
:func:`benchmarks.evidence.task.task` does the rest.
"""
