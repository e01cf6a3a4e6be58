"""A picture of any size to the square that a network takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_LONGEST_SIDE = 8  # times the shorter one; what is beyond would be cropped anyway


@dataclasses.dataclass(frozen=True)
class ImagePreparation:
    """How pictures become a network's input: resized, cropped, normalised.

    `prepare` resizes the shorter side to `resize_to` (bicubic, antialiased) and cuts out
    the centre; `normalize` makes (x - mean) / std of it in the network's forward pass,
    with x in [0, 1], so that bytes stay bytes until then.

    Args:
      image_size: height and width of the result, pixels.
      channels: 3, or 1 for gray.
      resize_to: pixels of the shorter side before the centre is cut out; None for
        `image_size`.
      mean: per channel, of pictures in [0, 1]; with `std`, or None for neither.
      std: per channel.

    Examples:
      >>> preparation = ImagePreparation(image_size=8, resize_to=9)
      >>> preparation.prepare(np.zeros((40, 30, 1), np.uint8)).shape
      (8, 8, 3)
    """

    image_size: int
    channels: int = 3
    resize_to: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def describe(self) -> str:
        """All of it as text."""
        text = f"bicubic to {self.resize_to or self.image_size}, centre "
        text += f"{self.image_size}, {self.channels} channels"
        return text if self.mean is None else f"{text}, mean {self.mean} std {self.std}"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 1 or 3), uint8 or float in [0, 1], to (size, size, channels).

        Floats of the right size are taken as they are. Others are rounded to bytes.

        Raises:
          ValueError: another shape or dtype.
        """
        image = np.asarray(image)
        image = image[..., None] if image.ndim == 2 else image
        floating = np.issubdtype(image.dtype, np.floating)
        if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
            raise ValueError(
                f"an image must have shape (H, W, 1 or 3), got {image.shape}"
            )
        if not floating and image.dtype != np.uint8:
            raise ValueError(f"an image must be uint8 or float, got {image.dtype}")
        if floating and image.shape == (
            self.image_size,
            self.image_size,
            self.channels,
        ):
            return image
        if floating:
            image = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
        return self._square(image)

    def collate(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Squares to (N, size, size, channels); in [0, 1] if one of them is."""
        if len({one.dtype for one in prepared}) > 1:
            prepared = [_unit(one) for one in prepared]
        return np.stack(prepared)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Bytes, or floats in [0, 1], to what the network sees."""
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        if self.mean is None or self.std is None:
            return images
        mean, std = (jnp.array(value, jnp.float32) for value in (self.mean, self.std))
        return (images - mean) / std

    def check(self, images: jax.Array) -> None:
        """Raises ValueError unless they are (N, size, size, channels)."""
        size, channels = self.image_size, self.channels
        if images.ndim != 4 or images.shape[1:] != (size, size, channels):
            raise ValueError(
                f"images must have shape (B, {size}, {size}, {channels}), "
                f"got {images.shape}"
            )

    def _square(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        picture = Image.fromarray(
            _bounded(image).squeeze(axis=2) if image.shape[2] == 1 else _bounded(image)
        )
        picture = picture.convert("RGB" if self.channels == 3 else "L")
        target = self.resize_to or self.image_size
        # The longer side is cut down, not rounded, as torchvision does.
        shorter = min(picture.size)
        width, height = (target * side // shorter for side in picture.size)
        size = (width, height)
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (round((side - self.image_size) / 2) for side in size)
        box = (left, top, left + self.image_size, top + self.image_size)
        square = np.asarray(picture.crop(box))
        return square if self.channels == 3 else square[..., None]


def _unit(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    return image.astype(np.float32)


def _bounded(image: np.ndarray) -> np.ndarray:
    """The middle of a very long picture, that resizing it needs no huge memory."""
    most = _LONGEST_SIDE * min(image.shape[:2])
    cuts = [max(0, side - most) // 2 for side in image.shape[:2]]
    middle = [
        slice(cut, cut + min(side, most))
        for cut, side in zip(cuts, image.shape[:2], strict=True)
    ]
    return image[middle[0], middle[1]]
