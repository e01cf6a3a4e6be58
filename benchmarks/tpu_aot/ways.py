"""The ways to K gradients, through a ViT-B/16 written out in plain arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.tpu_aot.compiling import Program
from benchmarks.tpu_aot.trees import AXIS, abstract, shapes_of, state_like
from eagc_jax import aggregators, gradients
from eagc_jax.weightings import upgrad

BATCH, PIXELS, PATCH, HEADS = 128, 224, 16, 12
SMALL_BATCH, SMALL_PIXELS, SMALL_PATCH, SMALL_HEADS = 8, 8, 2, 2
WAYS = (
    "sum",
    "value_and_grads",
    "value_and_grads_loop",
    "value_and_grads_at_feature",
    "value_and_grads_by_batch",
    "two_phase_columns",
    "two_phase_batched",
    "tapped_two_phase",
    "value_and_grad_from_representation",
    "stale_weights",
    "value_and_grad_of_one",
)


def program(way: str, number: int, dtype: Any, mesh: Mesh, *, small: bool) -> Program:
    """One step of Adam on K losses of one feature, the batch split over the chips."""
    batch, pixels = (SMALL_BATCH, SMALL_PIXELS) if small else (BATCH, PIXELS)
    params = {
        "trunk": abstract(_trunk_shapes(small), dtype, mesh, "replicated"),
        "heads": abstract(_head_shapes(number, small), dtype, mesh, "replicated"),
    }
    images = jax.ShapeDtypeStruct(
        (batch, pixels, pixels, 3), dtype, sharding=NamedSharding(mesh, P(AXIS))
    )
    functions = {str(k): _loss_of(str(k)) for k in range(number)}
    find = _finders(functions, small)[way]
    reduce = aggregators.upgrad(number) if find.many else optax.identity()
    tx = optax.chain(reduce, optax.adam(1e-3))
    state = state_like(jax.eval_shape(tx.init, params), params, mesh)

    def step(params, state, images):
        updates, state = tx.update(find.gradients(params, images), state, params)
        return optax.apply_updates(params, updates), state

    results = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    return Program(step, (params, state, images), (0, 1), results)


class _Finder:
    """A function from parameters and images to gradients; whether to K of them."""

    def __init__(self, gradients: Callable[..., Any], many: bool = False):
        self.gradients = gradients
        self.many = many


def _finders(functions: dict[str, Callable], small: bool) -> dict[str, _Finder]:
    def tapped(params, probe, images):
        z = features(params["trunk"], images, small, probe)
        heads = gradients.tap(params["heads"], probe)
        return jnp.stack([loss(heads, z) for loss in functions.values()])

    def losses(params, images):
        return tapped(params, None, images)

    def trunk(params, images):
        return features(params, images, small)

    def of_heads(loss):
        return lambda heads, z, images: loss(heads, z)

    def of_batch(loss):
        return lambda params, part: loss(params["heads"], trunk(params["trunk"], part))

    at_feature = {name: of_heads(loss) for name, loss in functions.items()}
    by_batch = [of_batch(loss) for loss in functions.values()]

    def split(way):
        def found(params, images):
            result = way(params["trunk"], params["heads"], images)
            return {"trunk": result[1][0], "heads": result[1][1]}

        return found

    def parts(images):
        number = len(functions)
        return [
            images.reshape(-1, number, *images.shape[1:])[:, k] for k in range(number)
        ]

    def stale(params, images):
        way = gradients.stale_weights(losses, upgrad, recompute_every=20)
        state = gradients.init_stale_weights(len(functions))
        return way(params, state, images)[1]

    def second(way, *between):
        return lambda params, images: way(params, *between, images)[1]

    exact = gradients.value_and_grads
    return {
        "sum": _Finder(jax.grad(lambda p, x: jnp.sum(losses(p, x)))),
        "value_and_grads": _Finder(second(exact(losses)), many=True),
        "value_and_grads_loop": _Finder(second(exact(losses, loop=True)), many=True),
        "value_and_grads_at_feature": _Finder(
            _heads_alone(gradients.value_and_grads_at_feature(trunk, at_feature)),
            many=True,
        ),
        "value_and_grads_by_batch": _Finder(
            lambda params, images: gradients.value_and_grads_by_batch(by_batch)(
                params, parts(images)
            )[1],
            many=True,
        ),
        "two_phase_columns": _Finder(second(gradients.two_phase(losses, upgrad))),
        "two_phase_batched": _Finder(
            second(gradients.two_phase(losses, upgrad, gram="batched"))
        ),
        "tapped_two_phase": _Finder(second(gradients.tapped_two_phase(tapped, upgrad))),
        "value_and_grad_from_representation": _Finder(
            split(
                gradients.value_and_grad_from_representation(trunk, at_feature, upgrad)
            )
        ),
        "stale_weights": _Finder(stale),
        "value_and_grad_of_one": _Finder(
            second(gradients.value_and_grad_of_one(losses), jnp.int32(1))
        ),
    }


def _heads_alone(way: Callable[..., Any]) -> Callable[..., Any]:
    def found(params, images):
        _, (trunk, heads) = way(params["trunk"], params["heads"], images)
        return {"trunk": trunk, "heads": heads}

    return found


# ---------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------


def features(params: Any, images: jax.Array, small: bool, probe: Any = None):
    """``(B, H, W, 3)`` to the class token's ``(B, width)``; taps for ``probe``."""
    patch, heads = (SMALL_PATCH, SMALL_HEADS) if small else (PATCH, HEADS)
    params = gradients.tap(params, probe)
    number, size = len(images), images.shape[1] // patch
    x = images.reshape(number, size, patch, size, patch, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(number, size * size, -1)
    kernel = params["patch_embed"]["kernel"]
    x = x @ kernel.reshape(-1, kernel.shape[-1]) + params["patch_embed"]["bias"]
    first = jnp.broadcast_to(params["cls_token"], (number, 1, x.shape[-1]))
    x = jnp.concatenate([first, x], axis=1)
    if "pos_embed" in params:
        x = x + params["pos_embed"]
    for block in params["blocks"]:
        x = _block(x, block, heads)
    return x[:, 0]


def _block(x, block, heads):
    batch, length, width = x.shape
    normal = _normal(x, block.get("norm1", block.get("norm")))
    mixed = _dense(normal, block["qkv"]).reshape(batch, length, 3, heads, -1)
    mixed = jax.nn.dot_product_attention(*(mixed[:, :, i] for i in range(3)))
    mixed = mixed.reshape(batch, length, width)
    if "proj" not in block:  # the small tree's blocks end here
        return x + mixed
    x = x + _dense(mixed, block["proj"])
    hidden = jax.nn.gelu(_dense(_normal(x, block["norm2"]), block["fc1"]))
    return x + _dense(hidden, block["fc2"])


def _dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def _normal(x, layer):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    spread = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(spread + 1e-6) * layer["scale"] + layer.get(
        "bias", 0
    )


def _loss_of(name: str) -> Callable[..., jax.Array]:
    aim = 1.0 + int(name)

    def loss(heads, z):
        out = z @ heads[name]
        return jnp.mean((out.astype(jnp.float32) - aim) ** 2)

    return loss


def _trunk_shapes(small: bool) -> Any:
    return {name: part for name, part in shapes_of(small).items() if name != "head"}


def _head_shapes(number: int, small: bool) -> Any:
    shape = (8, 12) if small else (768, 1000)
    return {str(k): shape for k in range(number)}
