"""The model that a discovery leaves, which assigns new items."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from eagc_jax.gcd.backbones import Backbone
from eagc_jax.gcd.prediction import calibration as calibration_
from eagc_jax.gcd.prediction.calibration import Calibration
from eagc_jax.gcd.prediction.scoring import Scorer
from eagc_jax.gcd.prediction.trained import Trained
from eagc_jax.gcd.runs.assignment import Assignment
from eagc_jax.gcd.settings.choices import BackboneSettings
from eagc_jax.gcd.sources.records import Kind

JUNK = "junk"
COLUMNS = (
    *("item", "cluster", "name", "probability", "known_or_novel"),
    *("unlike_anything_seen", "nearest_labeled", "similarity"),
)


@dataclasses.dataclass(frozen=True)
class BackboneOf:
    """The network by which the items got their features."""

    kind: Kind
    width: int
    name: str  # for `backbones.load`; "" for one that only Python has
    fingerprint: str
    settings: BackboneSettings = BackboneSettings()  # noqa: RUF009  (frozen)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Of N items, in their order."""

    clusters: np.ndarray  # (N,) int32, by the discovery's numbers
    probability: np.ndarray  # (N,) float32, that the category is right
    unlike: np.ndarray  # (N,) bool, unlike anything that the discovery has seen
    distance: np.ndarray  # (N,) float32, by which that is said; see `Calibration`
    # (N,) int32, the most similar labeled item, by its number; -1 where none is labeled
    nearest: np.ndarray
    similarity: np.ndarray  # (N,) float32, the cosine with it
    names: tuple[str | None, ...]  # of all clusters; None is junk
    known: np.ndarray  # (K,) bool, of all clusters
    example_ids: Sequence[str]  # of the labeled items that were kept

    def __len__(self) -> int:
        """N."""
        return len(self.clusters)

    @property
    def name(self) -> list[str]:
        """N names."""
        shown = [JUNK if name is None else name for name in self.names]
        return [shown[cluster] for cluster in self.clusters.tolist()]

    @property
    def is_known(self) -> np.ndarray:
        """(N,) bool: the category is one of the known classes."""
        return self.known[self.clusters]

    @property
    def nearest_labeled(self) -> list[str]:
        """N ids."""
        ids = (*self.example_ids, "")  # the last is that of none
        return [ids[one] for one in self.nearest.tolist()]

    def batch(self, items: pa.Array | Sequence[str]) -> pa.RecordBatch:
        """The same for files, with the items' names in front.

        Args:
          items: N strings.

        Returns:
          Columns item, cluster, name, probability, known_or_novel (or junk),
          unlike_anything_seen, nearest_labeled, similarity.
        """
        shown = pa.array([JUNK if name is None else name for name in self.names])
        kinds = [
            JUNK if name is None else "known" if known else "novel"
            for name, known in zip(self.names, self.known.tolist(), strict=True)
        ]
        clusters = pa.array(self.clusters)
        columns = [
            items if isinstance(items, pa.Array) else pa.array(items, pa.string()),
            clusters,
            shown.take(clusters),
            pa.array(self.probability),
            pa.array(kinds).take(clusters),
            pa.array(self.unlike),
            pa.array([*self.example_ids, ""], pa.string()).take(
                pa.array(self.nearest % (len(self.example_ids) + 1))
            ),
            pa.array(self.similarity),
        ]
        return pa.record_batch(columns, names=list(COLUMNS))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictor:
    """Assigns new items to the categories that a discovery found.

    It assigns the discovery's own unlabeled items as the discovery did: to the nearest
    centre of the first answer, or by the heads that were trained. `agreement` is the
    share of them that it does give the same category; it is 1 but where clusters were
    bounded in size, or a person moved items.

    `fit_predictor` makes one, `load_predictor` reads one.
    """

    names: tuple[str | None, ...]  # of K categories; None for junk, see `with_names`
    known: np.ndarray  # (K,) bool, the category is one of the known classes
    centres: np.ndarray  # (K, D) float32, of the features that assign
    seen: np.ndarray  # (K, width) float32, of the features that `predict` takes
    calibration: Calibration
    examples: np.ndarray  # (M, D) float16, of length 1: features of labeled items
    example_ids: Sequence[str]
    backbone: BackboneOf
    agreement: float
    trained: Trained | None = None  # None: the nearest centre assigns
    blocks: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    note: str = ""  # what could not be kept, for people

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.names)

    def predict(self, features: np.ndarray) -> Prediction:
        """The category of each item, from its feature.

        Args:
          features: (N, width) finite floats, of the backbone that `load_backbone` gives;
            read a block of rows at a time, so that a memory-mapped file may be larger
            than memory.

        Returns:
          Arrays of N entries.

        Raises:
          ValueError: a wrong shape, or a row that is not finite.
        """
        self._check(features)
        scored = self._scorer(features)
        calibration = self.calibration
        return Prediction(
            scored.clusters,
            calibration.probability(scored.likelihoods),
            scored.distances > calibration.threshold,
            scored.distances,
            scored.examples
            if len(self.example_ids)
            else np.full_like(scored.examples, -1),
            scored.similarities,
            self.names,
            self.known,
            self.example_ids,
        )

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(N, K) how probable each category is; rows sum to 1.

        The category assigned has the probability that `predict` gives it (and at least
        any other's); the others are a softmax at the temperature at which it has that.
        """
        found, scores = self.predict(features), self._scorer.scores(features)
        return calibration_.with_top(scores, found.clusters, found.probability)

    def adapt(self, features: np.ndarray) -> np.ndarray:
        """Features in the space of the centres.

        Args:
          features: (N, width) as `predict` takes them.

        Returns:
          (N, D) float32: what was trained makes of them, else the same.
        """
        from eagc_jax.gcd.prediction.scoring import adapted_of

        if self.trained is None:
            return np.asarray(features, np.float32)
        return adapted_of(self.trained, features)

    def stream(
        self, features: np.ndarray | Iterable[np.ndarray], *, rows: int = 2**14
    ) -> Iterator[Prediction]:
        """The same some rows at a time.

        Args:
          features: one array, or several of any lengths.
          rows: of one array, in each prediction but the last.

        Yields:
          Predictions in order.
        """
        if not isinstance(features, np.ndarray):
            yield from map(self.predict, features)
            return
        for start in range(0, len(features), rows):
            yield self.predict(features[start : start + rows])

    def judged(self, features: np.ndarray, assignment: Assignment) -> Assignment:
        """The discovery's assignment with probabilities that were calibrated.

        Args:
          features: (N, width) of the discovery's items, as `predict` takes them.
          assignment: of these items; its probabilities are a softmax of distances.

        Returns:
          The same with other probabilities.
        """
        found = self.predict(features)
        same = found.clusters == assignment.clusters
        # Of a label, or what a person decided, against the features: by the distances.
        other = self.calibration.probability(assignment.probability)
        probability = np.where(same, found.probability, other)
        return dataclasses.replace(assignment, probability=probability)

    def with_names(self, names: Mapping[int, str | None]) -> Predictor:
        """The same with other names, as a person decided.

        Args:
          names: of clusters by number. Clusters of one name are one category, which is
            known if one of them is, or if a known class had that name. None is junk.

        Returns:
          A predictor; clusters keep their numbers.

        Raises:
          ValueError: there is no such cluster.
        """
        wrong = [number for number in names if not 0 <= number < self.num_classes]
        if wrong:
            raise ValueError(
                f"names must be of clusters 0 to {self.num_classes - 1}, got {wrong[0]}"
            )
        changed = tuple(names.get(i, name) for i, name in enumerate(self.names))
        both = zip(self.names, changed, self.known.tolist(), strict=True)
        of_known = {name for *both_, known in both for name in both_ if known} - {None}
        known = np.array([name in of_known for name in changed])
        return dataclasses.replace(self, names=changed, known=known)

    def load_backbone(self, network: Backbone | None = None) -> Backbone:
        """The network that gives items the features that `predict` takes.

        Args:
          network: the same one as then, for one that has no name; it is not changed.

        Returns:
          The backbone, with the blocks that were trained.

        Raises:
          ValueError: it is another one than then, or `network` is needed.
          OSError, ModuleNotFoundError: its weights are gone.
        """
        from eagc_jax.gcd.prediction import networks

        return networks.load(self, network)

    def save(self, folder: str | os.PathLike[str]) -> list[pathlib.Path]:
        """Writes model.safetensors and model.json, each whole or not at all."""
        from eagc_jax.gcd.prediction import files

        return files.save(self, folder)

    @functools.cached_property
    def _scorer(self) -> Scorer:
        first = {name: number for number, name in reversed(list(enumerate(self.names)))}
        return Scorer(
            self.trained,
            self.centres,
            self.seen,
            self.examples,
            self.calibration.temperature,
            by_distance=self.calibration.by_distance,
            groups=np.array([first[name] for name in self.names], np.int32),
        )

    def __getstate__(self) -> dict[str, object]:
        """Without what is on the device."""
        return {name: x for name, x in vars(self).items() if name != "_scorer"}

    def _check(self, features: np.ndarray) -> None:
        width = self.width
        if np.ndim(features) != 2 or features.shape[1] != width:
            raise ValueError(
                f"features must have shape (N, {width}), as those of the discovery, got "
                f"{np.shape(features)}"
            )
        for start in range(0, len(features), 2**14):
            finite = np.isfinite(features[start : start + 2**14]).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"features must be finite, row {start + int(np.argmin(finite))} is "
                    "not"
                )

    @property
    def width(self) -> int:
        """Of the features that `predict` takes."""
        return self.backbone.width
