"""The rows: which method, where its parameters lie, how many objectives, which dtype."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from benchmarks.tpu_aot import simgcd, trees, ways
from benchmarks.tpu_aot.compiling import Program
from eagc_jax import (
    aggregators,
    eagc,
    elastic_projection,
    optimizer_aware,
    sum_objectives,
)

SUM = "sum"
PLACEMENTS = ("last", "first", "replicated")
BATCH_SPLIT = "data"


class Case(NamedTuple):
    """One row."""

    kind: str  # "update", "ways", "vit_s16" or "vit_b16", the last two SimGCD's step.
    method: str
    placement: str
    num_objectives: int
    dtype: str

    @property
    def name(self) -> str:
        """For ``--only``, the table and the file."""
        kind = "" if self.kind == "update" else f"{self.kind}:"
        return (
            f"{kind}{self.method}/{self.placement}/K{self.num_objectives}/{self.dtype}"
        )

    @property
    def baseline(self) -> "Case":
        """The plain sum's row beside it."""
        return self._replace(method=SUM)


class Method(NamedTuple):
    """An update from K gradients."""

    make: Callable[[int], optax.GradientTransformation]
    bounds: str  # a name in ``bounds.BOUNDS``
    single: bool = False  # one objective's gradient a step
    whole: bool = False  # it has an optimizer of its own, so that no Adam follows


def methods() -> dict[str, Method]:
    """All updates by name, the plain sum first."""
    found = {SUM: Method(_plain_sum, "whole")}
    for granularity in ("channel", "tensor", "global", "element"):
        bounds = {"channel": "by block", "element": "by entry"}.get(
            granularity, "whole"
        )
        make = functools.partial(eagc, preset="article", granularity=granularity)
        found[f"eagc_{granularity}"] = Method(make, bounds)
    for energy in ("progress", "exploratory", "sensitivity", "fisher"):
        make = functools.partial(
            eagc, preset="article", granularity="tensor", energy=energy
        )
        bounds = "fisher" if energy == "fisher" else "whole"
        found[f"eagc_tensor_{energy}"] = Method(make, bounds)
        make = functools.partial(eagc, preset="article", energy=energy)
        found[f"eagc_channel_{energy}"] = Method(make, "by block")
    return found | _aggregators() | _others()


def _plain_sum(number: int) -> optax.GradientTransformation:
    return sum_objectives(jnp.ones(number))


def _aggregators() -> dict[str, Method]:
    direct = ("graddrop", "sam_gs", "gcond", "moco", "trimmed_mean", "krum", "gradnorm")
    direct += ("db_mtl", "excess_mtl")  # memories as large as K gradients
    left_out = ("from_weighting", "accumulate_objectives", "momentum_conflict_free")
    options = {
        "gradnorm": {"layers": lambda path: path.startswith("blocks/0")},
        "krum": {"byzantine": 0},
    }
    found = {}
    for name in aggregators.__all__:
        factory = getattr(aggregators, name)
        if not inspect.isfunction(factory) or name in left_out:
            continue
        make = functools.partial(factory, **options.get(name, {}))
        found[name] = Method(make, "gradients" if name in direct else "whole")
    # What isn't a function of the Gram matrix alone comes last: it takes longest.
    return dict(sorted(found.items(), key=lambda item: item[1].bounds == "gradients"))


def _others() -> dict[str, Method]:
    def accumulated(number):
        inner = aggregators.upgrad(number)
        return aggregators.accumulate_objectives(inner, number, every=4)

    def projected(number):
        return optax.chain(elastic_projection(number), sum_objectives())

    def by_tensor(number):
        return aggregators.upgrad(number, granularity="tensor")

    def by_channel(number):
        return aggregators.upgrad(number, granularity="channel")

    def aware(number, **options):
        return optimizer_aware(aggregators.upgrad(number), optax.adamw(1e-3), **options)

    aware_of_all = functools.partial(aware, include_momentum=True, certify=True)
    return {
        "optimizer_aware": Method(aware, "gradients", whole=True),
        "optimizer_aware_all": Method(aware_of_all, "gradients", whole=True),
        "upgrad_tensor": Method(by_tensor, "by tensor"),
        "upgrad_channel": Method(by_channel, "grams by block"),
        "momentum_conflict_free": Method(
            aggregators.momentum_conflict_free, "gradients", single=True
        ),
        "accumulate_objectives": Method(accumulated, "gradients"),
        "elastic_projection": Method(projected, "projection"),
    }


