"""Hand-made records and assignments to export."""

import numpy as np

from eagc_jax.gcd import sources
from eagc_jax.gcd.runs.assignment import Assignment

# What a category or a photo may be called.
HOSTILE = (
    *("../x", "con", "a/b", r"..\..\y", "", ".", "..", "x\ny", "größer", "\udcff"),
    *("z" * 300, "ü" * 200, "Aux.txt", "<b>&'\"", "unlabeled", "CASE", "case", " sp. "),
)


def assignment(ids, clusters, names, *, labeled=(), num_known=2):
    """Where `labeled` has a row, the cluster is its label, too."""
    clusters = np.asarray(clusters)
    labels = np.full(len(clusters), -1)
    labels[list(labeled)] = clusters[list(labeled)]
    probability = np.linspace(0.5, 1.0, len(clusters)).astype(np.float32)
    return Assignment(
        ids,
        labels,
        clusters,
        names,
        num_known,
        probability=probability,
        margin=probability / 2,
        distance=1 - probability,
    )


def texts(rows, **options):
    """Records of texts; ids are row numbers."""
    from eagc_jax.gcd.sources.texts import Texts

    items = Texts(sources.Strings.of(rows))
    return _records("texts", "text", items, len(rows), **options)


def photos(folder, names, **options):
    """Records of files that are there."""
    from eagc_jax.gcd.sources.images import ImageFiles

    items = ImageFiles(folder, sources.Strings.of(names))
    return _records("photos", "image", items, len(names), **options)


def _records(name, kind, items, number, ids=None, classes=("apple", "banana")):
    return sources.Records(
        name,
        kind,
        items,
        sources.RowNumbers(number) if ids is None else tuple(ids),
        np.full(number, -1, np.int32),
        tuple(classes),
        len(classes),
    )
