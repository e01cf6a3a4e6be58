"""Whether a state is the one that a transformation's ``init`` makes.

States are restored from checkpoints: of another number of objectives, another tree, other
options, another version. All that is checked while tracing, from kinds and shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from eagc_jax._by_leaf import ByLeaf
from eagc_jax._trees import leaf_name
from eagc_jax.typing import OptState, Params

_RESTORE = "restore it into jax.eval_shape(tx.init, params), or call init again."


def check_kind(state: OptState, kind: type) -> None:
    """Raises ValueError for a state of another type, or restored as bare dicts."""
    if not isinstance(state, kind):
        raise ValueError(
            f"the state must be a {kind.__name__}, as init returns it; got "
            f"{type(state).__name__}. It is another transformation's, an older "
            f"version's, or was restored without a target: {_RESTORE}"
        )


def check_state(state: OptState, kind: type, number: int, per_objective: str) -> None:
    """Raises ValueError for a state that isn't this transformation's.

    Args:
      state: what ``update`` was given.
      kind: the NamedTuple that ``init`` returns.
      number: K.
      per_objective: the name of a field with one entry, or row, for each objective.
    """
    check_kind(state, kind)
    leaves = jax.tree.leaves(getattr(state, per_objective))
    found = {leaf.shape[0] if np.ndim(leaf) else None for leaf in leaves}
    if leaves and max(leaf.size for leaf in leaves) and found != {number}:
        raise ValueError(
            f"the state is of {found.pop()} objectives (its {per_objective!r}), this "
            f"transformation of {number}: call init again."
        )


def check_like(
    state: OptState, init: Callable[[Params], OptState], params: Params
) -> None:
    """Raises ValueError unless a state has the fields and shapes that ``init`` gives.

    Args:
      state: what ``update`` was given.
      init: the transformation's.
      params: arrays of the parameters' shapes: themselves, or their gradients.
    """
    expected = jax.eval_shape(init, params)
    check_kind(state, type(expected))
    found, wanted = _shapes(state), _shapes(expected)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"the state's '{name}' has {_shown(found, name)}, where init makes "
                f"{_shown(wanted, name)} for these updates. It is of another tree, "
                "number of objectives or set of options, or an older version's: "
                f"{_RESTORE}"
            )


def _shapes(state: OptState) -> dict[str, object]:
    """By name of every leaf; of a mapping by leaf, its leaves' names too."""
    found = jax.tree_util.tree_leaves_with_path(
        state, is_leaf=lambda node: isinstance(node, ByLeaf)
    )
    return {
        leaf_name(path): (
            (tuple(np.shape(group) for group in leaf.groups), leaf.spec)
            if isinstance(leaf, ByLeaf)
            else np.shape(leaf)
        )
        for path, leaf in found
    }


def _shown(shapes: dict[str, object], name: str) -> str:
    return f"shape {shapes[name]}" if name in shapes else "nothing"
