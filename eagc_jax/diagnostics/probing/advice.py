"""The rules of a probe: plain sentences, and a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from eagc_jax.diagnostics.probing.limits import (
    AGAINST,
    CERTAIN,
    CONCENTRATED,
    FEW_STEPS,
    LONGER,
    MOSTLY,
    OPPOSED,
    PERSISTENT,
    RARE,
    ROUNDING,
)
from eagc_jax.diagnostics.probing.table import as_bytes, percent

if TYPE_CHECKING:
    from eagc_jax.diagnostics.probing.report import ProbeReport

Family = Literal[
    "sum", "weights", "preference", "noise", "momentum", "optimizer-aware", "aggregator"
]
# What is worth a run against the sum with tuned weights.
_METHODS: dict[str, tuple[str, ...]] = {
    "sum": (),
    "weights": ("eagc", "tuned weights", "conflict_free"),
    "preference": ("tuned weights", "chebyshev"),
    "noise": ("larger batches", "moco", "gram_smoothing="),
    "momentum": ("optimizer_aware(eagc(K), optimizer), with its momentum",),
    "optimizer-aware": ("optimizer_aware(eagc(K), optimizer)", "upgrad", "nash_mtl"),
    "aggregator": ("eagc", "upgrad", "nash_mtl", "conflict_free"),
}


class Verdict(NamedTuple):
    """Whether coordination may help, by the rules of ``ProbeReport``."""

    worth_a_run: bool  # of a method beside the sum.
    family: Family  # of methods.
    methods: tuple[str, ...]  # of that family, to try first.
    reason: str
    cost: str

    def __str__(self) -> str:
        what = f"try {', or '.join(self.methods)}" if self.worth_a_run else "sum"
        if not self.worth_a_run and self.methods:
            what = ", or ".join(self.methods)
        return f"Verdict: {what}. {self.reason} Cost: {self.cost}."


def verdict(found: ProbeReport) -> Verdict:
    """The first rule that holds."""
    finite = found.finite
    live = (found.norms[finite] > 0).any(axis=0)
    if len(found.names) == 1 or not finite.any() or live.sum() < 2:
        return _judged(
            found, "sum", "Fewer than two objectives have a usable gradient."
        )
    applied = found.applied
    raised = found.increased if applied is None else applied.raised
    often = raised[finite].any(axis=1).mean()
    what = "The plain sum" if applied is None else "The step that is applied"
    reason = (
        f"{what} raises a loss, to first order, in {100 * often:.0f} % of the steps."
    )
    ratio = float(np.median(found.norm_ratio[finite]))
    if ratio > LONGER:
        more = f" One gradient is {ratio:.3g} times as long as another."
        return _judged(found, "weights", reason + more)
    if often <= RARE:
        lowest = _lowest_cosine(found)
        if lowest >= AGAINST:
            return _judged(found, "sum", reason)
        more = f" But gradients pull against each other, with a cosine of {lowest:.2f}."
        return _judged(found, "aggregator", reason + more)
    attainable = (found.attainable if applied is None else applied.attainable)[finite]
    if np.median(attainable) < OPPOSED:
        more = " Hardly any direction lowers all losses."
        return _judged(found, "preference", reason + more)
    if often < MOSTLY and _is_noise(found):
        more = " The conflict of the gradients doesn't survive a change of batch."
        return _judged(found, "noise", reason + more)
    if applied is None:
        return _judged(found, "aggregator", reason)
    if _by_memory(found) > MOSTLY:
        more = " It is what the optimizer remembers that does, in most of these."
        return _judged(found, "momentum", reason + more)
    return _judged(found, "optimizer-aware", reason)


def _judged(found: ProbeReport, family: Family, reason: str) -> Verdict:
    of_a_step = (
        f"{found.work:.3g} times the work of a step and "
        f"{as_bytes((len(found.names) - 1) * found.gradient_bytes)} more memory"
    )
    cost = {
        "sum": "none",
        "weights": f"a run for each weight that is tried; of a method, {of_a_step}",
        "preference": "a run for each weight that is tried, nothing in a step",
        "noise": "of larger batches",
    }
    return Verdict(
        family not in ("sum", "noise"),
        family,
        _METHODS[family],
        reason,
        cost.get(family, of_a_step),
    )


def sentences(found: ProbeReport) -> tuple[str, ...]:
    """What was found, rule by rule."""
    return tuple(_advice(found))


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
            f"The plain sum increased no objective in {percent(~increased.any(axis=1))}"
            f" of {finite.sum()} steps: summing is fine."
        )
    else:
        worst = int(np.argmax(increased.mean(axis=0)))
        said.append(
            f"The plain sum increased '{found.names[worst]}' in "
            f"{percent(increased[:, worst])} of {finite.sum()} steps (to first order)."
        )
        said += [_which_conflict(found), *_where(found)]
    said += [*_not_persistent(found), *_applied(found)]
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
            f"{percent(~balanced)} of the steps: weights may be all it takes."
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
    if _is_noise(found):
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


def _lowest_cosine(found: ProbeReport) -> float:
    """The mean, over steps, of the lowest cosine of a pair, as the parameters feel it."""
    cosines = found.cosines if found.applied is None else found.applied.cosines
    first, second = np.triu_indices(len(found.names), 1)
    lowest = cosines[found.finite][:, first, second].min(axis=1, initial=1)
    return float(np.mean(lowest))


def _is_noise(found: ProbeReport) -> bool:
    """No gradient conflicts with the sum of the next batch, as far as can be told."""
    mean, error = _mean_and_error(found)
    return bool(len(mean) and (mean >= -CERTAIN * error).all())


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


def _not_persistent(found: ProbeReport) -> list[str]:
    """Where pairs conflict, but none of them step after step."""
    pairs = np.triu_indices(len(found.names), 1)
    cosines = found.cosines if found.applied is None else found.applied.cosines
    conflicts = cosines[found.finite][:, *pairs] < -ROUNDING
    most = float(found.persistence[pairs].max())
    if conflicts.any(axis=1).mean() <= RARE or most >= PERSISTENT:
        return []
    return [
        f"Conflict comes and goes with the batch: of the pair that opposes most, "
        f"{max(most, 0.0):.2f} of it persists (1: it conflicts in every step). "
        "eagc(K, conflict_memory=100) leaves such conflict in the sum; docs/choosing.md "
        "says what that did where it was tried."
    ]


def _applied(found: ProbeReport) -> list[str]:
    """What the optimizer's own step did."""
    applied = found.applied
    if applied is None:
        return []
    raised = applied.raised[found.finite]
    if raised.any(axis=1).mean() <= RARE:
        return [
            f"The step that was applied raised no loss in {percent(~raised.any(axis=1))}"
            " of the steps, to first order."
        ]
    worst = int(np.argmax(raised.mean(axis=0)))
    truly = applied.change[found.finite, worst] > 0
    said = (
        f"The step that was applied raised '{found.names[worst]}' in "
        f"{percent(raised[:, worst])} of the steps to first order; the loss itself rose "
        f"in {percent(truly)} on the same batch"
    )
    if len(applied.next_change):
        later = applied.next_change[found.finite[1:], worst] > 0
        said += f", in {percent(later)} on the next" if len(later) else ""
    memory = _by_memory(found)
    more = (
        f" In {100 * memory:.0f} % of the steps that raised a loss, that was what the "
        "optimizer remembers (momentum, weight decay), not the new gradients."
    )
    return [said + "." + (more if memory > 0 else "")]


def _by_memory(found: ProbeReport) -> float:
    """Of the losses that steps raised, the share that the step's gradients did not."""
    assert found.applied is not None
    raised = found.applied.raised[found.finite]
    return float(found.applied.by_memory[found.finite].sum() / max(raised.sum(), 1))
