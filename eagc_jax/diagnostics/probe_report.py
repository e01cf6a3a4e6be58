"""What a probe found, and what follows from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# The rules' thresholds; the docstring of ProbeReport says what each is for.
ROUNDING = 1e-5  # cosines between -this and 0 are no increase
RARE = 0.1  # share of steps
LONGER = 10.0  # ratio of norms
OPPOSED = 0.05  # attainable cosine
CERTAIN = 2.0  # standard errors
CONCENTRATED = 0.8, 1 / 3  # share of the conflict, in at most this share of the leaves
FEW_STEPS = 10


class ProbeReport(NamedTuple):
    """How the objectives stood to each other, step by step: see ``diagnostics.probe``.

    Plain NumPy arrays; ``print`` shows a table and the advice. S steps, K objectives, L
    leaves. "Sum" is the plain sum of the gradients.

    The advice, rule by rule (S counts steps in which all gradients are finite):

    * *Not finite*: any gradient with a NaN or an infinity in any step. These steps are
      left out of everything else.
    * *No gradient*: an objective's gradient is zero in every step.
    * *Lengths*: the median of the longest over the shortest norm is above 10: weights
      first. Then, whether with equal lengths the sum would increase no objective in 90 %
      of the steps (``balanced_progress``).
    * *Summing is fine*: the sum increases any objective (cosine below -1e-5) in at most
      10 % of the steps.
    * Else, *opposed*: the median of ``attainable`` is below 0.05. Hardly any direction
      lowers all losses; it is a choice between them.
    * Else, *within batches*: no objective's gradient of one batch conflicts with the
      sum of the next: the mean of ``progress_across`` is nowhere more than 2 standard
      errors below 0. The conflict doesn't survive a change of batch.
    * Else, *conflict*: a method that conflicts with no objective is worth a run against
      the sum.
    * *Where*: besides any of the last three; at most a third of the leaves hold 80 % of
      the negative inner products of the pairs of objectives.
    * *Few steps*: fewer than 10.
    """

    names: tuple[str, ...]  # K, of the objectives.
    layers: tuple[str, ...]  # L, paths of the leaves.
    losses: np.ndarray  # (S, K)
    norms: np.ndarray  # (S, K): lengths of the gradients.
    cosines: np.ndarray  # (S, K, K): of pairs; diagonal 1, or 0 for a zero gradient.
    progress: np.ndarray  # (S, K): cosine of the sum with each objective.
    balanced_progress: np.ndarray  # (S, K): the same, all gradients of equal length.
    attainable: np.ndarray  # (S,): the largest worst cosine of any direction, over the
    # objectives that have a gradient. 0: Pareto stationary.
    layer_norms: np.ndarray  # (S, K, L)
    layer_cosines: np.ndarray  # (S, K, K, L): within each leaf.
    cosines_across: np.ndarray  # (S - 1, K, K): of a step's gradients (rows) with the
    # next step's. The diagonal says how much of a gradient is signal.
    progress_across: np.ndarray  # (S - 1, K): a step's gradients with the next's sum.
    trained: bool  # whether an optimizer stepped on the sum.
    gradient_bytes: int  # of one gradient, the parameters' own size.

    @property
    def finite(self) -> np.ndarray:
        """``(S,)`` bool: steps in which every gradient was finite."""
        found = np.isfinite(self.norms) & np.isfinite(self.progress)
        return np.asarray(found.all(axis=1))

    @property
    def increased(self) -> np.ndarray:
        """``(S, K)`` bool: where a small step on the sum increases the objective."""
        return np.asarray(self.progress < -ROUNDING)

    @property
    def norm_ratio(self) -> np.ndarray:
        """``(S,)``: the longest over the shortest gradient, of those that aren't 0."""
        longest = self.norms.max(axis=1)
        shortest = np.where(self.norms > 0, self.norms, np.inf).min(axis=1)
        return np.where(
            longest > 0, longest / np.minimum(shortest, longest + 1e-300), 1
        )

    @property
    def signal(self) -> np.ndarray:
        """``(K,)``: mean cosine of an objective's gradients of two steps in a row.

        At fixed parameters about the squared norm of the gradient over all data, over the
        mean squared norm of a batch's. 1: no noise. NaN after a single step.
        """
        pairs = self.finite[1:] & self.finite[:-1]
        if not pairs.any():
            return np.full(len(self.names), np.nan, np.float32)
        return np.einsum("tkk->k", self.cosines_across[pairs]) / pairs.sum()

    @property
    def work(self) -> float:
        """Work of a step with K gradients, over one with the summed loss."""
        return (1 + 2 * len(self.names)) / 3

    @property
    def conflict_by_layer(self) -> np.ndarray:
        """``(L,)``: each leaf's share of the pairs' negative inner products, 0 to 1.

        Of inner products within the leaf, relative to the product of the whole
        gradients' lengths, so that every step and every objective counts alike.
        """
        kept = self.finite
        lengths = _nonzero(self.norms[kept])[:, :, None]
        share = self.layer_norms[kept] / lengths  # (S, K, L)
        inner = self.layer_cosines[kept] * share[:, :, None] * share[:, None]
        negative = np.maximum(-inner, 0).sum(axis=(0, 1, 2))
        return negative / _nonzero(negative.sum())

    @property
    def advice(self) -> tuple[str, ...]:
        """Plain sentences, by the rules above."""
        return tuple(_advice(self))

    def __str__(self) -> str:
        return "\n".join([*_table(self), "", *self.advice])


