"""Gram taps: inner products of gradients, taken where the backward pass makes them.

A tap is the identity. In the backward pass, under ``jax.vmap`` over cotangents, it sees
those of all objectives (or examples) at once, adds their inner products to the cotangent
of a *probe*, and passes each on. A gradient is gone once its layer is done.

The probe is an array of zeros whose last axis has K entries: row k of the Gram matrix is
the cotangent of objective k for it. Where every example is an objective, it is an
:class:`ExampleProbe`, a row for each. With None for a probe, taps do nothing at all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._trees import compute_dtype
from eagc_jax.gradients._common import inner_products
from eagc_jax.typing import PyTree


class ExampleProbe(NamedTuple):
    """The probe of :func:`~eagc_jax.gradients.per_example_two_phase`."""

    rows: jax.Array  # shape=(B, B), zeros; (B,) in a model of one example under vmap.


def tap(tree: PyTree, probe: jax.Array | ExampleProbe | None) -> PyTree:
    r"""Marks parameters whose gradients count in the Gram matrix: the identity.

    The backward pass of objective k adds :math:`\langle g_k, g_l \rangle`, l = 1..K, of
    these leaves to the cotangent of ``probe``. Call it where the weights are used: in a
    scan over layers, inside the body, on the layer's own weights.

    Weights that are used more than once (tied weights) must be tapped *once*, before
    both uses: :math:`\langle a_k + b_k, a_l + b_l \rangle` is not the sum of the inner
    products of a and of b. A tap inside a scan's body on weights from outside of it is
    such a use, once a step. What is never tapped doesn't count. Parameters that a
    ``jax.vmap`` of the model's own maps must be tapped outside of it, or the Gram matrix
    is NaN (wrong, where that map happens to be over K).

    Args:
      tree: parameters; leaves that aren't floating point are left as they are.
      probe: ``(K,)``, from :func:`~eagc_jax.gradients.tapped_two_phase` or
        :func:`~eagc_jax.gradients.tapped_grams`; or an example's, in a model of one
        example; None for no tap.

    Returns:
      The same tree.

    Raises:
      ValueError: a probe that isn't ``(K,)``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.gradients import tap, tapped_grams
      >>> def losses_fn(w, probe, x):
      ...   w = tap(w, probe)  # once, before both uses
      ...   return jnp.sum(w * x), jnp.sum(w**2)
      >>> grams_fn = jax.jit(tapped_grams(losses_fn))
      >>> losses, gram = grams_fn(jnp.array([1.0, 2.0]), jnp.ones(2))
      >>> gram.tolist()
      [[2.0, 6.0], [6.0, 20.0]]
    """
    if probe is None:
        return tree
    of_example = isinstance(probe, ExampleProbe)
    row = probe.rows if of_example else probe
    if np.ndim(row) != 1:
        raise ValueError(
            f"tap needs a probe of one row of zeros, (K,), got shape {np.shape(row)}. "
            "Of probes with an axis of layers, pass each layer its own; of examples, "
            "call tap in a model of one example, under jax.vmap(loss, in_axes=(None, 0, "
            "0))(params, probe, batch)."
        )

    def tap_leaf(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        return _tap(of_example, leaf, row)

    return jax.tree.map(tap_leaf, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(of_example: bool, leaf: jax.Array, row: jax.Array) -> jax.Array:
    return _marked(of_example, leaf, row)


def _tap_forward(
    of_example: bool, leaf: jax.Array, row: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _marked(of_example, leaf, row), jnp.zeros_like(row)


def _tap_backward(
    of_example: bool, zeros: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del of_example
    row = _row_of(zeros.shape[-1])(cotangent)
    return cotangent, zeros + row.astype(zeros.dtype)


_tap.defvjp(_tap_forward, _tap_backward)


def _marked(of_example: bool, leaf: jax.Array, row: jax.Array) -> jax.Array:
    # Else the leaf itself: a scan over layers sees then that it has it already, and
    # doesn't keep it once more for the backward pass.
    return _mapped_like(leaf, row) if of_example else leaf


@jax.custom_batching.custom_vmap
def _mapped_like(value: jax.Array, probe: jax.Array) -> jax.Array:
    """The value; under a vmap over examples mapped as their probes are.

    The cotangent of a value that isn't mapped is already summed over the examples.
    """
    del probe
    return value


@_mapped_like.def_vmap
def _map_like(
    axis_size: int, in_batched: list[bool], value: jax.Array, probe: jax.Array
) -> tuple[jax.Array, bool]:
    del probe
    if in_batched[1] and not in_batched[0]:
        value = jnp.broadcast_to(value, (axis_size, *value.shape))
    return value, any(in_batched)


def _row_of(number: int) -> Callable[[jax.Array], jax.Array]:
    """One cotangent to its row of the Gram matrix; known only of all K together."""

    @jax.custom_batching.custom_vmap
    def row(cotangent: jax.Array) -> jax.Array:
        # Not batched: a plain backward pass, which has no use for the probe.
        return jnp.zeros((number,), _real(cotangent.dtype))

    @row.def_vmap
    def rule(axis_size: int, in_batched: list[bool], cotangents: jax.Array):
        if axis_size != number:
            # A vmap of something else. Around a whole step, in its second phase, nobody
            # reads the rows; in a model that maps its parameters, the Gram matrix shows.
            return jnp.full((axis_size, number), jnp.nan, _real(cotangents.dtype)), True
        if not in_batched[0]:  # the same for all objectives
            cotangents = jnp.broadcast_to(cotangents, (axis_size, *cotangents.shape))
        return inner_products(cotangents, cotangents), True

    return row


def tap_dense(
    outputs: jax.Array,
    inputs: jax.Array,
    probe: ExampleProbe | None,
    *,
    bias: bool = True,
) -> jax.Array:
    r"""Marks a dense layer of per-example losses: the identity on its outputs.

    For ``outputs = inputs @ kernel + bias`` the gradients of examples b and c have the
    inner product of :func:`dense_gram`, which needs the inputs and the cotangents of the
    outputs alone: no gradient of an example is formed.

    Two ways to call it. On whole batches, ``outputs`` ``(B, out)`` or ``(B, T, out)``,
    with the whole probe: example b must be read from row b alone (no batch
    normalization). Or in a model of one example under ``jax.vmap(loss, in_axes=(None, 0,
    0))(params, probe, batch)``, with the row that the map hands out. As for
    :func:`tap`, a kernel that is used twice isn't the sum of its two uses.

    Args:
      outputs: of the layer, after its bias, before its nonlinearity.
      inputs: of the layer.
      probe: from :func:`~eagc_jax.gradients.per_example_two_phase`; None for no tap.
      bias: whether the layer has a trained bias.

    Returns:
      ``outputs``.

    Raises:
      ValueError: inputs, outputs and probe whose shapes don't belong together.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.gradients import per_example_two_phase, tap_dense
      >>> def losses_fn(params, probe, x, y):
      ...   out = x @ params["kernel"] + params["bias"]
      ...   out = tap_dense(out, x, probe)
      ...   return jnp.sum((out - y) ** 2, axis=1)
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
      >>> x, y = jnp.ones((4, 3)), jnp.zeros((4, 2))
      >>> step = per_example_two_phase(losses_fn, lambda gram: jnp.ones(4) / 4)
      >>> losses, gradient, weights = jax.jit(step)(params, x, y)
      >>> gradient["kernel"].shape
      (3, 2)
    """
    if probe is None:
        return outputs
    if not isinstance(probe, ExampleProbe):
        raise ValueError(
            "tap_dense needs the probe of per_example_two_phase, got "
            f"{type(probe).__name__}: for K losses of one batch use tap on the weights."
        )
    _check_dense(np.shape(outputs), np.shape(inputs), np.shape(probe.rows))
    gram = functools.partial(dense_gram, bias=bias)
    return layer_tap(gram, "tap_dense")(outputs, inputs, probe.rows)


def _check_dense(
    outputs: tuple[int, ...], inputs: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    lead = rows[:1] if len(rows) == 2 else ()
    fits = min(len(outputs), len(inputs)) > len(lead)
    if not fits or outputs[: len(lead)] != lead or outputs[:-1] != inputs[:-1]:
        raise ValueError(
            "tap_dense needs outputs and inputs that agree in all axes but the last, the "
            "first of them the examples with a whole probe (B, B), or of one example "
            f"with its row (B,); got outputs {outputs}, inputs {inputs}, probe {rows}."
        )


def layer_tap(
    gram: Callable[[jax.Array, jax.Array], jax.Array], name: str
) -> Callable[..., jax.Array]:
    """The tap ``(outputs, inputs, probe rows) -> outputs`` of one kind of layer.

    Args:
      gram: from inputs ``(B, ...)`` and cotangents of outputs ``(B, ...)`` to ``(B, B)``.
      name: of the public function, for messages.
    """

    @jax.custom_vjp
    def tapped(outputs: jax.Array, inputs: jax.Array, probe: jax.Array) -> jax.Array:
        del inputs
        return _mapped_like(outputs, probe)

    def forward(outputs: jax.Array, inputs: jax.Array, probe: jax.Array):
        return _mapped_like(outputs, probe), (inputs, jnp.zeros_like(probe))

    def backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array):
        inputs, zeros = residuals
        if zeros.ndim == 2:
            rows = gram(inputs, cotangent)
        else:
            rows = _layer_row_of(zeros.shape[-1], gram, name)(inputs, cotangent)
        return cotangent, None, zeros + rows.astype(zeros.dtype)

    tapped.defvjp(forward, backward)
    return lambda outputs, inputs, rows: tapped(
        outputs, jax.lax.stop_gradient(inputs), rows
    )


def _layer_row_of(
    number: int, gram: Callable[[jax.Array, jax.Array], jax.Array], name: str
) -> Callable[..., jax.Array]:
    @jax.custom_batching.custom_vmap
    def row(inputs: jax.Array, cotangent: jax.Array) -> jax.Array:
        del inputs
        return jnp.zeros((number,), _real(cotangent.dtype))

    @row.def_vmap
    def rule(
        axis_size: int, in_batched: list[bool], inputs: jax.Array, cotangents: jax.Array
    ):
        if axis_size != number:
            raise ValueError(
                f"{name} got the row of a probe for {number} examples under a "
                f"jax.vmap over {axis_size}: map over the examples alone, and the probe "
                "with them."
            )
        both = [
            x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            for x, batched in zip((inputs, cotangents), in_batched, strict=True)
        ]
        return gram(*both), True

    return row


def dense_gram(
    inputs: jax.Array, cotangents: jax.Array, *, bias: bool = True
) -> jax.Array:
    r"""The Gram matrix of B examples' gradients of one dense layer.

    With inputs :math:`a_b` and cotangents of the outputs :math:`d_b`, the gradient of
    the kernel is :math:`a_b d_b^\top`, of rank one, so that

    .. math:: G_{bc} = (a_b \cdot a_c + 1) \, (d_b \cdot d_c),

    the 1 being the bias. Where an example has T positions, gradients are sums over them
    and :math:`G_{bc} = \sum_{t,u} (a_{bt} \cdot a_{cu} + 1)(d_{bt} \cdot d_{cu})`:
    :math:`2 B^2 T^2 (m + n)` operations for a kernel ``(m, n)``. Where that is more than
    to form the B gradients, :math:`2 B T m n + 2 B^2 m n`, they are formed.

    Args:
      inputs: ``(B, m)`` or ``(B, *positions, m)``.
      cotangents: ``(B, n)`` or ``(B, *positions, n)``: of the sum of the losses, to the
        layer's outputs.
      bias: whether the layer has a trained bias.

    Returns:
      ``(B, B)``, float32 or wider, summed at the highest precision.

    Raises:
      ValueError: shapes that differ but in their last axis.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.gradients import dense_gram
      >>> a, d = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[1.0], [3.0]])
      >>> dense_gram(a, d).tolist()  # (5 + 1) * 1, (2 + 1) * 3, (1 + 1) * 9
      [[6.0, 9.0], [9.0, 18.0]]

    References:
      Goodfellow, "Efficient per-example gradient computations", 2015, section 4.
    """
    if inputs.ndim < 2 or inputs.shape[:-1] != cotangents.shape[:-1]:
        raise ValueError(
            "dense_gram needs inputs (B, ..., m) and cotangents (B, ..., n) that agree "
            f"in all axes but the last; got {inputs.shape} and {cotangents.shape}."
        )
    examples, positions = inputs.shape[0], math.prod(inputs.shape[1:-1])
    a = inputs.reshape(examples, positions, -1).astype(compute_dtype(inputs.dtype))
    d = cotangents.reshape(examples, positions, -1)
    d = d.astype(compute_dtype(cotangents.dtype))
    m, n = a.shape[-1], d.shape[-1]
    if examples * positions**2 * (m + n) <= m * n * (positions + examples):
        return _from_positions(a, d, bias)
    kernels = jnp.einsum("btm,btn->bmn", a, d, precision=jax.lax.Precision.HIGHEST)
    gram = inner_products(kernels, kernels)
    return gram + _of_bias(d) if bias else gram


def _from_positions(a: jax.Array, d: jax.Array, bias: bool) -> jax.Array:
    """Products of all pairs of positions, summed over each pair of examples."""
    examples, positions = a.shape[:2]
    a, d = a.reshape(-1, a.shape[-1]), d.reshape(-1, d.shape[-1])
    products = (inner_products(a, a) + float(bias)) * inner_products(d, d)
    if positions == 1:
        return products
    return products.reshape(examples, positions, examples, positions).sum((1, 3))


def _of_bias(d: jax.Array) -> jax.Array:
    total = jnp.sum(d, axis=1)
    return inner_products(total, total)


def _real(dtype: jax.typing.DTypeLike) -> np.dtype:
    return jnp.finfo(compute_dtype(dtype)).dtype
