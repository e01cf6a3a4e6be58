"""The discovered clusters as rows of images."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from eagc_jax.gcd.report.clusters import Cluster, describe_clusters, most_telling
from eagc_jax.gcd.report.figures import WRONG, drawable, message_figure, new_figure
from eagc_jax.gcd.runs.history import Snapshot

MAX_ROWS = 24
TYPICAL, ATYPICAL = 12, 4  # images per row: nearest to the mean, and farthest
_TILE = 64  # pixels, without the margin
_MARGIN = 5  # pixels around every tile; the frame is drawn here
_GAP = 26  # pixels between the typical and the atypical images


def contact_sheet_figure(snapshot: Snapshot, run: str | None) -> Figure:
    """One row for each of the `MAX_ROWS` most telling clusters of the run.

    Nearest images alone would flatter a cluster, so each row ends with the farthest.
    """
    if run is None:
        return message_figure("No run left predictions to show.")
    ids, labels = snapshot.predictions[run], snapshot.labels
    clusters = describe_clusters(labels, ids, snapshot.known_classes)
    shown = most_telling(clusters, MAX_ROWS)
    frame = (np.array(to_rgb(WRONG)) * 255).astype(np.uint8)
    sheet = np.concatenate([_row(snapshot, run, c, frame) for c in shown])
    title = f"{drawable(run)}: {len(clusters)} discovered clusters"
    if len(shown) < len(clusters):
        title += f", {len(shown)} of them shown"
    return _lay_out(sheet, [_row_label(snapshot, c) for c in shown], title)


def _from_the_mean(snapshot: Snapshot, run: str, cluster: Cluster) -> np.ndarray:
    """Positions of the cluster's images, nearest to its mean feature first."""
    members = np.flatnonzero(snapshot.predictions[run] == cluster.id)
    if run not in snapshot.features:
        return members
    rows = np.asarray(snapshot.features[run][members], np.float64)
    # As in the classifier, direction counts and length does not.
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    distance = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    return members[np.argsort(distance, kind="stable")]


def _row(
    snapshot: Snapshot, run: str, cluster: Cluster, frame: np.ndarray
) -> np.ndarray:
    """The cluster's images side by side, the ones of another class framed."""
    order = _from_the_mean(snapshot, run, cluster)
    kept = np.concatenate([order[:TYPICAL], order[TYPICAL:][-ATYPICAL:]])
    side = _TILE + 2 * _MARGIN
    row = np.full((side, (TYPICAL + ATYPICAL) * side + _GAP, 3), 255, np.uint8)
    for place, index in enumerate(kept.tolist()):
        wrong = snapshot.labels[index] != cluster.matched
        x = place * side + (_GAP if place >= TYPICAL else 0)
        tile = to_tile(snapshot.images[index])
        row[:, x : x + side] = _framed(tile, frame if wrong else None)
    return row


def to_tile(image: np.ndarray) -> np.ndarray:
    """(H, W, C) floats in [0, 1] to (`_TILE`, `_TILE`, 3) bytes, aspect ratio kept.

    One channel becomes grey, a fourth (alpha) is dropped, and of any other number
    the mean is shown.
    """
    channels = image.shape[-1]
    if channels in (3, 4):
        rgb = image[..., :3]
    else:
        rgb = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    rgb = np.nan_to_num(np.asarray(rgb, np.float32), posinf=1.0, neginf=0.0)
    picture = Image.fromarray(np.round(rgb.clip(0, 1) * 255).astype(np.uint8))
    factor = _TILE / max(picture.size)
    size = tuple(max(1, round(s * factor)) for s in picture.size)
    # Few pixels stay visible as pixels; many are averaged.
    method = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
    tile = Image.new("RGB", (_TILE, _TILE), "white")
    corner = ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2)
    tile.paste(picture.resize((size[0], size[1]), method), corner)
    return np.asarray(tile)


def _framed(tile: np.ndarray, frame: np.ndarray | None) -> np.ndarray:
    padded = np.pad(tile, ((_MARGIN, _MARGIN),) * 2 + ((0, 0),), constant_values=255)
    if frame is not None:
        inner = padded[1:-1, 1:-1]
        inner[: _MARGIN - 1] = inner[1 - _MARGIN :] = frame
        inner[:, : _MARGIN - 1] = inner[:, 1 - _MARGIN :] = frame
    return padded


def _row_label(snapshot: Snapshot, cluster: Cluster) -> str:
    def name(class_id: int) -> str:
        names = snapshot.class_names
        return drawable(names[class_id] if class_id < len(names) else class_id, 18)

    if cluster.matched is None:
        first = f"#{cluster.id}  no class (mostly {name(cluster.majority)})"
    else:
        kind = "known" if cluster.known else "NOVEL"
        first = f"#{cluster.id}  {name(cluster.matched)}  ({kind})"
    return f"{first}\n{cluster.size} images, purity {cluster.purity:.0%}"


def _lay_out(sheet: np.ndarray, labels: list[str], title: str) -> Figure:
    side = _TILE + 2 * _MARGIN
    high, wide = sheet.shape[:2]
    figure = new_figure(9.5, 0.75 + 7.6 * high / wide)
    axes = figure.add_subplot()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_yticks([(i + 0.5) * side for i in range(len(labels))], labels, fontsize=8)
    centres = [TYPICAL * side / 2, TYPICAL * side + _GAP + ATYPICAL * side / 2]
    axes.set_xticks(centres, ["nearest to the cluster's mean feature", "farthest"])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    wrong = Line2D([], [], ls="", marker="s", ms=9, mfc="none", mec=WRONG, mew=2)
    text = "framed: true class is not the one that the cluster was matched with"
    figure.legend([wrong], [text], loc="outside lower center")
    return figure
