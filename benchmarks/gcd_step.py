"""What the coordinator at the feature costs a training step of a ViT-B/16.

    python -m benchmarks.gcd_step [--batch 8] [--rounds 3] [--json FILE]

SimGCD on a ViT-B/16 at 224 pixels, two views per image, block 11 and the heads trained,
heads of the published size. Three steps are timed in turn in one run:

- ``SimGCD``: one backward pass of the weighted sum;
- ``EAGC``: the same with the coordinator, whose reference model shares the frozen
  blocks; the step on which ``step_time_ratio`` is based;
- ``two forward passes``: the same with a reference model that runs from pixels on, as in
  the authors' code.

``flops_ratio`` compares the first two by XLA's own cost analysis. Compilation is not
timed. ``--small`` is a quick check that it runs.
"""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.timing import (
    add_json_option,
    interleaved_seconds,
    machine,
    print_table,
    write_json,
)
from eagc_jax import features
from eagc_jax.gcd.backbones.vit import VisionTransformer, ViTConfig
from eagc_jax.gcd.methods import Batch, SimGCD
from eagc_jax.gcd.training import step
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.gcd.training.settings import FeatureCoordination

CLASSES = 200  # as of CUB
PUBLISHED = SimGCD(head_hidden=2048, head_projection=256)
SMALL = ViTConfig(image_size=32, patch_size=8, width=32, depth=3, heads=4)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--batch", type=int, default=8, help="images, two views each")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each")
    parser.add_argument("--small", action="store_true", help="a tiny model")
    options = parser.parse_args(arguments)
    print(machine())
    config = SMALL if options.small else ViTConfig()
    steps = compiled_steps(config, options.batch)
    seconds = interleaved_seconds(
        {name: program for name, (program, _) in steps.items()}, options.rounds
    )
    plain = seconds["SimGCD"]
    rows = [
        {
            "step": name,
            "seconds": float(np.median(seconds[name])),
            "images_per_second": options.batch / float(np.median(seconds[name])),
            "step_time_ratio": float(np.median(seconds[name] / plain)),
            "gflop": flops / 1e9,
            "flops_ratio": flops / steps["SimGCD"][1],
        }
        for name, (_, flops) in steps.items()
    ]
    formats = {
        "step": "s",
        "seconds": ".3f",
        "images_per_second": ".2f",
        "step_time_ratio": ".3f",
        "gflop": ".1f",
        "flops_ratio": ".3f",
    }
    print(f"batch of {options.batch} images, two views each; {options.rounds} rounds")
    print_table(rows, formats)
    ours = next(row for row in rows if row["step"] == "EAGC")
    wanted = ("step_time_ratio", "flops_ratio", "images_per_second")
    summary = {"batch": options.batch, **{name: ours[name] for name in wanted}}
    write_json(options.json, summary | {"steps": rows})
    return 0


def compiled_steps(config: ViTConfig, batch_size: int) -> dict[str, tuple[Any, float]]:
    """Programs without arguments, and their FLOPs, by name."""
    graphdef, params, frozen = nnx_parts(config)
    optimizer = optax.sgd(0.1, momentum=0.9)
    views = jax.random.uniform(
        jax.random.key(1), (2 * batch_size, *[config.image_size] * 2, config.channels)
    )
    labels = jnp.where(jnp.arange(batch_size) % 2 == 0, jnp.arange(batch_size), -1)
    batch = Batch(labels, labels >= 0, jnp.float32(0))
    width = config.width
    pool = jax.random.normal(jax.random.key(2), (512, width))
    conceptor = features.conceptor(pool)
    state = features.init_coordinator(conceptor, features.energy_ratio(pool, conceptor))
    reference = jax.tree.map(lambda leaf: 0.99 * leaf, params["backbone"])

    def one(way, params, opt_state, state, frozen, reference, views):
        def rebuild(params):
            return nnx.merge(graphdef, nnx.State(params), frozen)

        tokens = rebuild(params).tokens(views)
        coordination = None
        if way != "SimGCD":
            if way == "two forward passes":
                # Other weights in front, so that nothing can be shared.
                views = views * 0.999
                apart = {**params, "backbone": reference}
                again = rebuild(apart).tokens(views)
                reference_features = rebuild(apart).features(again)
            else:
                reference_features = None
            coordination = step.Coordination(
                FeatureCoordination(),
                {"backbone": reference},
                state,
                jnp.float32(1.0),
                reference_features,
            )
        problem = step.Problem(PUBLISHED, rebuild, summed=True)
        found = step.gradients(problem, params, tokens, batch, coordination, False)
        updates, opt_state = optimizer.update(found.gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, found.coordinator

    inputs = (params, optimizer.init(params), state, frozen, reference, views)
    programs = {}
    for way in ("SimGCD", "EAGC", "two forward passes"):
        compiled = jax.jit(one, static_argnums=0).lower(way, *inputs).compile()
        flops = compiled.cost_analysis()["flops"]
        programs[way] = (lambda compiled=compiled: compiled(*inputs), float(flops))
    return programs


def nnx_parts(config: ViTConfig):
    """Graph definition, trained parameters and frozen state of a random model."""

    @nnx.jit
    def build():
        rngs = nnx.Rngs(0)
        backbone = VisionTransformer(config, rngs=rngs)
        head = PUBLISHED.build_head(config.width, CLASSES, rngs=rngs)
        return DiscoveryModel(backbone, head)

    model = build()
    graphdef, trained, frozen = nnx.split(model, model.is_trainable, ...)
    return graphdef, nnx.to_pure_dict(trained), frozen


if __name__ == "__main__":
    sys.exit(main())
