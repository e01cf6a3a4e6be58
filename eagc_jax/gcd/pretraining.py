"""Teaches a backbone without labels, by recognising an image's other view.

    python -m eagc_jax.gcd.pretraining --output eagc_jax/gcd/weights/digits_vit.npz

made the backbone for digits that comes with this package (when the model's last block
computed all tokens: today's rounding differs, and with it the result, bit for bit). With
`--dataset`, a shorter recipe teaches a backbone for any data set of
`eagc_jax.gcd.data.LOADERS`. The method is SimCLR's: two random views per image, a
projection, InfoNCE. No label is read at any point.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from eagc_jax.gcd import data, losses
from eagc_jax.gcd.checkpoints import save_backbone
from eagc_jax.gcd.heads import Projector
from eagc_jax.gcd.models import VisionTransformer, ViTConfig

# Patches of 2 x 2 pixels: 16 of them; a quarter of the cost of single pixels.
DIGITS_VIT = ViTConfig(
    image_size=8, patch_size=2, channels=1, width=64, depth=4, heads=4, mlp_ratio=2
)


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """How the backbone is taught.

    Raises:
      ValueError: a number is out of its range.
    """

    epochs: int = 200  # passes over the images
    batch_size: int = 256  # images per step, two views each
    learning_rate: float = 1e-3  # AdamW's peak; linear warm-up, then cosine to 0
    warmup_epochs: int = 5
    weight_decay: float = 0.05
    temperature: float = 0.2  # of InfoNCE
    projection: int = 64  # features that are compared; thrown away afterwards
    hidden: int = 256  # units of the projector
    augmentation: data.Augmentation = dataclasses.field(
        default_factory=data.Augmentation
    )
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"epochs must exceed warmup_epochs, got {self.epochs} and "
                f"{self.warmup_epochs}"
            )
        for name in ("batch_size", "learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


# 16 patches again, so that an image costs what a digit costs.
VIT_28 = ViTConfig(
    image_size=28, patch_size=7, channels=1, width=64, depth=4, heads=4, mlp_ratio=2
)

# For a table of many seeds: 900 to 1,900 steps each, where the backbone that comes along
# took 1,400 of four times the batch. MNIST's was carried over from digits, untried.
_SHORT = PretrainConfig(batch_size=64, learning_rate=2e-3)
_DIGITS = dataclasses.replace(_SHORT, epochs=50, warmup_epochs=3)
_CHARACTERS = dataclasses.replace(
    _SHORT,
    epochs=45,
    warmup_epochs=4,
    augmentation=data.Augmentation(shift=0.1),
)
_CLOTHES = dataclasses.replace(
    _SHORT,
    epochs=6,
    warmup_epochs=1,
    temperature=0.5,
    augmentation=data.Augmentation(
        rotation=8.0, zoom=0.2, shear=0.1, shift=0.07, contrast=0.4, flip=0.5
    ),
)
_RECIPES = {
    "digits": (DIGITS_VIT, _DIGITS),
    "fashion-mnist": (VIT_28, _CLOTHES),
    "mnist": (VIT_28, dataclasses.replace(_DIGITS, epochs=10, warmup_epochs=1)),
    "omniglot": (VIT_28, _CHARACTERS),
}


def recipe(dataset: str) -> tuple[ViTConfig, PretrainConfig]:
    """A backbone's shape and how it is taught, for one data set.

    Settings were compared by the known classes' labeled images alone: nearest class
    mean and five nearest neighbours from one half to the other, and k-means on all.

    Args:
      dataset: a key of `eagc_jax.gcd.data.LOADERS`.

    Returns:
      The shape and the settings; use `dataclasses.replace` for another seed.

    Raises:
      ValueError: there is no recipe of that name.

    Examples:
      >>> vit, config = recipe("omniglot")
      >>> vit.num_patches
      16
    """
    if dataset not in _RECIPES:
        raise ValueError(
            f"dataset must be one of {', '.join(_RECIPES)}, got {dataset!r}"
        )
    return _RECIPES[dataset]


class _Pupil(nnx.Module):
    """The backbone and the projector that is dropped after pretraining."""

    def __init__(self, vit: ViTConfig, config: PretrainConfig):
        rngs = nnx.Rngs(config.seed)
        self.backbone = VisionTransformer(vit, rngs=rngs)
        self.projector = Projector(
            vit.width, config.hidden, config.projection, rngs=rngs
        )


def pretrain(
    images: jax.Array,
    vit: ViTConfig,
    config: PretrainConfig,
    on_epoch: Callable[[int, float], None] | None = None,
) -> VisionTransformer:
    """Pretrains a backbone on images alone.

    Args:
      images: (N, H, W, C) floats in [0, 1], N >= batch_size.
      vit: shape of the backbone.
      config: how it is taught.
      on_epoch: called after each epoch with its number (1, 2, ...) and mean loss.

    Returns:
      The backbone.

    Raises:
      ValueError: there are fewer images than one batch needs.

    References:
      Chen et al., "A Simple Framework for Contrastive Learning of Visual
      Representations" (SimCLR), ICML 2020.
    """
    images = jnp.asarray(images)
    steps = len(images) // config.batch_size
    if steps == 0:
        raise ValueError(
            f"images must number at least batch_size = {config.batch_size}, "
            f"got {len(images)}"
        )
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup_epochs * steps,
        config.epochs * steps,
    )
    optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
    graphdef, params = nnx.split(_Pupil(vit, config))

    @jax.jit
    def run_epoch(carry, key):
        order_key, view_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(images))
        batches = order[: steps * config.batch_size].reshape(steps, -1)

        def step(carry, inputs):
            params, opt_state = carry
            indices, key = inputs
            views = data.two_views(key, images[indices], config.augmentation)

            def loss_fn(params):
                pupil = nnx.merge(graphdef, params)
                projections = pupil.projector(pupil.backbone(views))
                return losses.info_nce(projections, temperature=config.temperature)

            loss, gradients = jax.value_and_grad(loss_fn)(params)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        keys = jax.random.split(view_key, steps)
        carry, epoch_losses = jax.lax.scan(step, carry, (batches, keys))
        return carry, epoch_losses.mean()

    carry = params, optimizer.init(params)
    key = jax.random.key(config.seed)
    for epoch in range(config.epochs):
        carry, loss = run_epoch(carry, jax.random.fold_in(key, epoch))
        if on_epoch is not None:
            on_epoch(epoch + 1, float(loss))
    return nnx.merge(graphdef, carry[0]).backbone


def main(arguments: list[str] | None = None) -> None:
    """Pretrains a backbone and writes it; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument(
        "--dataset",
        choices=sorted(_RECIPES),
        help="data set and its recipe; without it, the backbone that comes along",
    )
    parser.add_argument("--data", help="file or folder of the data set")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    name = options.dataset or "digits"
    if options.data is not None and name == "digits":
        parser.error("--data: digits come with scikit-learn, from no file")
    vit, config = recipe(name) if options.dataset else (DIGITS_VIT, PretrainConfig())
    config = dataclasses.replace(
        config, epochs=options.epochs or config.epochs, seed=options.seed
    )
    try:
        dataset = data.LOADERS[name](**({"path": options.data} if options.data else {}))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    every = max(1, config.epochs // 20)

    def show(epoch: int, loss: float) -> None:
        if epoch % every == 0 or epoch == config.epochs:
            print(
                f"epoch {epoch:3d} of {config.epochs}: InfoNCE {loss:.3f}", flush=True
            )

    backbone = pretrain(jnp.asarray(dataset.images), vit, config, show)
    save_backbone(options.output, backbone)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
