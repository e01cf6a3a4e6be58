"""The names of trees in signatures, as Optax has them.

Python has no type for a pytree: these are ``Any`` to a type checker, and tell a reader
what a tree holds.
"""

from __future__ import annotations

from typing import Any, TypeAlias

#: Nested dicts, lists, tuples, dataclasses or Flax states, with arrays as leaves.
PyTree: TypeAlias = Any

#: Parameters: leaves of any shape.
Params: TypeAlias = PyTree

#: Gradients or updates; of several objectives, leaves ``(K, *param.shape)``.
Updates: TypeAlias = PyTree

#: The state of a transformation.
OptState: TypeAlias = PyTree

#: What a function of the user's takes beside the parameters: a batch, a key, ...
Inputs: TypeAlias = PyTree

__all__ = ["Inputs", "OptState", "Params", "PyTree", "Updates"]
