"""Two phases in models with taps: Gram matrices straight from the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.gradients._common import (
    Weighting,
    as_vector,
    check_differentiable,
    weights_of,
)
from eagc_jax.gradients.taps import ExampleProbe
from eagc_jax.typing import Inputs, Params, PyTree, Updates


def tapped_two_phase(
    losses_fn: Callable[..., PyTree], weighting: Weighting, *, has_aux: bool = False
) -> Callable[..., tuple[PyTree, Updates, jax.Array]]:
    r"""Like :func:`~eagc_jax.gradients.two_phase`, the Gram matrix from taps.

    :math:`G = \sum_{l} J_l J_l^\top` over the tapped layers l, each product made when
    the backward pass reaches the layer. No gradient outlives its layer, in a model that
    scans over layers too, and under ``jax.checkpoint``. Work: (3 + 2K) / 3 of the summed
    loss's. Memory: that of the summed loss, and of K gradients one layer's.

    An opt-in: G is exact when every trained parameter passes :func:`tap` exactly once.
    Compare it with :func:`~eagc_jax.gradients.value_and_gram` once for a new model.
    Under ``shard_map``, sum cotangents over devices before a tap sees them.

    Args:
      losses_fn: ``losses_fn(params, probe, *args)``, which calls ``tap(weights, probe)``
        where weights are used, and returns K losses as in
        :func:`~eagc_jax.gradients.value_and_grads`. It must work with None for a probe.
      weighting: a pure function from a ``(K, K)`` Gram matrix to ``(K,)`` weights.
      has_aux: whether ``losses_fn`` returns auxiliary data besides.

    Returns:
      A function ``(params, *args)`` that returns (losses, gradient, weights), or
      ((losses, aux), gradient, weights); the gradient is like ``params``.

    Raises:
      ValueError: losses that are not K scalars, a weighting that doesn't return K
        weights, or taps inside a ``jax.vmap`` of the model's own.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.gradients import tap, tapped_two_phase
      >>> def losses_fn(layers, probe, x):
      ...   def body(x, layer):
      ...     layer = tap(layer, probe)
      ...     return jnp.tanh(x @ layer["kernel"] + layer["bias"]), None
      ...   z, _ = jax.lax.scan(body, x, layers)
      ...   return jnp.mean(z**2), jnp.mean(jnp.cos(z))
      >>> layers = {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.zeros((3, 2))}
      >>> step = tapped_two_phase(losses_fn, lambda gram: 1 / jnp.diagonal(gram))
      >>> losses, gradient, weights = jax.jit(step)(layers, jnp.ones((5, 2)))
      >>> gradient["kernel"].shape, weights.shape
      ((3, 2, 2), (2,))
    """

    def wrapped(params: Params, *args: Inputs) -> tuple[PyTree, Updates, jax.Array]:
        number, dtype = _number(losses_fn, has_aux, params, args)
        probe = jnp.zeros((number,), dtype)
        vector, pullback, out = _pull_back(losses_fn, has_aux, params, probe, args)
        eye = jnp.zeros_like(vector)[None] + jnp.eye(number, dtype=vector.dtype)
        gram = jax.vmap(lambda unit: pullback(unit)[1])(eye)
        weights = weights_of(weighting, gram)
        return out, pullback(weights.astype(vector.dtype))[0], weights

    return wrapped


def tapped_grams(
    losses_fn: Callable[..., PyTree], layers: PyTree = (), *, has_aux: bool = False
) -> Callable[..., tuple[PyTree, PyTree]]:
    r"""Gram matrices from taps: of all tapped parameters together, or layer by layer.

    :math:`G_{l,ij} = \langle \nabla_{\theta_l} L_i, \nabla_{\theta_l} L_j \rangle`.

    Args:
      losses_fn: ``losses_fn(params, probe, *args)`` as in :func:`tapped_two_phase`.
        ``probe`` has the form of ``layers``; parameters that get one entry of it count
        as one block.
      layers: a tree whose leaves are shapes, tuples of ints: ``()`` for one matrix,
        ``(24,)`` for a probe to scan over with 24 layers, ``{"trunk": (24,), "heads":
        ()}`` for both. The default is one matrix of everything.
      has_aux: whether ``losses_fn`` returns auxiliary data besides.

    Returns:
      A function ``(params, *args)`` that returns (losses, Gram matrices), or ((losses,
      aux), Gram matrices): in the form of ``layers``, each ``(*shape, K, K)``.

    Raises:
      ValueError: losses that are not K scalars, or a leaf of ``layers`` that isn't a
        shape.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.gradients import tap, tapped_grams
      >>> def losses_fn(params, probe, x):
      ...   probe = probe or {"a": None, "b": None}
      ...   a, b = (tap(params[name], probe[name]) for name in "ab")
      ...   return a * x + b, a * b
      >>> fn = tapped_grams(losses_fn, {"a": (), "b": ()})
      >>> losses, grams = fn({"a": jnp.array(2.0), "b": jnp.array(3.0)}, 5.0)
      >>> grams["a"].tolist(), grams["b"].tolist()
      ([[25.0, 15.0], [15.0, 9.0]], [[1.0, 2.0], [2.0, 4.0]])
    """
    for shape in jax.tree.leaves(layers, is_leaf=_is_shape):
        if not _is_shape(shape):
            raise ValueError(
                "layers must be a tree of shapes, tuples of ints such as () or (24,); "
                f"it has the leaf {shape!r}."
            )

    def wrapped(params: Params, *args: Inputs) -> tuple[PyTree, PyTree]:
        number, dtype = _number(losses_fn, has_aux, params, args)
        probe = jax.tree.map(
            lambda shape: jnp.zeros((*shape, number), dtype),
            layers,
            is_leaf=_is_shape,
        )

        def of_probe(probe: PyTree) -> tuple[jax.Array, PyTree]:
            out = losses_fn(params, probe, *args)
            return as_vector(out[0] if has_aux else out), out

        vector, pullback, out = jax.vjp(of_probe, probe, has_aux=True)
        eye = jnp.zeros_like(vector)[None] + jnp.eye(number, dtype=vector.dtype)
        return out, jax.vmap(pullback, out_axes=-2)(eye)[0]

    return wrapped


def per_example_two_phase(
    losses_fn: Callable[..., PyTree], weighting: Weighting, *, has_aux: bool = False
) -> Callable[..., tuple[PyTree, Updates, jax.Array]]:
    r"""One objective per example: the Gram matrix of B gradients, the weighted gradient.

    :math:`G_{bc} = \langle \nabla_\theta L_b, \nabla_\theta L_c \rangle` of the tapped
    layers, :math:`w = w(G)`, :math:`d = \nabla_\theta \sum_b w_b L_b`. The loss of
    example b reads row b alone, so one backward pass of the sum gives every layer the
    cotangents of all examples; :func:`tap_dense` makes a dense layer's part of G of them
    without a gradient of an example; so it does of attention's projections, dense layers
    over a sequence, and :func:`tap_conv` of convolutions. Work: two backward passes, the
    first without gradients of weights, and the products of :func:`dense_gram`.

    Other parameters (scales, embeddings): write the model for one example,
    ``jax.vmap`` it as below, and ``tap`` them there. Their gradients are then formed per
    example, ``(B, *shape)``, for one layer at a time; of small ones that costs little.
    What is tapped by neither doesn't count in G, but is trained by the weighted loss.

    Args:
      losses_fn: ``losses_fn(params, probe, *args) -> (B,)``, with the taps on whole
        batches; or ``jax.vmap(loss, in_axes=(None, 0, 0))`` of ``loss(params, probe,
        example) -> scalar``. It must work with None for a probe.
      weighting: a pure function from a ``(B, B)`` Gram matrix to ``(B,)`` weights.
      has_aux: whether ``losses_fn`` returns auxiliary data besides.

    Returns:
      A function ``(params, *args)`` that returns (losses ``(B,)``, gradient, weights
      ``(B,)``), or ((losses, aux), gradient, weights); the gradient is like ``params``.

    Raises:
      ValueError: losses that are not ``(B,)``, or a weighting that doesn't return B
        weights.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.gradients import per_example_two_phase, tap, tap_dense
      >>> def loss(params, probe, x):  # of one example
      ...   scaled = x * tap(params["scale"], probe)
      ...   out = tap_dense(scaled @ params["kernel"], scaled, probe, bias=False)
      ...   return jnp.sum(out**2)
      >>> params = {"scale": jnp.ones(3), "kernel": jnp.ones((3, 2))}
      >>> step = per_example_two_phase(
      ...   jax.vmap(loss, in_axes=(None, 0, 0)),
      ...   lambda gram: 1 / jnp.sqrt(jnp.diagonal(gram)))
      >>> losses, gradient, weights = jax.jit(step)(params, jnp.eye(4, 3) + 1)
      >>> gradient["scale"].shape, weights.shape
      ((3,), (4,))

    References:
      Goodfellow, "Efficient per-example gradient computations", 2015, section 4.
    """

    def wrapped(params: Params, *args: Inputs) -> tuple[PyTree, Updates, jax.Array]:
        number, dtype = _number(losses_fn, has_aux, params, args)
        probe = ExampleProbe(jnp.zeros((number, number), dtype))
        vector, pullback, out = _pull_back(losses_fn, has_aux, params, probe, args)
        gram = pullback(jnp.ones_like(vector))[1].rows
        weights = weights_of(weighting, gram)
        return out, pullback(weights.astype(vector.dtype))[0], weights

    return wrapped


def _pull_back(
    losses_fn: Callable[..., PyTree],
    has_aux: bool,
    params: Params,
    probe: PyTree,
    args: tuple[Inputs, ...],
) -> tuple[jax.Array, Callable[[jax.Array], tuple[Updates, PyTree]], PyTree]:
    """The losses as a vector, its pullback to (params, probe), what losses_fn gave."""
    check_differentiable(params, "params")

    def of_both(params: Params, probe: PyTree) -> tuple[jax.Array, PyTree]:
        out = losses_fn(params, probe, *args)
        return as_vector(out[0] if has_aux else out), out

    return jax.vjp(of_both, params, probe, has_aux=True)


def _number(
    losses_fn: Callable[..., PyTree],
    has_aux: bool,
    params: Params,
    args: tuple[Inputs, ...],
) -> tuple[int, np.dtype]:
    """How many losses, in what dtype: traced without taps, never computed."""

    def vector(params: Params) -> jax.Array:
        out = losses_fn(params, None, *args)
        return as_vector(out[0] if has_aux else out)

    found = jax.eval_shape(vector, params)
    return found.shape[0], found.dtype


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, int) for size in value)