# ---------------------------------------------------------------------------
# The rules
# ---------------------------------------------------------------------------


def _advice(found: ProbeReport) -> list[str]:
    if len(found.names) == 1:
        return ["One objective: there is nothing to aggregate."]
    finite = found.finite
    said = _not_finite(found)
    if not finite.any():
        return said
    said += _no_gradient(found)
    if (found.norms[finite] > 0).any(axis=0).sum() < 2:
        return [*said, "At most one objective has a gradient: nothing to aggregate."]
    increased = found.increased[finite]
    rare = increased.any(axis=1).mean() <= RARE
    said += _lengths(found, rare)
    if rare:
        said.append(
            f"The plain sum increased no objective in {_percent(~increased.any(axis=1))}"
            f" of {finite.sum()} steps: summing is fine."
        )
    else:
        worst = int(np.argmax(increased.mean(axis=0)))
        said.append(
            f"The plain sum increased '{found.names[worst]}' in "
            f"{_percent(increased[:, worst])} of {finite.sum()} steps (to first order)."
        )
        said += [_which_conflict(found), *_where(found)]
    if finite.sum() < FEW_STEPS:
        said.append(f"Only {finite.sum()} steps were measured: take 20 or more.")
    return said


def _not_finite(found: ProbeReport) -> list[str]:
    bad = ~found.finite
    if not bad.any():
        return []
    counts = (~np.isfinite(found.norms)).sum(axis=0)
    worst = int(np.argmax(counts))
    whose = f"The gradient of '{found.names[worst]}'" if counts.any() else "A gradient"
    return [
        f"{whose} was not finite; {bad.sum()} of {len(bad)} steps are left out. Mend "
        "that first."
    ]


def _no_gradient(found: ProbeReport) -> list[str]:
    never = (found.norms[found.finite] == 0).all(axis=0)
    return [
        f"'{name}' has a zero gradient in every step: does its loss reach the parameters?"
        for name, zero in zip(found.names, never, strict=True)
        if zero
    ]


def _lengths(found: ProbeReport, rare: bool) -> list[str]:
    finite = found.finite
    ratio = float(np.median(found.norm_ratio[finite]))
    if ratio <= LONGER:
        return []
    usual = np.median(found.norms[finite], axis=0)
    usual = np.where((found.norms[finite] > 0).any(axis=0), usual, np.nan)
    longest, shortest = int(np.nanargmax(usual)), int(np.nanargmin(usual))
    said = [
        f"The gradient of '{found.names[longest]}' is {ratio:.3g} times as long as that "
        f"of '{found.names[shortest]}': fix the loss weights first, then probe again."
    ]
    balanced = np.any(found.balanced_progress[finite] < -ROUNDING, axis=1)
    if not rare and balanced.mean() <= RARE:
        said.append(
            "With gradients of equal length the sum would increase no objective in "
            f"{_percent(~balanced)} of the steps: weights may be all it takes."
        )
    return said


