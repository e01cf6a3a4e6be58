"""The update of a tree of parameters from K gradients, followed by Adam."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.coordinate import vit_b16_shapes
from benchmarks.tpu_aot.compiling import Program

AXIS = "chips"
# Every rank and every kind of leaf of a ViT, small.
TINY = {
    "patch_embed": {"kernel": (2, 2, 3, 8), "bias": (8,)},
    "cls_token": (1, 1, 8),
    "blocks": [
        {"qkv": {"kernel": (8, 24), "bias": (24,)}, "norm": {"scale": (8,)}}
        for _ in range(2)
    ],
}


def shapes_of(small: bool, blocks: int | None = None) -> Any:
    """A ViT-B/16's parameters, or its first blocks', or a few small leaves."""
    if small:
        return TINY
    found = vit_b16_shapes()
    return found | {"blocks": found["blocks"][:blocks]}


def spec(shape: tuple[int, ...], placement: str, chips: int) -> P:
    """Sharded along the first or last axis that divides evenly, as FSDP does."""
    axes: list[str | None] = [None] * len(shape)
    order = {
        "replicated": [],
        "first": range(len(shape)),
        "last": reversed(range(len(shape))),
    }[placement]
    for axis in order:
        if shape[axis] % chips == 0:
            axes[axis] = AXIS
            break
    return P(*axes)


def abstract(
    shapes: Any, dtype: Any, mesh: Mesh, placement: str, lead: tuple[int, ...] = ()
) -> Any:
    """A tree of stand-ins for arrays ``(*lead, *shape)`` that lie on a mesh."""

    def of(shape):
        where = P(*[None] * len(lead), *spec(shape, placement, mesh.size))
        return jax.ShapeDtypeStruct(
            (*lead, *shape), dtype, sharding=NamedSharding(mesh, where)
        )

    return jax.tree.map(of, shapes, is_leaf=lambda x: isinstance(x, tuple))


def state_like(state: Any, params: Any, mesh: Mesh) -> Any:
    """A state's stand-ins: where a parameter's name and shape end its own, so placed.

    The others are small and left to the compiler.
    """
    known = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def place(path, leaf):
        ends = [jax.tree_util.keystr(path[index:]) for index in range(len(path))]
        found = next((known[end] for end in ends if end in known), None)
        if found is None or leaf.shape[leaf.ndim - found.ndim :] != found.shape:
            return leaf
        lead = [None] * (leaf.ndim - found.ndim)
        where = NamedSharding(mesh, P(*lead, *found.sharding.spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(place, state)


def update_program(
    make: Callable[[int], optax.GradientTransformation],
    number: int,
    dtype: Any,
    placement: str,
    mesh: Mesh,
    *,
    single: bool = False,
    whole: bool = False,
    shapes: Any = None,
) -> Program:
    """K gradients and K losses to new parameters.

    Args:
      make: from K to a transformation from leaves ``(K, *shape)`` to ``(*shape)``.
      number: K.
      dtype: of parameters and gradients.
      placement: "replicated", "first" or "last".
      mesh: of one axis.
      single: whether the method takes one objective's gradient a step, ``(*shape)``.
      whole: whether the transformation has an optimizer of its own; else Adam follows.
      shapes: the tree of parameters; None for a ViT-B/16's.
    """
    shapes = shapes_of(small=False) if shapes is None else shapes
    params = abstract(shapes, dtype, mesh, placement)
    lead = () if single else (number,)
    gradients = abstract(shapes, dtype, mesh, placement, lead)
    losses = jax.ShapeDtypeStruct(
        (number,), jnp.float32, sharding=NamedSharding(mesh, P())
    )
    then = optax.identity() if whole else optax.adam(1e-3)
    tx = optax.with_extra_args_support(optax.chain(make(number), then))
    state = state_like(jax.eval_shape(tx.init, params), params, mesh)

    def step(params, state, gradients, losses):
        updates, state = tx.update(gradients, state, params, value=losses)
        return optax.apply_updates(params, updates), state

    results = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    return Program(step, (params, state, gradients, losses), (0, 1), results)


def feature_program(
    number: int,
    dtype: Any,
    placement: str,
    mesh: Mesh,
    *,
    small: bool = False,
) -> Program:
    """The coordinator at the feature before the sum and Adam.

    K gradients at 256 features, split over the chips, are edited; the parameters'
    gradients are taken as they are.
    """
    from eagc_jax import features, sum_objectives

    plain = update_program(
        lambda k: sum_objectives(jnp.ones(k)),
        number,
        dtype,
        placement,
        mesh,
        shapes=shapes_of(small),
    )
    rows, width = (16, 8) if small else (256, 768)

    def array(shape, where, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, where))

    at_feature = array((number, rows, width), P(None, AXIS))
    feature, labeled = array((rows, width), P(AXIS)), array((rows,), P(AXIS), bool)
    whole = functools.partial(array, where=P(), dtype=jnp.float32)
    state = features.CoordinatorState(
        whole((width, width)),
        whole(()),
        array((), P(), jnp.int32),
        whole((width,)),
    )

    def step(params, opt_state, gradients, losses, at_feature, feature, labeled, state):
        at_feature, state, _ = features.coordinate_gradients(
            at_feature, feature, feature * 0.9, labeled, state
        )
        new = plain.function(params, opt_state, gradients, losses)
        return *new, at_feature, state

    arguments = (*plain.arguments, at_feature, feature, labeled, state)
    return Program(step, arguments, (0, 1), (*plain.results, at_feature.sharding, None))
