"""How exact the aggregators are, in float32; the third part of benchmarks/aggregators.py.

Checks, each a row (``value``: ours; ``goal``: what it should be at most, or at least for
a cosine):

- ``worst cosine``: of the update with an objective, over 40 draws of K = 2, 4, 8
  gradients of 50 entries whose norms differ up to ``case`` times.
- ``units``: how far the direction moves when all gradients are multiplied by 1e-15 to
  1e15 (powers of two), the largest entry of the difference of unit vectors.
- ``over least norm``: MGDA's norm over the least norm in the convex hull (float64
  NNLS), minus 1, for ``case`` objectives.
- ``against float64``: ConFIG at ``case`` float32 parameters, relative error against
  weights from a float64 Gram matrix.
- ``bfloat16``: relative error of the update of bfloat16 gradients against float32.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from benchmarks import draws
from benchmarks.peer_torchjd import TorchJD
from eagc_jax import aggregators

NON_CONFLICTING = (
    "upgrad",
    "dualproj",
    "mgda",
    "conflict_free",
    "nash_mtl",
    "fairgrad",
)
SCALED = (*NON_CONFLICTING, "cagrad", "pcgrad", "imtl_g", "aligned_mtl")
SIZE, DRAWS = 50, 40
FORMATS = {
    "check": "s",
    "method": "s",
    "num_objectives": "d",
    "case": ".0e",
    "value": ".2e",
    "torchjd": ".2e",
    "goal": ".0e",
}


def measure(
    fast: bool, only: list[str] | None, peer: TorchJD | None
) -> list[dict[str, Any]]:
    """All rows."""
    numbers = (2,) if fast else (2, 4, 8)
    checks = [
        *((worst_cosines, name, k) for name in NON_CONFLICTING for k in numbers),
        *((unit_dependence, name, k) for name in SCALED for k in numbers[-1:]),
        *((over_least_norm, "mgda", k) for k in ((8,) if fast else (8, 32, 64))),
        *((against_float64, "conflict_free", k) for k in ((2,) if fast else (4,))),
        *((in_bfloat16, name, k) for name in SCALED for k in numbers[-1:]),
    ]
    rows = []
    for check, name, number in checks:
        if only and name not in only:
            continue
        rows += [
            {
                "part": "quality",
                "check": check.title,
                "method": name,
                "num_objectives": number,
                **row,
            }
            for row in check(name, number, fast, peer)
        ]
    return rows


def titled(title: str) -> Callable[[Callable], Any]:
    def mark(function):
        function.title = title
        return function

    return mark


@functools.cache
def _compiled(name: str, number: int) -> Callable[[jax.Array], jax.Array]:
    """``(B, K, n)`` gradients to ``(B, n)`` updates."""
    tx = getattr(aggregators, name)(number)

    def update(gradients):
        state = tx.init({"w": jnp.zeros(gradients.shape[1:], gradients.dtype)})
        return tx.update({"w": gradients}, state)[0]["w"]

    return jax.jit(jax.vmap(update))


def ours(name: str, gradients: np.ndarray, dtype: Any = jnp.float32) -> np.ndarray:
    update = _compiled(name, gradients.shape[1])
    return np.asarray(update(jnp.asarray(gradients, dtype)), np.float64)


def theirs(
    peer: TorchJD | None, name: str, gradients: np.ndarray, dtype: str = "float32"
) -> np.ndarray | None:
    """The same of TorchJD; None without it, or if it refuses one of the matrices."""
    if peer is None:
        return None
    found = []
    for rows in gradients:
        program = peer.aggregator(name, gradients.shape[1])  # new: some keep a state
        peer.seed()
        update = program and peer.result(program, peer.matrix([rows], dtype))
        if update is None:
            return None
        found.append(update.double().cpu().numpy())
    return np.stack(found)


def conflict(gradients: np.ndarray, updates: np.ndarray) -> float:
    """The smallest cosine of an update with one of its gradients; of a zero update 0."""
    product = np.einsum("bkn,bn->bk", gradients, updates)
    norms = np.linalg.norm(gradients, axis=2)
    norms = norms * np.linalg.norm(updates, axis=1)[:, None]
    return float(
        np.min(np.where(norms > 0, product / np.where(norms > 0, norms, 1), 0))
    )


def directions(updates: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(updates, axis=1, keepdims=True)
    return updates / np.where(length > 0, length, 1.0)


@titled("worst cosine")
def worst_cosines(
    name: str, number: int, fast: bool, peer: TorchJD | None
) -> Iterator[dict[str, Any]]:
    for ratio in (1e3,) if fast else (1.0, 1e2, 1e3, 1e4):
        rng = np.random.default_rng(number)
        gradients = np.stack(
            [draws.imbalanced(rng, number, SIZE, ratio) for _ in range(DRAWS)]
        ).astype(np.float32)
        wide = gradients.astype(np.float64)
        other = theirs(peer, name, gradients)
        yield {
            "case": ratio,
            "value": conflict(wide, ours(name, gradients)),
            "torchjd": None if other is None else conflict(wide, other),
            "goal": -1e-6,
        }


@titled("units")
def unit_dependence(
    name: str, number: int, fast: bool, peer: TorchJD | None
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(number)
    gradients = np.stack([draws.conflicting(rng, number, SIZE) for _ in range(8)])
    factors = [2.0**exponent for exponent in (-50, -20, 20, 50)]

    def furthest(updates_of: Callable[[np.ndarray], np.ndarray | None]) -> float | None:
        base, worst = updates_of(gradients), 0.0
        for factor in factors:
            scaled = updates_of(gradients * factor)
            if base is None or scaled is None:
                return None
            moved = directions(scaled) - directions(base)
            worst = max(worst, float(np.max(np.abs(moved))))
        return worst

    yield {
        "case": 1e15,
        "value": furthest(lambda g: ours(name, g)),
        "torchjd": furthest(lambda g: theirs(peer, name, g)),
        "goal": 1e-6,
    }


def least_norm(rows: np.ndarray) -> float:
    """The least norm in the convex hull of rows, by NNLS: x of the sum 1 - |A x - b|^2.

    With A the rows' transpose over a row of ones and b zero but for a last 1, the
    solution is a multiple of the least-norm weights.
    """
    system = np.vstack([rows.T, np.ones(len(rows))])
    aim = np.zeros(len(system))
    aim[-1] = 1.0
    x, _ = optimize.nnls(system, aim, maxiter=100 * len(rows))
    return float(np.linalg.norm(x / x.sum() @ rows))


@titled("over least norm")
def over_least_norm(
    name: str, number: int, fast: bool, peer: TorchJD | None
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(number)
    size = 4 * number
    gradients = np.stack([draws.conflicting(rng, number, size) for _ in range(10)])
    gradients = gradients.astype(np.float32)
    least = np.array([least_norm(rows) for rows in gradients.astype(np.float64)])

    def excess(updates: np.ndarray | None) -> float | None:
        if updates is None:
            return None
        return float(np.max(np.linalg.norm(updates, axis=1) / least) - 1)

    yield {
        "case": float(number),
        "value": excess(ours(name, gradients)),
        "torchjd": excess(theirs(peer, name, gradients)),
        "goal": 1e-6,
    }


def float64_conflict_free(gradients: np.ndarray, chunk: int = 1_000_000) -> np.ndarray:
    """ConFIG's update, all but the gradients themselves in float64."""
    starts = range(0, gradients.shape[1], chunk)
    parts = [gradients[:, s : s + chunk].astype(np.float64) for s in starts]
    gram = np.sum([part @ part.T for part in parts], axis=0)
    norms = np.sqrt(np.diagonal(gram))
    a = np.linalg.solve(gram / norms[:, None] / norms, np.ones(len(norms))) / norms
    weights = a * (np.sum(gram @ a) / (a @ gram @ a))
    return np.concatenate([weights @ part for part in parts])


