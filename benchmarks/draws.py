"""Gradient matrices ``(K, n)``, float64, that aggregators find hard."""

import numpy as np


def conflicting(rng: np.random.Generator, number: int, size: int) -> np.ndarray:
    """Normal rows that share a direction with random signs."""
    signs = rng.choice([-1.0, 1.0], size=(number, 1))
    return rng.normal(size=(number, size)) + 0.7 * signs * rng.normal(size=(1, size))


def imbalanced(
    rng: np.random.Generator, number: int, size: int, ratio: float
) -> np.ndarray:
    """``conflicting``, with norms log-uniform between 1 and 1 / ratio, ends included."""
    rows = conflicting(rng, number, size)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    exponents = rng.permuted(np.concatenate([[0, 1], rng.uniform(size=number - 2)]))
    return rows * ratio ** -exponents[:, None]


def hard_matrices(number: int, repeats: int) -> list[np.ndarray]:
    """``repeats`` of each kind: conflicting, of half the rank, imbalanced (1e4)."""
    rng, size = np.random.default_rng(number), 4 * number
    found = []
    for _ in range(repeats):
        left = rng.normal(size=(number, number // 2))
        found += [
            conflicting(rng, number, size),
            left @ rng.normal(size=(number // 2, size)),
            imbalanced(rng, number, size, 1e4),
        ]
    return found
