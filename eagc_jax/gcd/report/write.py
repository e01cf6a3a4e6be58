"""Writes the report's files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from eagc_jax import _files
from eagc_jax.gcd.report import captions
from eagc_jax.gcd.report.confusion import confusion_figure
from eagc_jax.gcd.report.contact_sheet import contact_sheet_figure
from eagc_jax.gcd.report.curves import (
    accuracy_figure,
    entanglement_figure,
    losses_figure,
)
from eagc_jax.gcd.report.feature_map import feature_map_figure
from eagc_jax.gcd.report.figures import STYLE, to_png
from eagc_jax.gcd.report.gradients import cosines_figure, gradient_norms_figure
from eagc_jax.gcd.report.layers import energy_figure, gates_figure
from eagc_jax.gcd.report.page import Plot, render_page
from eagc_jax.gcd.report.projection import projection_figure
from eagc_jax.gcd.runs.history import RunHistory, Snapshot


def write_report(
    folder: Path,
    runs: Mapping[str, RunHistory],
    snapshot: Snapshot,
    *,
    focus: str | None = None,
) -> Path:
    """Writes the plots as PNG and one page that holds them all.

    The files are accuracy.png, losses.png, entanglement.png, gradient_norms.png,
    cosines.png, projection.png, gates.png, energy_ratio.png, features.png,
    confusion.png, clusters.png and index.html. The page needs nothing beside it: no
    script, no other file, no network. Each file is written under another name and
    then renamed, the page last. Equal input gives equal files.

    An interrupted run is fine: lists may be short or empty, and a plot without data
    says so.

    Args:
      folder: created if absent; files of the same names are replaced.
      runs: the histories by run name, in the order in which tables print them.
      snapshot: what each run made of the unlabeled images. Entries of
        `snapshot.accuracy` without a history (k-means) become baselines.
      focus: the run whose clusters are shown as images and in a table; by default
        the last one in `runs` that left predictions.

    Returns:
      The path of index.html.

    Raises:
      ValueError: the snapshot's arrays disagree in length or have wrong ranks, it
        holds no image, or `focus` names no run with predictions.

    Examples:
      >>> import tempfile
      >>> from eagc_jax.gcd.evaluation.accuracy import Accuracy
      >>> images = np.zeros((4, 2, 2, 1))
      >>> snapshot = Snapshot(
      ...     title="Tiny", settings={"seed": 0}, images=images,
      ...     labels=np.array([0, 0, 1, 1]), old_mask=np.array([True] * 2 + [False] * 2),
      ...     class_names=("cat", "dog"), features={"sum": images.reshape(4, 4)},
      ...     predictions={"sum": np.array([1, 1, 0, 0])},
      ...     accuracy={"sum": Accuracy(1.0, 1.0, 1.0)}, known_classes=(0,))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     page = write_report(Path(folder), {}, snapshot)
      ...     page.name, len(page.read_text()) > 10_000
      ('index.html', True)
    """
    _check(snapshot)
    predicted = _in_order(snapshot.predictions, runs)
    focus = _focus(focus, predicted)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with style.context(["default", STYLE]):
        plots = _plots(runs, snapshot, predicted, focus)
    for plot in plots:
        _files.write_bytes(folder / plot.file, plot.png)
    page = folder / "index.html"
    html = render_page(runs, snapshot, plots, focus)
    _files.write_bytes(page, html.encode("utf-8", "replace"))
    return page


def _plots(
    runs: Mapping[str, RunHistory],
    snapshot: Snapshot,
    predicted: list[str],
    focus: str | None,
) -> list[Plot]:
    baselines = {n: a for n, a in snapshot.accuracy.items() if n not in runs}
    mapped = [name for name in predicted if name in snapshot.features]

    def plot(file: str, title: str, caption: str, draw: Callable[[], Figure]) -> Plot:
        return Plot(file, title, caption, to_png(draw()))

    return [
        plot(
            *("accuracy.png", "Accuracy over epochs", captions.accuracy(runs)),
            lambda: accuracy_figure(runs, baselines),
        ),
        plot(
            *("clusters.png", "The discovered clusters", captions.clusters(focus)),
            lambda: contact_sheet_figure(snapshot, focus),
        ),
        plot(
            *("confusion.png", "Classes against clusters"),
            captions.confusion(predicted),
            lambda: confusion_figure(snapshot, predicted),
        ),
        plot(
            *("features.png", "A map of the features", captions.features(mapped)),
            lambda: feature_map_figure(snapshot, mapped),
        ),
        plot(
            *("entanglement.png", "How entangled the objectives are"),
            captions.entanglement(runs),
            lambda: entanglement_figure(runs),
        ),
        plot(
            *("cosines.png", "Where the objectives conflict"),
            captions.cosines(runs),
            lambda: cosines_figure(runs),
        ),
        plot(
            *("gradient_norms.png", "Whose gradient is longer"),
            captions.gradient_norms(runs),
            lambda: gradient_norms_figure(runs),
        ),
        plot(
            *("projection.png", "The coordinator at the feature"),
            captions.projection(runs),
            lambda: projection_figure(runs),
        ),
        plot(
            *("gates.png", "The gate of each layer", captions.gates(runs)),
            lambda: gates_figure(runs),
        ),
        plot(
            *("energy_ratio.png", "The energy ratio of each layer"),
            captions.energy(runs),
            lambda: energy_figure(runs),
        ),
        plot(
            *("losses.png", "Losses over epochs", captions.losses()),
            lambda: losses_figure(runs),
        ),
    ]


def _in_order(names: Mapping[str, object], runs: Mapping[str, object]) -> list[str]:
    """The names that have an entry: runs first, in the order of `runs`."""
    return [n for n in runs if n in names] + [n for n in names if n not in runs]


def _focus(focus: str | None, predicted: list[str]) -> str | None:
    if focus is None:
        return predicted[-1] if predicted else None
    if focus not in predicted:
        raise ValueError(f"focus={focus!r} has no predictions; choose from {predicted}")
    return focus


def _check(snapshot: Snapshot) -> None:
    count = len(snapshot.images)
    if np.ndim(snapshot.images) != 4 or count == 0:
        raise ValueError(
            f"images must have shape (N, H, W, C) with N >= 1, got "
            f"{np.shape(snapshot.images)}"
        )
    arrays = {"labels": snapshot.labels, "old_mask": snapshot.old_mask}
    arrays |= {f"predictions[{n!r}]": p for n, p in snapshot.predictions.items()}
    for name, array in arrays.items():
        if np.shape(array) != (count,):
            raise ValueError(
                f"{name} must have shape ({count},), one entry per image, got "
                f"{np.shape(array)}"
            )
    for name, array in snapshot.features.items():
        if np.ndim(array) != 2 or len(array) != count:
            raise ValueError(
                f"features[{name!r}] must have shape ({count}, D), one row per image, "
                f"got {np.shape(array)}"
            )
