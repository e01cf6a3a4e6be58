"""Problems whose answer is plain, and candidates that are quick."""

import numpy as np

from eagc_jax.gcd import sources
from eagc_jax.gcd.evaluation.rehearsal import Candidate, first
from eagc_jax.gcd.settings.choices import ClusteringSettings
from eagc_jax.gcd.settings.running import RunSettings

CLASSES, KNOWN, EACH = 16, 8, 20
QUICK = first(ClusteringSettings(restarts=2))


def blobs(noise=0.05, seed=0):
    """320 rows of 16 classes on the axes; half of 8 known classes' items are labeled."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(CLASSES), EACH))
    rows = np.eye(CLASSES)[truth] + noise * random.normal(size=(len(truth), CLASSES))
    labels = np.where((truth < KNOWN) & (random.random(len(truth)) < 0.5), truth, -1)
    return records_of(rows, labels, truth), rows.astype(np.float32)


def noise(seed=0):
    """The same, but the rows say nothing."""
    records, rows = blobs(seed=seed)
    return records, np.random.default_rng(seed + 1).normal(size=rows.shape).astype("f4")


def records_of(rows, labels, truth=None):
    known = int(labels.max()) + 1
    number = known if truth is None else int(truth.max()) + 1
    return sources.Records(
        "blobs",
        "embedding",
        sources.ArrayItems(rows.astype(np.float32)),
        ids=sources.RowNumbers(len(rows)),
        labels=labels.astype(np.int32),
        class_names=tuple(f"class {i}" for i in range(number)),
        num_known=known,
        truth=None if truth is None else truth.astype(np.int32),
    )


def pretend(name, answer, seconds=None):
    """A candidate that counts as trained."""
    return Candidate(name, RunSettings(), answer, seconds)


def blind(records, features, num_classes, seed):
    """Labels where there are some, else any cluster."""
    found = np.random.default_rng(seed).integers(num_classes, size=len(records))
    return np.where(records.labels >= 0, records.labels, found)
