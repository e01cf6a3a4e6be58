"""What ``eagc(K, preset="article").update`` costs beside what any coordinator must do.

    python -m benchmarks.coordinate [--json FILE] [--fast]

Times the update alone, compiled, for K = 2, 4, 8 objectives, on one big leaf (1e6 and
1e7 parameters) and on the tree of a ViT-B/16 (8.7e7 parameters, 152 leaves), per tensor
and per channel, as ratios to two baselines of the same run:

- ``over_bound``: over reading the K gradients twice and writing one. That is what a
  coordinator can't avoid: once to assess, once to combine. Measured as a pass that
  reduces all gradients to norms, plus a pass that writes their sum.
- ``over_sum``: over the plain weighted sum, ``sum_objectives``.

And how long the update takes to compile for the ViT-B/16 tree, beside
``sum_objectives`` followed by Adam.
"""

import argparse
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import (
    add_json_option,
    interleaved_seconds,
    machine,
    print_table,
    write_json,
)
from eagc_jax import eagc, sum_objectives

GRANULARITIES = ("tensor", "channel")


def vit_b16_shapes() -> dict[str, Any]:
    """The parameter shapes of a ViT-B/16 for 224 pixels with a 1000-class head."""
    width, hidden = 768, 3072

    def norm():
        return {"scale": (width,), "bias": (width,)}

    def dense(rows, columns):
        return {"kernel": (rows, columns), "bias": (columns,)}

    def block():
        return {
            "norm1": norm(),
            "qkv": dense(width, 3 * width),
            "proj": dense(width, width),
            "norm2": norm(),
            "fc1": dense(width, hidden),
            "fc2": dense(hidden, width),
        }

    return {
        "patch_embed": {"kernel": (16, 16, 3, width), "bias": (width,)},
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "blocks": [block() for _ in range(12)],
        "norm": norm(),
        "head": dense(width, 1000),
    }


LAYOUTS = {
    "one leaf, 1e6": {"kernel": (1000, 1000)},
    "one leaf, 1e7": {"kernel": (2500, 4000)},
    "ViT-B/16": vit_b16_shapes(),
}


def make_tree(shapes: Any, leading: tuple[int, ...], seed: int) -> Any:
    """Normal numbers of these shapes, made on the device."""
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    made = [
        jax.random.normal(key, (*leading, *shape))
        for key, shape in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, made)


def count_parameters(shapes: Any) -> int:
    leaves = jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return sum(math.prod(shape) for shape in leaves)


@jax.jit
def read_once(gradients):
    return [
        jnp.sum(g * g, axis=tuple(range(1, g.ndim))) for g in jax.tree.leaves(gradients)
    ]


@jax.jit
def sum_once(gradients):
    def total(g):
        return sum(g[k] for k in range(1, g.shape[0])) + g[0]

    return jax.tree.map(total, gradients)


def measure(layout: str, num_objectives: int, rounds: int) -> list[dict[str, Any]]:
    shapes = LAYOUTS[layout]
    gradients = make_tree(shapes, (num_objectives,), seed=num_objectives)
    params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:]), gradients)

    def update(tx):
        state = jax.jit(tx.init)(params)
        compiled = jax.jit(lambda g, s: tx.update(g, s))
        return lambda: compiled(gradients, state)

    weights = np.linspace(1.0, 2.0, num_objectives)
    seconds = interleaved_seconds(
        {
            "read": lambda: read_once(gradients),
            "write": lambda: sum_once(gradients),
            "sum": update(sum_objectives(weights)),
            **{
                name: update(eagc(num_objectives, preset="article", granularity=name))
                for name in GRANULARITIES
            },
        },
        rounds,
    )
    bound = seconds["read"] + seconds["write"]
    return [
        {
            "num_objectives": num_objectives,
            "parameters": count_parameters(shapes),
            "layout": layout,
            "granularity": name,
            "seconds": float(np.median(seconds[name])),
            "over_bound": float(np.median(seconds[name] / bound)),
            "over_sum": float(np.median(seconds[name] / seconds["sum"])),
        }
        for name in GRANULARITIES
    ]


def compile_seconds(num_objectives: int = 2) -> dict[str, float]:
    """Seconds to compile an update for the ViT-B/16 tree, tracing excluded."""

    def abstract(shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def is_shape(x):
        return isinstance(x, tuple)

    params = jax.tree.map(abstract, LAYOUTS["ViT-B/16"], is_leaf=is_shape)
    gradients = jax.tree.map(
        lambda s: abstract((num_objectives, *s)), LAYOUTS["ViT-B/16"], is_leaf=is_shape
    )
    found = {}
    for name, tx in {
        "sum + Adam": optax.chain(sum_objectives(), optax.scale_by_adam()),
        **{
            f"eagc, {name}": eagc(num_objectives, preset="article", granularity=name)
            for name in GRANULARITIES
        },
    }.items():
        state = jax.eval_shape(tx.init, params)
        lowered = jax.jit(lambda g, s, tx=tx: tx.update(g, s)).lower(gradients, state)
        start = time.perf_counter()
        lowered.compile()
        found[name] = time.perf_counter() - start
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--rounds", type=int, default=15, help="timed calls of each")
    parser.add_argument("--fast", action="store_true", help="K = 2 on one leaf only")
    arguments = parser.parse_args()
    print(machine())
    rows = []
    for layout in list(LAYOUTS)[:1] if arguments.fast else LAYOUTS:
        for num_objectives in (2,) if arguments.fast else (2, 4, 8):
            rows += measure(layout, num_objectives, arguments.rounds)
    formats = {
        "num_objectives": "d",
        "parameters": "d",
        "layout": "s",
        "granularity": "s",
        "seconds": ".4f",
        "over_bound": ".2f",
        "over_sum": ".2f",
    }
    print_table(rows, formats)
    if not arguments.fast:
        for name, value in compile_seconds().items():
            print(f"compile for ViT-B/16, K = 2: {name}: {value:.1f} s")
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
