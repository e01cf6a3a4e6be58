"""What `eagc discover` prints of what it found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import jax
import numpy as np

from eagc_jax.gcd.evaluation.scores import Scores, score
from eagc_jax.gcd.runs.assignment import Assignment
from eagc_jax.gcd.runs.discovery import JUNK, Discovery
from eagc_jax.gcd.sources import BadItem, Records
from eagc_jax.gcd.sources.strings import shown

if TYPE_CHECKING:
    from eagc_jax.gcd.pipeline import Answer

_NAMES = {"image": "photos", "text": "texts", "embedding": "embeddings"}
_LARGEST = 5  # novel clusters that are shown
_SKIPPED = 10  # items left out that are named
_LETTERS = 60  # of a text


def show_first(records: Records, first: Answer, seconds: float) -> None:
    """Prints the first answer, as soon as it is there."""
    for line in [
        _data(records),
        f"first answer after {seconds:.1f} s, before any training:",
        *_clusters(records, first.assignment),
        *_scores("against the true classes", score(records, first.assignment.clusters)),
    ]:
        print(line, flush=True)


def show(found: Discovery) -> None:
    """Prints what was found, how far to trust it and where it lies."""
    again = found.settings.quick  # else the first answer was shown
    for line in [
        *([_data(found.records)] if again else []),
        *_stages(found),
        *trust(found),
        *found.notes,
        *_clusters(found.records, found.assignment),
        *_end(found),
    ]:
        print(line)
    show_skipped(found.skipped, _SKIPPED)


def trust(found: Discovery) -> list[str]:
    """What the rehearsal says of novel classes, and what was chosen."""
    told = found.rehearsal
    if told is None:
        return [] if found.settings.quick else [f"taken: {found.chosen}, not rehearsed"]
    lines = [told.reason, *(f"left out: {what}" for what in told.left_out)]
    new = next(one for one in told.candidates if one.name == found.chosen).new
    return [
        *lines,
        f"of items of novel classes, {new.low:.0%} to {new.high:.0%} (expected "
        f"{new.expected:.0%}) should lie in their class's cluster, if novel classes are "
        "like the known ones",
    ]


def show_skipped(skipped: tuple[BadItem, ...], most: int | None = None) -> None:
    """On stderr; all of them, or the first few where a file lists them."""
    junk = [bad for bad in skipped if bad.reason == JUNK]
    if junk:
        print(f"left out {len(junk):,} items as junk, as decided", file=sys.stderr)
    unread = [bad for bad in skipped if bad.reason != JUNK]
    if not unread:
        return
    print(f"left out {len(unread):,} items that can't be read:", file=sys.stderr)
    for bad in unread[:most]:
        print(f"  {bad}", file=sys.stderr)
    if most is not None and len(unread) > most:
        print("  ... all are in skipped.csv", file=sys.stderr)


def embedded_line(name: str, embedded: int, items: int, seconds: float) -> str:
    """Who embedded how many, how fast."""
    device = jax.devices()[0]
    place = f"{device.device_kind}" if device.platform != "cpu" else "CPU"
    if name == "embeddings":
        return f"embeddings as given, {items:,}, read in {seconds:.1f} s"
    if not embedded:
        return f"{name}: all features were cached, read in {seconds:.1f} s"
    rate = embedded / max(seconds, 1e-9)
    rest = (
        "" if embedded == items else f", the other {items - embedded:,} cached or equal"
    )
    return (
        f"{name} on {place}: {embedded:,} embedded in {seconds:.1f} s "
        f"({rate:,.0f} a second){rest}"
    )


def _data(records: Records) -> str:
    labeled = int(records.labeled_mask.sum())
    return (
        f"{shown(records.name)}: {len(records):,} {_NAMES[records.kind]}, {labeled:,} "
        f"labeled with {records.num_known} known classes, "
        f"{len(records) - labeled:,} unlabeled"
    )


def _stages(found: Discovery) -> list[str]:
    seconds = found.seconds
    number = f"{found.num_classes} classes, as given"
    if found.estimate is not None:
        estimate = found.estimate
        number = (
            f"{estimate.number} classes, estimated in "
            f"{seconds['number of classes']:.1f} s (likely {estimate.low} to "
            f"{estimate.high}; --num-classes if you know)"
        )
    embedding = embedded_line(
        found.backbone, found.embedded, len(found.records), seconds["embedding"]
    )
    lines = [embedding, number]
    parts = {
        "clustering": "clustered",
        "rehearsal": "rehearsed",
        "training": _trained(found),
    }
    done = [
        f"{what} in {seconds[stage]:.1f} s"
        for stage, what in parts.items()
        if stage in seconds
    ]
    return [*lines, ", ".join(done)]


def _trained(found: Discovery) -> str:
    epochs = 0 if found.history is None else len(found.history.epochs)
    return f"trained for {epochs} epochs"


def _clusters(records: Records, assignment: Assignment) -> list[str]:
    known = records.num_known
    sizes = assignment.sizes
    if len(sizes) == known:
        return [
            "no novel clusters; if you expect new categories, say how many classes there "
            "are with --num-classes"
        ]
    lines = [
        f"known classes have {sizes[:known].sum():,} items, "
        f"{len(sizes) - known} novel clusters {sizes[known:].sum():,}"
    ]
    for cluster in range(known, min(known + _LARGEST, len(sizes))):
        if sizes[cluster]:
            lines.append(
                f"  {assignment.names[cluster]}: {sizes[cluster]:,} items, such as "
                f"{_example(records, assignment.typical(cluster))}"
            )
    return lines


def _example(records: Records, row: int) -> str:
    name = shown(records.ids[row])
    if records.kind != "text":
        return name
    text = shown(records.items[row])
    return f"{name}: {text[:_LETTERS]}{'...' if len(text) > _LETTERS else ''}"


def _end(found: Discovery) -> list[str]:
    lines = []
    if found.history is not None:
        first = score(found.records, found.first.clusters)
        lines += _scores("first answer, before training", first)
    lines += _scores("against the true classes, unlabeled items", found.scores)
    if found.folder is not None:
        files = sorted(file.name for file in found.folder.iterdir())
        names = ", ".join(name for name in files if not name.startswith("."))
        lines.append(f"wrote {shown(found.folder)}: {names}")
    return lines


def _scores(what: str, scores: Scores | None) -> list[str]:
    if scores is None:
        return []
    return [
        f"{what}: All {_share(scores.all)}, Old {_share(scores.old)}, "
        f"New {_share(scores.new)}, ARI {_share(scores.ari)}, NMI {_share(scores.nmi)}"
    ]


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
