"""Float64 oracles of the methods on the Gram matrix: from the vectors themselves.

They are written on the gradients, a matrix ``(K, n)``, while the package sees inner
products alone, and share no code with it.
"""

import numpy as np
from scipy import optimize


def pcgrad(rows, orders):
    """The update: literal projections of vectors, each objective in its order."""
    total = np.zeros(rows.shape[1])
    for i, order in enumerate(orders):
        g = rows[i].copy()
        for j in order:
            product = g @ rows[j]
            if j != i and product < 0:
                g -= product / (rows[j] @ rows[j]) * rows[j]
        total += g
    return total


def gradvac(rows, targets, orders, decay):
    """The update and the next targets."""
    total, targets = np.zeros(rows.shape[1]), targets.copy()
    for i, order in enumerate(orders):
        g = rows[i].copy()
        for j in order:
            if j == i:
                continue
            length, other = np.linalg.norm(g), np.linalg.norm(rows[j])
            if length == 0 or other == 0:
                continue
            c, t = g @ rows[j] / (length * other), targets[i, j]
            if c < t:
                root = np.sqrt(1 - t**2)
                top = length * (t * np.sqrt(1 - c**2) - c * root)
                g = g + top / (other * root) * rows[j]
            targets[i, j] = (1 - decay) * t + decay * c
        total += g
    return total, targets


def cagrad(rows, c):
    """The update, and the value that its dual reaches (SLSQP from several starts)."""
    number = len(rows)
    mean = rows.mean(axis=0)
    radius = c * np.linalg.norm(mean)

    def dual(w):
        return w @ rows @ mean + radius * np.sqrt((w @ rows) @ (w @ rows) + 1e-300)

    starts = [np.full(number, 1 / number), *(0.9 * np.eye(number) + 0.1 / number)]
    found = [
        optimize.minimize(
            dual,
            start / start.sum(),
            bounds=[(0, 1)] * number,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        for start in starts
    ]
    best = min(found, key=lambda result: result.fun)
    inner = best.x @ rows
    return mean + radius * inner / np.linalg.norm(inner), best.fun


def nearest_without_conflict(rows, c):
    """The projection of the mean on the dual cone, and whether CAGrad's ball holds it."""
    mean = rows.mean(axis=0)
    weights, _ = optimize.nnls(rows.T, -mean, maxiter=100 * len(rows))
    away = np.linalg.norm(weights @ rows)
    # For c = 1 and a cone of one point, 0, both lengths are the mean's.
    return mean + weights @ rows, away <= c * np.linalg.norm(mean) * (1 + 1e-12)


def imtl_g(rows):
    """Weights in the paper's form: relative to the first gradient."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    apart, units_apart = rows[0] - rows[1:], units[0] - units[1:]
    others = rows[0] @ units_apart.T @ np.linalg.inv(apart @ units_apart.T)
    return np.concatenate([[1 - others.sum()], others])


def config(rows, aims=None):
    """The update, through the pseudo-inverse of the matrix of unit gradients."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    aims = np.ones(len(rows)) if aims is None else aims
    direction = np.linalg.pinv(units) @ aims
    direction /= np.linalg.norm(direction)
    return np.sum(rows @ direction) * direction


def aligned(rows, preference, scale):
    """The update, through the singular vectors of the gradients."""
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    squares = np.sort(values**2)
    sigma = {
        "min": squares[0],
        "median": squares[(len(squares) - 1) // 2],
        "rmse": squares.mean(),
    }[scale]
    return np.sqrt(sigma) * (preference @ left) @ right


def simplex(point):
    """Projection on the simplex, by bisection on the threshold."""
    low, high = point.min() - 1, point.max()
    for _ in range(200):
        middle = 0.5 * (low + high)
        if np.maximum(point - middle, 0).sum() > 1:
            low = middle
        else:
            high = middle
    return np.maximum(point - high, 0)


def sdmgrad(matrix, start, preference, pull, rate, momentum, steps):
    """The weights of the update, and the point on the simplex."""
    norm = np.mean(np.sqrt(np.maximum(np.diag(matrix), 0)))
    matrix = matrix / norm**2
    point, velocity = start.copy(), np.zeros_like(start)
    for _ in range(steps):
        velocity = momentum * velocity + matrix @ (point + pull * preference)
        point = simplex(point - rate * velocity)
    return (point + pull * preference) / (1 + pull), point


def modo(matrix, start, rate, regularization):
    """The weights, from the matrix as it is."""
    return simplex(start - rate * (matrix @ start + regularization * start))


def gem(rows, current, margin):
    """The update, by non-negative least squares on the vectors."""
    g, memories = rows[current], np.delete(rows, current, axis=0)
    if not np.any(memories @ g < 0):
        return g
    base = g + margin * memories.sum(axis=0)
    more, _ = optimize.nnls(memories.T, -base)
    return base + more @ memories


def a_gem(rows, current):
    """The update."""
    g = rows[current]
    mean = np.delete(rows, current, axis=0).mean(axis=0)
    return g - min(g @ mean, 0) / (mean @ mean) * mean
