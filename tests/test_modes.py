"""The whole public interface in JAX's other modes: one row a function, one column a mode.

What shows while tracing is only traced. ``rules`` has the strictest three at once: 64-bit
types with float64, float32 and bfloat16 leaves side by side, no implicit promotion of
dtypes or of ranks; states must come back as ``init`` made them, or a scan fails. Warnings
are errors. What shows in numbers is run: ``jax_debug_nans``, donation, ``vmap``.
"""

import contextlib
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eagc_jax
from eagc_jax import (
    aggregators,
    diagnostics,
    features,
    gradients,
    pareto,
    rewards,
    scaling,
    testing,
    weightings,
)
from eagc_jax.testing.transformations.comparing import differing_kinds
from tests.interface import (
    CONCRETE,
    MIXED,
    ONE_DTYPE,
    ROWS,
    K,
    abstract,
    problem,
)


@contextlib.contextmanager
def rules():
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


TRACED = {
    "rules": (rules, MIXED),
    "x64": (lambda: jax.enable_x64(True), MIXED),
    "strict": (lambda: jax.numpy_dtype_promotion("strict"), ONE_DTYPE),
    "rank": (lambda: jax.numpy_rank_promotion("raise"), ONE_DTYPE),
    "leaks": (jax.checking_leaks, ONE_DTYPE),
}
# The other modes see less than the rules do, or take minutes; weightings are what the
# aggregators of their name call.
DEFAULT = {
    "rules": {name for name in ROWS if not name.startswith("weightings.")},
    "leaks": {"eagc_default", "sum_objectives", "value_and_grads"},
}
# What compiles quickly and differs: the others take minutes together.
RUN = ("pcgrad", "scale_by_stability", "coordinate")


def row(name, mode, quick):
    marks = [] if quick else [pytest.mark.slow]
    return pytest.param(name, mode, marks=marks)


def cases(modes, quick):
    """(row, mode) of every traceable row; slow but for what ``quick`` chooses."""
    pairs = itertools.product(ROWS, modes)
    return [row(n, mode, quick(n, mode)) for n, mode in pairs if n not in CONCRETE]


TRANSFORMATIONS = {n: row for n, row in ROWS.items() if row.transformation is not None}
FUNCTIONS = [n for n in ROWS if n not in TRANSFORMATIONS and n not in CONCRETE]


def slow_but_for(quick, names):
    return [
        pytest.param(name, marks=[] if name in quick else [pytest.mark.slow])
        for name in names
    ]


@pytest.mark.parametrize(
    ("name", "mode"),
    cases(TRACED, lambda name, mode: name in DEFAULT.get(mode, ())),
)
def test_traces_and_keeps_its_state(name, mode):
    enter, dtypes = TRACED[mode]
    with enter():
        given = abstract(problem(0, dtypes))
        state = jax.eval_shape(ROWS[name].init, given)
        _, new = jax.eval_shape(ROWS[name].step, state, given)
        assert differing_kinds(state, new, "state") is None


@pytest.mark.parametrize(
    ("name", "mode"), [row(name, "rules", True) for name in sorted(CONCRETE)]
)
def test_what_loops_in_python_runs(name, mode):
    with TRACED[mode][0]():
        given = problem(0, MIXED)
        jax.tree.map(np.asarray, ROWS[name].step((), given))


# The rules have these.
TRACED_ALREADY = ("state", "mixed_dtypes", "x64", "strict_dtypes", "strict_ranks")
# Without jit every operation is compiled by itself: with the slow tests.
EAGER = ("jit",)


def assert_in_every_mode(name, leave_out):
    row, extra = (
        TRANSFORMATIONS[name],
        {"value": np.linspace(0.5, 2.0, K, dtype=np.float32)},
    )
    with jax.debug_nans(True):
        return testing.assert_transformation(
            row.transformation,
            row.number,
            leave_out=leave_out,
            extra_args=extra,
            rounding=("residual",),
        )


@pytest.mark.parametrize("name", slow_but_for(RUN, TRANSFORMATIONS))
def test_a_transformation_in_every_mode(name):
    checked = assert_in_every_mode(name, (*TRACED_ALREADY, *EAGER))
    assert "sharding" in checked.held  # eight simulated devices: conftest.py


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_transformation_is_the_same_without_jit(name):
    others = set(testing.transformations.TRANSFORMATION_PROPERTIES) - set(EAGER)
    assert assert_in_every_mode(name, others).held == EAGER


SEQUENCES = ((0, 1), (1, 2))  # seeds of two problems, each of two steps


def steps_of(step, state, problems):
    """Outcomes of a sequence of steps, as NumPy before the next one may donate them."""
    outs = []
    for given in problems:
        out, state = step(state, jax.tree.map(jnp.array, given))
        outs.append(jax.tree.map(np.asarray, out))
    return outs, jax.tree.map(np.asarray, state)


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize("name", slow_but_for(RUN, FUNCTIONS))
def test_runs_donated_mapped_and_without_nans(name):
    init, plain = ROWS[name][:2]
    init = jax.jit(init)
    step = jax.jit(plain, donate_argnums=(0, 1))
    mapped = jax.jit(jax.vmap(plain))
    sequences = [[problem(seed) for seed in seeds] for seeds in SEQUENCES]
    with jax.debug_nans(True):
        each = [steps_of(step, init(steps[0]), steps) for steps in sequences]
        batches = [stacked(given) for given in zip(*sequences, strict=True)]
        states = stacked([init(steps[0]) for steps in sequences])
        found = steps_of(mapped, states, batches)
    expected = stacked(each)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        # The same operations batched: sums in another order, then a solve on them.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_no_operation_by_itself_gives_a_nan(name):
    """Without jit, where ``jax_debug_nans`` looks at every operation."""
    state = ROWS[name].init(problem(1))
    with jax.debug_nans(True):
        steps_of(ROWS[name].step, state, [problem(1)])


# --- every public name has a row ------------------------------------------------------

MODULES = (
    eagc_jax,
    aggregators,
    diagnostics,
    features,
    gradients,
    pareto,
    rewards,
    scaling,
)
WITHOUT_ARRAYS = {"minimum_temperature", "plot_fronts"}


def test_every_public_function_has_a_row():
    named = set(ROWS) | {name for row in ROWS.values() for name in row.covers}
    named |= {name.removeprefix("eagc_") for name in ROWS}
    functions = {
        name
        for module in MODULES
        for name in module.__all__
        if inspect.isfunction(getattr(module, name))
    }
    assert functions - named - WITHOUT_ARRAYS == set()
    assert {f"weightings.{name}" for name in weightings.__all__} <= set(ROWS)
