"""One or two sentences under each plot: what it shows, and what this run did."""

from collections.abc import Mapping, Sequence

import numpy as np

from eagc_jax.gcd.report import confusion as confusion_plot
from eagc_jax.gcd.report import contact_sheet, feature_map
from eagc_jax.gcd.report import projection as projections
from eagc_jax.gcd.report.gradients import mean_cosines, mean_log_norms, measured
from eagc_jax.gcd.report.layers import (
    TIMES,
    gate_moves,
    log2_ratios,
    objective_name,
    relative_gates,
)
from eagc_jax.gcd.runs.history import RunHistory


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
        "as a multiple of the objective's loss weight, at the end of each epoch: the "
        "gate of eagc, the weight that an aggregator chose, or the share that a "
        "projection left of what conflicted. 1 "
        "(white) is what plain summation does, above 1 (orange) strengthens the "
        "objective there, below 1 (purple) holds it back. Above each heat map, the "
        "same numbers as lines, one a layer, the median in black."
    )
    still = [name for name, run in runs.items() if not gate_moves(run)]
    moved = [_gate_range(name, run) for name, run in runs.items() if gate_moves(run)]
    if still:
        moved.append(f"{', '.join(still)}: no gate or weight, or one that never moved.")
    return " ".join([text, *moved])


def _gate_range(name: str, run: RunHistory) -> str:
    last = relative_gates(run)[-1, 0]
    last = last[np.isfinite(last)]
    if not len(last):
        return f"{name}: the factor of {objective_name(run, 0)} is undefined."
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


def entanglement(runs: Mapping[str, RunHistory]) -> str:
    """What entanglement.png shows."""
    text = (
        "Left, how far the unsupervised objective turns the supervised one's gradient "
        "in the trained blocks: 0 is not at all, 1 is by a right angle; "
        "the mean over each epoch's measured steps, of raw gradients with their loss "
        "weights, before any coordination. Right, the share of the novel images' "
        "variance in the main directions of the labeled ones: novel classes that keep "
        "to the known ones' subspace are hard to tell apart. SOC uses the true classes, "
        "for this page alone."
    )
    last = [
        f"{name}, last figures: GDC {_last(run.gradient_deviation)}, SOC "
        f"{_last(run.subspace_overlap)}."
        for name, run in runs.items()
        if run.epochs
    ]
    return " ".join([text, *last])


def _last(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    return f"{known[-1]:.2f}" if known else "-"


def gradient_norms(runs: Mapping[str, RunHistory]) -> str:
    """What gradient_norms.png shows."""
    text = (
        "How long the raw gradient of the first objective is in each layer, over the "
        "other one's, loss weights included, before any coordination; the geometric "
        "mean over each epoch's measured steps. Layers are in the order in which the "
        f"network applies them, heads last. 1{TIMES} (white): the plain sum listens to "
        "both alike; orange: the first one drowns the other there; purple: the other "
        "way round. Grey: one of the two does not reach the layer."
    )
    found = [
        f"{name}, last epoch: {_span(ratio)} over layers."
        for name, run in runs.items()
        if measured(run) and (ratio := _norm_ratios(run)).size
    ]
    return " ".join([text, *found])


def _norm_ratios(run: RunHistory) -> np.ndarray:
    logs = mean_log_norms(run)[:, :, -1]
    finite = np.isfinite(logs[:2]).all(axis=0)
    return np.exp(logs[0, finite] - logs[1, finite])


def _span(ratios: np.ndarray) -> str:
    return f"{ratios.min():.2g}{TIMES} to {ratios.max():.2g}{TIMES}"


def cosines(runs: Mapping[str, RunHistory]) -> str:
    """What cosines.png shows."""
    text = (
        "The cosine between the first two objectives' raw gradients in each layer, "
        "before any coordination, as a mean over each epoch's measured steps: 0 "
        "(white) is no relation, above 0 (orange) they pull the same way, below 0 "
        "(purple) they conflict there. Layers are in the order in which the network "
        "applies them, heads last. Grey: one of the two does not reach the layer, or no "
        "step was measured."
    )
    return " ".join([text, *(_conflict(n, r) for n, r in runs.items() if measured(r))])


def _conflict(name: str, run: RunHistory) -> str:
    values = np.ma.masked_invalid(mean_cosines(run)).mean(axis=1)
    known = np.flatnonzero(~np.ma.getmaskarray(values))
    if not len(known):
        return f"{name}: undefined everywhere."
    worst = min(known, key=lambda index: values[index])
    layer = f"layer {worst}"
    if len(run.parameters) == len(values):
        layer = run.parameters[worst].removeprefix("backbone/")
    below = int(np.sum(values[known] < 0))
    return (
        f"{name}, over all epochs: below 0 in {below} of {len(known)} layers, lowest in "
        f"{layer} ({values[worst]:.2f})."
    )


def projection(runs: Mapping[str, RunHistory]) -> str:
    """What projection.png shows."""
    text = (
        "Left, the share w that elastic projection takes from an unlabeled image's "
        "gradient inside the labeled features' subspace: median, middle half and range "
        "over each step's unlabeled rows. A w near 0 for all means that the "
        "coordinator sees nothing to protect. Middle, the labeled images' mean energy "
        "inside the subspace, which w is measured against. Right, what the projection "
        "removed and what anchor alignment added, over the length of the whole "
        "feature gradient."
    )
    return " ".join(
        [text, *(_weight(n, r) for n, r in runs.items() if projections.coordinated(r))]
    )


def _weight(name: str, run: RunHistory) -> str:
    medians = projections.over_steps(run, "projection_quantiles")[:, 2]
    removed = projections.over_steps(run, "removed")
    return (
        f"{name}, mean over steps: median w {_mean(medians)}, removed {_mean(removed)} "
        "of the norm."
    )


def _mean(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.2g}" if known.size else "-"


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
