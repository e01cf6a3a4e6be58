"""Float64 oracle of the feature-level coordinator: row by row, the equations.

C = R (R + aperture^-2 I)^-1,  R = Z^T Z / N          (a linear solve, no eigenvectors)
e = z^T C z / |z|^2;  mu <- 0.95 mu + 0.05 mean of e over labeled rows
w = eep * clip(1 - e / (mu + 1e-6), 0, 1), at most the cap; 0 on labeled rows
g <- g - w C g;  g <- g + aga / (N_l D) (z - zhat) on labeled rows
"""

import numpy as np


def conceptor(features, aperture, normalize=False, center=None):
    z = rows(features, normalize, center)
    r = z.T @ z / len(z)
    # R and (R + a I)^-1 commute, and both are symmetric.
    return np.linalg.solve(r + np.eye(len(r)) / aperture**2, r)


def rows(features, normalize=False, center=None):
    z = np.asarray(features, np.float64)
    if normalize:
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return z if center is None else z - np.asarray(center, np.float64)


def energies(features, matrix, normalize=False, center=None):
    z = rows(features, normalize, center)
    return np.array([row @ matrix @ row / (row @ row) for row in z])


def step(
    gradients,
    features,
    reference,
    labeled,
    matrix,
    mu,
    *,
    aga=0.7,
    eep=0.5,
    mode="released",
    cap=1.0,
    normalize=False,
    center=None,
    supervised=0,
    unsupervised=1,
):
    """Of gradients ``(K, N, D)``: (edited ones, mu, energies, weights, two shares)."""
    g = np.array(gradients, np.float64)
    z, zhat = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    e = np.clip(energies(z, matrix, normalize, center), 0, 1)
    if labeled.any():
        mu = 0.95 * mu + 0.05 * e[labeled].mean()
    weights = np.zeros(len(z))
    added = np.zeros_like(z)
    for i, known in enumerate(labeled):
        if known:
            factor = aga if mode == "paper" else aga / (labeled.sum() * z.shape[1])
            added[i] = factor * (z[i] - zhat[i])
        else:
            weights[i] = min(eep * min(max(1 - e[i] / (mu + 1e-6), 0), 1), cap)
    projected = [unsupervised] if mode == "unsupervised_only" else range(len(g))
    before = g.copy()
    for k in projected:
        for i in range(len(z)):
            g[k, i] -= weights[i] * (matrix @ g[k, i])
    removed = np.linalg.norm((before - g).sum(axis=0))
    g[supervised] += added
    whole = np.linalg.norm(before.sum(axis=0))
    return g, mu, e, weights, (removed / whole, np.linalg.norm(added) / whole)
