"""Every method lowers for TPU and GPU, and does nothing there that a pod can't afford.

What is kept of ``make tpu-aot`` where there is no TPU compiler: the text that JAX hands
to it. A product of whole leaves at the highest precision costs that compiler seconds a
leaf; a reshape, a concatenation or a slice of a leaf whose axes lie on several chips
makes the partitioner move it.
"""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks.tpu_aot import cases, trees

K = 4
METHODS = cases.methods()
# Every rank; lengths such that nothing but a leaf has a multiple of its entries: each is
# one of 11, and the 84 vertices that `epo` looks at are not.
SHAPES = {
    "filters": (4, 4, 3, 44),
    "class": (1, 1, 44),
    "kernel": (44, 28),
    "bias": (28,),
    "blocks/0": {"kernel": (44, 28)},
}
LEAVES = (4 * 4 * 3 * 44, 44 * 28)  # entries
PLATFORMS = ("tpu", "cuda")
# What shares nothing with the others; the rest are run with -m slow.
TELLING = {
    *("sum", "eagc_channel", "eagc_tensor_progress", "eagc_element"),
    *("upgrad", "upgrad_channel", "pcgrad", "gradnorm", "elastic_projection"),
    *("graddrop", "sam_gs", "moco", "optimizer_aware_all"),
}
LINE = re.compile(r"= \"?stablehlo\.(\w+)\"?.*?: (.*)")
TENSOR = re.compile(r"tensor<((?:\d+x)*)[a-z]")


def lowered(make, single=False):
    """The text for each platform; parameters are sharded along their last axes."""
    mesh = cases.mesh_of(jax.devices())
    program = trees.update_program(
        make, K, jnp.float32, "last", mesh, single=single, shapes=SHAPES
    )
    traced = jax.jit(program.function).trace(*program.arguments)
    return {p: traced.lower(lowering_platforms=(p,)).as_text() for p in PLATFORMS}


def shapes_in(types):
    """Of operands and results, without axes of length 1, which move nothing."""
    return [
        tuple(int(n) for n in sizes.split("x") if n not in ("", "1"))
        for sizes in TENSOR.findall(types)
    ]


def is_leaf(shape):
    return any(math.prod(shape) % size == 0 for size in LEAVES)


def offences(text, platform):
    """Lines of a lowered text that do to whole leaves what they must not."""
    return [line for line in text.splitlines() if _offends(line, platform)]


def _offends(line, platform):
    match = LINE.search(line)
    if not match:
        return False
    kind, shapes = match[1], shapes_in(match[2])
    if not any(is_leaf(shape) for shape in shapes):
        return False
    if kind == "dot_general":
        return platform == "tpu" and "HIGHEST" in line
    if kind == "reshape":
        return shapes[0] != shapes[-1]
    if kind == "concatenate":  # objectives may be stacked
        return "dim = 0" not in line
    return kind in ("dynamic_slice", "dynamic_update_slice", "gather", "scatter")


@pytest.mark.parametrize(
    "name",
    [n if n in TELLING else pytest.param(n, marks=pytest.mark.slow) for n in METHODS],
)
def test_leaves_stay_as_they_are(name):
    texts = lowered(METHODS[name].make, METHODS[name].single)
    for platform, text in texts.items():
        assert sum(bool(LINE.search(line)) for line in text.splitlines()) > 20
        assert not offences(text, platform)


BAD = {
    "a product at the highest precision": lambda g: jnp.einsum(
        "kab,lab->kl", g, g, precision="highest"
    ),
    "a product of what was reshaped": lambda g: g.reshape(K, -1) @ g.reshape(K, -1).T,
    "a reshape": lambda g: jnp.sum(g.reshape(K, -1), axis=1),
    "a concatenation": lambda g: jnp.concatenate([g, g], axis=2),
    "a lookup": lambda g: g[:, :, jnp.arange(28) // 2],
}


@pytest.mark.parametrize("name", BAD)
def test_offences_are_found(name):
    traced = jax.jit(BAD[name]).trace(jnp.ones((K, 44, 28)))
    assert offences(traced.lower(lowering_platforms=("tpu",)).as_text(), "tpu")


def test_what_is_allowed_is_not_an_offence():
    def allowed(g):
        small = jnp.einsum("kl,lm->km", g[:, :K, 0], g[:, :K, 1], precision="highest")
        unit = jnp.expand_dims(g, 1) + jnp.stack([g[0], g[1], g[2], g[3]])
        return small, unit

    traced = jax.jit(allowed).trace(jnp.ones((K, 44, 28)))
    assert not offences(traced.lower(lowering_platforms=("tpu",)).as_text(), "tpu")
