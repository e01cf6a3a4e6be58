"""Pretrain a small Vision Transformer on CIFAR-10 without labels, and keep it.

    python -m examples.pretrain_cifar cifar10_jpg_train.zip --output cifar10_vit.npz

The images are a zip file, or a folder, of one JPEG file each, in folders that their
classes name: `train/bird/0338.jpg`. Some of every class are held out. The others teach
the backbone by SimCLR's recipe (eagc_jax.gcd.training.pretraining); labels are read for
one purpose, to say how many of the held-out images have a class that their nearest
neighbours among the others agree with, before any training and after it. The weights are
written as float16, and the second figure is of the file as it is read back.

It is meant for a GPU (`--minutes 20 --compute-dtype bfloat16`). A CPU needs hours; to try
it out: `--minutes 1 --per-class 100 --batch-size 64`.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones.checkpoints import load_backbone, save_backbone
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.training.augmentation import Augmentation
from eagc_jax.gcd.training.pretraining import PretrainConfig, pretrain

# 2.3 million parameters; 64 patches of 4 x 4 pixels.
VIT = ViTConfig(image_size=32, patch_size=4, width=192, depth=6, heads=6, mlp_ratio=3)
# As SimCLR for CIFAR-10: crops, flips and colours, at half their strength.
RECIPE = PretrainConfig(
    epochs=1000,
    batch_size=512,
    learning_rate=1e-3,
    warmup_epochs=20,
    temperature=0.2,
    projection=128,
    hidden=512,
    augmentation=Augmentation(
        rotation=0,
        zoom=0,
        shear=0,
        shift=0,
        contrast=0.4,
        flip=0.5,
        crop=0.8,
        saturation=0.4,
        hue=0.1,
        gray=0.2,
    ),
)
NEIGHBOURS = 20
_CHUNK = 500  # images through the backbone, or compared with all others, at once


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        records = sources.load("cifar10", options.images, per_class=options.per_class)
        images, labels = decoded(records), records.truth
        taught, held_out = split(labels, options.held_out, options.seed)
        config = dataclasses.replace(
            RECIPE, batch_size=options.batch_size, seed=options.seed
        )
    except (OSError, ValueError) as error:
        print(f"pretrain_cifar: {error}", file=sys.stderr)
        return 2
    vit = dataclasses.replace(VIT, compute_dtype=options.compute_dtype)
    print(
        f"{len(taught)} images to learn from, {len(held_out)} held out; "
        f"{count_parameters(vit) / 1e6:.1f} million parameters"
    )
    accuracy = functools.partial(knn_accuracy, images, labels, taught, held_out)
    before = accuracy(untrained(vit, options.seed))
    print(f"{NEIGHBOURS} nearest neighbours, before: {before:.3f}", flush=True)

    def show(epoch: int, loss: float) -> None:
        print(f"epoch {epoch}: InfoNCE {loss:.3f}", flush=True)

    lesson = jnp.asarray(images[taught])
    try:
        backbone = pretrain(lesson, vit, config, show, seconds=60 * options.minutes)
    except ValueError as error:
        print(f"pretrain_cifar: {error}", file=sys.stderr)
        return 2
    save_backbone(options.output, backbone, half=True)
    size = options.output.stat().st_size / 1e6
    print(f"wrote {options.output} ({size:.1f} MB)")
    kept = load_backbone(options.output, compute_dtype=options.compute_dtype)
    print(f"{NEIGHBOURS} nearest neighbours, after: {accuracy(kept):.3f}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("images", type=pathlib.Path, help="zip file or folder")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="npz file")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--batch-size", type=int, default=RECIPE.batch_size)
    parser.add_argument(
        "--compute-dtype", choices=("float32", "bfloat16"), default="float32"
    )
    parser.add_argument(
        "--held-out", type=float, default=0.1, help="share of every class"
    )
    parser.add_argument("--per-class", type=int, help="read this many of each class")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def decoded(records: sources.Records) -> np.ndarray:
    """(N, 32, 32, 3) float32 in [0, 1]; all of them, as pretraining sees each often."""
    images = np.stack([records.items[row] for row in range(len(records))])
    return images.astype(np.float32) / 255


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to learn from, and of the same share of every class."""
    random = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out.append(members[: round(share * len(members))])
        if not 0 < len(held_out[-1]) < len(members):
            raise ValueError(
                f"--held-out {share} of {len(members)} images of a class must leave "
                "some on either side"
            )
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def untrained(vit: ViTConfig, seed: int) -> VisionTransformer:
    """What `pretrain` starts from."""
    return nnx.jit(lambda: VisionTransformer(vit, rngs=nnx.Rngs(seed)))()


def count_parameters(vit: ViTConfig) -> int:
    state = nnx.state(nnx.eval_shape(lambda: VisionTransformer(vit, rngs=nnx.Rngs(0))))
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def knn_accuracy(
    images: np.ndarray,
    classes: np.ndarray,
    taught: np.ndarray,
    held_out: np.ndarray,
    backbone: VisionTransformer,
) -> float:
    """Share of held-out images whose class their neighbours' votes name.

    Neighbours are those of the largest cosine between features. Each votes for its class
    with exp(cosine / 0.07), as is usual for features that were learned without labels
    (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018).
    """
    known, asked = (features(backbone, images[chosen]) for chosen in (taught, held_out))
    labels = jnp.asarray(classes[taught])
    number, width = min(NEIGHBOURS, len(taught)), int(classes.max()) + 1
    found = [
        np.asarray(_vote(asked[at : at + _CHUNK], known, labels, number, width))
        for at in range(0, len(asked), _CHUNK)
    ]
    return float(np.mean(np.concatenate(found) == classes[held_out]))


def features(backbone: VisionTransformer, images: np.ndarray) -> jax.Array:
    """(N, width), of length 1."""
    padding = -len(images) % _CHUNK if len(images) > _CHUNK else 0
    padded = np.concatenate([images, np.zeros_like(images[:padding])])
    parts = [
        _forward(backbone, padded[at : at + _CHUNK])
        for at in range(0, len(padded), _CHUNK)
    ]
    found = jnp.concatenate(parts)[: len(images)]
    return found / jnp.linalg.norm(found, axis=1, keepdims=True)


@nnx.jit
def _forward(backbone, images):
    return backbone(images)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _vote(asked, known, labels, number, classes):
    cosines = jnp.matmul(asked, known.T, precision=jax.lax.Precision.HIGHEST)
    nearest, places = jax.lax.top_k(cosines, number)
    votes = jax.nn.one_hot(labels[places], classes) * jnp.exp(nearest / 0.07)[..., None]
    return votes.sum(axis=1).argmax(axis=1)


if __name__ == "__main__":
    sys.exit(main())
