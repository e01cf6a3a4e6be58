"""The evidence suite's physics: references converge, derivatives are derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.evidence.tasks import networks
from benchmarks.evidence.tasks.physics import (
    allen_cahn,
    burgers,
    helmholtz,
    interface,
    inverse,
    references,
)


def relative(u, v):
    return np.linalg.norm(u - v) / np.linalg.norm(v)


def cole_hopf(x, t):
    """Burgers' solution as a quotient of integrals, by Gauss and Hermite's rule."""
    nu = burgers.VISCOSITY
    nodes, weights = np.polynomial.hermite.hermgauss(120)
    moved = x[:, None] - 2 * np.sqrt(nu * t) * nodes
    exponent = -np.cos(np.pi * moved) / (2 * np.pi * nu)
    kernel = weights * np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return -(kernel * np.sin(np.pi * moved)).sum(1) / kernel.sum(1)


def test_burgers_reference_is_the_integral_formula():
    x, times, u = burgers.reference(1024, 40)
    for place in (10, 25, 50):
        # The quadrature itself is good to about 1e-5 at the front.
        assert relative(u[place], cole_hopf(x, times[place])) < 1e-4
    # Half of the points and steps resolve the front less well, and it shows.
    _, _, rough = burgers.reference(256, 20)
    assert 1e-4 < relative(rough[-1], u[-1, ::4]) < 1e-1


def test_allen_cahn_reference_converges():
    x, _, u = allen_cahn.reference(512, 20)
    _, _, finer = allen_cahn.reference(1024, 40)
    _, _, rougher = allen_cahn.reference(128, 10)
    assert relative(u, finer[:, ::2]) < 1e-5
    assert relative(rougher, finer[:, ::8]) > 3 * relative(u, finer[:, ::2])
    np.testing.assert_allclose(u[0], x**2 * np.cos(np.pi * x))
    assert np.abs(u).max() <= 1 + 1e-6  # the maximum principle


def test_the_time_stepping_is_of_fourth_order():
    """u_t + 2 u_x = 0.1 u_xx - 3 u from sin(pi x): a wave that moves and fades."""
    times = np.linspace(0, 1, 3)

    def error(substeps):
        x, u = references.periodic(
            lambda x: np.sin(np.pi * x),
            lambda u: -3 * u,
            lambda u: 2 * u,
            0.1,
            times,
            16,
            substeps,
        )
        exact = np.exp(-(0.1 * np.pi**2 + 3)) * np.sin(np.pi * (x - 2))
        return relative(u[-1], exact)

    # Twice the steps: 2^4 in the limit.
    assert 14 < error(16) / error(32) < 18
    assert error(32) < 1e-3


def test_helmholtz_reference_is_the_wave_it_was_made_of():
    nodes, u = references.sines(helmholtz.source, 1.0, 31)
    wave = np.sin(np.pi * nodes)[:, None] * np.sin(4 * np.pi * nodes)
    np.testing.assert_allclose(u, wave, atol=1e-12)


def test_a_jump_of_the_coefficient_costs_no_order():
    """Against the closed form for f = sin(pi y): one ordinary equation on each side."""
    left, right = interface.LEFT, interface.RIGHT
    # u = sin(pi y) (1 / (a pi^2) + A cosh(pi x) + B sinh(pi x)), A and B on each side,
    # from u = 0 at the walls and continuous value and flux at 0.
    c, s = np.cosh(np.pi), np.sinh(np.pi)
    system = np.array(
        [[c, -s, 0, 0], [0, 0, c, s], [1, 0, -1, 0], [0, left, 0, -right]]
    )
    known = np.array([-1 / left, -1 / right, 1 / right - 1 / left, 0]) / np.pi**2
    known[3] = 0
    a, b, d, e = np.linalg.solve(system, known)

    def exact(x, y):
        west = 1 / (left * np.pi**2) + a * np.cosh(np.pi * x) + b * np.sinh(np.pi * x)
        east = 1 / (right * np.pi**2) + d * np.cosh(np.pi * x) + e * np.sinh(np.pi * x)
        return np.where(x < 0, west, east)[:, None] * np.sin(np.pi * y)

    def error(cells):
        x, y, u = references.layered(
            lambda x, y: np.sin(np.pi * y) + 0 * x, interface.coefficient, cells
        )
        return relative(u, exact(x, y))

    # Twice the cells: a quarter of the error.
    assert 3.6 < error(32) / error(64) < 4.4
    assert error(256) < 1e-3


def test_diffusion_is_of_second_order():
    """Constant k: sin(pi x) exp(-k pi^2 t)."""
    times = np.linspace(0, 1, 3)

    def error(cells, substeps):
        x, u = references.diffusing(
            lambda x: np.sin(np.pi * x),
            lambda x: np.full_like(x, 0.1),
            times,
            cells,
            substeps,
        )
        return relative(u[-1], np.sin(np.pi * x) * np.exp(-0.1 * np.pi**2))

    assert 3.6 < error(16, 4) / error(32, 8) < 4.4
    _, _, u = inverse.reference(200, 4)
    _, _, finer = inverse.reference(400, 8)
    assert relative(u, finer[:, ::2]) < 1e-3


@pytest.mark.parametrize("second", [(), (1,), (0, 1)])
def test_derivatives_of_a_network_are_those_of_jax(second):
    points = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)

    @jax.jit
    def both(points):
        layers = networks.dense(jax.random.key(0), (2, 5, 4, 1))

        def of_jax(point):
            values = [lambda x: networks.apply(layers, x)[0]]
            values += [jax.grad(values[0]), jax.hessian(values[0])]
            return [value(point) for value in values]

        found = networks.derivatives(layers, points, second)
        return found, jax.vmap(of_jax)(points)

    found, (value, first, hessian) = jax.device_get(both(points))
    # float32, values of order 1.
    np.testing.assert_allclose(found.value, value, atol=1e-5)
    np.testing.assert_allclose(found.first.T, first, atol=1e-5)
    assert found.second.shape == (len(second), 6)
    for row, axis in zip(found.second, second, strict=True):
        np.testing.assert_allclose(row, hessian[:, axis, axis], atol=2e-5)


def test_the_sources_are_those_of_the_equations():
    """The residual of the exact wave is zero; f is the same in NumPy and in JAX."""
    x, y = 0.3, -0.2
    laplacian = -(np.pi**2) * (1 + 16) * np.sin(np.pi * x) * np.sin(4 * np.pi * y)
    u = np.sin(np.pi * x) * np.sin(4 * np.pi * y)
    assert helmholtz.source(x, y) == pytest.approx(laplacian + u)
    assert float(interface.source(x, y, jnp)) == pytest.approx(
        interface.source(x, y), rel=1e-5
    )
