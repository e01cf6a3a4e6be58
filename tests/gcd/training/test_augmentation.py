"""The sampler's odds and what augmentations keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from eagc_jax.gcd import sources
from eagc_jax.gcd.training import augmentation, sampling

augment = jax.jit(augmentation.augment, static_argnums=2)
two_views = jax.jit(augmentation.two_views, static_argnums=2)
sampled = jax.jit(sampling.sample_indices, static_argnums=2)
NOTHING = augmentation.Augmentation(0, 0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits")


def test_half_of_a_batch_is_labeled(digits):
    mask = digits.labeled_mask
    drawn = np.asarray(sampled(jax.random.key(0), mask, (100_000,)))
    assert abs(mask[drawn].mean() - 0.5) < 0.01
    counts = np.bincount(drawn, minlength=len(mask))
    for group in (mask, ~mask):
        expected = 50_000 / group.sum()
        assert abs(counts[group].mean() / expected - 1) < 0.02
        # Uniform within the group: the spread of independent draws, not more.
        assert counts[group].var() < 1.3 * expected


@pytest.mark.parametrize("mask", [np.zeros(5, bool), np.ones(5, bool)])
def test_sampling_without_one_of_the_groups_is_uniform(mask):
    drawn = sampled(jax.random.key(0), mask, (5000,))
    counts = np.bincount(np.asarray(drawn), minlength=5)
    assert np.all(np.abs(counts - 1000) < 150)


def test_no_augmentation_changes_nothing(digits):
    images = np.asarray(digits.items.array[:4])
    np.testing.assert_allclose(
        augment(jax.random.key(0), images, NOTHING), images, atol=1e-6
    )


def test_resampling_matches_scipy(digits):
    image = digits.items.array[7]
    angle = 0.3
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([0.4, -0.7])
    transform = np.column_stack([linear, shift])
    found = np.asarray(jax.jit(augmentation._resample)(image, transform))
    centre = np.array([3.5, 3.5])
    expected = ndimage.affine_transform(
        image[..., 0],
        linear,
        offset=centre + shift - linear @ centre,
        order=1,
        mode="grid-constant",
    )
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_views_differ_stay_in_range_and_repeat_with_the_key(digits):
    images = np.asarray(digits.items.array[:16])
    strong = dataclasses.replace(augmentation.Augmentation(), noise=0.5, contrast=0.9)
    views = np.asarray(two_views(jax.random.key(0), images, strong))
    assert views.shape == (32, 8, 8, 1)
    assert views.min() >= 0
    assert views.max() <= 1
    assert np.abs(views[:16] - views[16:]).mean() > 0.01
    np.testing.assert_array_equal(two_views(jax.random.key(0), images, strong), views)
    # Row i of both views shows image i: closer to it than to the other images.
    mild = augmentation.Augmentation(rotation=5, zoom=0.05, shear=0.05, shift=0.02)
    mild = np.asarray(two_views(jax.random.key(0), images, mild))
    distances = np.sum((mild[:, None] - images[None]) ** 2, axis=(2, 3, 4))
    hits = distances.argmin(axis=1) == np.tile(np.arange(16), 2)
    assert hits.all()


def test_flips_mirror_and_change_nothing_else(digits):
    images = np.asarray(digits.items.array[:200])
    key = jax.random.key(3)
    mirror = dataclasses.replace(NOTHING, flip=1.0)
    np.testing.assert_allclose(
        augment(key, images, mirror), images[:, :, ::-1], atol=1e-6
    )
    # Half of the views are mirrored, by draws that leave all others as they were.
    half, plain = (
        np.asarray(augment(key, images, dataclasses.replace(NOTHING, **amounts)))
        for amounts in ({"flip": 0.5, "contrast": 0.5}, {"contrast": 0.5})
    )
    same = np.all(np.abs(half - plain) < 1e-5, axis=(1, 2, 3))
    mirrored = np.all(np.abs(half - plain[:, :, ::-1]) < 1e-5, axis=(1, 2, 3))
    assert np.all(same | mirrored)
    assert 70 < same.sum() < 130  # four standard deviations of 200 tosses


def colours(number=200, side=9):
    return np.random.default_rng(5).random((number, side, side, 3), np.float32)


def test_crops_lie_within_the_image_and_have_the_sizes_drawn():
    # A picture of its own coordinates shows where a view was taken from.
    rows, columns = np.meshgrid(
        np.linspace(0, 1, 9), np.linspace(0, 1, 9), indexing="ij"
    )
    image = np.stack([rows, columns, rows], axis=2).astype(np.float32)
    crop = dataclasses.replace(NOTHING, crop=0.8)
    views = np.asarray(augment(jax.random.key(0), np.stack([image] * 400), crop))
    tops, bottoms = views[:, 0, 0, 0], views[:, -1, 0, 0]
    lefts, rights = views[:, 0, 0, 1], views[:, 0, -1, 1]
    heights, widths = bottoms - tops, rights - lefts
    # Straight, and evenly spaced: only rounding is between a view and its corners.
    step = np.linspace(0, 1, 9)
    expected = tops[:, None] + heights[:, None] * step
    np.testing.assert_allclose(views[:, :, 3, 0], expected, atol=1e-5)
    areas, aspects = heights * widths, widths / heights
    assert 0.2 - 1e-4 <= areas.min() < 0.25
    assert 0.9 < areas.max() <= 1 + 1e-5
    assert aspects.min() >= 0.75 - 1e-4
    assert aspects.max() <= 4 / 3 + 1e-4
    for low, high in ((tops, bottoms), (lefts, rights)):
        assert low.min() < 0.02  # crops reach every border
        assert high.max() > 0.98


def test_colours_turn_around_gray_and_keep_brightness():
    images = 0.3 + 0.2 * colours()  # far enough from 0 and 1: nothing is cut
    grays = np.broadcast_to(images[..., :1], images.shape)
    luma = np.array([0.299, 0.587, 0.114])
    for name, amount in (("saturation", 0.4), ("hue", 0.1), ("gray", 0.5)):
        amounts = dataclasses.replace(NOTHING, **{name: amount})
        both = augment(jax.random.key(1), np.concatenate([images, grays]), amounts)
        views, still_gray = np.asarray(both).reshape(2, *images.shape)
        np.testing.assert_allclose(still_gray, grays, atol=1e-5)
        np.testing.assert_allclose(views @ luma, images @ luma, atol=1e-4)
        away, before = (x - (x @ luma)[..., None] for x in (views, images))
        ratios = np.sqrt((away**2).sum((1, 2, 3)) / (before**2).sum((1, 2, 3)))
        if name == "saturation":
            assert 0.6 - 1e-3 <= ratios.min() < 0.65
            assert 1.35 < ratios.max() <= 1.4 + 1e-3
        elif name == "gray":
            assert 70 < (ratios < 1e-3).sum() < 130  # of 200 tosses
            assert np.all((ratios < 1e-3) | (np.abs(ratios - 1) < 1e-3))
        else:
            # The angle between colours, in the plane that YIQ turns.
            plane = augmentation._TO_YIQ[1:]
            turned, straight = (x.reshape(200, -1, 3) @ plane.T for x in (away, before))
            angles = np.arctan2(*np.moveaxis(turned, 2, 0)) - np.arctan2(
                *np.moveaxis(straight, 2, 0)
            )
            angles = np.abs((angles + np.pi) % (2 * np.pi) - np.pi).mean(axis=1)
            assert 0.9 * 0.2 * np.pi < angles.max() <= 0.2 * np.pi + 1e-2


def test_colours_leave_the_other_draws_as_they_were():
    images, key = colours(20), jax.random.key(2)
    plain = dataclasses.replace(NOTHING, contrast=0.5, flip=0.5)
    nearly = dataclasses.replace(plain, saturation=1e-7, hue=1e-7, gray=1e-7)
    np.testing.assert_allclose(
        augment(key, images, nearly), augment(key, images, plain), atol=1e-4
    )


def test_wrong_use_names_the_argument(digits):
    for name in ("gray", "saturation", "hue"):
        with pytest.raises(ValueError, match=f"{name} must be at most 1"):
            augmentation.Augmentation(**{name: 1.5})
    with pytest.raises(ValueError, match="crop must be below 1"):
        augmentation.Augmentation(crop=1.0)
    with pytest.raises(ValueError, match=r"need images \(B, H, W, 3\), got shape"):
        augmentation.augment(
            jax.random.key(0),
            jnp.ones((2, 4, 4, 1)),
            augmentation.Augmentation(hue=0.1),
        )
    with pytest.raises(ValueError, match="rotation must not be negative"):
        augmentation.Augmentation(rotation=-1)
    with pytest.raises(ValueError, match="zoom must be below 1"):
        augmentation.Augmentation(zoom=1.5)
    with pytest.raises(ValueError, match="flip must be at most 1"):
        augmentation.Augmentation(flip=1.5)
