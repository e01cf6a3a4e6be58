"""A plan on paper: what a step with K objectives computes and sends on a TPU pod.

    python -m benchmarks.plan [--json FILE] [--objectives K] [--chips N] [--images N]

Nothing is run: these are counts. ViT-L/14 at 224 pixels, parameters, gradients and Adam's
two moments in float32, matrix products and gathered parameters in bfloat16, and chips
like TPU v5e's. Two placements: "DP", each chip has all parameters and its part of the
batch, gradients are all-reduced; "FSDP", parameters, gradients and moments are sharded
over all chips, each pass gathers the parameters block by block and gradients are
reduced and scattered. Per row, per chip and step:

- ``tflops``, ``compute_ms``: of the model, and at the utilisation assumed;
- ``sent_gb``, ``sending_ms``: collectives, an all-reduce counted twice (a reduction
  and a gathering), at the full bandwidth; what overlaps with computing is not
  subtracted, and latency is not added;
- ``memory_gb``: parameters, moments, gradients, and with FSDP the block in work;
  without activations, which the last line counts.

Rows: the gradient of the summed loss; ``value_and_grads`` (one forward pass, K backward);
``stale_weights`` with a Gram matrix by columns at one step in 20, the mean; and the
coordination itself, which reads K gradients twice and writes one: memory bounds it.
"""

import argparse
import dataclasses
from typing import Any

from benchmarks.timing import add_json_option, print_table, write_json

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """TPU v5e, as Google's pages give it, and a utilisation that is assumed."""

    flops: float = 197e12  # bfloat16, a second
    utilisation: float = 0.5
    memory_bandwidth: float = 819e9  # bytes a second
    memory: float = 16e9  # bytes
    # 1,600 Gbps over four links. With a 16 x 16 torus both axes are rings.
    interconnect: float = 200e9  # bytes a second


@dataclasses.dataclass(frozen=True)
class Vit:
    """A ViT's shape; the defaults are ViT-L/14 at 224 pixels."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    image: int = 224

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1

    @property
    def of_block(self) -> int:
        """Parameters: four and eight square matrices, biases, two norms."""
        return 12 * self.width**2 + 13 * self.width

    @property
    def parameters(self) -> int:
        """Blocks, patches, positions, class token, last norm."""
        patches = (3 * self.patch**2 + 1) * self.width
        around = patches + (self.tokens + 1) * self.width + 2 * self.width
        return self.depth * self.of_block + around

    @property
    def forward_flops(self) -> float:
        """Of one image: two for a multiplication and an addition."""
        products = 2 * self.tokens * self.depth * 12 * self.width**2
        attention = 4 * self.tokens**2 * self.width * self.depth
        patches = 2 * (self.tokens - 1) * 3 * self.patch**2 * self.width
        return products + attention + patches

    def activations(self, images: int) -> float:
        """Bytes that a backward pass needs, bfloat16, nothing recomputed.

        A token and block: 16 vectors of the width (inputs of both norms and of both
        halves, q, k, v, what attention gives, four before and four after the GELU, and
        the residual stream), and its row of every head's attention.
        """
        of_token = 16 * self.width + self.heads * self.tokens
        return 2.0 * images * self.tokens * self.depth * of_token


@dataclasses.dataclass(frozen=True)
class Way:
    """What a way to the gradients does in a step."""

    forwards: float  # passes, each a third of forward and backward
    backwards: float  # each two thirds
    gradients: float  # averaged over the chips
    kept: int  # gradients in memory at once


def ways(number: int, every: int = 20) -> dict[str, Way]:
    """By name. A column of the Gram matrix: a pass backward, a tangent forward."""
    # Pushing forward computes twice what a forward pass does, and gathers the tangent
    # beside the parameters.
    columns = Way(1 + 2 * number, 1 + number, 1 + number, 2)
    plain = Way(1, 1, 1, 1)

    def mean(name: str) -> float:
        old, fresh = getattr(plain, name), getattr(columns, name)
        return ((every - 1) * old + fresh) / every

    return {
        "summed loss": plain,
        "value_and_grads": Way(1, number, number, number),
        f"stale_weights, 1 in {every}": Way(
            mean("forwards"), mean("backwards"), mean("gradients"), columns.kept
        ),
    }


def plan(
    number: int = 8,
    chips: int = 256,
    images: int = 8,
    model: Vit | None = None,
    chip: Chip | None = None,
) -> list[dict[str, Any]]:
    """A row for each way and placement, then the coordination's two."""
    model, chip = model or Vit(), chip or Chip()
    rows = [
        _row(name, way, placement, chips, images, model, chip)
        for placement in ("DP", "FSDP")
        for name, way in ways(number).items()
    ]
    return rows + [
        _coordination(number, placement, chips, model, chip)
        for placement in ("DP", "FSDP")
    ]


