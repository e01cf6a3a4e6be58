"""Which true class went into which cluster, as a heat map."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from eagc_jax.gcd.report.clusters import Cluster, describe_clusters
from eagc_jax.gcd.report.figures import drawable, message_figure, new_figure, thinned
from eagc_jax.gcd.runs.history import Snapshot

MAX_RUNS = 4
_MAX_NUMBERS = 14  # clusters for which the cells still have room for a number
_MAX_NAMES = 40


def confusion_figure(snapshot: Snapshot, runs: list[str]) -> Figure:
    """A panel per run; rows are classes (known first), columns clusters.

    Columns stand in the order of their matched classes, so that correct images are on
    the diagonal; unmatched clusters are at the right end.
    """
    runs = runs[:MAX_RUNS]
    if not runs:
        return message_figure("No run left predictions to compare.")
    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    figure = new_figure(5.0 * columns + 0.6, 4.6 * rows + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, run in zip(panels, runs, strict=False):
        image = _draw(axes, snapshot, run)
    for axes in panels[len(runs) :]:
        axes.set_visible(False)
    figure.colorbar(
        image, ax=list(panels), label="share of the class (%)", shrink=0.7, pad=0.02
    )
    return figure


def _draw(axes: Axes, snapshot: Snapshot, run: str) -> AxesImage:
    ids = snapshot.predictions[run]
    clusters = describe_clusters(snapshot.labels, ids, snapshot.known_classes)
    classes = _known_first(snapshot)
    clusters = _along_the_diagonal(clusters, classes)
    share = _shares(snapshot.labels, ids, classes, clusters)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    known = sum(c in snapshot.known_classes for c in classes)
    if 0 < known < len(classes):
        axes.axhline(known - 0.5, color="black", lw=1)
        axes.axvline(sum(c.known is True for c in clusters) - 0.5, color="black", lw=1)
    unmatched = sum(c.matched is None for c in clusters)
    if unmatched:
        axes.axvline(len(clusters) - unmatched - 0.5, color="black", lw=1, ls=":")
    if len(clusters) <= _MAX_NUMBERS:
        _write_numbers(axes, share)
    _name_axes(axes, snapshot, classes, clusters)
    axes.set_title(drawable(run, 40))
    return image


def _known_first(snapshot: Snapshot) -> list[int]:
    classes = np.unique(snapshot.labels).tolist()
    return sorted(classes, key=lambda c: (c not in snapshot.known_classes, c))


def _along_the_diagonal(clusters: list[Cluster], classes: list[int]) -> list[Cluster]:
    place = {c: i for i, c in enumerate(classes)}

    def key(cluster: Cluster) -> tuple[int, int]:
        matched = cluster.matched
        return (len(classes) if matched is None else place[matched], cluster.id)

    return sorted(clusters, key=key)


def _shares(
    labels: np.ndarray, ids: np.ndarray, classes: list[int], clusters: list[Cluster]
) -> np.ndarray:
    """(classes, clusters) percentages; each row sums to 100."""
    counts = np.zeros((max(classes) + 1, max(c.id for c in clusters) + 1))
    np.add.at(counts, (labels, ids), 1)
    counts = counts[np.ix_(classes, [c.id for c in clusters])]
    return 100 * counts / counts.sum(axis=1, keepdims=True)


def _write_numbers(axes: Axes, share: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.5:
            color = "white" if value > 55 else "black"
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", c=color, size=8
            )


def _name_axes(
    axes: Axes, snapshot: Snapshot, classes: list[int], clusters: list[Cluster]
) -> None:
    names = snapshot.class_names
    rows, columns = (
        thinned(len(classes), _MAX_NAMES),
        thinned(len(clusters), _MAX_NUMBERS),
    )
    class_names = [names[c] if c < len(names) else c for c in classes]
    size = 8 if len(rows) <= 20 else 6
    axes.set_yticks(rows, [drawable(class_names[i], 16) for i in rows], fontsize=size)
    axes.set_xticks(columns, [f"#{clusters[i].id}" for i in columns], fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("discovered cluster, in the order of its matched class")
    axes.set_ylabel("true class (known above the line)")
