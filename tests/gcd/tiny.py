"""A problem of 96 digits and a ViT of width 8, for tests that train."""

import numpy as np

from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones import vit as models
from eagc_jax.gcd.methods import SimGCD
from eagc_jax.gcd.training.aggregation import Aggregation
from eagc_jax.gcd.training.settings import TrainConfig

CONFIG = TrainConfig(epochs=3, batch_size=32, log_every=2)
METHOD = SimGCD(head_hidden=8, head_projection=6, teacher_warmup_epochs=2)
VIT = models.ViTConfig(
    image_size=8, patch_size=4, channels=1, width=8, depth=2, heads=2, mlp_ratio=1
)


def plain_sum():
    """The plain sum, always the same object; importing this asks JAX for nothing."""
    return Aggregation("sum").build(METHOD.objective_weights)


def digits(change=None):
    """96 of them with their true classes, as yet not posed; `change` alters these."""
    whole = sources.load("digits")
    truth = np.array(whole.class_names).astype(int)[whole.truth[:96]]
    if change is not None:
        truth = change(truth)
    images = sources.ArrayItems(whole.items.array[:96])
    names = tuple("0123456789")
    ids = sources.RowNumbers(96)
    return sources.fully_labeled("digits", "image", images, ids, truth, names)
