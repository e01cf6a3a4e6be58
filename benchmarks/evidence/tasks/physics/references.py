"""Reference solutions, by spectral and finite-volume schemes; in float64, in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft, linalg


def periodic(
    start: Callable[[np.ndarray], np.ndarray],
    reaction: Callable[[np.ndarray], np.ndarray],
    flux: Callable[[np.ndarray], np.ndarray],
    diffusion: float,
    times: np.ndarray,
    points: int,
    substeps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Solves u_t + flux(u)_x = diffusion u_xx + reaction(u), periodic on [-1, 1).

    Fourier modes, the highest third cut off; the classical Runge-Kutta method of fourth
    order with the diffusion as an exact integrating factor.

    Args:
      start: u at time 0, of x.
      reaction: of u.
      flux: of u.
      diffusion: > 0.
      times: (T,), equally spaced from 0.
      points: N, in x.
      substeps: of the method between two times.

    Returns:
      x, (N,), and u, (T, N).
    """
    x = -1 + 2 * np.arange(points) / points
    waves = np.pi * np.arange(points // 2 + 1)
    kept = np.arange(points // 2 + 1) < points // 3
    step = (times[1] - times[0]) / substeps
    half = np.exp(-diffusion * waves**2 * step / 2)

    def slope(modes: np.ndarray) -> np.ndarray:
        u = np.fft.irfft(modes, points)
        change = np.fft.rfft(reaction(u)) - 1j * waves * np.fft.rfft(flux(u))
        return change * kept

    modes = np.fft.rfft(start(x))
    found = [start(x)]
    for _ in times[1:]:
        for _ in range(substeps):
            a = slope(modes)
            b = slope(half * (modes + step / 2 * a))
            c = slope(half * modes + step / 2 * b)
            d = slope(half**2 * modes + step * half * c)
            modes = half**2 * (modes + step / 6 * a) + step / 6 * (
                2 * half * (b + c) + d
            )
        found.append(np.fft.irfft(modes, points))
    return x, np.stack(found)


def sines(
    source: Callable[[np.ndarray, np.ndarray], np.ndarray], shift: float, points: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solves u_xx + u_yy + shift u = source on [-1, 1]^2 with u = 0 on the boundary.

    By the discrete sine transform in both directions: exact for each of the sines.

    Returns:
      The N inner nodes of an axis, and u, (N, N), x first.
    """
    nodes = -1 + 2 * np.arange(1, points + 1) / (points + 1)
    waves = (np.pi / 2 * np.arange(1, points + 1)) ** 2
    modes = np.asarray(fft.dstn(source(nodes[:, None], nodes[None]), type=1))
    modes /= shift - waves[:, None] - waves[None]
    return nodes, np.asarray(fft.idstn(modes, type=1))


def layered(
    source: Callable[[np.ndarray, np.ndarray], np.ndarray],
    coefficient: Callable[[np.ndarray], np.ndarray],
    cells: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solves -(a(x) u_x)_x - a(x) u_yy = source on [-1, 1]^2, u = 0 on the boundary.

    Sines in y; in x finite volumes, with the harmonic mean of the coefficient between
    two cells, so that a jump of a at a face between cells costs no order: second.

    Args:
      source: of x and y.
      coefficient: a > 0, of x, at the cells' centres.
      cells: N, of each axis; even, so that 0 is a face.

    Returns:
      Centres in x (N,), inner nodes in y (N - 1,), and u, (N, N - 1).
    """
    width = 2 / cells
    x = -1 + width * (np.arange(cells) + 0.5)
    y = -1 + width * np.arange(1, cells)
    a = coefficient(x)
    inner = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1]) / width**2
    # At the walls the value is known half a cell away.
    west = np.concatenate([[2 * a[0] / width**2], inner])
    east = np.concatenate([inner, [2 * a[-1] / width**2]])
    modes = np.asarray(fft.dst(source(x[:, None], y[None]), type=1, axis=1))
    for mode in range(cells - 1):
        wave = (np.pi / 2 * (mode + 1)) ** 2
        bands = np.zeros((3, cells))
        bands[0, 1:] = -inner
        bands[1] = west + east + a * wave
        bands[2, :-1] = -inner
        modes[:, mode] = linalg.solve_banded((1, 1), bands, modes[:, mode])
    return x, y, np.asarray(fft.idst(modes, type=1, axis=1))


def diffusing(
    start: Callable[[np.ndarray], np.ndarray],
    coefficient: Callable[[np.ndarray], np.ndarray],
    times: np.ndarray,
    cells: int,
    substeps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Solves u_t = (k(x) u_x)_x on [0, 1], u = 0 at both ends.

    Central differences with k between the nodes, and Crank and Nicolson's rule in time:
    second order in both.

    Returns:
      Nodes with the ends, (N + 1,), and u, (T, N + 1).
    """
    nodes = np.linspace(0, 1, cells + 1)
    between = coefficient((nodes[1:] + nodes[:-1]) / 2) * cells**2
    step = (times[1] - times[0]) / substeps
    diagonal = between[1:] + between[:-1]
    bands = np.zeros((3, cells - 1))
    bands[0, 1:] = bands[2, :-1] = -step / 2 * between[1:-1]
    bands[1] = 1 + step / 2 * diagonal
    u = start(nodes)
    found = [u]
    for _ in times[1:]:
        for _ in range(substeps):
            flow = between * np.diff(u)
            inside = u[1:-1] + step / 2 * np.diff(flow)
            u = np.zeros_like(u)
            u[1:-1] = linalg.solve_banded((1, 1), bands, inside)
        found.append(u)
    return nodes, np.stack(found)
