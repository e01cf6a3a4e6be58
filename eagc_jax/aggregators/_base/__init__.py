"""From a weighting to an Optax transformation ``(K, ...) -> (...)``.

How to add a method that needs the Gram matrix alone, as ``aggregators/mymethod.py``:

1. A solve on a :class:`~eagc_jax.aggregators._weighting.Problem`. Work with
   ``problem.gram.cosines`` (unit diagonal) and ``problem.gram.norms`` (relative to the
   largest), never with an absolute epsilon; ``unscale(y, norms)`` turns weights of unit
   gradients into weights of gradients. Return weights, or (weights, SolveInfo)::

       def _solve(problem: Problem) -> tuple[jax.Array, SolveInfo]: ...

2. The pure weighting, ``mymethod_weights(gram, *, preference=None, ...) -> (K,)``:
   ``return _solve(problem_of(gram, preference))[0]``; listed in ``weightings.py`` as
   ``mymethod``. It must jit and vmap.
3. The factory ``mymethod(num_objectives, *, ..., **options: Unpack[GramOptions])``,
   decorated with ``shows_options``: ``return from_weighting(num_objectives,
   stateless("mymethod", "mean", _solve), **options)``; listed in
   ``aggregators/__init__.py``. The convention says what length the update has: "sum",
   "mean", "convex" or "unit".
4. A random method sets ``random=True`` and uses ``problem.key``; a stateful one is a
   ``Weighting`` with ``init`` and ``apply(problem, state) -> (weights, state, info)``;
   one that needs losses sets ``needs_values=True`` and uses ``problem.values``; one
   with a keyword argument of its own in ``update`` says in ``reads`` which field of the
   problem it becomes; one that doesn't look at the Gram matrix sets
   ``needs_gram=False``.
5. A row in ``eagc_jax/testing/claims.py``: which properties it has; and its edge cases
   in the table of ``tests/aggregators/table.py``. An absent objective arrives with norm
   0 and ``problem.active`` False, a zero gradient with norm 0; NaN may arrive in norms
   and must leave in the weights.
"""

from eagc_jax.aggregators._base.factory import from_weighting, shows_options
from eagc_jax.aggregators._base.options import RESCALES, GramOptions
from eagc_jax.aggregators._base.state import AggregateState

__all__ = [
    "RESCALES",
    "AggregateState",
    "GramOptions",
    "from_weighting",
    "shows_options",
]