@titled("against float64")
def against_float64(
    name: str, number: int, fast: bool, peer: TorchJD | None
) -> Iterator[dict[str, Any]]:
    size = 100_000 if fast else 10_000_000
    rng = np.random.default_rng(number)
    shared = rng.standard_normal(size, np.float32)
    signs = np.array([(-1.0) ** k for k in range(number)], np.float32)[:, None]
    gradients = rng.standard_normal((number, size), np.float32) + 0.5 * signs * shared
    exact = float64_conflict_free(gradients)

    def relative(updates: np.ndarray | None) -> float | None:
        if updates is None:
            return None
        return float(np.linalg.norm(updates[0] - exact) / np.linalg.norm(exact))

    yield {
        "case": float(size),
        "value": relative(ours(name, gradients[None])),
        "torchjd": relative(theirs(peer, name, gradients[None])),
        "goal": 1e-4,
    }


@titled("bfloat16")
def in_bfloat16(
    name: str, number: int, fast: bool, peer: TorchJD | None
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(number)
    gradients = np.stack([draws.conflicting(rng, number, SIZE) for _ in range(8)])
    gradients = np.asarray(jnp.asarray(gradients, jnp.bfloat16), np.float32)

    def error(low: np.ndarray | None, full: np.ndarray | None) -> float | None:
        if low is None or full is None:
            return None
        size = np.linalg.norm(full, axis=1)
        return float(np.max(np.linalg.norm(low - full, axis=1) / size))

    yield {
        "case": float(SIZE),
        "value": error(ours(name, gradients, jnp.bfloat16), ours(name, gradients)),
        "torchjd": error(
            theirs(peer, name, gradients, "bfloat16"), theirs(peer, name, gradients)
        ),
        "goal": 2.0**-8,
    }
