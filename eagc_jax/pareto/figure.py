"""Fronts of two losses as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from eagc_jax.pareto.hypervolume import non_dominated

if TYPE_CHECKING:
    import jax
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_MARKS = "os^Dv"


class HasLosses(Protocol):
    """Such as a :class:`ParetoFront`."""

    @property
    def losses(self) -> jax.Array | np.ndarray:
        """``(P, K)``."""
        ...


def plot_fronts(
    fronts: Mapping[str, jax.typing.ArrayLike | HasLosses],
    *,
    names: tuple[str, str] = ("loss 1", "loss 2"),
    reference: jax.typing.ArrayLike | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draws sets of points in the plane of two losses.

    Points that another one of their set dominates are hollow. Needs matplotlib, which
    the extra "gcd" has.

    Args:
      fronts: by name, losses ``(P, 2)``, or things with a field ``losses`` of that shape.
      names: of the axes.
      reference: the point of :func:`eagc_jax.pareto.hypervolume`, ``(2,)``, or None.
      path: where to save it, or None.

    Returns:
      A matplotlib ``Figure``.

    Raises:
      ValueError: losses that aren't ``(P, 2)``.

    Examples:
      >>> import numpy as np
      >>> from eagc_jax.pareto import plot_fronts
      >>> figure = plot_fronts({"mine": np.array([[0.0, 1.0], [1.0, 0.0]])})
      >>> len(figure.axes)
      1
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (name, found) in enumerate(fronts.items()):
        points = np.asarray(getattr(found, "losses", found))
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(
                f"plot_fronts draws two losses, (P, 2); {name!r} is {points.shape}. Of "
                "more losses draw pairs: front.losses[:, [0, 2]]."
            )
        keep = np.asarray(non_dominated(points))
        colour, mark = _COLOURS[index % 5], _MARKS[index % 5]
        axes.scatter(*points[keep].T, color=colour, marker=mark, label=name, s=30)
        axes.scatter(
            *points[~keep].T, facecolors="none", edgecolors=colour, marker=mark, s=30
        )
    if reference is not None:
        axes.scatter(
            *np.asarray(reference), color="black", marker="+", label="reference"
        )
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.legend(frameon=False)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    return figure
