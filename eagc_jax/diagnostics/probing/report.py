"""What a probe found, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eagc_jax._files import JsonObject
from eagc_jax.diagnostics.probing import advice, plain, table
from eagc_jax.diagnostics.probing.limits import CERTAIN, ROUNDING

if TYPE_CHECKING:
    import matplotlib.figure

_BLOCK = 2  # pairs of steps left out at a time: neighbours share a step's gradients
_FEWEST_BLOCKS = 3


class AppliedReport(NamedTuple):
    """What the optimizer's own steps did to each loss: see ``diagnostics.probe``.

    Plain NumPy arrays of S steps on the plain sum, K objectives, L leaves. "To first
    order": inner products of a loss's gradient with the update.
    """

    progress: np.ndarray  # (S, K): cosine of the update with each loss's descent.
    expected: np.ndarray  # (S, K): change of each loss to first order.
    remembered: np.ndarray  # (S, K): the part of it that a gradient of 0 would make:
    # momentum and weight decay.
    response: (
        np.ndarray
    )  # (S, K, K, L): how the loss (row) falls, to first order and by
    # leaf, per unit of its gradient, as the objective (column) gets more weight, per
    # unit of its own. With Adam: inner products in the metric of its second moments.
    attainable: np.ndarray  # (S,): as ProbeReport's, in that metric.
    change: np.ndarray  # (S, K): true change of each loss on the step's batch.
    next_change: np.ndarray  # (S - 1, K): and on the batch of the next step.

    @property
    def raised(self) -> np.ndarray:
        """``(S, K)`` bool: where the update raises the loss to first order."""
        return np.asarray(self.progress < -ROUNDING)

    @property
    def by_memory(self) -> np.ndarray:
        """``(S, K)`` bool: raised, though not by what the step's gradients add."""
        return self.raised & (self.expected - self.remembered <= 0)

    @property
    def cosines(self) -> np.ndarray:
        """``(S, K, K)``: of pairs, in the optimizer's metric; 0 without a response."""
        inner, size = self._inner()
        return np.where(
            size > 0, np.clip(inner.sum(axis=-1) / _nonzero(size), -1, 1), 0
        )

    @property
    def conflict_by_layer(self) -> np.ndarray:
        """``(L,)``: ``ProbeReport.conflict_by_layer`` in the optimizer's metric."""
        kept = np.isfinite(self.response).all(axis=(1, 2, 3))
        inner, size = self._inner()
        share = np.where(size[..., None] > 0, inner / _nonzero(size)[..., None], 0)[
            kept
        ]
        negative = np.maximum(-share, 0).sum(axis=(0, 1, 2))
        return negative / _nonzero(negative.sum())

    def _inner(self) -> tuple[np.ndarray, np.ndarray]:
        """(S, K, K, L) symmetric products, and (S, K, K) products of lengths."""
        even = (self.response + self.response.swapaxes(1, 2)) / 2
        squares = np.einsum("skkl->sk", even)
        lengths = np.sqrt(np.maximum(squares, 0))
        return even, lengths[:, :, None] * lengths[:, None, :]


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
    * *Persistence*: besides, where a pair conflicts in more than 10 % of the steps, but
      the largest ``persistence`` of a pair is below 0.5.
    * *Where*: besides any of the last three; at most a third of the leaves hold 80 % of
      the negative inner products of the pairs of objectives.
    * *Applied*, with an optimizer: how often its own step raises a loss to first order,
      on the batch, and on the next one; and whether what it remembers does that, in more
      than half of these steps.
    * *Few steps*: fewer than 10.

    The ``verdict`` is about the step that is applied, where there is an optimizer, else
    about the sum of the raw gradients. The first that holds of: lengths; summing is fine,
    unless the lowest cosine of a pair is below -0.1 on average; opposed; within batches,
    unless a loss is raised in half of the steps, which more batches would not mend; what
    is remembered; conflict. docs/evidence.md says how often it was right.
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
    applied: AppliedReport | None = None  # of the optimizer's steps.

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
    def noise_free_cosines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Cosines of pairs without the batches' noise: the estimate, low and high.

        ``(K, K)`` each. Products of gradients of different batches have none of their
        noise in the mean, so with :math:`a_{jk}` the mean over neighbouring steps of
        :math:`\hat g_j(t) \cdot \hat g_k(t + 1)`, both ways round:
        :math:`a_{jk} / \sqrt{a_{jj} a_{kk}}`. The interval is of 2 standard errors by
        the jackknife over neighbouring pairs of steps. NaN with fewer than 7 steps, or
        where a gradient is all noise. A pair that conflicts within batches, and whose
        interval holds 0, may do so by noise alone.
        """
        pairs = self.finite[1:] & self.finite[:-1]
        return _jackknifed(self.cosines_across[pairs])

    @property
    def persistence(self) -> np.ndarray:
        """``(K, K)``, in [-1, 1]: how far pairs conflict step after step.

        Minus the mean cosine over its mean size, in the optimizer's metric where there is
        one: 1 for a pair that conflicts in every step, about 0 where the sign comes and
        goes with the batch, -1 for one that never does.
        """
        cosines = self.cosines if self.applied is None else self.applied.cosines
        kept = cosines[self.finite]
        if not len(kept):
            return np.full(cosines.shape[1:], np.nan)
        return -kept.mean(axis=0) / _nonzero(np.abs(kept).mean(axis=0))

    @property
    def advice(self) -> tuple[str, ...]:
        """Plain sentences, by the rules above."""
        return advice.sentences(self)

    @property
    def verdict(self) -> advice.Verdict:
        """Whether coordination may help, by which kind of method, and what it costs."""
        return advice.verdict(self)

    def to_plain(self) -> JsonObject:
        """All of it as lists, texts and numbers for JSON; None where one is NaN."""
        return plain.of_report(self)

    def figure(self) -> matplotlib.figure.Figure:
        """Bars and curves of it, by Matplotlib.

        Raises:
          ModuleNotFoundError: Matplotlib is not installed.
        """
        from eagc_jax.diagnostics.probing import figure

        return figure.of_report(self)

    def __str__(self) -> str:
        parts = [*table.lines(self), "", *self.advice, "", str(self.verdict)]
        return "\n".join(parts)


def _jackknifed(across: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios of means of (n, K, K), with 2 standard errors, a few rows out at a time."""
    even = (across + across.swapaxes(1, 2)) / 2
    parts = np.array_split(np.arange(len(even)), max(len(even) // _BLOCK, 1))
    if len(parts) < _FEWEST_BLOCKS:
        nothing = np.full(across.shape[1:], np.nan)
        return nothing, nothing, nothing
    whole = _ratio(even.mean(axis=0))
    without = np.stack(
        [_ratio(np.delete(even, part, axis=0).mean(axis=0)) for part in parts]
    )
    number = len(parts)
    spread = np.sum((without - without.mean(axis=0)) ** 2, axis=0)
    error = np.sqrt((number - 1) / number * spread)
    return whole, whole - CERTAIN * error, whole + CERTAIN * error


def _ratio(mean: np.ndarray) -> np.ndarray:
    signal = np.diagonal(mean)
    lengths = np.sqrt(np.where(signal > 0, signal, np.nan))
    return mean / (lengths[:, None] * lengths[None])


def _nonzero(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1.0)
