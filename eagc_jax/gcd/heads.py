"""SimGCD's heads on a backbone's feature, in Flax NNX."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from eagc_jax.gcd.layers import gelu, linear


class CosineClassifier(nnx.Module):
    """One unit-length prototype per class: logits are cosines, in [-1, 1].

    A weight-normalised linear layer without bias whose length is fixed at 1.
    """

    def __init__(self, inputs: int, num_classes: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(1.0)  # directions matter, lengths do not
        self.kernel: nnx.Param[jax.Array] = nnx.Param(
            init(rngs.params(), (inputs, num_classes))
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """(B, inputs) to (B, num_classes)."""
        return _unit(features, 1) @ _unit(self.kernel[...], 0)


class Projector(nnx.Module):
    """Three layers with the exact GELU between, for the contrastive objectives."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        sizes = (inputs, hidden, hidden, outputs)
        self.layers: nnx.List[nnx.Linear] = nnx.List(
            [linear(a, b, rngs) for a, b in itertools.pairwise(sizes)]
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """(B, inputs) to (B, outputs)."""
        for layer in self.layers[:-1]:
            features = gelu(layer(features))
        return self.layers[-1](features)


class SimGCDHead(nnx.Module):
    """Projections for the contrastive objectives, logits for the classifying ones.

    Both read the backbone's feature: the classifier does not sit on the projection.

    Args:
      inputs: features of the backbone.
      num_classes: known plus novel classes.
      hidden: units of the projector's two hidden layers.
      projection: features of the projection.
      extra_layer: put `Linear(inputs, inputs)` and ReLU in front of both heads, as the
        released EAGC does.
      rngs: stream `params` initialises the weights.

    Examples:
      >>> def outputs(features):
      ...     head = SimGCDHead(16, 10, hidden=32, projection=8, rngs=nnx.Rngs(0))
      ...     return head(features)
      >>> projections, logits = nnx.eval_shape(outputs, jnp.ones((4, 16)))
      >>> projections.shape, logits.shape
      ((4, 8), (4, 10))

    References:
      Wen, Zhao and Qi, "Parametric Classification for Generalized Category Discovery:
      A Baseline Study", ICCV 2023.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        *,
        hidden: int = 2048,
        projection: int = 256,
        extra_layer: bool = False,
        rngs: nnx.Rngs,
    ):
        self.extra: nnx.Linear | None = (
            linear(inputs, inputs, rngs) if extra_layer else None
        )
        self.projector: Projector = Projector(inputs, hidden, projection, rngs=rngs)
        self.classifier: CosineClassifier = CosineClassifier(
            inputs, num_classes, rngs=rngs
        )

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(B, inputs) features to (B, projection) and (B, num_classes) logits."""
        if self.extra is not None:
            features = jax.nn.relu(self.extra(features))
        return self.projector(features), self.classifier(features)


def with_prototypes(
    head: nnx.Module, classifier: CosineClassifier, centres: jax.Array
) -> nnx.Module:
    """Gives a classifier of a head, in place, (K, inputs) centres for prototypes."""
    kernel = classifier.kernel
    classifier.kernel = nnx.Param(jnp.asarray(centres.T, kernel[...].dtype))
    return head


def _unit(x: jax.Array, axis: int) -> jax.Array:
    squared = jnp.sum(x**2, axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
