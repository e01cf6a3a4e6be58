"""What all plots share: style, colours, text that is safe to draw, files."""

import functools
import io
from typing import TypedDict

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# On top of matplotlib's own defaults, so that a person's matplotlibrc changes nothing.
STYLE: dict[str, str | float] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "savefig.facecolor": "white",
}

DPI = 144

# Okabe and Ito's colours, told apart by people with any common colour blindness.
RUN_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P")
# Paul Tol's "muted" scheme and four more; maps also write the class's name, because
# no twelve colours are told apart by everybody.
CLASS_COLORS = (
    *("#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#44AA99"),
    *("#882255", "#999933", "#AA4499", "#E69F00", "#0072B2", "#000000"),
)
WRONG = "#D55E00"
UNMATCHED = "#999999"
KNOWN_MARKER, NOVEL_MARKER = "o", "^"


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches that belongs to no GUI and no global list."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def message_figure(message: str) -> Figure:
    """A figure that says why there is nothing to plot."""
    figure = new_figure(9, 1.2)
    axes = figure.add_subplot()
    write_message(axes, message)
    return figure


def write_message(axes: Axes, message: str) -> None:
    """Empties the axes and writes one centred sentence into it."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, drawable(message, 200), ha="center", va="center", wrap=True)


def drawable(text: object, limit: int = 24) -> str:
    r"""Text as matplotlib may draw it: one line, short, no maths, no missing glyph.

    Args:
      text: anything; a class name may hold every character there is.
      limit: characters to keep; a longer text loses its end to an ellipsis.

    Examples:
      >>> drawable("costs $5 or $6", 12)
      'costs \\$5 or…'
    """
    line = " ".join(str(text).split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    line = "".join(c if ord(c) in _glyphs() else "□" for c in line)
    return line.replace("$", r"\$")


@functools.cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def thinned(count: int, at_most: int) -> list[int]:
    """Positions 0, s, 2s, ... below `count` such that there are at most `at_most`."""
    step = max(1, -(-count // at_most))
    return list(range(0, count, step))


class RunStyle(TypedDict):
    """What matplotlib is told of a run's line."""

    color: str
    marker: str
    markersize: float
    markevery: tuple[int, int]
    linewidth: float


def run_style(index: int, epochs: int) -> RunStyle:
    """Colour and marker of the run with this index; markers make room for long runs."""
    return {
        "color": RUN_COLORS[index % len(RUN_COLORS)],
        "marker": RUN_MARKERS[index % len(RUN_MARKERS)],
        "markersize": 4,
        # The phase differs per run: coinciding lines still show every marker.
        "markevery": (min(index, max(epochs - 1, 0)), max(1, epochs // 12)),
        "linewidth": 1.6,
    }
