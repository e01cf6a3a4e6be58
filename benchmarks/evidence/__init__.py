"""Where coordination helps: tasks by family, arms, paired seeds, one table.

A *task* trains one model on K objectives and says how good the model got; an *arm* is a
way to turn the objectives into steps. :mod:`benchmarks.evidence.command` is the program.
"""
