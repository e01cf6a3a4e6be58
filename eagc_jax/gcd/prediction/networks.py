"""The backbone that a predictor's features come from: the same one as then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax import nnx

from eagc_jax.gcd import backbones
from eagc_jax.gcd.backbones import Backbone, weights
from eagc_jax.gcd.settings.choices import BackboneSettings
from eagc_jax.gcd.sources.records import Kind
from eagc_jax.gcd.sources.strings import shown

if TYPE_CHECKING:
    from eagc_jax.gcd.prediction.predictor import Predictor


def name_of(kind: Kind, settings: BackboneSettings) -> str:
    """Of the backbone that these settings load for such items."""
    return settings.name or backbones.default_backbone(kind)


def load(predictor: Predictor, network: Backbone | None = None) -> Backbone:
    """See `Predictor.load_backbone`."""
    of = predictor.backbone
    if network is None:
        network = _named(predictor)
    if network.fingerprint() != of.fingerprint:
        raise ValueError(
            f"the backbone should be the discovery's, with fingerprint {of.fingerprint}; "
            f"this one has {network.fingerprint()}: its weights or its settings are "
            "others. Predict with those of then, or discover anew"
        )
    if not predictor.blocks:
        return network
    return _with_blocks(network, predictor)


def _named(predictor: Predictor) -> Backbone:
    of = predictor.backbone
    if of.name == "embeddings":
        return backbones.embeddings(of.width)
    if not of.name:
        raise ValueError(
            "the discovery's backbone was given in Python: give the same one, network=..."
        )
    if of.name not in backbones.names():
        raise ValueError(
            f"the discovery's backbone {shown(of.name)} is not known here; there are "
            f"{', '.join(backbones.names())}"
        )
    settings = of.settings
    return backbones.load(
        of.name,
        settings.weights,
        compute_dtype=settings.compute_dtype,
        image_size=settings.image_size,
    )


def _with_blocks(network: Backbone, predictor: Predictor) -> Backbone:
    """A copy of it, with the blocks that were trained."""
    if not isinstance(network, nnx.Module):
        raise ValueError("the backbone has no blocks, but the model has trained some")
    expected = weights.parameters(network)
    for name, value in predictor.blocks.items():
        if name not in expected or expected[name].shape != value.shape:
            found = expected[name].shape if name in expected else "nothing"
            raise ValueError(
                f"the model's block parameter {shown(name)} of shape {value.shape} does "
                f"not fit the backbone, which has {found} there"
            )
    copy = nnx.clone(network)  # with variables of its own
    weights.put(copy, predictor.blocks)
    return copy
