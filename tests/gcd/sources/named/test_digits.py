"""The digits are posed as they always were: the demo's table depends on it."""

import hashlib

import numpy as np

from eagc_jax.gcd import sources


def test_digits_are_images_in_zero_one():
    records = sources.load("digits")
    images = records.items.array
    assert images.dtype == np.float32
    assert images.shape == (1797, 8, 8, 1)
    assert (images.min(), images.max()) == (0, 1)
    assert records.class_names == tuple("0123456789")
    assert (records.num_known, records.num_classes) == (5, 10)


def test_the_labeled_digits_are_the_same_ever():
    records = sources.load("digits")
    labeled = np.flatnonzero(records.labeled_mask)
    assert len(labeled) == 450
    assert labeled[:8].tolist() == [1, 2, 4, 10, 11, 12, 14, 20]
    # Frozen from the loader that this one replaced.
    assert labeled.sum() == 406_817
    found = hashlib.sha256(records.labels.astype("<i4").tobytes()).hexdigest()
    assert found[:16] == "1df74bd559b62d6f"


def test_other_digits_can_be_known():
    records = sources.load("digits", known_classes=[9, 0], labeled_share=0.2, seed=3)
    assert records.class_names[:3] == ("9", "0", "1")
    assert records.labeled_mask.sum() == int(0.2 * records.old_mask.sum())
