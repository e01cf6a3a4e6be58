"""The matrices that each property is tried on: drawn by hypothesis, and by seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from eagc_jax.testing import matrices
from eagc_jax.testing._search import load
from eagc_jax.testing.properties import Kind

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

# The samplers of each kind: name in `matrices`, arguments after (rng, batch, K, n).
SAMPLERS: dict[Kind, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "general": (
        ("conflicting", ()),
        ("not_stationary", ()),
        ("imbalanced", (1e2,)),
        ("imbalanced", (1e4,)),
    ),
    "stationary": (("strongly_stationary", ()),),
    "descendable": (("not_stationary", ()),),
    "equal": (("equal", ()),),
    "zero": (),
    "one": (("normal", ()),),
    "hostile": (("hostile", ()),),
    "nonfinite": (("nonfinite", ()),),
}


def sampled(
    kind: Kind, batch: int, number: int, width: int
) -> Iterator[tuple[np.ndarray, str]]:
    """Matrices ``(K, n)`` float32, each with the line that gives it again."""
    if kind == "zero":
        line = f"np.zeros(({number}, {width}), np.float32)"
        yield np.zeros((number, width), np.float32), line
    for seed, (name, rest) in enumerate(SAMPLERS[kind]):
        if number == 1 and name == "strongly_stationary":
            continue  # that would be zero
        arguments = (batch, number, width, *rest)
        drawn = getattr(matrices, name)(np.random.default_rng(seed), *arguments)
        given = ", ".join(f"{value:g}" for value in arguments)
        for index, matrix in enumerate(drawn):
            yield (
                matrix.astype(np.float32),
                f"testing.matrices.{name}(np.random.default_rng({seed}), {given})"
                f"[{index}].astype(np.float32)",
            )


def literal(matrix: np.ndarray) -> str:
    """The line of Python that gives a float32 matrix, to the last bit."""
    rows = [", ".join(_number(x) for x in row) for row in matrix]
    body = ", ".join(f"[{row}]" for row in rows)
    return f"np.array([{body}], np.float32)"


def _number(value: np.floating) -> str:
    if not np.isfinite(value):
        return f"np.{value}".replace("np.-", "-np.")
    return f"{float(value):g}" if float(f"{value:g}") == value else repr(float(value))


def drawn(kind: Kind, number: int, width: int) -> SearchStrategy[np.ndarray]:
    """Small integers times a power of two for each row: they shrink to short lines."""
    st = load("hypothesis.strategies")
    return st.composite(_DRAW[kind])(number, width)


def _rows(draw: DrawFn, number: int, width: int) -> np.ndarray:
    """``(number, width)`` integers from -4 to 4, most of them 0 where it has shrunk."""
    st = load("hypothesis.strategies")
    size = number * width
    # Bytes are drawn at once, and shrink to 0: to 0, 1, -1, 2, ... of them.
    flat = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8) % 9
    signed = np.where(flat % 2 == 1, flat // 2 + 1, -(flat // 2.0))
    return signed.astype(np.float32).reshape(number, width) + 0.0  # no minus zero


def _powers(draw: DrawFn, number: int, base: float, bound: int) -> np.ndarray:
    st = load("hypothesis.strategies")
    entry = st.integers(-bound, bound)
    found = draw(st.lists(entry, min_size=number, max_size=number))
    return (base ** np.array(found, np.float64))[:, None]


def _related(draw: DrawFn, rows: np.ndarray) -> np.ndarray:
    """One row may become another's copy, its opposite, or zero."""
    st = load("hypothesis.strategies")
    place = st.integers(0, len(rows) - 1)
    factor = draw(st.sampled_from([None, 1.0, -1.0, 0.0]))
    if factor is not None:
        rows[draw(place)] = factor * rows[draw(place)]
    return rows + 0.0  # no minus zero


def _general(draw: DrawFn, number: int, width: int) -> np.ndarray:
    rows = _related(draw, _rows(draw, number, width))
    return (rows * _powers(draw, number, 2.0, 5)).astype(np.float32)


def _stationary(draw: DrawFn, number: int, width: int) -> np.ndarray:
    """The last row balances the others, with positive weights."""
    st = load("hypothesis.strategies")
    rows = _rows(draw, number, width)
    weights = draw(st.lists(st.integers(1, 3), min_size=number, max_size=number))
    rows[-1] = 0
    rows[-1] = -np.array(weights, np.float32) @ rows
    return rows + 0.0


def _descendable(draw: DrawFn, number: int, width: int) -> np.ndarray:
    """The first entry of every row is positive: it can be walked along."""
    rows = _rows(draw, number, width)
    rows[:, 0] = np.abs(rows[:, 0]) + 1
    return rows


def _equal(draw: DrawFn, number: int, width: int) -> np.ndarray:
    return np.repeat(_rows(draw, 1, width), number, axis=0)


def _zero(draw: DrawFn, number: int, width: int) -> np.ndarray:
    st = load("hypothesis.strategies")
    return draw(st.just(np.zeros((number, width), np.float32)))


def _one(draw: DrawFn, number: int, width: int) -> np.ndarray:
    del number
    return _rows(draw, 1, width)


def _hostile(draw: DrawFn, number: int, width: int) -> np.ndarray:
    st = load("hypothesis.strategies")
    rows = _related(draw, _rows(draw, number, width))
    rows = rows * _powers(draw, number, 10.0, 15)
    if draw(st.booleans()):  # a denormal beside them
        rows[draw(st.integers(0, number - 1)), draw(st.integers(0, width - 1))] = 1e-40
    return rows.astype(np.float32)


def _nonfinite(draw: DrawFn, number: int, width: int) -> np.ndarray:
    st = load("hypothesis.strategies")
    rows = _rows(draw, number, width)
    place = draw(st.integers(0, number - 1)), draw(st.integers(0, width - 1))
    rows[place] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return rows


_DRAW = {
    "general": _general,
    "stationary": _stationary,
    "descendable": _descendable,
    "equal": _equal,
    "zero": _zero,
    "one": _one,
    "hostile": _hostile,
    "nonfinite": _nonfinite,
}
