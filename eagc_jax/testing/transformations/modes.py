"""What shows in numbers: the same updates compiled, mapped, scanned, donated, moved."""

from __future__ import annotations

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eagc_jax.testing.failures import Violation
from eagc_jax.testing.transformations.comparing import differing_numbers, numbers
from eagc_jax.testing.transformations.subject import Run, Subject
from eagc_jax.typing import PyTree


def _differs(
    subject: Subject, found: Run, expected: Run | None = None
) -> Violation | None:
    """From the compiled steps, in the updates of any step or in the last state."""
    expected = subject.reference if expected is None else expected
    wrong = None
    for index, (one, other) in enumerate(
        zip(expected.updates, found.updates, strict=True)
    ):
        what = f"step {index}: updates"
        wrong = wrong or differing_numbers(
            one, other, subject.tolerance, what, alike=True
        )
    return wrong or differing_numbers(
        expected.state,
        found.state,
        subject.tolerance,
        "last state",
        subject.rounding,
    )


def jit(subject: Subject) -> Violation | None:
    """Compiled, it is what it is without ``jax.jit``."""
    return _differs(subject, subject.run(subject.step, subject.tx.init(subject.params)))


def vmap(subject: Subject) -> Violation | None:
    """Two runs under one ``jax.vmap`` are the two by themselves."""
    seeds = (subject.seed, subject.seed + 100)
    each = [subject.run(subject.compiled, subject.start, seed) for seed in seeds]
    steps = [_stacked(pair) for pair in zip(*map(subject.given, seeds), strict=True)]
    mapped = jax.jit(jax.vmap(subject.step, in_axes=(0, 0, None)))
    # In JAX, which keeps weak types and knows keys.
    state, found = jax.tree.map(lambda x: jnp.stack([x, x]), subject.start), []
    for updates in steps:
        out, state = mapped(updates, state, subject.params)
        found.append(out)
    expected = Run(
        [_stacked(pair) for pair in zip(*(run.updates for run in each), strict=True)],
        _stacked([run.state for run in each]),
    )
    return _differs(subject, Run(found, state), expected)


def scan(subject: Subject) -> Violation | None:
    """The steps of a ``jax.lax.scan`` are those of a loop."""

    def body(carry: PyTree, updates: PyTree) -> tuple[PyTree, PyTree]:
        out, carry = subject.step(updates, carry, subject.params)
        return carry, out

    whole = jax.jit(lambda state, updates: jax.lax.scan(body, state, updates))
    state, outs = whole(subject.start, _stacked(subject.given()))
    outs = jax.tree.map(numbers, outs)
    found = [jax.tree.map(lambda x, i=i: x[i], outs) for i in range(subject.steps)]
    return _differs(subject, Run(found, state))


def donation(subject: Subject) -> Violation | None:
    """State and parameters can be donated, from ``init`` on: no buffer is in both."""
    # Parameters that the update doesn't read are donated too: a training step would.
    step = jax.jit(subject.step, donate_argnums=(1, 2), keep_unused=True)
    params = _copied(subject.params)
    state, found = subject.tx.init(params), []
    with warnings.catch_warnings():
        # What isn't read, or has no output of its kind, can't be used.
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        for updates in subject.given():
            out, state = step(updates, state, params)
            found.append(out)
            params = _copied(subject.params)
    return _differs(subject, Run(found, state))


def sharding(subject: Subject) -> Violation | None:
    """On two devices, with parameters and gradients split, the same updates.

    Left out where there is one device.
    """
    mesh = jax.make_mesh(
        (2,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
    )

    def placed(leaf: jax.Array) -> jax.Array:
        even = leaf.ndim and leaf.shape[-1] % 2 == 0
        spec = [None] * (leaf.ndim - 1) + ["model"] if even else []
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    params = jax.tree.map(placed, subject.params)
    whole = NamedSharding(mesh, PartitionSpec())
    extra = {name: jax.device_put(x, whole) for name, x in subject.extra_args.items()}
    step = jax.jit(subject.tx.update)
    # The state of a single device is not mixed with parameters of two.
    state, found = jax.device_put(subject.start, whole), []
    for updates in subject.given():
        out, state = step(jax.tree.map(placed, updates), state, params, **extra)
        found.append(out)
    return _differs(subject, Run(found, state))


def serialization(subject: Subject) -> Violation | None:
    """The state's leaves survive as NumPy files, without pickle; steps go on bit by bit.

    Its structure is that of a fresh ``init``.
    """
    first, *rest = subject.given()
    _, state = subject.compiled(first, subject.start, subject.params)
    leaves, structure = jax.tree.flatten(state)
    again = jax.tree.structure(subject.tx.init(subject.params))
    if again != structure:
        return Violation(f"the state has the structure {structure}", f"{again}")
    restored = jax.tree.unflatten(again, [_saved_and_loaded(leaf) for leaf in leaves])
    for updates in rest:
        one, state = subject.compiled(updates, state, subject.params)
        other, restored = subject.compiled(updates, restored, subject.params)
        wrong = differing_numbers((one, state), (other, restored), 0.0, "restored")
        if wrong:
            return wrong
    return None


def _saved_and_loaded(leaf: jax.Array) -> jax.Array:
    """Through ``numpy.save`` and ``numpy.load(allow_pickle=False)``."""
    if not isinstance(leaf, jax.Array):
        raise TypeError(f"a leaf of the state is no array but {leaf!r}")
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    values = np.asarray(jax.random.key_data(leaf) if key else leaf)
    file = io.BytesIO()
    # Bytes: NumPy's files don't know bfloat16.
    np.save(file, np.frombuffer(values.tobytes(), np.uint8), allow_pickle=False)
    file.seek(0)
    loaded = np.load(file, allow_pickle=False).tobytes()
    back = jnp.asarray(np.frombuffer(loaded, values.dtype).reshape(values.shape))
    return (
        jax.random.wrap_key_data(back, impl=jax.random.key_impl(leaf)) if key else back
    )


def _stacked(
    trees: list[PyTree] | tuple[PyTree, ...],
) -> PyTree:
    """In NumPy, where there is nothing to compile; of keys their data."""

    def stack(*leaves):
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            leaves = [jax.random.key_data(leaf) for leaf in leaves]
        return np.stack([np.asarray(leaf) for leaf in leaves])

    return jax.tree.map(stack, *trees)


@jax.jit  # as a whole: leaf by leaf, each shape would be compiled by itself
def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)