# Minutes each; a run that is interrupted has the others before.
LATE = ("eagc_element", "upgrad_channel")


def all_cases() -> list[Case]:
    """Every row, most telling first; each group begins with its plain sum."""
    found = []
    for dtype, number in (
        ("float32", 2),
        ("float32", 4),
        ("bfloat16", 2),
        ("bfloat16", 4),
    ):
        for placement in PLACEMENTS:
            found += [
                Case("update", name, placement, number, dtype)
                for name in (*methods(), "features")
                if not (name == "krum" and number == 2)  # there are no two others
            ]
        if number == 2:
            for model in simgcd.MODELS:
                found += [
                    Case(model, name, BATCH_SPLIT, 2, dtype)
                    for name in simgcd.COORDINATORS
                ]
            found += [Case("ways", name, BATCH_SPLIT, 2, dtype) for name in ways.WAYS]
    return sorted(found, key=lambda case: case.method in LATE)


QUICK = (SUM, "eagc_channel", "eagc_tensor", "upgrad", "mgda", "pcgrad", "cagrad")


def quick_cases() -> list[Case]:
    """A row a kernel: K = 2, float32, parameters sharded along the last axis."""
    return [
        case
        for case in all_cases()
        if case.kind == "update"
        and case.method in QUICK
        and case.placement == "last"
        and (case.num_objectives, case.dtype) == (2, "float32")
    ]


def bounds_of(case: Case) -> str:
    """The name of the bounds that a row must keep."""
    if case.kind != "update" or case.method == "features":
        return "steps"
    return methods()[case.method].bounds


def build(
    case: Case, mesh: Mesh, *, small: bool = False, blocks: int | None = None
) -> Program:
    """The program of a row; ``blocks`` of updates, None for all twelve."""
    dtype = jnp.dtype(case.dtype)
    if case.kind == "ways":
        return ways.program(case.method, case.num_objectives, dtype, mesh, small=small)
    if case.kind in simgcd.MODELS:
        return simgcd.program(case.kind, case.method, dtype, mesh, small=small)
    given: Any = (case.num_objectives, dtype, case.placement, mesh)
    if case.method == "features":
        return trees.feature_program(*given, small=small)
    method = methods()[case.method]
    return trees.update_program(
        method.make,
        *given,
        single=method.single,
        whole=method.whole,
        shapes=trees.shapes_of(small, blocks),
    )


def sum_beside(
    case: Case, mesh: Mesh, *, small: bool = False, blocks: int | None = None
) -> Program | None:
    """The plain sum that an update is compared with; None for other rows and itself."""
    if case.kind != "update" or case == case.baseline:
        return None
    given: Any = (case.num_objectives, jnp.dtype(case.dtype), case.placement, mesh)
    return trees.update_program(
        _plain_sum, *given, shapes=trees.shapes_of(small, blocks)
    )


def small_program(mesh: Mesh, *, small: bool = False) -> Program:
    """The plain sum with one block of the twelve: what tells how fast a machine is."""
    shapes = trees.shapes_of(small, 1)
    return trees.update_program(
        _plain_sum, 2, jnp.dtype("float32"), "last", mesh, shapes=shapes
    )


def mesh_of(devices: Any) -> Mesh:
    """Four chips in a row."""
    return jax.sharding.Mesh(list(devices)[:4], (trees.AXIS,))
