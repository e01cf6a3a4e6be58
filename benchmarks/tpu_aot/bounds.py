"""What a row may cost over the plain sum's row beside it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

MOVES = ("all-gather", "all-to-all", "collective-permute")
KILO = 1024
# Seconds are those of a machine on which the plain sum of a ViT-B/16's gradients and Adam
# take so many; where they take longer, so may the rest.
SUM_SECONDS = 4.4


class Bounds(NamedTuple):
    """The most of each; None for no limit."""

    compile_seconds: float
    all_reduces: int | None
    all_reduce_bytes: int | None
    moves: bool = True  # whether every other collective is a miss.


BOUNDS = {
    # A function of the Gram matrix, or statistics of whole tensors.
    "whole": Bounds(15.0, 2, 8 * KILO),
    # The moment that the energy divides by is updated with what is finite, and its mean
    # is a sum over chips between those of the magnitudes and of the energies.
    "fisher": Bounds(15.0, 3, 8 * KILO),
    # Statistics of every output unit: what is summed grows with the layers' widths.
    "by block": Bounds(15.0, None, None),
    # A gate and a memory of every entry: a dozen programs a leaf, of K copies of it.
    "by entry": Bounds(60.0, None, None),
    # Several looks at the gradients themselves.
    "gradients": Bounds(30.0, None, None),
    # A Gram matrix of every output unit: what leaves of many shapes have are put in one
    # batch of small problems, which moves them between chips. Stated, not bounded.
    "grams by block": Bounds(90.0, None, None, moves=False),
    # Whole steps; what a loss sends depends on the way its gradients are taken.
    "steps": Bounds(15.0, None, None),
}


def missed(
    row: Mapping[str, Any], baseline: Mapping[str, Any], bounds: Bounds
) -> list[str]:
    """What a measured row has too much of, in words; nothing if it keeps its bounds."""
    if "error" in row:
        return [f"failed: {row['error']}"]
    found = []
    seconds = row["compile_seconds"] - baseline["compile_seconds"]
    most = bounds.compile_seconds * max(1, baseline["compile_seconds"] / SUM_SECONDS)
    if seconds > most:
        found.append(f"compiles {seconds:.1f} s longer ({most:.0f})")
    ours, theirs = row["collectives"], baseline["collectives"]
    more = {
        kind: {part: ours[kind][part] - theirs[kind][part] for part in ours[kind]}
        for kind in ours
    }
    reduced = more["all-reduce"]
    if bounds.all_reduces is not None and reduced["count"] > bounds.all_reduces:
        found.append(f"{reduced['count']} more all-reduces ({bounds.all_reduces})")
    limit = bounds.all_reduce_bytes
    if limit is not None and reduced["bytes"] > limit:
        found.append(f"{reduced['bytes']} more bytes in all-reduces ({limit})")
    for kind in MOVES if bounds.moves else ():
        if more[kind]["count"] > 0:
            found.append(f"{more[kind]['count']} {kind}")
    return found
