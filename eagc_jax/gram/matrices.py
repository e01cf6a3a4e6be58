"""Gram matrices of per-objective updates: all that most aggregators need to know.

Two representations. :func:`gram_matrix` returns inner products as they are. Inside, an
aggregator works on a :class:`Gram`: cosines, norms relative to the largest, and that
largest norm, each well inside float32's range whatever the gradients' units are, where
their squares would not be.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax import _shards
from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import check_objective_axis
from eagc_jax._trees import named_leaves
from eagc_jax.blocks import GLOBAL, Granularity, Layout
from eagc_jax.gram import products
from eagc_jax.gram.by_block import block_grams, in_tree_order
from eagc_jax.gram.metric import LeafMetric, Metric, in_packs
from eagc_jax.gram.parts import Gram, from_scaled, power_of_two, scaling_to_one
from eagc_jax.typing import PyTree, Updates


def gram_matrix(
    updates: Updates,
    granularity: Granularity = "global",
    *,
    axis_name: _shards.AxisName = None,
) -> jax.Array:
    r"""The inner products :math:`G_{kl} = \langle g_k, g_l \rangle` of K updates.

    One pass over the leaves, each in place: nothing is flattened into a vector or
    concatenated. Sums are made in float32 at the highest precision the device has
    (float64 for float64 leaves). Complex leaves count with the real part of the product.

    Args:
      updates: per-objective updates, leaves ``(K, *param.shape)``.
      granularity: "global", "tensor", "channel" (one block per output unit; see
        :func:`eagc_jax.assess_energy`), or a function ``(path, shape)`` to the axes that
        one block spans.
      axis_name: inside ``jax.shard_map``, the mesh axis, or axes, over which leaves may
        be split: sums are made over their devices too. Under ``jit`` leave it None.

    Returns:
      ``(K, K)`` for "global"; else ``(blocks, K, K)``, blocks in tree order.

    Raises:
      ValueError: a leaf without the objective axis, or a granularity that isn't one of
        these.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import gram_matrix
      >>> gram_matrix({"w": jnp.array([[3.0, 4.0], [1.0, 0.0]])})
      Array([[25.,  3.],
             [ 3.,  1.]], dtype=float32)
    """
    number = check_objective_axis(updates, None)
    leaves = named_leaves(updates)
    check_gram_granularity(granularity)
    if not leaves:
        return jnp.zeros(
            (number, number) if granularity == GLOBAL else (0, number, number)
        )
    names = _shards.check_axis_name(axis_name)
    layout = blocks_lib.layout_of_updates(granularity, leaves, names)
    grams = block_grams(leaves, layout, None, names)
    return grams[0] if granularity == GLOBAL else grams[in_tree_order(layout)]


def cross_gram(
    left: PyTree, right: PyTree, *, axis_name: _shards.AxisName = None
) -> jax.Array:
    """The inner products of K with L updates: ``(K, L)``, as :func:`gram_matrix`.

    Args:
      left: leaves ``(K, *param.shape)``.
      right: leaves ``(L, *param.shape)``, the same tree otherwise.
      axis_name: as for :func:`gram_matrix`.

    Returns:
      ``(K, L)``, float32 (float64 for float64 leaves).

    Raises:
      ValueError: leaves without an objective axis, or trees that differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import cross_gram
      >>> cross_gram({"w": jnp.eye(2)}, {"w": jnp.array([[3.0, 4.0]])})
      Array([[3.],
             [4.]], dtype=float32)
    """
    names = _shards.check_axis_name(axis_name)
    number, other = check_objective_axis(left, None), check_objective_axis(right, None)
    a, b = named_leaves(left), named_leaves(right)
    if list(a) != list(b) or any(np.shape(a[n])[1:] != np.shape(b[n])[1:] for n in a):
        raise ValueError(
            "left and right must be the same tree but for their objective axes; got "
            f"{ {n: np.shape(x) for n, x in a.items()} } and "
            f"{ {n: np.shape(x) for n, x in b.items()} }."
        )
    parts = []
    for name in a:
        dtype = np.promote_types(products.wide_dtype(a[name]), b[name].dtype)
        pairs = zip(
            products.real_parts(a[name]), products.real_parts(b[name]), strict=False
        )
        real = jnp.finfo(dtype).dtype  # of complex numbers, their parts'
        parts.append(
            functools.reduce(
                jnp.add,
                [products.inner(x.astype(real), y.astype(real)) for x, y in pairs],
            )
        )
    if not parts:
        return jnp.zeros((number, other), jnp.float32)
    return _shards.sum_leaves(parts, list(a.values()), names)


def gram_of_tree(
    updates: Updates, active: jax.Array, names: tuple[str, ...] = ()
) -> tuple[Gram, jax.Array]:
    """:func:`gram_blocks` of the whole tree as one block, without the axis of blocks."""
    leaves = named_leaves(updates)
    layout = blocks_lib.layout_of_updates(GLOBAL, leaves, names)
    parts, finite = gram_blocks(leaves, layout, active, names)
    return jax.tree.map(lambda x: x[0], parts), finite


def gram_blocks(
    leaves: dict[str, jax.Array],
    layout: Layout,
    active: jax.Array,
    names: tuple[str, ...] = (),
) -> tuple[Gram, jax.Array]:
    """The Gram of every block in parts, with a leading axis of blocks; who is finite.

    In the plain metric: see :func:`metric_blocks`.
    """
    parts, finite, _ = metric_blocks(leaves, layout, active, names)
    return parts, finite


def metric_blocks(
    leaves: dict[str, jax.Array],
    layout: Layout,
    active: jax.Array,
    names: tuple[str, ...] = (),
    metric: Metric | None = None,
) -> tuple[Gram, jax.Array, jax.Array | None]:
    """The Gram of every block in a metric, in one pass; and products with one row more.

    Squares leave float32's range long before the gradients do. So the matrix is computed
    as it is, and only where a diagonal entry is close to that range's ends it is computed
    again, from rows multiplied by a power of two: by the same operations, in a loop that
    normally runs once, since a second copy of them would take as long to compile. In that
    loop a metric that leaves nothing of any gradient, as an optimizer's at a learning
    rate of 0, is replaced by the plain one. On CPU the products with a row more are part
    of it, so that gradients are read once; elsewhere they come behind it, by the scales
    that it ended with: each is a sum of its own there, over chips as well,
    and the TPU's compiler takes as long for the sums in a loop as their number squared.

    Args:
      leaves: by name, ``(K, *shape)``.
      layout: of the blocks.
      active: ``(K,)`` bool: objectives that take part; the others' entries are ignored.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.
      metric: None for the plain one.

    Returns:
      ``Gram`` with leaves (B, K, K), (B, K), (B,), blocks in the layout's order; a
      ``(K,)`` bool, active objectives without a NaN or an infinity, or inactive ones (a
      non-finite one takes no part); and the products of unit gradients with ``rest``,
      over ``scale``, ``(B, K)``, or None.
    """
    if metric is None:
        found, exponents = _measured(leaves, layout, active, names)
        return *_parts(found, exponents, active), None
    leaves = leaves | metric.coordinates

    def together():
        return _measured(leaves, layout, active, names, metric.leaves)

    def apart():
        own, by_leaf = leaves, metric.leaves
        if layout.granularity == GLOBAL:
            own, by_leaf = in_packs(own, by_leaf)
        without = {n: one._replace(rest=None) for n, one in by_leaf.items()}
        found, exponents = _measured(own, layout, active, names, without)
        if not metric.has_rest:
            return found, exponents
        powers = _powers(exponents, found.dtype)
        column = block_grams(own, layout, powers, names, by_leaf, only_rest=True)
        return jnp.concatenate([found, column], axis=2), exponents

    found, exponents = jax.lax.platform_dependent(cpu=together, default=apart)
    number = active.shape[0]
    grams = found[..., :number]
    parts, finite = _parts(grams, exponents, active)
    if not metric.has_rest:
        return parts, finite, None
    rest = found[..., number]
    squares = jnp.where(active & finite, jnp.diagonal(grams, axis1=1, axis2=2), 0)
    lengths = jnp.sqrt(squares) * parts.scale[:, None]
    some = lengths > 0
    return parts, finite, jnp.where(some, rest / jnp.where(some, lengths, 1.0), 0.0)


def _measured(
    leaves: dict[str, jax.Array],
    layout: Layout,
    active: jax.Array,
    names: tuple[str, ...],
    by_leaf: dict[str, LeafMetric] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Products of rows times powers of two, and their exponents."""
    number = active.shape[0]

    def measure(powers, plain=None):
        own = by_leaf
        if by_leaf and plain is not None:
            own = {name: one._replace(plain=plain) for name, one in by_leaf.items()}
        return block_grams(leaves, layout, powers, names, own)

    def body(carry):
        turn, exponents, powers, _, *plain = carry
        grams = measure(powers, *plain)
        squares = _squares(grams)
        wanted = jnp.where(active, exponents_for(squares), 0)
        again = (turn == 0) & jnp.any(wanted != 0)
        exponents = jnp.where(again, wanted, exponents)
        powers = _powers(exponents, powers.dtype)
        turn = jnp.where(again, jnp.int32(1), jnp.int32(2))
        if not plain:
            return turn, exponents, powers, grams
        left = active & (squares > 0) & (squares < jnp.inf)
        restart = (turn == 2) & ~plain[0] & ~jnp.any(left)
        found = jax.tree.map(
            lambda new, old: jnp.where(restart, new, old),
            start[:3],
            (turn, exponents, powers),
        )
        return *found, grams, plain[0] | restart

    ones = jnp.ones((number, number), jnp.float32)
    shape = jax.eval_shape(measure, ones)
    start = (
        jnp.zeros([], jnp.int32),
        jnp.zeros((number,), jnp.int32),
        ones.astype(shape.dtype),
        jnp.zeros(shape.shape, shape.dtype),
    )
    if by_leaf and all(one.diagonal is not None for one in by_leaf.values()):
        start = (*start, jnp.zeros([], bool))
    end = jax.lax.while_loop(lambda carry: carry[0] < 2, body, start)
    return end[3], end[1]


