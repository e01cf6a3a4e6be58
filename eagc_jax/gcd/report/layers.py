"""What the coordinator saw and did, layer by layer, over epochs."""

import dataclasses
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eagc_jax.gcd.report.figures import drawable, message_figure, new_figure, thinned
from eagc_jax.gcd.runs.history import RunHistory

MAX_PANELS = 4  # objectives (or pairs of them) side by side
MAX_LAYER_NAMES = 48
TIMES = "\N{MULTIPLICATION SIGN}"
_NAME = 44  # characters of a layer name
_BLANK = "#e4e4e4"  # where a value is undefined


@dataclasses.dataclass
class Panel:
    """One quantity per layer and epoch, around a neutral value."""

    title: str
    values: np.ndarray  # (L, epochs), NaN where undefined


@dataclasses.dataclass
class Block:
    """A run's panels, side by side on one colour scale."""

    title: str
    layers: list[str]
    epochs: list[int]
    panels: list[Panel]


def gates_figure(runs: Mapping[str, RunHistory]) -> Figure:
    """The factor on each objective's gradient, per layer and epoch, around 1.

    Purple below 1, orange above; 1 is what plain summation does. Runs that decided
    nothing, or the same everywhere, have nothing to show and are left out.
    """
    blocks = [
        Block(name, run.layers, run.epochs, _gate_panels(run))
        for name, run in runs.items()
        if gate_moves(run)
    ]
    if not blocks:
        return message_figure("No run has a gate or a weight that moved.")
    return draw_blocks(blocks, 1.0, "factor", " (1: as summed)", as_power=False)


def energy_figure(runs: Mapping[str, RunHistory]) -> Figure:
    """The log energy ratio of the first objective to each other one, per layer."""
    blocks = [
        Block(name, run.layers, run.epochs, _ratio_panels(run))
        for name, run in runs.items()
        if _recorded(run.energy) and np.shape(run.energy)[1] > 1
    ]
    if not blocks:
        return message_figure("No run recorded the energies of two objectives.")
    return draw_blocks(blocks, 0.0, "ratio", " (log scale)", as_power=True)


def gate_moves(run: RunHistory) -> bool:
    """Whether the run recorded factors that are not the same number everywhere."""
    if not _recorded(run.decided):
        return False
    gates = relative_gates(run)
    return not np.allclose(gates, np.ravel(gates)[0])


def relative_gates(run: RunHistory) -> np.ndarray:
    """Factors on the weighted gradients, (epochs, K, L): 1 is what summation does.

    Of a gate, which holds the loss weight, the gate over that weight (NaN for a weight of
    0); of an aggregator, which is given weighted gradients, its weights; of a projection,
    the share of the conflicting part that was left.
    """
    gates = np.asarray(run.decided, float)
    if run.decision == "weight":
        return gates
    if run.decision == "projection":
        return 1 - gates
    weights = np.asarray(run.objective_weights or 1.0, float)
    weights = np.broadcast_to(weights, gates.shape[1])[:, None]
    return gates / np.where(weights > 0, weights, np.nan)


def log2_ratios(energy: np.ndarray) -> np.ndarray:
    """log2 of objective 0's energy over each other's; NaN where either is zero.

    Args:
      energy: (epochs, K, L), not negative.

    Returns:
      (epochs, K - 1, L).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(energy[:, :1]) - np.log2(energy[:, 1:])
    return np.where(np.isfinite(ratio), ratio, np.nan)


def objective_name(run: RunHistory, index: int) -> str:
    """The objective's name, or its number where the run gave too few names."""
    names = run.objective_names
    return names[index] if index < len(names) else f"objective {index}"


def _recorded(arrays: list[np.ndarray]) -> bool:
    return bool(arrays) and np.size(arrays[0]) > 0


def _gate_panels(run: RunHistory) -> list[Panel]:
    gates = relative_gates(run)
    return [
        Panel(f"{run.decision or 'gate'} of {_weighted_name(run, k)}", gates[:, k].T)
        for k in range(gates.shape[1])
    ]


def _weighted_name(run: RunHistory, index: int) -> str:
    name = objective_name(run, index)
    if not run.objective_weights:
        return name
    return f"{name} (weight {run.objective_weights[index]:.3g})"


def _ratio_panels(run: RunHistory) -> list[Panel]:
    ratios = log2_ratios(np.asarray(run.energy, float))
    first = objective_name(run, 0)
    return [
        Panel(f"{first} / {objective_name(run, k + 1)}", ratios[:, k].T)
        for k in range(ratios.shape[1])
    ]


def draw_blocks(
    blocks: list[Block], neutral: float, label: str, unit: str, *, as_power: bool
) -> Figure:
    """Lines above a heat map for each panel, a block below the other, one scale.

    Args:
      blocks: at least one.
      neutral: the value that is white.
      label: of the value.
      unit: follows the label beside the colours.
      as_power: whether values are exponents of 2.
    """
    heights = [2.6 + 0.17 * min(len(_names(b)), MAX_LAYER_NAMES) for b in blocks]
    figure = new_figure(9.6, sum(heights))
    grid = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)
    scale = _scale(blocks, neutral)
    for part, block, height in zip(grid[:, 0], blocks, heights, strict=True):
        _draw_block(part, block, scale, (1.25, height - 1.85), (label, unit), as_power)
    return figure


