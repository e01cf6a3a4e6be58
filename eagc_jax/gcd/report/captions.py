"""One or two sentences under each plot: what it shows, and what this run did."""

from collections.abc import Mapping, Sequence

import numpy as np

from eagc_jax.gcd.history import RunHistory
from eagc_jax.gcd.report import confusion as confusion_plot
from eagc_jax.gcd.report import contact_sheet, feature_map
from eagc_jax.gcd.report.layers import (
    TIMES,
    gate_moves,
    log2_ratios,
    objective_name,
    relative_gates,
)


def percent(share: float) -> str:
    """A share as a percentage with one decimal; a dash where it is undefined."""
    return f"{100 * share:.1f}" if np.isfinite(share) else "-"


def accuracy(runs: Mapping[str, RunHistory]) -> str:
    """What accuracy.png shows."""
    last = [
        f"{name} {percent(run.accuracy[-1].all)}"
        for name, run in runs.items()
        if run.accuracy
    ]
    text = (
        "Accuracy on the unlabeled images after every epoch. Look at New: gaining "
        "there without losing Old is what coordination is for."
    )
    return f"{text} Last epoch, All: {', '.join(last)} (%)." if last else text


def losses() -> str:
    """What losses.png shows."""
    return (
        "The mean of each objective's loss over the epoch's steps. A low loss is not "
        "yet a good clustering: compare with the accuracy above."
    )


def gates(runs: Mapping[str, RunHistory]) -> str:
    """What gates.png shows."""
    text = (
        "The factor by which each layer's gradient of one objective was multiplied, "
        "as a multiple of the objective's loss weight, at the end of each epoch: 1 "
        "(white) is what plain summation does, above 1 (orange) strengthens the "
        "objective there, below 1 (purple) holds it back. Above each heat map, the "
        "same numbers as lines, one a layer, the median in black."
    )
    still = [name for name, run in runs.items() if not gate_moves(run)]
    moved = [_gate_range(name, run) for name, run in runs.items() if gate_moves(run)]
    if still:
        moved.append(f"{', '.join(still)}: no gate, or one that never moved.")
    return " ".join([text, *moved])


def _gate_range(name: str, run: RunHistory) -> str:
    last = relative_gates(run)[-1, 0]
    last = last[np.isfinite(last)]
    if not len(last):
        return f"{name}: the gate of {objective_name(run, 0)} is undefined."
    return (
        f"{name}, last epoch: {objective_name(run, 0)} is at {last.min():.2f} to "
        f"{last.max():.2f} times its weight."
    )


def energy(runs: Mapping[str, RunHistory]) -> str:
    """What energy_ratio.png shows."""
    text = (
        "The first objective's energy in each layer over the other one's, on a "
        f"logarithmic scale: 1{TIMES} (white) is balance, orange means that "
        "the first one dominates, purple the other. Grey: one of the two left the "
        "layer alone."
    )
    medians = [
        f"{name}, last epoch: the median over layers is {ratio:.2g}{TIMES}."
        for name, run in runs.items()
        if (ratio := _median_ratio(run)) is not None
    ]
    return " ".join([text, *medians])


def _median_ratio(run: RunHistory) -> float | None:
    """The first objective against the second, in the last epoch."""
    if not run.energy or np.ndim(run.energy[-1]) != 2 or len(run.energy[-1]) < 2:
        return None
    ratios = log2_ratios(np.asarray(run.energy[-1:], float))[0, 0]
    ratios = ratios[np.isfinite(ratios)]
    return float(2 ** np.median(ratios)) if len(ratios) else None


def features(runs: Sequence[str]) -> str:
    """What features.png shows."""
    text = (
        "Each point is an unlabeled image: circles are of known classes, triangles of "
        "novel ones. Left, the colour is the true class; right, it is the class that "
        "the point's cluster was matched with, so an island with other colours on "
        "the right was clustered wrongly, and grey means that no class was left. "
        "t-SNE (of at most 50 principal components of the normalised features) keeps "
        "neighbours together; distances between islands and the axes mean nothing, "
        f"and maps of two runs cannot be laid over each other. At most "
        f"{feature_map.MAX_POINTS} points are drawn, and names only where there are at "
        f"most {feature_map.MAX_LABELS}."
    )
    if len(runs) > feature_map.MAX_RUNS:
        text += f" The first {feature_map.MAX_RUNS} of {len(runs)} runs are shown."
    return text


def clusters(focus: str | None) -> str:
    """What clusters.png shows."""
    return (
        f"A row per cluster that {focus or 'the run'} found, novel ones first. On the "
        f"left the {contact_sheet.TYPICAL} images nearest to the cluster's mean "
        f"feature, on the right the {contact_sheet.ATYPICAL} farthest ones. A good "
        "row shows one kind of thing; framed images are of another class. Purity is "
        "the share of the cluster's most frequent class. At most "
        f"{contact_sheet.MAX_ROWS} clusters are shown."
    )


def confusion(runs: Sequence[str]) -> str:
    """What confusion.png shows."""
    text = (
        "Where the images of each class went, in percent of the class. Dark on the "
        "diagonal is right; a dark cell beside it is a class that was merged into "
        "another one's cluster, and a row with two dark cells is one that was split."
    )
    if len(runs) > confusion_plot.MAX_RUNS:
        text += f" The first {confusion_plot.MAX_RUNS} of {len(runs)} runs are shown."
    return text
