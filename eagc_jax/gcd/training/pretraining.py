"""Teaches a backbone without labels, by recognising an image's other view.

    python -m eagc_jax.gcd.training.pretraining --output digits_vit.npz

made the backbone for digits that comes with this package (when the model's last block
computed all tokens: today's rounding differs, and with it the result, bit for bit). With
`--dataset`, a shorter recipe teaches a backbone for some data sets of
`eagc_jax.gcd.sources`. The method is SimCLR's: two random views per image, a
projection, InfoNCE. No label is read at any point.
"""

import argparse
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from eagc_jax.gcd import losses, sources
from eagc_jax.gcd.backbones.checkpoints import save_backbone
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.heads import Projector
from eagc_jax.gcd.training.augmentation import Augmentation, two_views
from eagc_jax.gcd.training.chunks import steps_at_once
from eagc_jax.gcd.training.inputs import images_of, in_unit_range
from eagc_jax.typing import OptState, Params

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
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
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
    augmentation=Augmentation(shift=0.1),
)
_CLOTHES = dataclasses.replace(
    _SHORT,
    epochs=6,
    warmup_epochs=1,
    temperature=0.5,
    augmentation=Augmentation(
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
      dataset: the name of a data set of `eagc_jax.gcd.sources`.

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


_STEPS_OF_A_CALL = 10


class _Pupil(nnx.Module):
    """The backbone and the projector that is dropped after pretraining."""

    def __init__(self, vit: ViTConfig, config: PretrainConfig):
        rngs = nnx.Rngs(config.seed)
        self.backbone = VisionTransformer(vit, rngs=rngs)
        self.projector = Projector(
            vit.width, config.hidden, config.projection, rngs=rngs
        )


def pretrain(
    images: ArrayLike,
    vit: ViTConfig,
    config: PretrainConfig,
    on_epoch: Callable[[int, float], None] | None = None,
    *,
    seconds: float | None = None,
) -> VisionTransformer:
    """Pretrains a backbone on images alone.

    Args:
      images: (N, H, W, C) floats in [0, 1] or uint8, N >= batch_size, in memory or
        memory-mapped; a few steps' images are on the device at a time.
      vit: shape of the backbone.
      config: how it is taught.
      on_epoch: called after each epoch with its number (1, 2, ...) and mean loss; after
        the last one, too, if the time ended in the middle of it.
      seconds: train for about so long, compilation aside, and `config.epochs` at most.
        The learning rate warms up and falls to 0 within that time, so how far it gets,
        and the result, depend on the machine. None for all epochs.

    Returns:
      The backbone.

    Raises:
      ValueError: there are fewer images than one batch needs, or no time.

    References:
      Chen et al., "A Simple Framework for Contrastive Learning of Visual
      Representations" (SimCLR), ICML 2020.
    """
    images = np.asanyarray(images)
    steps = len(images) // config.batch_size
    if steps == 0:
        raise ValueError(
            f"images must number at least batch_size = {config.batch_size}, "
            f"got {len(images)}"
        )
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    # Looking at the clock needs calls that are short; an epoch is one otherwise, or as
    # much of it as memory should hold.
    size = steps_at_once(config.batch_size * images[:1].nbytes, steps)
    size = size if seconds is None else min(size, _STEPS_OF_A_CALL)
    steps = steps // size * size
    graphdef, params = nnx.split(_Pupil(vit, config))
    carry = params, _optimizer(config).init(params)
    run = _compiled(graphdef, config, carry, images, size)
    progress = _Progress(config, steps, seconds)
    key = jax.random.key(config.seed)
    for epoch in range(config.epochs):
        batches, keys = _draw(
            jax.random.fold_in(key, epoch), len(images), steps, config.batch_size
        )
        batches = np.asarray(batches)
        losses_seen = []
        for start in range(0, steps, size):
            part = slice(start, start + size)
            rates = progress.learning_rates(size)
            carry, loss = run(carry, images[batches[part]], keys[part], rates)
            losses_seen.append(float(loss))  # waits for it
            if progress.is_over():
                break
        if on_epoch is not None:
            on_epoch(epoch + 1, sum(losses_seen) / len(losses_seen))
        if progress.is_over():
            break
    return nnx.merge(graphdef, carry[0]).backbone


class _Progress:
    """How much of a lesson is over, in [0, 1], and the learning rates that follow."""

    def __init__(self, config: PretrainConfig, steps: int, seconds: float | None):
        self._config, self._seconds = config, seconds
        self._total, self._done = config.epochs * steps, 0
        self._start = time.perf_counter()
        self._share = 1 / self._total  # of a step; measured where time is short

    def learning_rates(self, number: int) -> np.ndarray:
        """(number,) float32, of the next steps."""
        begun = self._passed()
        shares = begun + self._share * np.arange(number)
        self._done += number
        return _learning_rate(self._config, shares).astype(np.float32)

    def is_over(self) -> bool:
        """After a call of steps: measures how long they took."""
        return self._passed() >= 1

    def _passed(self) -> float:
        share = self._done / self._total
        if self._seconds is None:
            return share
        passed = (time.perf_counter() - self._start) / self._seconds
        if self._done:
            self._share = max(passed / self._done, 1 / self._total)
        return max(share, passed)


def _learning_rate(config: PretrainConfig, progress: np.ndarray) -> np.ndarray:
    """Linear warm-up from 0, then half a cosine to 0."""
    warmup = config.warmup_epochs / config.epochs
    rest = np.clip((progress - warmup) / (1 - warmup), 0, 1)
    falling = (1 + np.cos(np.pi * rest)) / 2
    rising = progress / warmup if warmup else np.ones_like(progress)
    return config.learning_rate * np.where(progress < warmup, rising, falling)


def _optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    """AdamW but for the learning rate, which each step is given."""
    return optax.chain(
        optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay)
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(key, number, steps, batch_size):
    """An epoch's batches (steps, B) and the keys of their views."""
    order_key, view_key = jax.random.split(key)
    order = jax.random.permutation(order_key, number)[: steps * batch_size]
    return order.reshape(steps, batch_size), jax.random.split(view_key, steps)


def _compiled(
    graphdef: nnx.GraphDef[_Pupil],
    config: PretrainConfig,
    carry: tuple[Params, OptState],
    images: np.ndarray,
    size: int,
) -> jax.stages.Compiled:
    """`size` training steps as one program, compiled before the clock is started."""
    optimizer = _optimizer(config)

    def step(carry, inputs):
        params, opt_state = carry
        images, key, rate = inputs
        views = two_views(key, in_unit_range(images), config.augmentation)

        def loss_fn(params):
            pupil = nnx.merge(graphdef, params)
            projections = pupil.projector(pupil.backbone(views))
            return losses.info_nce(projections, temperature=config.temperature)

        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        updates = jax.tree.map(lambda leaf: -rate * leaf, updates)
        return (optax.apply_updates(params, updates), opt_state), loss

    @functools.partial(jax.jit, donate_argnums=0)
    def run(carry, images, keys, rates):
        carry, seen = jax.lax.scan(step, carry, (images, keys, rates))
        return carry, seen.mean()

    keys = jax.random.split(jax.random.key(0), size)
    chosen = (size, config.batch_size, *images.shape[1:])
    batches = jax.ShapeDtypeStruct(chosen, images.dtype)
    rates = jax.ShapeDtypeStruct((size,), jnp.float32)
    return run.lower(carry, batches, keys, rates).compile()


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
    parser.add_argument(
        "--minutes", type=float, help="at most; the recipe's epochs too"
    )
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
        images = images_of(sources.load(name, options.data))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    every = max(1, config.epochs // 20)

    def show(epoch: int, loss: float) -> None:
        if epoch % every == 0 or epoch == config.epochs or options.minutes is not None:
            print(
                f"epoch {epoch:3d} of {config.epochs}: InfoNCE {loss:.3f}", flush=True
            )

    seconds = None if options.minutes is None else 60 * options.minutes
    backbone = pretrain(images, vit, config, show, seconds=seconds)
    save_backbone(options.output, backbone)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