def _row(name, way, placement, chips, images, model, chip) -> dict[str, Any]:
    size, block = model.parameters, model.of_block
    flops = images * model.forward_flops * (way.forwards + 2 * way.backwards)
    if placement == "DP":
        collectives = {"all-reduce": (way.gradients, 4.0 * size)}
        memory = 12.0 * size + 4.0 * size * way.kept
    else:
        collectives = {
            "all-gather": (way.forwards + way.backwards, 2.0 * size),
            "reduce-scatter": (way.gradients, 4.0 * size),
        }
        # The block in work: its parameters gathered, its gradient not yet scattered.
        memory = (12.0 + 4.0 * way.kept) * size / chips + 6.0 * block
    sent = sum(
        (2 if kind == "all-reduce" else 1) * count * size_each
        for kind, (count, size_each) in collectives.items()
    )
    return {
        "step": name,
        "placement": placement,
        "tflops": flops / 1e12,
        "compute_ms": 1e3 * flops / (chip.flops * chip.utilisation),
        "collectives": _said(collectives),
        "sent_gb": sent / GB,
        "sending_ms": 1e3 * sent / chip.interconnect,
        "memory_gb": memory / GB,
    }


def _coordination(number, placement, chips, model, chip) -> dict[str, Any]:
    """A method of the Gram matrix: products of all pairs, then one weighted sum."""
    share = chips if placement == "FSDP" else 1
    size = model.parameters / share
    moved = (2 * number + 1) * 4.0 * size
    gram = 4.0 * number**2
    sent = 2 * gram if placement == "FSDP" else 0.0
    return {
        "step": "coordination",
        "placement": placement,
        "tflops": (number * (number + 1) + 2 * number) * size / 1e12,
        "compute_ms": 1e3 * moved / chip.memory_bandwidth,
        "collectives": f"1 all-reduce of {gram:.0f} B" if sent else "none",
        "sent_gb": sent / GB,
        "sending_ms": 1e3 * sent / chip.interconnect,
        "memory_gb": 4.0 * size * (number + 1) / GB,
    }


def _said(collectives: dict[str, tuple[float, float]]) -> str:
    return ", ".join(
        f"{count:.3g} {kind} of {size / GB:.2f} GB"
        for kind, (count, size) in collectives.items()
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--objectives", type=int, default=8, help="K")
    parser.add_argument("--chips", type=int, default=256)
    parser.add_argument("--images", type=int, default=8, help="a chip and step")
    options = parser.parse_args(arguments)
    model, chip = Vit(), Chip()
    rows = plan(options.objectives, options.chips, options.images, model, chip)
    print(
        f"ViT-L/14, {model.parameters / 1e6:.1f}e6 parameters, K = {options.objectives}, "
        f"{options.chips} chips with {options.images} images each; a chip: "
        f"{chip.flops / 1e12:.0f} TFLOP/s at {chip.utilisation:.0%}, "
        f"{chip.memory_bandwidth / GB:.0f} GB/s and {chip.memory / GB:.0f} GB of memory, "
        f"{chip.interconnect / GB:.0f} GB/s between chips"
    )
    formats = {
        "step": "s",
        "placement": "s",
        "tflops": ".3g",
        "compute_ms": ".3g",
        "collectives": "s",
        "sent_gb": ".3g",
        "sending_ms": ".3g",
        "memory_gb": ".3g",
    }
    print_table(rows, formats)
    print(f"activations: {model.activations(options.images) / GB:.1f} GB a chip")
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
