"""Random views of images: small affine maps, mirroring, contrast and noise."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a random view of an image may be from the image.

    The defaults suit digits: no flips, which would change what is written. Each amount
    is the largest one drawn, uniformly and to both sides; `flip` is a probability.
    Hashable, so a `jit` may take it as a static argument.

    Raises:
      ValueError: an amount is negative, zoom or contrast is not below 1, or flip is
        above 1.
    """

    rotation: float = 15.0  # degrees
    zoom: float = 0.2  # 0.2: between 0.8 and 1.2 times the size, each side its own
    shear: float = 0.2  # horizontal shift per row, in rows
    shift: float = 0.125  # of the image's side, each direction
    contrast: float = 0.2  # 0.2: brightness times 0.8 to 1.2, clipped to [0, 1]
    noise: float = 0.0  # standard deviation of Gaussian noise on each pixel
    flip: float = 0.0  # share of views that are mirrored, left to right

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must not be negative")
        for name in ("zoom", "contrast"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")
        if self.flip > 1:
            raise ValueError(f"flip must be at most 1, got {self.flip}")


def augment(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """One random view of each image: a small affine map, then contrast and noise.

    Args:
      key: a JAX random key.
      images: (B, H, W, C) floats in [0, 1].
      augmentation: the largest amounts.

    Returns:
      (B, H, W, C) floats in [0, 1].

    Examples:
      >>> images = jnp.ones((2, 8, 8, 1))
      >>> augment(jax.random.key(0), images, Augmentation()).shape
      (2, 8, 8, 1)
    """
    affine_key, contrast_key, noise_key = jax.random.split(key, 3)
    batch, height, width, _ = images.shape
    maps = _random_maps(affine_key, batch, height, width, augmentation)
    if augmentation.flip > 0:  # its own key: a run without flips draws as ever
        flipped = jax.random.bernoulli(
            jax.random.fold_in(key, 3), augmentation.flip, (batch, 1)
        )
        # The view's x axis the other way round, about the centre.
        maps = maps.at[:, :, 1].multiply(jnp.where(flipped, -1.0, 1.0))
    views = jax.vmap(_resample)(images, maps)
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
