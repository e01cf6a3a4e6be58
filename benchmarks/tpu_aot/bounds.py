"""What a row may cost over the plain sum's row beside it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

MOVES = ("all-gather", "all-to-all", "collective-permute")
KILO = 1024
# Seconds are those of a machine on which the plain sum of a ViT-B/16's gradients and Adam
# take so many; where they take longer, so may the rest. An update is compared with the
# sum that was compiled beside it. A row without one, of a step or of an earlier file,
# that was measured while the machine was slower than for the plain sum's row is judged
# at that one's pace.
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
    # A Gram matrix of every tensor, K * K numbers: 9.7 kB for 152 tensors and K = 4.
    "by tensor": Bounds(15.0, 2, 12 * KILO),
    # The same and K + 1 products with a running direction, a memory of every entry, of
    # each: 12.8 kB. K edited gradients come out, which others then add.
    "projection": Bounds(30.0, 2, 16 * KILO),
    # The moment that the energy divides by is updated with what is finite, and its mean
    # is a sum over chips between those of the magnitudes and of the energies.
    "fisher": Bounds(15.0, 3, 8 * KILO),
    # Statistics of every output unit: what is summed grows with the layers' widths.
    "by block": Bounds(15.0, None, None),
    # A gate and a memory of every entry: some ten programs a leaf, of K copies of it.
    "by entry": Bounds(40.0, None, None),
    # Several looks at the gradients themselves, or memories as large as K of them.
    "gradients": Bounds(30.0, None, None),
    # A Gram matrix of every output unit: what leaves of many shapes have are put in one
    # batch of small problems, which moves them between chips. Stated, not bounded.
    "grams by block": Bounds(30.0, None, None, moves=False),
    # Whole steps; what a loss sends depends on the way its gradients are taken.
    "steps": Bounds(15.0, None, None),
}


def seconds_of_sum(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> float:
    """That the plain sum takes to compile: beside the row, or in a row of its own."""
    return row.get("sum_seconds", baseline["compile_seconds"])


def seconds_over(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> float:
    """To compile, more than the plain sum, both on a machine of one pace."""
    ours, theirs = row.get("pace_seconds"), baseline.get("pace_seconds")
    slower = ours / theirs if ours and theirs else 1.0
    return row["compile_seconds"] / slower - seconds_of_sum(row, baseline)


def missed(
    row: Mapping[str, Any], baseline: Mapping[str, Any], bounds: Bounds
) -> list[str]:
    """What a measured row has too much of, in words; nothing if it keeps its bounds."""
    if "error" in row:
        return [f"failed: {row['error']}"]
    found = []
    seconds = seconds_over(row, baseline)
    beside = seconds_of_sum(row, baseline)
    most = bounds.compile_seconds * max(1, beside / SUM_SECONDS)
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
