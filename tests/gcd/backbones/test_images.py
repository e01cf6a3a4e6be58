"""Pictures of all sizes to squares."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eagc_jax.gcd.backbones.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImagePreparation,
)

PREPARATION = ImagePreparation(16, resize_to=18, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (51, 37, 3)).astype(np.uint8)


def test_resized_and_cut_as_torchvision_does(photo):
    # 18 * 51 / 37 = 24.8, cut down to 24; the middle 16 of 18 and of 24.
    resized = Image.fromarray(photo).resize((18, 24), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[4:20, 1:17]
    np.testing.assert_array_equal(PREPARATION.prepare(photo), expected)


def test_floats_of_the_right_size_pass():
    image = np.random.default_rng(0).random((16, 16, 3), np.float32)
    assert PREPARATION.prepare(image) is image
    digits = ImagePreparation(8, 1)
    image = np.random.default_rng(0).random((8, 8), np.float32)
    np.testing.assert_array_equal(digits.prepare(image)[..., 0], image)
    array = jnp.asarray(image)
    assert digits.normalize(array) is array


def test_floats_of_another_size_are_as_their_bytes(photo):
    np.testing.assert_array_equal(
        PREPARATION.prepare(photo.astype(np.float32) / 255), PREPARATION.prepare(photo)
    )


def test_gray_and_colour(photo):
    gray = photo[:, :, :1]
    found = PREPARATION.prepare(gray)
    assert found.shape == (16, 16, 3)
    assert np.ptp(found, axis=2).max() == 0
    assert ImagePreparation(16, channels=1).prepare(photo).shape == (16, 16, 1)


def test_normalised_in_the_forward_pass(photo):
    square = PREPARATION.prepare(photo)
    found = PREPARATION.normalize(jnp.asarray(PREPARATION.collate([square])))
    expected = (square / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    mixed = PREPARATION.collate([square, np.zeros((16, 16, 3), np.float32)])
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed[0], square / np.float32(255))


def test_a_very_long_picture_needs_little_memory():
    long = np.zeros((1, 40_000, 3), np.uint8)
    long[:, 19_990:20_010] = 255
    assert PREPARATION.prepare(long).shape == (16, 16, 3)
    assert PREPARATION.prepare(long).min() > 250  # its very middle
    assert PREPARATION.prepare(long.transpose(1, 0, 2)).min() > 250


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"shape \(H, W, 1 or 3\), got \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got \(2, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint16), "uint8 or float, got uint16"),
    ],
)
def test_what_is_no_image_is_said(image, message):
    with pytest.raises(ValueError, match=message):
        PREPARATION.prepare(image)
