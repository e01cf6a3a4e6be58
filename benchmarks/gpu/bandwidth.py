"""The bandwidth of the card's memory, as a copy reaches it."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks.gpu.context import Context, Part, Row, attempt

_DONATED: dict[str, tuple[int, ...]] = {"donated": (0,), "undonated": ()}


def part() -> Part:
    return Part(
        "bandwidth", "one array negated; bytes read and written", tuple(_DONATED), _rows
    )


def _rows(context: Context) -> Iterator[Row]:
    for name, donate in _DONATED.items():
        row = attempt({"copy": name}, lambda donate=donate: _measure(context, donate))
        found = row.get("gb_per_second")
        if found is not None:
            best = context.copy_bytes_per_second or 0.0
            context.copy_bytes_per_second = max(best, 1e9 * found)
        yield row


def _measure(context: Context, donate: tuple[int, ...]) -> Row:
    copy = jax.jit(jnp.negative, donate_argnums=donate)
    kept = [jnp.ones(context.sizes.copied_bytes // 4, jnp.float32)]

    def call():
        made = copy(kept[0])
        if donate:
            kept[0] = made
        return made

    moved = 2 * kept[0].nbytes
    seconds = context.time(call).seconds
    return {"bytes": moved, "seconds": seconds, "gb_per_second": moved / seconds / 1e9}
