"""Random views of images: crops, small affine maps, mirroring, colours and noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

_WIDEST = 4 / 3  # of a crop, width to height
# NTSC's brightness, and two axes of colour.
_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]],
    np.float32,
)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a random view of an image may be from the image.

    The defaults suit digits: no flips, which would change what is written. Each amount
    is the largest one drawn, uniformly and to both sides; `flip` and `gray` are
    probabilities. Photographs of things want `crop`, `flip` and the colours instead of
    the small affine maps. Hashable, so a `jit` may take it as a static argument.

    Raises:
      ValueError: an amount is negative; zoom, contrast or crop is not below 1; or flip,
        gray, saturation or hue is above 1.
    """

    rotation: float = 15.0  # degrees
    zoom: float = 0.2  # 0.2: between 0.8 and 1.2 times the size, each side its own
    shear: float = 0.2  # horizontal shift per row, in rows
    shift: float = 0.125  # of the image's side, each direction
    contrast: float = 0.2  # 0.2: brightness times 0.8 to 1.2, clipped to [0, 1]
    noise: float = 0.0  # standard deviation of Gaussian noise on each pixel
    flip: float = 0.0  # share of views that are mirrored, left to right
    crop: float = 0.0  # 0.8: a part of 0.2 to 1 of the area, its sides 3:4 to 4:3
    saturation: float = 0.0  # 0.4: distance from gray times 0.6 to 1.4
    hue: float = 0.0  # turns of the colour circle: 0.1 is 36 degrees
    gray: float = 0.0  # share of views without colour

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must not be negative")
        for name in ("zoom", "contrast", "crop"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")
        for name in ("flip", "gray", "saturation", "hue"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, got {getattr(self, name)}")

    @property
    def changes_colours(self) -> bool:
        """Whether views differ in more than brightness."""
        return max(self.saturation, self.hue, self.gray) > 0


def augment(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """One random view of each image: an affine map, colours, then contrast and noise.

    Args:
      key: a JAX random key.
      images: (B, H, W, C) floats in [0, 1]; C = 3 where colours change.
      augmentation: the largest amounts.

    Returns:
      (B, H, W, C) floats in [0, 1].

    Raises:
      ValueError: colours should change of images that have not three channels.

    Examples:
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> augment(jax.random.key(0), images, Augmentation()).shape
      (2, 8, 8, 1)
    """
    affine_key, contrast_key, noise_key = jax.random.split(key, 3)
    batch, height, width, channels = images.shape
    if augmentation.changes_colours and channels != 3:
        raise ValueError(
            "saturation, hue and gray need images (B, H, W, 3), got shape "
            f"{images.shape}"
        )
    maps = _random_maps(affine_key, batch, height, width, augmentation)
    if augmentation.crop > 0:  # its own key, as below
        maps = _cropped(jax.random.fold_in(key, 4), maps, height, width, augmentation)
    if augmentation.flip > 0:  # its own key: a run without flips draws as ever
        flipped = jax.random.bernoulli(
            jax.random.fold_in(key, 3), augmentation.flip, (batch, 1)
        )
        # The view's x axis the other way round, about the centre.
        maps = maps.at[:, :, 1].multiply(jnp.where(flipped, -1.0, 1.0))
    views = jax.vmap(_resample)(images, maps)
    if augmentation.changes_colours:
        mix = _random_colours(jax.random.fold_in(key, 5), batch, augmentation)
        views = jnp.einsum("bhwc,bdc->bhwd", views, mix)
    factor = 1 + augmentation.contrast * _symmetric(contrast_key, (batch, 1, 1, 1))
    noise = augmentation.noise * jax.random.normal(noise_key, views.shape)
    return jnp.clip(views * factor + noise, 0, 1)


def two_views(
    key: jax.Array, images: jax.Array, augmentation: Augmentation
) -> jax.Array:
    """Two independent views of B images: rows 0..B-1 view 1, rows B..2B-1 view 2."""
    return augment(key, jnp.concatenate([images, images]), augmentation)


def _random_maps(
    key: jax.Array, batch: int, height: int, width: int, amounts: Augmentation
) -> jax.Array:
    """(B, 2, 3) matrices: where in the image (y, x, 1) of the view is taken from."""
    drawn = _symmetric(key, (6, batch))
    angle = jnp.deg2rad(amounts.rotation) * drawn[0]
    zoom_y, zoom_x = 1 + amounts.zoom * drawn[1:3]
    shear = amounts.shear * drawn[3]
    cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros(batch)
    rotation = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    skew = jnp.stack([jnp.stack([zoom_y, zero]), jnp.stack([shear, zoom_x])])
    linear = jnp.einsum("ijb,jkb->bik", rotation, skew)
    shift = amounts.shift * drawn[4:6].T * jnp.array([height, width])
    return jnp.concatenate([linear, shift[..., None]], axis=2)


def _cropped(
    key: jax.Array, maps: jax.Array, height: int, width: int, amounts: Augmentation
) -> jax.Array:
    """Maps whose view is a part of the image: its size first, then where it lies."""
    drawn = _symmetric(key, (4, len(maps)))
    area = 1 - amounts.crop * (drawn[0] + 1) / 2
    aspect = _WIDEST ** drawn[1]
    sides = jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=1))
    sides = jnp.minimum(sides, 1.0)
    # Pixels of the view are looked up between the image's outermost pixels, not beyond.
    room = (1 - sides) * (jnp.array([height, width]) - 1) / 2
    linear = maps[:, :, :2] * sides[:, None]
    shift = maps[:, :, 2] + room * drawn[2:4].T
    return jnp.concatenate([linear, shift[..., None]], axis=2)


def _random_colours(key: jax.Array, batch: int, amounts: Augmentation) -> jax.Array:
    """(B, 3, 3): brightness stays, colours are turned around it and scaled."""
    gray_key, colour_key = jax.random.split(key)
    drawn = _symmetric(colour_key, (2, batch))
    scale = 1 + amounts.saturation * drawn[0]
    scale = jnp.where(
        jax.random.bernoulli(gray_key, amounts.gray, (batch,)), 0.0, scale
    )
    angle = 2 * jnp.pi * amounts.hue * drawn[1]
    cos, sin, zero = scale * jnp.cos(angle), scale * jnp.sin(angle), jnp.zeros(batch)
    one = jnp.ones(batch)
    turned = jnp.stack(
        [
            jnp.stack([one, zero, zero], axis=1),
            jnp.stack([zero, cos, -sin], axis=1),
            jnp.stack([zero, sin, cos], axis=1),
        ],
        axis=1,
    )
    return jnp.matmul(jnp.matmul(_FROM_YIQ, turned), _TO_YIQ)


def _resample(image: jax.Array, affine: jax.Array) -> jax.Array:
    """Bilinear values of one (H, W, C) image; zero outside of it."""
    height, width, _ = image.shape
    centre = (jnp.array([height, width]) - 1) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"))
    offsets = grid.reshape(2, -1) - centre[:, None]
    source = affine[:, :2] @ offsets + affine[:, 2:] + centre[:, None]

    def one_channel(channel):
        return map_coordinates(channel, list(source), order=1, mode="constant")

    values = jax.vmap(one_channel, in_axes=2, out_axes=1)(image)
    return values.reshape(image.shape)


def _symmetric(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