def _scale(blocks: list[Block], neutral: float) -> ScalarMappable:
    """One diverging scale for all runs, symmetric: equal colours mean equal values."""
    values = np.concatenate([p.values.ravel() for b in blocks for p in b.panels])
    values = values[np.isfinite(values)]
    reach = max(np.abs(values - neutral).max(initial=0.0), 0.05)
    colors = matplotlib.colormaps["PuOr_r"].with_extremes(bad=_BLANK)
    return ScalarMappable(Normalize(neutral - reach, neutral + reach), colors)


def _draw_block(
    part: SubFigure,
    block: Block,
    scale: ScalarMappable,
    heights: tuple[float, float],
    texts: tuple[str, str],
    as_power: bool,
) -> None:
    label, unit = texts
    panels, title = block.panels[:MAX_PANELS], drawable(block.title, 40)
    if len(block.panels) > len(panels):
        title += f" (first {len(panels)} of {len(block.panels)})"
    part.suptitle(title, fontweight="bold")
    widths = [1.0] * len(panels) + [0.035 * len(panels)]
    grid = part.subplots(
        *(2, len(widths)),
        squeeze=False,
        gridspec_kw={"width_ratios": widths, "height_ratios": heights},
    )
    for column, panel in enumerate(panels):
        first = column == 0
        _draw_lines(grid[0, column], panel, block, scale, label if first else "")
        _draw_map(grid[1, column], panel, block, scale, named=first)
        if as_power:
            grid[0, column].yaxis.set_major_locator(_ticks(4))
            grid[0, column].yaxis.set_major_formatter(FuncFormatter(_power))
    grid[0, -1].set_visible(False)
    part.colorbar(
        scale,
        cax=grid[1, -1],
        label=label + unit,
        ticks=_ticks(7),
        format=FuncFormatter(_power) if as_power else None,
    )


def _draw_lines(
    axes: Axes, panel: Panel, block: Block, scale: ScalarMappable, label: str
) -> None:
    epochs = _epochs(panel, block)
    marker = "o" if len(epochs) == 1 else None
    for layer in panel.values:
        axes.plot(epochs, layer, color="#999999", lw=0.7, marker=marker, ms=3)
    median = np.ma.median(np.ma.masked_invalid(panel.values), axis=0).filled(np.nan)
    axes.plot(epochs, median, color="black", lw=1.8, marker=marker, ms=4)
    low, high = scale.get_clim()
    axes.axhline((low + high) / 2, color="#555555", ls=":")
    room = 0.1 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(_epoch_ticks())
    axes.tick_params(labelbottom=False)
    axes.set_title(drawable(panel.title, 44))
    axes.set_ylabel(label)
    if not label:
        axes.tick_params(labelleft=False)


def _draw_map(
    axes: Axes, panel: Panel, block: Block, scale: ScalarMappable, named: bool
) -> None:
    epochs, rows = _epochs(panel, block), len(panel.values)
    axes.imshow(
        panel.values,
        aspect="auto",
        interpolation="nearest",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, rows - 0.5, -0.5),
        cmap=scale.cmap,
        clim=scale.get_clim(),
    )
    axes.xaxis.set_major_locator(_epoch_ticks())
    axes.set_xlabel("epoch")
    shown = thinned(rows, MAX_LAYER_NAMES) if named else []
    names = _names(block)
    axes.set_yticks(shown, [names[i] for i in shown], fontsize=7)


def _ticks(at_most: int) -> MaxNLocator:
    """Round positions; on a log2 axis, whole powers wherever the range has any."""
    return MaxNLocator(at_most, steps=[1, 2, 5, 10])


def _epoch_ticks() -> MaxNLocator:
    return MaxNLocator(8, integer=True, min_n_ticks=1)


def _epochs(panel: Panel, block: Block) -> list[int]:
    count = panel.values.shape[1]
    epochs = block.epochs[:count]
    return epochs if len(epochs) == count else list(range(1, count + 1))


def _names(block: Block) -> list[str]:
    """Layer names; the end of a long one is kept, where names differ."""
    count = len(block.panels[0].values)
    names = list(block.layers)
    if len(names) != count:
        return [f"layer {i}" for i in range(count)]
    return [
        drawable(n if len(n) <= _NAME else "…" + n[1 - _NAME :], _NAME) for n in names
    ]


def _power(exponent: float, _: object = None) -> str:
    """A log2 ratio as the factor that it stands for: 4×, 1/4×."""
    if exponent < 0 and float(exponent).is_integer():
        return f"1/{2.0**-exponent:.2g}{TIMES}"
    return f"{2.0**exponent:.2g}{TIMES}"
