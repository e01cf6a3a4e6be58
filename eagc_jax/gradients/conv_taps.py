"""The Gram tap of convolutions: dense layers over patches."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import check_count
from eagc_jax.gradients.taps import ExampleProbe, dense_gram, layer_tap

PaddingName = Literal["SAME", "VALID"]
Padding = PaddingName | Sequence[tuple[int, int]]


def tap_conv(
    outputs: jax.Array,
    inputs: jax.Array,
    probe: ExampleProbe | None,
    *,
    window: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
) -> jax.Array:
    """Marks a convolution of per-example losses: the identity on its outputs.

    As :func:`~eagc_jax.gradients.tap_dense` marks a dense layer: called on whole batches
    with the whole probe, or in a model of one example under ``jax.vmap``, on its outputs
    after the bias and before the nonlinearity. A kernel that is used twice isn't the sum
    of its two uses.

    Args:
      outputs: ``(B, *positions, out)``, or of one example; channels last, as in Flax.
      inputs: ``(B, *space, in)``, or of one example.
      probe: from :func:`~eagc_jax.gradients.per_example_two_phase`; None for no tap.
      window: the kernel's extent along each axis of space.
      strides: as the convolution's.
      padding: "SAME", "VALID", or (before, after) for each axis of space.
      dilation: of the kernel.
      groups: ``feature_group_count``: the inputs' channels for a depthwise convolution.
      bias: whether the convolution has a trained bias.

    Returns:
      ``outputs``.

    Raises:
      ValueError: inputs, outputs, window and probe that don't belong together.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.gradients import per_example_two_phase, tap_conv
      >>> def losses_fn(kernel, probe, x):
      ...   out = jax.lax.conv_general_dilated(
      ...     x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      ...   out = tap_conv(out, x, probe, window=(3, 3), bias=False)
      ...   return jnp.mean(out**2, axis=(1, 2, 3))
      >>> step = per_example_two_phase(losses_fn, lambda gram: jnp.diagonal(gram) ** -0.5)
      >>> losses, gradient, weights = jax.jit(step)(
      ...   jnp.ones((3, 3, 2, 4)), jnp.ones((5, 8, 8, 2)))
      >>> gradient.shape, weights.shape
      ((3, 3, 2, 4), (5,))
    """
    if probe is None:
        return outputs
    if not isinstance(probe, ExampleProbe):
        raise ValueError(
            "tap_conv needs the probe of per_example_two_phase, got "
            f"{type(probe).__name__}: for K losses of one batch use tap on the weights."
        )
    rows, shape = np.shape(probe.rows), np.shape(inputs)
    lead = 1 if len(rows) == 2 else 0
    if lead and (shape[:1] != rows[:1] or np.shape(outputs)[:1] != rows[:1]):
        raise ValueError(
            "tap_conv with a whole probe (B, B) needs the examples first; got outputs "
            f"{np.shape(outputs)}, inputs {shape}, probe {rows}."
        )
    options = _checked(
        shape[lead:],
        np.shape(outputs)[lead:],
        window,
        strides,
        padding,
        dilation,
        groups,
    )
    gram = functools.partial(_gram, bias=bias, **options)
    return layer_tap(gram, "tap_conv")(outputs, inputs, probe.rows)


def conv_gram(
    inputs: jax.Array,
    cotangents: jax.Array,
    *,
    window: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
) -> jax.Array:
    r"""The Gram matrix of B examples' gradients of one convolution.

    A convolution is a dense layer over the patches :math:`p_{bt}` of its inputs, one for
    each of its T positions, so :math:`G_{bc} = \sum_{t,u} (p_{bt} \cdot p_{cu} + 1)
    (d_{bt} \cdot d_{cu})` as in :func:`~eagc_jax.gradients.dense_gram`, with m = window
    times input channels. Which of two ways is taken is settled by the shapes: the double
    sum over positions, :math:`2 B^2 T^2 (m + n)` operations, for few positions and many
    channels; elsewhere the B gradients of this layer, :math:`2BTmn + 2B^2mn`. Memory
    besides: the patches, window times the inputs, and :math:`B^2T^2` or :math:`Bmn`.

    Args:
      inputs: ``(B, *space, in)``.
      cotangents: ``(B, *positions, out)``, of the sum of the losses, to the outputs.
      window: as in :func:`tap_conv`.
      strides: as in :func:`tap_conv`.
      padding: as in :func:`tap_conv`.
      dilation: as in :func:`tap_conv`.
      groups: as in :func:`tap_conv`.
      bias: whether the convolution has a trained bias.

    Returns:
      ``(B, B)``, float32 or wider.

    Raises:
      ValueError: shapes that don't belong together.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.gradients import conv_gram
      >>> x, d = jnp.ones((2, 4, 1)), jnp.ones((2, 4, 3))
      >>> conv_gram(x, d, window=1, bias=False).tolist()  # kernels (4, 4, 4) of each
      [[48.0, 48.0], [48.0, 48.0]]

    References:
      Rochette, Manoel and Tramel, `Efficient Per-Example Gradient Computations in
      Convolutional Neural Networks <https://arxiv.org/abs/1912.06015>`_, 2019.
    """
    if inputs.shape[:1] != cotangents.shape[:1]:
        raise ValueError(
            "conv_gram needs inputs and cotangents of the same examples; got "
            f"{inputs.shape} and {cotangents.shape}."
        )
    options = _checked(
        inputs.shape[1:],
        cotangents.shape[1:],
        window,
        strides,
        padding,
        dilation,
        groups,
    )
    return _gram(inputs, cotangents, bias=bias, **options)


def _gram(
    inputs: jax.Array,
    cotangents: jax.Array,
    *,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
    bias: bool,
) -> jax.Array:
    patches = _patches(inputs, window, strides, pads, dilation)
    examples, positions = patches.shape[0], math.prod(patches.shape[1:-2])
    channels, out = inputs.shape[-1] // groups, cotangents.shape[-1] // groups
    a = patches.reshape(examples, positions, -1, groups, channels)
    d = cotangents.reshape(examples, positions, groups, out)
    total = jnp.zeros([])
    for group in range(groups):  # each is a convolution of its own channels
        part = a[:, :, :, group].reshape(examples, positions, -1)
        gram = dense_gram(part, d[:, :, group], bias=bias)
        total = gram if group == 0 else total + gram
    return total


def _patches(
    inputs: jax.Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> jax.Array:
    """``(B, *positions, window, in)``: slices of the padded inputs, no products."""
    padded = jnp.pad(inputs, ((0, 0), *pads, (0, 0)))
    counts = _positions(inputs.shape[1:-1], window, strides, pads, dilation)
    slices = []
    for offset in itertools.product(*(range(size) for size in window)):
        starts = [o * d for o, d in zip(offset, dilation, strict=True)]
        stops = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(starts, counts, strides, strict=True)
        ]
        slices.append(
            jax.lax.slice(
                padded,
                (0, *starts, 0),
                (padded.shape[0], *stops, padded.shape[-1]),
                (1, *strides, 1),
            )
        )
    return jnp.stack(slices, axis=-2)


def _positions(
    space: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """How many positions the outputs have along each axis."""
    return tuple(
        (size + low + high - (extent - 1) * step - 1) // stride + 1
        for size, (low, high), extent, step, stride in zip(
            space, pads, window, dilation, strides, strict=True
        )
    )


class _Checked(TypedDict):
    """What :func:`_gram` takes."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    groups: int


def _checked(
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    window: int | Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
) -> _Checked:
    """The options as tuples; ValueError for shapes of one example that don't fit."""
    axes = len(inputs) - 1
    if axes < 1 or len(outputs) != axes + 1:
        raise ValueError(
            "a convolution's inputs and outputs have axes of space and channels last; "
            f"got {inputs} and {outputs} for one example."
        )
    sizes = {
        name: _each(name, value, axes)
        for name, value in (
            ("window", window),
            ("strides", strides),
            ("dilation", dilation),
        )
    }
    check_count("groups", groups, 1)
    extents = [
        (w - 1) * d + 1 for w, d in zip(sizes["window"], sizes["dilation"], strict=True)
    ]
    if isinstance(padding, str):
        if padding not in get_args(PaddingName):
            raise ValueError(
                f"padding must be 'SAME', 'VALID' or pairs of ints, got {padding!r}."
            )
        pads = jax.lax.padtype_to_pads(inputs[:-1], extents, sizes["strides"], padding)
    else:
        pads = padding
    pads = tuple((int(low), int(high)) for low, high in pads)
    if len(pads) != axes:
        raise ValueError(f"padding must have {axes} pairs, got {padding!r}.")
    expected = _positions(
        inputs[:-1], sizes["window"], sizes["strides"], pads, sizes["dilation"]
    )
    if outputs[:-1] != expected or inputs[-1] % groups or outputs[-1] % groups:
        raise ValueError(
            f"a convolution of inputs {inputs} with window {sizes['window']}, strides "
            f"{sizes['strides']}, padding {padding!r}, dilation {sizes['dilation']} and "
            f"{groups} groups has positions {expected} and channels that the groups "
            f"divide; got outputs {outputs}."
        )
    return _Checked(
        window=sizes["window"],
        strides=sizes["strides"],
        dilation=sizes["dilation"],
        pads=pads,
        groups=groups,
    )


def _each(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One int >= 1 for each axis of space."""
    sizes = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(sizes) != axes or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise ValueError(
            f"{name} must be an int >= 1, or {axes} of them, got {value!r}."
        )
    return sizes
