"""A 2-D map of the features, by true class and by discovered cluster."""

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from eagc_jax.gcd.report.clusters import describe_clusters
from eagc_jax.gcd.report.figures import (
    CLASS_COLORS,
    KNOWN_MARKER,
    NOVEL_MARKER,
    UNMATCHED,
    drawable,
    message_figure,
    new_figure,
    write_message,
)
from eagc_jax.gcd.runs.history import Snapshot

MAX_RUNS = 3
MAX_POINTS = 1800  # over all runs: keeps the embedding within about ten seconds
MAX_LABELS = 24
_SEED = 0


def feature_map_figure(snapshot: Snapshot, runs: list[str]) -> Figure:
    """A row of two maps for each of the first `MAX_RUNS` runs.

    Points have the colour of their true class on the left, and the colour of the
    class that their cluster was matched with on the right, so that an image put into
    the wrong cluster has two colours.
    """
    runs = runs[:MAX_RUNS]
    if not runs:
        return message_figure("No run left features and predictions to map.")
    figure = new_figure(9.6, 0.5 + 4.7 * len(runs))
    grid = figure.subplots(len(runs), 2, squeeze=False)
    for (left, right), run in zip(grid, runs, strict=True):
        _draw_run(left, right, snapshot, run, MAX_POINTS // len(runs))
    # Drawn by hand: the first point of a scatter has a class's colour.
    shapes = {"known class": KNOWN_MARKER, "novel class": NOVEL_MARKER}
    handles = [
        Line2D([], [], ls="", marker=m, color="#444444", label=name)
        for name, m in shapes.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def embed(features: np.ndarray) -> np.ndarray:
    """(n, D) features to (n, 2) map positions: directions, PCA, then t-SNE.

    Lengths are dropped because the classifier and the losses see directions alone.
    Equal input gives equal output. Fewer than 8 points get plain PCA, and features
    that have collapsed to a point stay one.
    """
    features = np.asarray(features, np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    centred = features / np.where(lengths > 0, lengths, 1.0)
    centred = centred - centred.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    scores = (u * s)[:, :50]
    # A singular vector's sign is arbitrary; fix it, or machines would differ.
    peaks = scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])]
    scores = scores * np.where(peaks < 0, -1.0, 1.0)
    plane = np.pad(scores, ((0, 0), (0, max(0, 2 - scores.shape[1]))))[:, :2]
    spread = plane[:, 0].std()
    if len(features) < 8 or spread < 1e-9:
        return plane
    tsne = TSNE(
        perplexity=min(30.0, (len(features) - 1) / 3),
        init=(plane / spread * 1e-4).astype(np.float32),
        max_iter=500,
        random_state=_SEED,
        learning_rate="auto",
    )
    # One thread: more of them wait for each other where cores are shared, and then
    # the map takes several times as long.
    with threadpool_limits(limits=1):
        return tsne.fit_transform(scores.astype(np.float32))


def _draw_run(
    left: Axes, right: Axes, snapshot: Snapshot, run: str, max_points: int
) -> None:
    chosen = _sample(snapshot.features[run], max_points)
    if not len(chosen):
        for axes in (left, right):
            write_message(axes, f"{run}: no feature is finite")
        return
    points = embed(snapshot.features[run][chosen])
    known, labels = snapshot.old_mask[chosen], snapshot.labels[chosen]
    ids = snapshot.predictions[run]
    clusters = describe_clusters(snapshot.labels, ids, snapshot.known_classes)
    matched = {c.id: c.matched for c in clusters}
    names = {c: _class_name(snapshot, c) for c in np.unique(labels).tolist()}
    colors = {c: class_color(c) for c in names}
    _scatter(left, points, labels, known, names, colors)
    left.set_title(f"{drawable(run)}: true class")

    names = {c: f"#{c}" for c in np.unique(ids[chosen]).tolist()}
    colors = {c: class_color(matched[c]) for c in names}
    _scatter(right, points, ids[chosen], known, names, colors)
    right.set_title(f"{drawable(run)}: discovered cluster (#number)")


def class_color(class_id: int | None) -> str:
    """The class's colour in every map; colours repeat after the twelfth class."""
    return UNMATCHED if class_id is None else CLASS_COLORS[class_id % len(CLASS_COLORS)]


def _class_name(snapshot: Snapshot, class_id: int) -> str:
    names = snapshot.class_names
    return drawable(names[class_id] if class_id < len(names) else class_id, 14)


def _sample(features: np.ndarray, max_points: int) -> np.ndarray:
    """Sorted positions of at most `max_points` rows, all of them finite."""
    finite = np.flatnonzero(np.isfinite(features).all(axis=1))
    if len(finite) <= max_points:
        return finite
    return np.sort(np.random.default_rng(_SEED).permutation(finite)[:max_points])


def _scatter(
    axes: Axes,
    points: np.ndarray,
    groups: np.ndarray,
    known: np.ndarray,
    names: dict[int, str],
    colors: dict[int, str],
) -> None:
    color = np.array([colors[g] for g in groups.tolist()])
    for mask, marker in ((known, KNOWN_MARKER), (~known, NOVEL_MARKER)):
        axes.scatter(
            *points[mask].T, c=color[mask], marker=marker, s=13, alpha=0.8, lw=0
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color("#cccccc")
    if len(names) <= MAX_LABELS:
        _label_groups(axes, points, groups, names)
    axes.set_xlabel("t-SNE 1 (no unit)")
    axes.set_ylabel("t-SNE 2 (no unit)")


def _label_groups(
    axes: Axes, points: np.ndarray, groups: np.ndarray, names: dict[int, str]
) -> None:
    centres = np.array([_densest(points[groups == g]) for g in names])
    extent = np.ptp(points, axis=0).max()
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for name, (x, y) in zip(names.values(), _spread(centres, extent), strict=True):
        axes.text(
            *(x, y, name),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            path_effects=halo,
        )


def _densest(points: np.ndarray) -> np.ndarray:
    """The point with the closest neighbours: a mean may lie between two islands."""
    points = points[:: max(1, len(points) // 400)]
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    nearest = np.sort(distances, axis=1)[:, : max(2, len(points) // 2)]
    return points[nearest.mean(axis=1).argmin()]


def _spread(centres: np.ndarray, extent: float) -> np.ndarray:
    """Pushes labels apart vertically until none covers another."""
    centres, wide, high = centres.astype(float).copy(), 0.13 * extent, 0.05 * extent
    for _ in range(50):
        gap = centres[:, None] - centres
        close = (np.abs(gap[..., 0]) < wide) & (np.abs(gap[..., 1]) < high)
        np.fill_diagonal(close, False)
        if not close.any():
            break
        order = np.argsort(np.argsort(centres[:, 1], kind="stable"))
        up = np.sign(order[:, None] - order)
        centres[:, 1] += (close * up * (high - np.abs(gap[..., 1])) / 2).sum(axis=1)
    return centres