def _which_conflict(found: ProbeReport) -> str:
    attainable = float(np.median(found.attainable[found.finite]))
    if attainable < OPPOSED:
        return (
            f"The gradients are nearly opposed: no direction has a cosine above "
            f"{attainable:.2f} with all of them (median), so no aggregator can lower all "
            "losses by much. Choose between the objectives: loss weights, or chebyshev."
        )
    mean, error = _mean_and_error(found)
    if len(mean) and (mean >= -CERTAIN * error).all():
        return (
            "The conflict doesn't survive a change of batch (no gradient conflicts with "
            "the sum of the next batch): larger batches, moco, or gram_smoothing= "
            "in an aggregator, before anything else."
        )
    return (
        f"A direction with a cosine of {attainable:.2f} or more with every gradient "
        "exists (median): upgrad or dualproj (which keep the lengths), nash_mtl or "
        "conflict_free (which ignore them) are worth a run against the sum."
    )


def _mean_and_error(found: ProbeReport) -> tuple[np.ndarray, np.ndarray]:
    """Of ``progress_across``, over steps: ``(K,)`` each; empty with fewer than 2."""
    pairs = found.finite[1:] & found.finite[:-1]
    across = found.progress_across[pairs]
    if len(across) < 2:
        return np.zeros(0), np.zeros(0)
    return across.mean(axis=0), across.std(axis=0, ddof=1) / len(across) ** 0.5


def _where(found: ProbeReport) -> list[str]:
    shares = found.conflict_by_layer
    order = np.argsort(-shares, kind="stable")
    enough, few = CONCENTRATED
    number = int(np.searchsorted(np.cumsum(shares[order]), enough - 1e-6)) + 1
    if number > few * len(shares):
        return []
    held = ", ".join(f"'{found.layers[i]}'" for i in order[: min(number, 4)])
    more = f" and {number - 4} more" if number > 4 else ""
    return [
        f"{100 * shares[order[:number]].sum():.0f} % of the conflict sits in {held}{more}"
        f" ({number} of {len(shares)} leaves): granularity='tensor' leaves the others "
        "in the others."
    ]


# ---------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------


def _table(found: ProbeReport) -> list[str]:
    kept = found.finite
    number = len(found.names)
    where = "training on the plain sum" if found.trained else "at fixed parameters"
    lines = [
        f"{len(kept)} steps {where}; an aggregator takes {found.work:.3g} times the work "
        f"of the sum and {_bytes((number - 1) * found.gradient_bytes)} more memory.",
        "",
    ]
    if not kept.any():
        return lines[:1]
    columns = ["norm", "loss", "cos(sum)", "lowest", "increased", "signal"]
    width = max([len(name) for name in found.names] + [9])
    lines.append("  ".join(["objective".ljust(width), *[c.rjust(9) for c in columns]]))
    signal = found.signal
    for k, name in enumerate(found.names):
        cells = [
            f"{np.median(found.norms[kept, k]):.3g}",
            f"{np.median(found.losses[kept, k]):.3g}",
            f"{found.progress[kept, k].mean():+.2f}",
            f"{found.progress[kept, k].min():+.2f}",
            _percent(found.increased[kept, k]),
            f"{signal[k]:.2f}",
        ]
        lines.append("  ".join([name.ljust(width), *[c.rjust(9) for c in cells]]))
    return lines + (_pairs(found, kept) if 1 < number <= 8 else [])


def _pairs(found: ProbeReport, kept: np.ndarray) -> list[str]:
    names = [
        (j, k, f"{found.names[j]}, {found.names[k]}")
        for j in range(len(found.names))
        for k in range(j + 1, len(found.names))
    ]
    width = max([len(name) for _, _, name in names] + [9])
    across = found.cosines_across[kept[1:] & kept[:-1]]
    across = (across + across.swapaxes(1, 2)) / 2
    columns = ["cosine", "spread", "below 0", "across"]
    lines = ["", "  ".join(["pair".ljust(width), *[c.rjust(9) for c in columns]])]
    for j, k, name in names:
        cosines = found.cosines[kept, j, k]
        cells = [
            f"{cosines.mean():+.2f}",
            f"{cosines.std():.2f}",
            _percent(cosines < -ROUNDING),
            f"{across[:, j, k].mean():+.2f}" if len(across) else "",
        ]
        lines.append("  ".join([name.ljust(width), *[c.rjust(9) for c in cells]]))
    return lines


def _percent(flags: Any) -> str:
    return f"{100 * np.mean(flags):.0f} %"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _nonzero(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1.0)
