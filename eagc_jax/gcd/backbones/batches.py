"""Items prepared in threads, in bounded memory; batches of them; the forward pass."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eagc_jax.gcd.backbones.base import Backbone
from eagc_jax.gcd.sources.records import BadItem, Records
from eagc_jax.typing import Params, PyTree

T = TypeVar("T")
Prepared = tuple[int, PyTree]  # which item, and what `prepare` made of it
_Place = Callable[[PyTree], PyTree]

_TEXT_WINDOW = 4096  # texts that are sorted by length at a time
_TEXTS_A_TASK = 64  # handing one to a thread takes longer than preparing it


def default_batch_size() -> int:
    """32 on CPU, else 256 for each device."""
    if jax.default_backend() == "cpu":
        return 32
    return 256 * jax.local_device_count()


def prepared(
    records: Records, backbone: Backbone, rows: np.ndarray, size: int, pool: Executor
) -> Iterator[Prepared]:
    """`(i, array)` for each rows[i], in order; a `BadItem` in the array's place.

    Two batches, or a window of texts, are in work or wait at any time.
    """
    together = _TEXTS_A_TASK if backbone.kind == "text" else 1
    ahead = max(2 * size, window(backbone, size)) // together + 1
    ranges = (
        range(start, min(start + together, len(rows)))
        for start in range(0, len(rows), together)
    )

    def prepare(which: range) -> list[Prepared]:
        return [(i, _prepare(records, backbone, int(rows[i]))) for i in which]

    waiting = collections.deque(
        pool.submit(prepare, which) for which in itertools.islice(ranges, ahead)
    )
    while waiting:
        done = waiting.popleft().result()
        waiting.extend(
            pool.submit(prepare, which) for which in itertools.islice(ranges, 1)
        )
        yield from done


def window(backbone: Backbone, size: int) -> int:
    """Items that are sorted by length at a time, in whole batches."""
    return max(1, _TEXT_WINDOW // size) * size if backbone.kind == "text" else size


def batches(
    items: Iterator[Prepared], size: int, window: int
) -> Iterator[list[Prepared]]:
    """Batches of `size`, the last perhaps smaller; within a window the longest first."""
    while taken := list(itertools.islice(items, window)):
        if window > size:
            taken.sort(key=lambda one: -_length(one[1]))
        for start in range(0, len(taken), size):
            yield taken[start : start + size]


def one_behind(results: Iterable[T]) -> Iterator[T]:
    """Each, once the next has been asked for: the device works on that meanwhile."""
    for result, _ in itertools.pairwise(itertools.chain(results, [None])):
        yield result  # pyright: ignore[reportReturnType]


def forward(backbone: Backbone, size: int) -> Callable[[Sequence[PyTree]], jax.Array]:
    """From at most `size` prepared items to (size, width) features.

    Too few are filled up with copies of the last one, so that there is one shape.
    """
    run, place = _compiled(backbone, size)

    def features(items: Sequence[PyTree]) -> jax.Array:
        filled = [*items, *[items[-1]] * (size - len(items))]
        return run(place(backbone.collate(filled)))

    return features


def _prepare(records: Records, backbone: Backbone, row: int) -> PyTree:
    try:
        return backbone.prepare(records.items[row])
    except BadItem as error:
        return error
    except Exception as error:
        error.add_note(f"while item {records.ids[row]!r} (row {row}) was prepared")
        raise


def _length(prepared: PyTree) -> int:
    return sum(
        len(leaf) if isinstance(leaf, str) else np.size(leaf)
        for leaf in jax.tree.leaves(prepared)
    )


def _compiled(
    backbone: Backbone, size: int
) -> tuple[Callable[[PyTree], jax.Array], _Place]:
    """The forward pass, and what puts its input where it is needed."""
    depth = backbone.depth
    if isinstance(backbone, nnx.Module):
        graph, weights = nnx.split(backbone)  # as constants they would be compiled in

        def module(weights: Params, arrays: PyTree) -> jax.Array:
            model = nnx.merge(graph, weights)
            return model.readout(model.prefix(arrays, depth), depth)

        place, replicate = _placed(size)
        return functools.partial(jax.jit(module), replicate(weights)), place

    def call(arrays: PyTree) -> jax.Array:
        return backbone.readout(backbone.prefix(arrays, depth), depth)

    if depth == 0:  # a user's function, which may know nothing of JAX
        return call, lambda arrays: arrays
    return jax.jit(call), _placed(size)[0]


def _placed(size: int) -> tuple[_Place, _Place]:
    """Divides a tree over the local devices by axis 0, or copies it to each."""
    devices = jax.local_devices()
    if size % len(devices):
        devices = devices[:1]
    mesh = Mesh(np.array(devices), ("items",))
    divided, copied = PartitionSpec("items"), PartitionSpec()
    return (
        lambda arrays: jax.device_put(arrays, NamedSharding(mesh, divided)),
        lambda tree: jax.device_put(tree, NamedSharding(mesh, copied)),
    )
