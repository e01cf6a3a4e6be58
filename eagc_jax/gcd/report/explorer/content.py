"""What the page shows of items and clusters, as plain values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from eagc_jax._files import JsonObject
from eagc_jax.gcd.report.explorer import closeness
from eagc_jax.gcd.report.explorer.layout import MAPPED, place, sample
from eagc_jax.gcd.report.explorer.thumbnails import thumbnails
from eagc_jax.gcd.runs.assignment import Assignment, printable
from eagc_jax.gcd.runs.discovery import Discovery
from eagc_jax.gcd.sources import BadItem
from eagc_jax.gcd.sources.records import Items

SHOWN = 20_000  # items on the map at most; clusters' figures are of all items
_EXAMPLES = 8  # of a cluster: the most typical, and the least certain ones
_LETTERS = 400  # of a text
_UNCERTAIN = 0.5  # probability below which an item is called uncertain
_GRID = 10_000  # steps of the map


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which items the page shows."""

    rows: np.ndarray  # in order
    first: np.ndarray  # the same rows, those that people look at first in front


class Content:
    """Items and clusters of a discovery, within so many bytes.

    Args:
      discovery: of which a page is made.
      most_bytes: of all that `plain` returns, as JSON; kept where items have names and
        sentences of ordinary length.
    """

    def __init__(self, discovery: Discovery, most_bytes: int):
        self._discovery = discovery
        self._most = most_bytes
        self._assignment = discovery.assignment

    def plain(self) -> JsonObject:
        """The values."""
        assignment, shown = self._assignment, self._chosen.rows
        return {
            "kind": self._discovery.records.kind,
            "names": [printable(name) for name in assignment.names],
            "numKnown": assignment.num_known,
            "total": len(assignment),
            "items": self._items(),
            "clusters": [self._cluster(k) for k in range(len(assignment.names))],
            "duplicates": [
                [self._at[one], self._at[other], round(cosine, 4)]
                for one, other, cosine in self._duplicates
                if one in self._at and other in self._at
            ],
            "suspects": self._suspected(),
            "outliers": self._found(self._outliers),
            "uncertainBelow": _UNCERTAIN,
            "notes": self._notes(len(shown)),
        }

    @functools.cached_property
    def _features(self) -> np.ndarray:
        """By which items were assigned."""
        adapted = self._discovery.adapted
        return adapted if adapted.shape[1] else self._discovery.features

    @functools.cached_property
    def _duplicates(self) -> list[tuple[int, int, float]]:
        features = self._discovery.features
        if not features.shape[1]:
            return []
        rows = sample(self._assignment.clusters, SHOWN)
        found = closeness.near_duplicates(
            features[rows], self._assignment.clusters[rows]
        )
        return [(int(rows[a]), int(rows[b]), cosine) for a, b, cosine in found]

    @functools.cached_property
    def _suspects(self) -> np.ndarray:
        return closeness.label_suspects(self._assignment)

    @functools.cached_property
    def _outliers(self) -> np.ndarray:
        return closeness.outliers(self._assignment)

    @functools.cached_property
    def _examples(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every cluster: the most typical rows, and the least certain ones."""
        return [
            _examples(self._assignment, np.flatnonzero(self._assignment.clusters == k))
            for k in range(len(self._assignment.names))
        ]

    @functools.cached_property
    def _chosen(self) -> Chosen:
        wanted: list[int] = []
        for depth in range(_EXAMPLES):  # of each cluster something, then more
            for typical, uncertain in self._examples:
                wanted += [*typical[depth : depth + 1], *uncertain[depth : depth + 1]]
        wanted += [*self._suspects, *self._outliers]
        wanted += [row for one, other, _ in self._duplicates for row in (one, other)]
        others = sample(self._assignment.clusters, SHOWN)
        mixed = np.random.default_rng(0).permutation(others).tolist()
        first = np.array(
            list(dict.fromkeys(map(int, (*wanted, *mixed))))[:SHOWN], dtype=np.int64
        )
        return Chosen(np.sort(first), first)

    @functools.cached_property
    def _at(self) -> dict[int, int]:
        """By row: the item's number on the page."""
        return {int(row): i for i, row in enumerate(self._chosen.rows)}

    def _id(self, row: int) -> str:
        return printable(str(self._assignment.ids[row]))

    def _found(self, rows: Iterable[int]) -> list[int]:
        return [self._at[int(row)] for row in rows if int(row) in self._at]

    def _items(self) -> JsonObject:
        assignment, rows = self._assignment, self._chosen.rows
        clusters = assignment.clusters[rows]
        positions = self._positions(rows, clusters)
        return {
            "ids": [self._id(row) for row in rows.tolist()],
            "clusters": clusters.tolist(),
            "labels": assignment.labels[rows].tolist(),
            "probability": _rounded(assignment.probability[rows]),
            "margin": _rounded(assignment.margin[rows]),
            "x": (positions[:, 0] * _GRID).round().astype(int).tolist(),
            "y": (positions[:, 1] * _GRID).round().astype(int).tolist(),
            **self._looks(),
        }

    def _positions(self, rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
        features = self._features
        if not features.shape[1]:
            return np.full((len(rows), 2), 0.5)
        return place(features[rows], clusters)

    def _looks(self) -> JsonObject:
        """Pictures or sentences."""
        records, chosen = self._discovery.records, self._chosen
        if records.kind == "text":
            letters = min(_LETTERS, self._most // 3 // max(len(chosen.rows), 1))
            return {"texts": [_text(records.items, r, letters) for r in chosen.rows]}
        if records.kind != "image":
            return {}
        budget = self._most - self._without_pictures
        found = thumbnails(records.items, chosen.first.tolist(), max(budget, 0))
        return {
            "pictures": [found.pictures.get(int(row), "") for row in chosen.rows],
            "side": found.side,
            "withoutPicture": found.left_out,
        }

    @functools.cached_property
    def _without_pictures(self) -> int:
        """Bytes of all else, and a little more."""
        names = sum(len(str(self._assignment.ids[row])) for row in self._chosen.rows)
        clusters = 600 * len(self._assignment.names)
        hidden = sum(len(name) + 4 for names in self._hidden for name in names[0])
        return 64 * len(self._chosen.rows) + 2 * names + clusters + 2 * hidden

    @functools.cached_property
    def _hidden(self) -> list[tuple[list[str], int, int]]:
        """Of every cluster: ids of members not shown, their number, labeled ones'.

        The ids are needed to say what is decided on; where they are too many for the
        page, some of each cluster are left out.
        """
        assignment = self._assignment
        hidden = np.ones(len(assignment), bool)
        hidden[self._chosen.rows] = False
        rows = np.flatnonzero(hidden)
        if not len(rows):
            return [([], 0, 0)] * len(assignment.names)
        some = rows[:: max(len(rows) // 1_000, 1)].tolist()
        length = float(np.mean([len(self._id(row)) + 4 for row in some]))
        listed = int(min(len(rows), self._most / 3 / length))
        ids: list[list[str]] = [[] for _ in assignment.names]
        for row in rows[sample(assignment.clusters[rows], listed)].tolist():
            ids[assignment.clusters[row]].append(self._id(row))
        size = len(assignment.names)
        number = np.bincount(assignment.clusters[rows], minlength=size)
        labeled = rows[assignment.labels[rows] >= 0]
        known = np.bincount(assignment.clusters[labeled], minlength=size)
        return list(zip(ids, number.tolist(), known.tolist(), strict=True))

    def _cluster(self, cluster: int) -> JsonObject:
        typical, uncertain = self._examples[cluster]
        ids, hidden, hidden_labeled = self._hidden[cluster]
        return {
            "size": int(self._assignment.sizes[cluster]),
            "medoids": self._found(typical),
            "uncertain": self._found(uncertain),
            "near": self._near[cluster],
            "more": ids,
            "hidden": hidden,
            "hiddenLabeled": hidden_labeled,
        }

    @functools.cached_property
    def _near(self) -> list[list[tuple[int, float]]]:
        centres = np.asarray(self._discovery.centres)
        if not centres.shape[1]:
            return [[] for _ in self._assignment.names]
        return closeness.nearest_known(centres, self._assignment.num_known)

    def _suspected(self) -> list[tuple[int, int]]:
        """Items, and the cluster that each lies in."""
        features, centres = self._features, np.asarray(self._discovery.centres)
        rows = self._suspects
        if not len(rows) or features.shape[1] != centres.shape[1]:
            return []
        own = self._assignment.clusters[rows]
        other = closeness.nearest_other(features, centres, rows, own).tolist()
        return [
            (self._at[int(row)], k)
            for row, k in zip(rows, other, strict=True)
            if int(row) in self._at
        ]

    def _notes(self, shown: int) -> dict[str, str]:
        """What the map is, and what is left out."""
        if not self._features.shape[1]:
            told = "The features were not at hand: there is no map."
        else:
            told = (
                "Items lie near each other where their features do (t-SNE of "
                f"{min(shown, MAPPED):,} items"
            )
            if shown > MAPPED:
                told += "; the others between the four of these that are most like them"
            told += "). Far distances and the sizes of groups say little."
        total = len(self._assignment)
        sampled = ""
        if shown < total:
            sampled = (
                f"This page shows {shown:,} of {total:,} items, some of every cluster; "
                "sizes are of all. A decision on a cluster holds for all of its items."
            )
            unlisted = sum(number - len(ids) for ids, number, _ in self._hidden)
            if unlisted:
                sampled += (
                    f" The names of {unlisted:,} items did not fit on the page: the next "
                    "run assigns these, with the decided ones as examples."
                )
        whole = shown <= closeness.SEARCHED
        return {
            "map": told,
            "sampled": sampled,
            "duplicates": (
                "Pairs that are closer than a tenth of what is usual between nearest "
                f"neighbours, {'among all items shown' if whole else 'within clusters'}."
            ),
            "suspects": (
                "Labeled items that lie nearer to another cluster than to their own "
                "class, the farthest off first."
            ),
            "outliers": (
                "Items unusually far from the centre of their cluster: beyond its upper "
                "quartile by one and a half times the interquartile range."
            ),
        }


def _examples(
    assignment: Assignment, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    typical = rows[np.argsort(assignment.distance[rows], kind="stable")][:_EXAMPLES]
    free = rows[assignment.labels[rows] < 0]
    order = np.argsort(assignment.probability[free], kind="stable")
    return typical, free[order][:_EXAMPLES]


def _text(items: Items, row: int, letters: int) -> str:
    try:
        text = printable(str(items[int(row)]))
    except BadItem:
        return ""
    return text if len(text) <= letters else f"{text[: max(letters - 3, 0)]}..."


def _rounded(values: np.ndarray) -> list[float | None]:
    return [round(v, 3) if np.isfinite(v) else None for v in values.tolist()]