def _powers(exponents: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """``(K, K)``: every row the same, see ``products.leaf_grams``."""
    rows = power_of_two(exponents, dtype)
    return jnp.broadcast_to(rows[:, None], (len(exponents), len(exponents)))


def _parts(
    grams: jax.Array, exponents: jax.Array, active: jax.Array
) -> tuple[Gram, jax.Array]:
    """Of scaled rows' matrices ``(B, K, K)``; who is finite, or inactive."""
    finite = jnp.isfinite(_squares(grams))
    keep = active & finite
    grams = jnp.where(keep[:, None] & keep[None, :], grams, 0.0)
    parts = jax.vmap(from_scaled, in_axes=(0, None))(grams, exponents)
    return parts, finite | ~active


def products_with_rest(
    leaves: dict[str, jax.Array],
    gram: Gram,
    metric: Metric,
    names: tuple[str, ...] = (),
) -> tuple[jax.Array, jax.Array]:
    """Products of unit gradients with the rest, over the Gram's scale, and its length.

    Args:
      leaves: by name, ``(K, *shape)``.
      gram: of the whole tree in the metric, which tells the gradients' lengths.
      metric: with a rest.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.

    Returns:
      ``(K,)``, 0 where a gradient is; the norm, in the metric, of what it makes the rest
      of.
    """
    leaves = leaves | metric.coordinates
    exponents, lengths = scaling_to_one(gram)
    layout = blocks_lib.layout_of_updates(GLOBAL, leaves, names)
    powers = _powers(exponents, gram.norms.dtype)

    def products(leaves, by_leaf):
        found = block_grams(leaves, layout, powers, names, by_leaf, only_rest=True)
        squares = [one.square_of_rest().astype(found.dtype) for one in by_leaf.values()]
        own = [leaves[name] for name in by_leaf]
        return found, jnp.sqrt(_shards.sum_leaves(squares, own, names))

    found, size = jax.lax.platform_dependent(
        cpu=lambda: products(leaves, metric.leaves),
        default=lambda: products(*in_packs(leaves, metric.leaves)),
    )
    lengths = lengths * jnp.where(gram.scale > 0, gram.scale, 1.0)
    some = lengths > 0
    return jnp.where(some, found[0, :, 0] / jnp.where(some, lengths, 1.0), 0.0), size


def _squares(grams: jax.Array) -> jax.Array:
    """``(B, K, K)`` to the squared norms of whole gradients, ``(K,)``."""
    return jnp.sum(jnp.diagonal(grams, axis1=1, axis2=2), axis=0)


def exponents_for(squares: jax.Array) -> jax.Array:
    """The powers of two to compute with instead, 0 where the squares are good enough.

    Entries that underflow must be below eps of the norm, and sums must not overflow: a
    square that is in float32's range tells by itself where its row belongs. One below
    2^-126 comes from entries below 2^-63, which times 2^100 have squares from 2^-98 (of
    the smallest subnormal) to 2^74; one above the range from entries up to 2^128, which
    times 2^-80 have squares up to 2^96. Sums of 2^30 such squares stay in range.
    """
    info = jnp.finfo(squares.dtype)
    small, large = float(info.tiny) / float(info.eps) ** 2, float(info.max) ** 0.75
    exact = (squares > info.tiny) & (squares < info.max)
    _, power = jnp.frexp(jnp.where(exact, squares, 1.0))
    beyond = jnp.where(squares > 1, -5 * info.maxexp // 8, 25 * info.maxexp // 32)
    wanted = jnp.where(exact, -(power // 2), beyond).astype(jnp.int32)
    good = ((squares > small) & (squares < large)) | jnp.isnan(squares)
    return jnp.where(good, 0, wanted)


def check_gram_granularity(granularity: object) -> None:
    """Raises ValueError for a granularity without Gram matrices."""
    blocks_lib.check_granularity(granularity)
    if granularity == "element":
        raise ValueError(
            "granularity 'element' has no Gram matrix worth a solve: use 'global', "
            "'tensor', 'channel' or a function (path, shape) -> axes of one block."
        )
