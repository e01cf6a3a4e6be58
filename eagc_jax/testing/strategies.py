"""Hypothesis strategies: trees of gradients, plain and hostile, and matrices of them.

Arrays are NumPy's, so that drawing compiles nothing; each new shape that a compiled
function is given costs a compilation, so give ``like=`` where the tree doesn't matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import check_count
from eagc_jax.testing._aggregation import width_of
from eagc_jax.testing._drawing import drawn
from eagc_jax.testing._search import load
from eagc_jax.testing.properties import Kind
from eagc_jax.typing import PyTree

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

Hostility: TypeAlias = Literal[
    "scales",
    "zero",
    "denormal",
    "spike",
    "nan",
    "inf",
    "-inf",
    "equal",
    "opposed",
    "low_rank",
]
# Finite gradients, and squares that float32 holds: a spike on 1e15 is cut at 1e18.
FINITE: tuple[Hostility, ...] = (
    *("scales", "zero", "denormal", "spike", "equal", "opposed", "low_rank"),
)
HOSTILE: tuple[Hostility, ...] = (*FINITE, "nan", "inf", "-inf")
VALUES = {"zero": 0.0, "denormal": 1e-40, "nan": np.nan, "inf": np.inf, "-inf": -np.inf}
SPIKE, LARGEST = 1e6, 1e18
DTYPES = ("float32", "bfloat16", "float16")


class Layer(NamedTuple):
    """A node of the trees that are drawn."""

    kernel: PyTree
    bias: PyTree


def trees(
    dtypes: Sequence[str] = DTYPES, max_leaves: int = 5
) -> SearchStrategy[PyTree]:
    """Parameters: dicts, tuples and NamedTuples of zeros, scalars, empty leaves and None.

    Args:
      dtypes: of the leaves.
      max_leaves: about how many there are; one array at least.
    """
    st = load("hypothesis.strategies")
    shape = st.sampled_from([(), (3,), (2, 3), (0,), (1, 2, 2)])
    leaf = st.builds(lambda s, d: np.zeros(s, jnp.dtype(d)), shape, _of(dtypes))
    node = st.recursive(
        st.one_of(leaf, st.none()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(tuple),
            st.builds(Layer, inner, inner),
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        ),
        max_leaves=max_leaves,
    )
    return st.fixed_dictionaries({"first": leaf, "rest": node})


def updates(
    like: PyTree | None = None,
    *,
    steps: int | None = None,
    hostile: Sequence[Hostility] = (),
    dtypes: Sequence[str] = DTYPES,
) -> SearchStrategy[PyTree]:
    """One gradient a step, in leaves ``(*shape)``, or ``(steps, *shape)``.

    Args:
      like: the parameters' tree; None draws one by :func:`trees`.
      steps: for a leading axis of steps, as ``jax.lax.scan`` takes them.
      hostile: what may be done to them, a choice of :data:`HOSTILE`.
      dtypes: of a drawn tree's leaves.
    """
    drawn = per_objective_updates(1, like, steps=steps, hostile=hostile, dtypes=dtypes)
    axis = 0 if steps is None else 1
    return drawn.map(lambda tree: jax.tree.map(lambda g: g.squeeze(axis), tree))


def per_objective_updates(
    num_objectives: int | SearchStrategy[int] | None = None,
    like: PyTree | None = None,
    *,
    steps: int | None = None,
    hostile: Sequence[Hostility] = HOSTILE,
    dtypes: Sequence[str] = DTYPES,
) -> SearchStrategy[PyTree]:
    """K gradients, in leaves ``(K, *shape)``, or ``(steps, K, *shape)``.

    Normal entries, and on them up to eight of what ``hostile`` names: ``scales``, each
    objective and each leaf by a power of ten, from 1e-15 to 1e15 together; ``zero``,
    ``denormal``, ``nan``, ``inf``, ``-inf``, in one entry of one objective's leaf or in
    all of it; ``spike``, the same times 1e6; ``equal`` and ``opposed``, one
    objective's leaf that of another, or its negative; ``low_rank``, all objectives'
    leaves multiples of one.

    Args:
      num_objectives: K; a strategy for it; or None for 1 to 16.
      like: the parameters' tree; None draws one by :func:`trees`.
      steps: for a leading axis of steps, as ``jax.lax.scan`` takes them.
      hostile: what may be done to them; empty for none of it.
      dtypes: of a drawn tree's leaves.

    Raises:
      ValueError: an unknown word in ``hostile``.
      ImportError: hypothesis isn't installed: ``pip install 'eagc-jax[testing]'``.

    Examples:
      >>> import hypothesis
      >>> from eagc_jax import testing
      >>> @hypothesis.given(testing.strategies.per_objective_updates(3))
      ... def test(updates):
      ...     assert updates["first"].shape[0] == 3
      >>> test()
    """
    unknown = set(hostile) - set(HOSTILE)
    if isinstance(hostile, str) or unknown:
        raise ValueError(f"hostile must be words of {HOSTILE}, got {hostile!r}.")
    if steps is not None:
        check_count("steps", steps, 1)
    st = load("hypothesis.strategies")
    number = st.integers(1, 16) if num_objectives is None else num_objectives
    number = st.just(number) if isinstance(number, int) else number
    tree = trees(dtypes) if like is None else st.just(like)
    return st.composite(_draw_updates)(number, tree, steps, tuple(hostile))


def gradient_matrices(
    num_objectives: int, kind: Kind = "general"
) -> SearchStrategy[np.ndarray]:
    """``(K, n)`` float32, one gradient a row, as :func:`assert_aggregator` draws them.

    Small integers times powers of two, which shrink to a line that can be read.

    Args:
      num_objectives: K.
      kind: "general", or what :data:`eagc_jax.testing.properties.Kind` lists.
    """
    return drawn(kind, num_objectives, width_of(num_objectives))


def finite_objectives(tree: PyTree, steps: int | None = None) -> np.ndarray:
    """``(K,)`` or ``(steps, K)`` bool: who has no NaN and no infinity in any leaf."""
    lead = 1 if steps is None else 2
    found = np.ones((), bool)
    for leaf in jax.tree.leaves(tree):
        wide = np.asarray(leaf, np.float64).reshape(*leaf.shape[:lead], -1)
        found = found & np.all(np.isfinite(wide), axis=-1)
    return found


# ---------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------


def _of(words: Sequence[str]) -> SearchStrategy[str]:
    return load("hypothesis.strategies").sampled_from(list(words))


def _draw_updates(
    draw: DrawFn,
    number: SearchStrategy[int],
    tree: SearchStrategy[PyTree],
    steps: int | None,
    hostile: tuple[Hostility, ...],
) -> PyTree:
    st = load("hypothesis.strategies")
    count = draw(number)
    leaves, structure = jax.tree.flatten(draw(tree))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    lead = (1 if steps is None else steps, count)
    values = [rng.normal(size=(*lead, *np.shape(leaf))) for leaf in leaves]
    if "scales" in hostile:
        values = _scaled(draw, values, count)
    single: list[Hostility] = [word for word in hostile if word != "scales"]
    if single and values:
        events = draw(st.lists(_events(lead, len(values), single), max_size=8))
        with np.errstate(all="ignore"):
            for event in events:
                _spoil(values, *event)
    done = [_rounded(v, leaf.dtype) for v, leaf in zip(values, leaves, strict=True)]
    if steps is None:
        done = [leaf[0] for leaf in done]
    return jax.tree.unflatten(structure, done)


def _scaled(draw: DrawFn, values: list[np.ndarray], count: int) -> list[np.ndarray]:
    st = load("hypothesis.strategies")

    def powers(bound: int, size: int) -> list[int]:
        return draw(st.lists(st.integers(-bound, bound), min_size=size, max_size=size))

    of_objectives, of_leaves = np.array(powers(15, count)), powers(6, len(values))
    found = []
    for leaf, tilt in zip(values, of_leaves, strict=True):
        exponents = np.clip(of_objectives + float(tilt), -15, 15)
        found.append(leaf * 10.0 ** exponents.reshape(-1, *(1,) * (leaf.ndim - 2)))
    return found


Event: TypeAlias = tuple[int, int, int, int, Hostility, bool]


def _events(
    lead: tuple[int, int], leaves: int, words: Sequence[Hostility]
) -> SearchStrategy[Event]:
    """At which step, to whom, in which leaf, from whom, what, and to all entries."""
    st = load("hypothesis.strategies")
    steps, count = lead
    who = st.integers(0, count - 1)
    return st.tuples(
        st.integers(0, steps - 1),
        who,
        st.integers(0, leaves - 1),
        who,
        _of(words),
        st.booleans(),
    )


def _spoil(
    values: list[np.ndarray],
    step: int,
    k: int,
    leaf: int,
    other: int,
    word: Hostility,
    whole: bool,
) -> None:
    """Does one thing to objective k's gradient in a leaf, in place."""
    of_step = values[leaf][step]
    part = of_step[k, ...]
    if word == "low_rank":
        factors = np.linspace(-1.0, 1.0, len(of_step))
        of_step[...] = factors.reshape(-1, *(1,) * part.ndim) * part
    elif word in ("equal", "opposed"):
        part[...] = (1.0 if word == "equal" else -1.0) * of_step[other]
    else:
        place = ... if whole or part.ndim == 0 or not part.size else (0,) * part.ndim
        if word == "spike":
            part[place] = np.clip(part[place] * SPIKE, -LARGEST, LARGEST)
        else:
            part[place] = VALUES[word]


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """In the leaf's dtype; what float16 can't hold is cut, infinities are drawn."""
    dtype = np.dtype(dtype)
    if dtype == np.float16:
        top = float(np.finfo(np.float16).max)
        values = np.where(np.isfinite(values), np.clip(values, -top, top), values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(dtype)
