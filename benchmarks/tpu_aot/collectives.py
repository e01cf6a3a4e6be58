"""Collectives in a compiled program's text: how many of each kind, and how many bytes."""

import math
import re

KINDS = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
# Of an asynchronous pair "-start" is counted. Its type holds operands and results.
_INSTRUCTION = re.compile(rf"= (\(.*\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
_LAYOUT = re.compile(r"\{[^{}]*\}|/\*.*?\*/")
# A collective that goes on while other programs run stands in the body of each of them,
# with the number of its chain: one and the same transfer.
_CHAIN = re.compile(r'channel_id=(\d+).*chain_id="(\d+)"')
_ARRAY = re.compile(r"\b([a-z]+)(\d+)?(?:e\d\w*)?\[([\d,]*)\]")
_TUPLES_OF_BOTH = ("all-gather", "collective-permute")


def count(text: str) -> dict[str, dict[str, int]]:
    """Counts of a module's text, ``compiled.as_text()``.

    Args:
      text: HLO. What stands in a loop counts once.

    Returns:
      By kind: ``count``, and ``bytes`` that each device holds of their results.
    """
    found = {kind: {"count": 0, "bytes": 0} for kind in KINDS}
    chains = set()
    for line in text.splitlines():
        match = _INSTRUCTION.search(_LAYOUT.sub("", line))
        if not match:
            continue
        shapes, kind, start = match.groups()
        if chain := _CHAIN.search(line):
            if (kind, *chain.groups()) in chains:
                continue
            chains.add((kind, *chain.groups()))
        if start and kind in _TUPLES_OF_BOTH:
            shapes = _second(shapes)
        found[kind]["count"] += 1
        found[kind]["bytes"] += bytes_of(shapes)
    return found


def bytes_of(shapes: str) -> int:
    """Of an HLO type without layouts: ``f32[2,3]``, or a tuple of such."""
    return sum(
        _bytes_of_one(kind, bits) * math.prod(int(n) for n in sizes.split(",") if n)
        for kind, bits, sizes in _ARRAY.findall(shapes)
    )


def _bytes_of_one(kind: str, bits: str) -> int:
    return max(int(bits) // 8, 1) if bits else 1  # pred has none


def _second(shapes: str) -> str:
    """Of ``(operands, results, ...)``, the results."""
    depth, start, parts = 0, 1, []
    for index, character in enumerate(shapes):
        depth += (character in "([") - (character in ")]")
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            parts.append(shapes[start:index])
            start = index + 1
    return parts[1]
