"""Which optimizers are understood: told by the states that their parts keep."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from eagc_jax._trees import named_leaves
from eagc_jax.typing import OptState

# Of every part that remembers something of the gradients: the fields in which it keeps
# means of them, which the step is linear in. What else they keep, squares, is even.
_MEANS: dict[type, tuple[str, ...]] = {
    optax.ScaleByAdamState: ("mu",),
    optax.ScaleByAmsgradState: ("mu",),
    optax.ScaleByRmsState: (),
    type(optax.scale_by_rms(bias_correction=True).init(())): (),
    optax.ScaleByRssState: (),
    optax.TraceState: ("trace",),
    optax.EmaState: ("ema",),
    optax.ScaleByLionState: ("mu",),
    contrib.MuonState: ("mu",),
}
_FORGETFUL = (optax.EmptyState, optax.ScaleByScheduleState)
# Of states that hold others: the field that does.
_HOLDERS = {
    optax.MaskedState: "inner_state",
    optax.PartitionState: "inner_states",
    optax.InjectHyperparamsState: "inner_state",
    optax.InjectStatefulHyperparamsState: "inner_state",
}


def check_recognised(state: OptState) -> None:
    """Raises ValueError for the state of an optimizer that isn't understood."""
    for part in _parts(state):
        if type(part) not in (*_MEANS, *_FORGETFUL):
            known = sorted(kind.__name__ for kind in _MEANS)
            raise ValueError(
                "optimizer_aware doesn't know the preconditioner of an optimizer that "
                f"keeps a {type(part).__name__}. It knows chains, masks, partitions and "
                f"injected hyperparameters of parts that keep {', '.join(known)} or "
                "nothing (adam, adamw, nadam, radam, amsgrad, adamax, rmsprop, adagrad, "
                "sgd, lion, muon and their kin). Wrap what is around it outside: "
                "optax.chain(optimizer_aware(aggregator, inner), outer)."
            )


def without_means(state: OptState) -> OptState:
    """The same state had there been no gradient but this one in any mean."""

    def forget(part):
        fields = _MEANS.get(type(part), ())
        zeros = {f: jax.tree.map(jnp.zeros_like, getattr(part, f)) for f in fields}
        return part._replace(**zeros) if zeros else part

    return jax.tree.map(forget, state, is_leaf=lambda x: type(x) in _MEANS)


def marks_of_means(state: OptState, left_out: frozenset[str]) -> OptState:
    """A tree like the state: True for leaves that are means, but of those left out."""

    def mark(part):
        marks = jax.tree.map(lambda _: False, part)
        for field in _MEANS.get(type(part), ()):
            tree = getattr(part, field)
            own = [name not in left_out for name in named_leaves(tree)]
            own = jax.tree.unflatten(jax.tree.structure(tree), own)
            marks = marks._replace(**{field: own})
        return marks

    return jax.tree.map(mark, state, is_leaf=lambda x: type(x) in _MEANS)


def means_of(state: OptState, kind: type) -> dict[str, jax.Array]:
    """The field ``mu`` of every part of this kind, by the parameter's name."""
    parts = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    found: dict[str, jax.Array] = {}
    for part in parts:
        if isinstance(part, kind):
            found |= named_leaves(part.mu)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _parts(state: OptState) -> Iterator[OptState]:
    """The states of the optimizer's parts, out of what holds them."""
    if type(state) in _HOLDERS:
        yield from _parts(getattr(state, _HOLDERS[type(state)]))
    elif isinstance(state, dict):
        for inner in state.values():
            yield from _parts(inner)
    elif type(state) in (tuple, list):
        for inner in state:
            yield from _parts(inner)
    else:
        yield state
