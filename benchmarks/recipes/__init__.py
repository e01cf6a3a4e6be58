"""Recipes of `examples/recipes` in long runs, beside what a probe of them says."""
