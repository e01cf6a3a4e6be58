"""Category discovery with scikit-learn's conventions, on a matrix of features."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from eagc_jax.gcd.runs.discovery import DiscoverSettings, Discovery
from eagc_jax.gcd.settings.choices import ClusteringSettings
from eagc_jax.gcd.settings.running import RunSettings, recommended
from eagc_jax.gcd.sources import ArrayItems, Records
from eagc_jax.gcd.sources.strings import RowNumbers

if TYPE_CHECKING:
    from eagc_jax.gcd.prediction import Predictor

_LARGEST_SEED = 2**31 - 1


class CategoryDiscovery(ClusterMixin, BaseEstimator):
    """Recognises the classes that some rows are labeled with, and finds novel ones.

    Semi-supervised k-means on rows of length 1; then, if asked for, a method is trained
    on them. Without any label it is k-means, and needs `num_classes`.

    Labels are integers, -1 where there is none; or strings, "" or None where there is
    none. A novel category is numbered on from the largest label, or called `novel-1`,
    `novel-2`, ..., the largest first.

    Args:
      num_classes: known and novel ones together; None estimates the number, which needs
        labels of two classes. Where every row is labeled, there are those classes only.
      training: what follows the first answer: None for nothing, "recommended", or
        settings such as `settings.running.on_features` makes.
      restarts: of k-means, the best of which counts.
      random_state: of all draws.

    Attributes:
      labels_: (N,) the category of each row; a labeled row keeps its label.
      classes_: (K,) labels of the categories, those known first, sorted.
      n_classes_: K.
      cluster_centers_: (K, D) centres of the features that assign; rows of length 1
        where nothing was trained.
      n_features_in_: width of X.
      discovery_: all of it, as `eagc_jax.gcd.discover` returns it.

    Examples:
      >>> X = np.repeat(np.eye(4)[:3], 4, axis=0) + 0.01 * np.arange(12)[:, None]
      >>> y = [5, -1, -1, -1, 7, -1, -1, -1, -1, -1, -1, -1]
      >>> found = CategoryDiscovery(num_classes=3).fit(X, y)
      >>> found.labels_.tolist()
      [5, 5, 5, 5, 7, 7, 7, 7, 8, 8, 8, 8]
      >>> found.predict([[0, 0.2, 1, 0]]).tolist()
      [8]
    """

    # Set by fit.
    labels_: np.ndarray
    classes_: np.ndarray
    n_classes_: int
    cluster_centers_: np.ndarray
    n_features_in_: int
    discovery_: Discovery

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        training: RunSettings | Literal["recommended"] | None = None,
        restarts: int = 10,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.num_classes = num_classes
        self.training = training
        self.restarts = restarts
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> CategoryDiscovery:
        """Finds the categories.

        Args:
          X: (N, D) finite numbers.
          y: (N,) labels; None for no labels at all.

        Returns:
          The estimator itself.

        Raises:
          ValueError: a shape, a label or a parameter is not as it should be.
        """
        from eagc_jax.gcd.pipeline import discover

        rows = self._checked(X, reset=True, ensure_min_samples=2)
        known, labels = _known_of(y, len(rows))
        names = tuple(map(str, known.tolist()))
        records = Records(
            "X", "embedding", ArrayItems(rows), RowNumbers(len(rows)), labels, names,
            len(names),
        )  # fmt: skip
        self.discovery_ = found = discover(records, self._settings(records))
        self.classes_ = _classes(known, found.assignment.names)
        self.n_classes_ = len(self.classes_)
        self.labels_ = self.classes_[found.assignment.clusters]
        self.cluster_centers_ = np.asarray(found.centres)
        return self

    def fit_predict(
        self, X: ArrayLike, y: ArrayLike | None = None, **_: object
    ) -> np.ndarray:
        """`fit(X, y).labels_`."""
        return self.fit(X, y).labels_

    def predict(self, X: ArrayLike) -> np.ndarray:
        """(N,) categories of new rows, from `classes_`."""
        check_is_fitted(self)
        return self.classes_[self._predictor.predict(self._checked(X)).clusters]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """(N, K) probabilities of `classes_`: the largest is that of `predict`.

        It is calibrated, see `prediction.hiding`; the others are what a softmax leaves.
        """
        check_is_fitted(self)
        return self._predictor.probabilities(self._checked(X))

    @property
    def _predictor(self) -> Predictor:
        found = self.discovery_.predictor
        assert found is not None  # `discover` makes one
        return found

    # Any: scikit-learn has no types, and its default, a string, is taken for one.
    def _checked(
        self, X: Any, reset: bool = False, ensure_min_samples: int = 1
    ) -> np.ndarray:
        rows = validate_data(
            self,
            X,
            dtype=[np.float64, np.float32],
            reset=reset,
            ensure_min_samples=ensure_min_samples,
        )
        with np.errstate(over="ignore"):
            found = np.array(rows, np.float32)  # a copy: X may be changed afterwards
        if not np.isfinite(found).all():
            raise ValueError("X must hold numbers that float32 can, up to 3.4e38")
        return found

    def _settings(self, records: Records) -> DiscoverSettings:
        known, unlabeled = records.num_known, int((~records.labeled_mask).sum())
        number, training = self.num_classes, self.training
        if not unlabeled:
            number = known
        if number is None and known < 2:
            raise ValueError(
                "num_classes is needed without labels of at least two classes"
            )
        if not isinstance(number, numbers.Integral | None):
            raise ValueError(f"num_classes must be an integer or None, got {number!r}")
        seed = self._seed()
        if training == "recommended":
            training = recommended("embedding", 0, seed=seed)
        if not isinstance(training, RunSettings | None):
            raise ValueError(
                f"training must be None, 'recommended' or RunSettings, got {training!r}"
            )
        number = None if number is None else int(number)
        return DiscoverSettings(
            clustering=ClusteringSettings(number, restarts=self.restarts),
            run=training,
            seed=seed,
            quick=training is None,
            rehearse=False,
        )

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(_LARGEST_SEED))


def _known_of(y: ArrayLike | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels that there are, sorted; and each row's number among them, or -1."""
    none = np.full(rows, -1, np.int32)
    if y is None:
        return np.zeros(0, np.int64), none
    given = np.asarray(y)
    if given.shape != (rows,):
        raise ValueError(
            f"y must have shape ({rows},), as X has rows; got {given.shape}"
        )
    if given.dtype.kind in "OUS":
        given = np.array(["" if one is None else one for one in given.tolist()])
    if given.dtype.kind == "f" and (given % 1 == 0).all():
        given = given.astype(np.int64)
    if given.dtype.kind not in "iuUb":
        raise ValueError(
            "y must hold integers, -1 where there is no label, or strings, '' or None "
            f"where there is none; got {given.dtype}"
        )
    if given.dtype.kind == "b":
        given = given.astype(np.int64)
    labeled = given != ("" if given.dtype.kind == "U" else -1)
    known, numbers_ = np.unique(given[labeled], return_inverse=True)
    none[labeled] = numbers_
    return known, none


def _classes(known: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Known labels, and those of the novel categories, by their number or name."""
    novel = names[len(known) :]
    if known.dtype.kind == "U":
        return np.array([*known.tolist(), *novel])
    first = int(known.max(initial=-1)) + 1
    return np.concatenate([known, np.arange(first, first + len(novel))])
