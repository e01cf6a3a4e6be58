"""Discoveries made by hand, without clustering or training."""

import numpy as np

from eagc_jax.gcd import sources
from eagc_jax.gcd.clustering import NumClasses
from eagc_jax.gcd.evaluation.accuracy import Accuracy
from eagc_jax.gcd.evaluation.rehearsal import Interval, Rated, Rehearsal, Trial
from eagc_jax.gcd.evaluation.scores import Scores
from eagc_jax.gcd.runs.assignment import Assignment
from eagc_jax.gcd.runs.discovery import DiscoverSettings, Discovery
from eagc_jax.gcd.runs.history import RunHistory
from eagc_jax.gcd.settings.choices import SourceSettings
from eagc_jax.gcd.sources.strings import Strings
from eagc_jax.gcd.sources.texts import Texts

KNOWN, NOVEL = 3, 3
NAMES = ("cat", "dog", "fox", "novel-1", "novel-2", "novel-3")
HOSTILE = '</script><img src=x onerror=alert(1)>{{style}}"\u2028'


def discovery(kind="text", size=60, *, names=NAMES, width=8, seed=0, **changes):
    """Of six clusters, three of them known and half labeled; the item's number in order.

    Item 0 is labeled cat and lies among the dogs; items 6 and 12 are equal; item 5 lies
    far from everything.
    """
    generator = np.random.default_rng(seed)
    clusters = np.arange(size) % len(names)
    centres = np.eye(len(names), width)
    features = centres[clusters] + 0.05 * generator.normal(size=(size, width))
    features[0] = centres[1] + 0.01
    features[12] = features[6]
    features[5, -1] += 3.0
    features = features.astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    gaps = 1 + (centres**2).sum(axis=1) - 2 * unit @ centres.T
    own = gaps[np.arange(size), clusters]
    others = gaps.copy()
    others[np.arange(size), clusters] = np.inf
    margin = others.min(axis=1) - own
    labels = np.where(
        (clusters < KNOWN) & (np.arange(size) // 6 % 2 == 0), clusters, -1
    )
    records = sources.Records(
        changes.pop("name", "animals"),
        kind,
        changes.pop("items", None) or _items(kind, size, clusters, names, features),
        ids=changes.pop("ids", None) or tuple(f"item {i}" for i in range(size)),
        labels=labels.astype(np.int32),
        class_names=tuple(names[:KNOWN]),
        num_known=KNOWN,
    )
    assignment = Assignment(
        records.ids,
        labels,
        clusters,
        tuple(names),
        KNOWN,
        probability=1 / (1 + np.exp(-20 * margin)),
        margin=margin,
        distance=own,
    )
    given = dict(
        settings=DiscoverSettings(SourceSettings("animals.csv")),
        records=records,
        features=features,
        assignment=assignment,
        centres=centres,
        first=assignment,
        training=None,
        estimate=NumClasses(6, 5, 8, np.array([[4, 0.3], [6, 0.5], [8, 0.4]])),
        scores=Scores(0.8, 0.9, 0.7, 0.75, float("nan")),
        skipped=(),
        backbone="minilm",
        embedded=0,
        seconds={"embedding": 1.0},
        adapted=features,
        rehearsal=rehearsal(),
        history=history(),
    )
    return Discovery(**(given | changes))


def _items(kind, size, clusters, names, features):
    if kind == "text":
        return Texts(
            Strings.of(f"sentence {i} of a {names[k]}" for i, k in enumerate(clusters))
        )
    if kind == "image":
        images = np.zeros((size, 24, 32, 3), np.uint8)
        images[np.arange(size), 4:20, 4:28] = 40 * (clusters[:, None, None, None] + 1)
        images[:, :, :, 2] += np.arange(size, dtype=np.uint8)[:, None, None]
        return sources.ArrayItems(images)
    return sources.ArrayItems(features)


def rehearsal():
    trials = tuple(Trial(i, 6, (1, 2), (10, 10), (8, 5), (), (), 1.0) for i in range(8))
    old = Interval(0.8, 0.9, 1.0)
    return Rehearsal(
        candidates=(
            Rated("first answer", trials, Interval(0.4, 0.5, 0.6), old, None),
            Rated("trained", trials, Interval(0.55, 0.63, 0.72), old, None),
        ),
        chosen="trained",
        reason="It was better in 7 of 8 rehearsals.",
        left_out=("trained with eagc: no time",),
        num_classes=None,
        labeled_share=0.5,
        seed=0,
        seconds=1.0,
    )


def history():
    gates = [np.array([[1.0, 0.9], [0.8, 1.1 + i]]) for i in range(3)]
    return RunHistory(
        "EAGC",
        epochs=[1, 2, 3],
        accuracy=[Accuracy(0.5, 0.6, 0.4 + i / 10) for i in range(3)],
        losses={"supervised": [3.0, 2.0, 1.0], "unsupervised": [4.0, 3.5, 3.0]},
        layers=["adapter/kernel", "head/kernel"],
        decision="gate",
        decided=gates,
        energy=gates,
        seconds=[1.0] * 3,
    )
