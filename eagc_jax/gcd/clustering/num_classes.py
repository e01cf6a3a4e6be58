"""How many classes there are, judged by those that are known."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from eagc_jax.gcd.clustering import _by_number, composition
from eagc_jax.gcd.clustering._chunks import Chunks, Rows, unit_rows
from eagc_jax.gcd.clustering.semi_supervised import checked_features

Method = Literal["neighbours", "accuracy", "information", "stability"]
Score = Callable[[np.ndarray, np.ndarray], float]

_ROWS = 10_000  # of more rows a sample is looked at, or
_ROWS_PER_CLASS = 40  # so many for each known class
_NUMBERS = 14  # numbers of classes that are tried, in equal ratios
_TRIALS = 4  # each with other known classes hidden
_ITERATIONS = 6  # of k-means from greedy seeds: enough to compare the numbers


class NumClasses(NamedTuple):
    """The estimate, an interval, and what they were read off."""

    number: int  # known plus novel classes
    low: int  # smallest number that is about as good
    high: int  # largest
    # (tries, 2): number, and the mean score of its trials, or its log-likelihood
    curve: np.ndarray


class _Trial(NamedTuple):
    """Some known classes hidden."""

    pinned: np.ndarray  # (N,) int32: visible classes 0, 1, ..., all other rows -1
    hidden: np.ndarray  # (N,) bool: labeled with a hidden class


def estimate_num_classes(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    method: Method = "neighbours",
    key: jax.Array | None = None,
) -> NumClasses:
    r"""The number of classes, known and novel, with an interval.

    - `"neighbours"`, the default: the likelihood of what lies next to labeled items. How
      often that is not labeled says which share of the known classes' items is labeled
      (see `labeled_share`), so how many items are of novel classes, and how many classes
      have room there, if they are about as large as the known ones. Labels must be a
      draw from the items of their classes; where it was the easy ones, or all others,
      that were labeled, look at the other methods. The number is the median of draws of
      classes, the interval holds nine tenths of them.

    The others cluster. Some known classes are hidden: their rows count as unlabeled. For
    each number of clusters, in equal ratios from `minimum` to `maximum`, semi-supervised
    k-means runs on all rows (six iterations from greedy seeds), and its clusters of the
    hidden classes' rows are compared with their labels:

    - `"accuracy"`: with clusters assigned to classes one to one, the share of rows in
      their class's cluster: the published protocol, but for the hidden classes.
    - `"information"`: the mutual information of clusters and classes, adjusted for
      chance.
    - `"stability"`: no labels are looked at; the adjusted Rand index between the
      clusterings of two trials, of unlabeled rows. It says little where classes blend.

    All three tend to low numbers: a hidden class that shares a cluster with a novel one,
    of which no row is looked at, costs them nothing. There are four trials, each with
    another quarter hidden (with fewer than eight known classes another half, of two
    halvings). Their mean is smoothed over neighbouring numbers. The interval holds the
    numbers around the best whose smoothed score is less than two standard errors (over
    the trials) of the difference below it. The best of a flat curve is a matter of
    chance, and low where classes blend: the estimate is the middle of the interval (in
    ratio), if that is more than the best.

    Labels of unlabeled rows play no part. Of many rows (10,000 where there is clustering,
    else 20,000; or 40 for each known class, if that is more) a sample is looked at. With
    fewer than four known classes all of them are hidden. Without `maximum` clustering
    goes to four times the known classes, and on from there while the best number is the
    largest.

    Args:
      features: (N, D) floats, finite, normalised here; an array or memory-mapped.
      labels: (N,) integers, known classes 0, 1, ... on labeled rows, -1 elsewhere.
      minimum: the least number, by default that of the known classes, and at least that.
      maximum: the largest number, at most a quarter of the rows looked at.
      method: how to judge.
      key: a JAX random key, `jax.random.key(0)` by default; it decides the sample, the
        halves and the seeds, and with it the result.

    Returns:
      `NumClasses(number, low, high, curve)`.

    Raises:
      ValueError: a wrong shape, dtype, method or bound, a row that is not finite, or
        fewer than two known classes, from which nothing can be judged.

    Examples:
      >>> random = np.random.default_rng(0)
      >>> classes = random.integers(0, 8, 400)
      >>> rows = np.eye(8)[classes] + 0.1 * random.normal(size=(400, 8))
      >>> labels = np.where((classes < 4) & (np.arange(400) % 2 == 0), classes, -1)
      >>> found = estimate_num_classes(rows, labels)
      >>> found.low <= 8 <= found.high
      True

    References:
      Han et al., "Learning to Discover Novel Visual Categories via Deep Transfer
      Clustering", ICCV 2019. Vaze et al., "Generalized Category Discovery", CVPR 2022.
    """
    rows, labels = _checked(features, labels, method)
    known = int(labels.max()) + 1
    draw = _generator(jax.random.key(0) if key is None else key)
    if method == "neighbours":
        return _by_neighbours(draw, rows, labels, minimum, maximum)
    which = _sample(draw, len(rows), max(_ROWS, _ROWS_PER_CLASS * known))
    rows, labels = rows[which], labels[which]
    chunks = Chunks(rows, labels)
    unit = jax.jit(unit_rows)(rows, chunks.scales)
    trials = _trials(draw, labels)
    low, high, most = _bounds(minimum, maximum, known, len(rows))
    while True:
        numbers = np.unique(np.geomspace(low, high, _NUMBERS).round().astype(int))
        scores = _scores(draw, unit, labels, trials, numbers, method)
        best = int(_smoothed(scores).mean(axis=0).argmax())
        if maximum is not None or high == most or best < len(numbers) - 2:
            return _read_off(numbers, scores)
        high = min(2 * high, most)


def _checked(
    features: ArrayLike, labels: ArrayLike, method: Method
) -> tuple[Rows, np.ndarray]:
    rows, classes = checked_features(features), np.asarray(labels)
    if classes.shape != rows.shape[:1] or classes.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape {rows.shape[:1]}, one per row, got "
            f"{classes.dtype} of shape {classes.shape}"
        )
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}")
    counts = np.bincount(classes[classes >= 0])
    if len(counts) < 2 or not counts.all():
        raise ValueError(
            "labels must have at least two known classes, numbered 0, 1, ... without a "
            f"gap, got the classes {np.flatnonzero(counts).tolist()}: give the number "
            "of classes instead of estimating it"
        )
    return rows, classes


def _by_neighbours(
    draw: np.random.Generator,
    rows: Rows,
    labels: np.ndarray,
    minimum: int | None,
    maximum: int | None,
) -> NumClasses:
    known = int(labels.max()) + 1
    least, _, most = _bounds(minimum, maximum, known, len(rows))
    most = most if maximum is None else maximum
    found = composition.composition(rows, labels, int(draw.integers(2**31)))
    if found is None:  # all rows are labeled
        return NumClasses(least, least, least, np.array([[least, 0.0]]))
    drawn = np.clip(composition.numbers(found, draw), least, most)
    low, number, high = np.quantile(drawn, [0.05, 0.5, 0.95])
    tried = np.geomspace(least, max(1.5 * high, least + 1), 2 * _NUMBERS)
    tried = np.unique(tried.round().astype(int))
    scores = composition.likelihood(found, tried)
    curve = np.stack([tried, scores], axis=1)[np.isfinite(scores)]
    return NumClasses(
        round(float(number)), int(np.floor(low)), int(np.ceil(high)), curve
    )


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))


def _sample(draw: np.random.Generator, size: int, most: int) -> slice | np.ndarray:
    if size <= most:
        return slice(None)
    return np.sort(draw.choice(size, most, replace=False, shuffle=False))


def _bounds(
    minimum: int | None, maximum: int | None, known: int, size: int
) -> tuple[int, int, int]:
    """The least number, the largest to begin with, and the largest at all."""
    low = known if minimum is None else minimum
    most = max(size // 4, low + 1)
    high = min(4 * low + 4, most) if maximum is None else maximum
    if low < known:
        raise ValueError(
            f"minimum must be at least the {known} known classes, got {low}"
        )
    if not low <= high <= most:
        raise ValueError(
            f"maximum must be in [{low}, {most}], from minimum to a quarter of the rows "
            f"looked at, got {high}"
        )
    return low, high, most


def _trials(draw: np.random.Generator, labels: np.ndarray) -> list[_Trial]:
    classes = np.unique(labels[labels >= 0])
    if len(classes) < 4:
        return [_trial(labels, classes[:0])] * _TRIALS
    parts = _TRIALS if len(classes) >= 2 * _TRIALS else 2
    orders = [draw.permutation(classes) for _ in range(_TRIALS // parts)]
    hidden = [order[part::parts] for order in orders for part in range(parts)]
    return [_trial(labels, np.setdiff1d(classes, some)) for some in hidden]


def _trial(labels: np.ndarray, visible: np.ndarray) -> _Trial:
    number = np.full(labels.max() + 2, -1, np.int32)  # the last is for unlabeled rows
    number[visible] = np.arange(len(visible))
    pinned = number[labels]
    return _Trial(pinned, (labels >= 0) & (pinned < 0))


def _scores(
    draw: np.random.Generator,
    unit: jax.Array,
    labels: np.ndarray,
    trials: Sequence[_Trial],
    numbers: np.ndarray,
    method: Method,
) -> np.ndarray:
    """(trials, numbers), higher where a number is better."""
    found = [_clusterings(draw, unit, trial.pinned, numbers) for trial in trials]
    if method == "stability":
        return _agreement(found, labels < 0)
    score = adjusted_mutual_info_score if method == "information" else _accuracy
    return np.array(
        [
            [score(labels[trial.hidden], one[trial.hidden]) for one in clusterings]
            for trial, clusterings in zip(trials, found, strict=True)
        ]
    )


def _clusterings(
    draw: np.random.Generator,
    unit: jax.Array,
    pinned: np.ndarray,
    numbers: np.ndarray,
) -> list[np.ndarray]:
    key = jax.random.key(int(draw.integers(2**31)))
    classes = jnp.asarray(pinned)
    seeds = _by_number.seeds(key, unit, classes, most=int(numbers[-1]))
    return [
        np.asarray(
            _by_number.clustered(
                unit, classes, seeds, int(number), iterations=_ITERATIONS
            )
        )
        for number in numbers
    ]


def _agreement(found: list[list[np.ndarray]], rows: np.ndarray) -> np.ndarray:
    """Of each trial with the next, the last with the first."""
    others = found[1:] + found[:1]
    return np.array(
        [
            [
                adjusted_rand_score(a[rows], b[rows])
                for a, b in zip(one, two, strict=True)
            ]
            for one, two in zip(found, others, strict=True)
        ]
    )


def _accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    table = np.zeros((labels.max() + 1, clusters.max() + 1), int)
    np.add.at(table, (labels, clusters), 1)
    return table[linear_sum_assignment(table, maximize=True)].sum() / len(labels)


def _read_off(numbers: np.ndarray, scores: np.ndarray) -> NumClasses:
    smooth = _smoothed(scores)
    mean = smooth.mean(axis=0)
    best = int(mean.argmax())
    below = smooth[:, [best]] - smooth
    errors = below.std(axis=0, ddof=1) / np.sqrt(len(scores))
    near = below.mean(axis=0) <= 2 * errors
    low, high = best, best
    while low > 0 and near[low - 1]:
        low -= 1
    while high < len(numbers) - 1 and near[high + 1]:
        high += 1
    curve = np.stack([numbers, scores.mean(axis=0)], axis=1)
    middle = round(float(np.sqrt(numbers[low] * numbers[high])))
    number = max(int(numbers[best]), middle)
    return NumClasses(number, int(numbers[low]), int(numbers[high]), curve)


def _smoothed(scores: np.ndarray) -> np.ndarray:
    """Half of each number's own score, a quarter of each neighbour's."""
    padded = np.pad(scores, ((0, 0), (1, 1)), mode="edge")
    return padded[:, :-2] / 4 + padded[:, 1:-1] / 2 + padded[:, 2:] / 4
