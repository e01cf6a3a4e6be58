"""Teaches a backbone without labels, by recognising an image's other view.

    python -m eagc_jax.gcd.pretraining --output eagc_jax/gcd/weights/digits_vit.npz

reproduces the backbone for digits that comes with this package. The recipe is SimCLR's:
two random views per image, a projection, InfoNCE. No label is read at any point.
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
from eagc_jax.gcd.models import Projector, VisionTransformer, ViTConfig

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
    """Pretrains on digits and writes the backbone; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=PretrainConfig.epochs)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    config = PretrainConfig(epochs=options.epochs, seed=options.seed)

    def show(epoch: int, loss: float) -> None:
        if epoch % 10 == 0 or epoch == config.epochs:
            print(
                f"epoch {epoch:3d} of {config.epochs}: InfoNCE {loss:.3f}", flush=True
            )

    backbone = pretrain(
        jnp.asarray(data.load_digits().images), DIGITS_VIT, config, show
    )
    save_backbone(options.output, backbone)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
