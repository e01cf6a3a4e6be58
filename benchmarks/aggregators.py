"""What the aggregators cost and how exact they are; with ``--torchjd`` beside TorchJD.

    python -m benchmarks.aggregators [--json FILE] [--fast] [--torchjd]
        [--parts update solve quality] [--compile]

Three parts, one table each:

- ``update``: an aggregator's update alone, compiled, for K = 2, 4, 8 gradients of 1e6
  and 1e7 parameters in a tree of four leaves. ``over_bound``: over reading the K
  gradients twice and writing one, measured in the same run as in
  ``benchmarks/coordinate.py``; ``over_own_bound``: over what the method's own equations
  must read and write, its state included, as fast as that; ``over_sum``: over
  ``sum_objectives``. Medians of ratios of interleaved calls.
- ``solve``: the weighting alone, ``(K, K)`` to ``(K,)``, K = 8, 32, 128, on matrices that
  conflict, that have half the rank, and whose gradients' norms differ 1e4 times.
- ``quality``: conflict left, dependence on units, distance from the least norm, float32
  at 1e7 parameters, bfloat16. See ``benchmarks/aggregator_quality.py``.

``--compile`` prints instead how long an update with Adam takes to compile for the tree of
a ViT-B/16, of every aggregator and of ``eagc``: ``benchmarks/aggregator_compile.py``.

``--torchjd`` measures `TorchJD <https://torchjd.org>`_ on the same matrices in the same
run, with as many threads; ``pip install torch "torchjd[full]"`` first. It is given the
gradients as one ``(K, n)`` matrix: concatenating them isn't counted. Its own defaults.

In the JSON file the rows of ``update`` have no field ``part``; the others name theirs.
"""

import argparse
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import aggregator_compile, aggregator_quality, draws
from benchmarks.coordinate import count_parameters, make_tree, read_once, sum_once
from benchmarks.peer_torchjd import TorchJD, available_threads
from benchmarks.timing import (
    add_json_option,
    interleaved_seconds,
    machine,
    print_table,
    write_json,
)
from eagc_jax import aggregators, sum_objectives, weightings

PARTS = ("update", "solve", "quality")
LAYOUTS = {
    1_000_000: {
        "in": {"kernel": (600, 1000), "bias": (1000,)},
        "out": {"kernel": (398, 1000), "bias": (1000,)},
    },
    10_000_000: {
        "in": {"kernel": (2000, 3000), "bias": (3000,)},
        "out": {"kernel": (3994, 1000), "bias": (3000,)},
    },
}
FAST_LAYOUT = {100_000: {"kernel": (99, 1000), "bias": (1000,)}}
ON_GRAM = (
    "mean",
    "pcgrad",
    "gradvac",
    "cagrad",
    "mgda",
    "imtl_g",
    "nash_mtl",
    "fairgrad",
    "aligned_mtl",
    "upgrad",
    "dualproj",
    "elastic_cone",
    "conflict_free",
    "sdmgrad",
    "modo",
    "random_weighting",
    "gem",
    "a_gem",
    "pcd",
)
ON_GRADIENTS = ("graddrop", "sam_gs", "gcond", "moco", "trimmed_mean", "krum")
# What an update must read and write, in copies of the parameters: the gradients twice,
# once to look at them and once to combine them, and the update. With a state of trees:
OWN_BOUNDS: dict[str, Callable[[int], int]] = {
    # Who is finite K, gradients and tracked read and written 3K, d from these K + 1.
    "moco": lambda k: 5 * k + 1,
    # Norms K, gradients and momenta read and written 3K, d written, read and clipped 3.
    "sam_gs": lambda k: 4 * k + 3,
    # Two Gram matrices 2K, resolved gradients read and written 2K, momentum and update 3.
    "gcond": lambda k: 4 * k + 3,
}
SOLVE_GOALS = {("upgrad", 8): 1e-4, ("upgrad", 32): 1e-3, ("upgrad", 128): 1e-2}


# ---------------------------------------------------------------------------
# The update alone
# ---------------------------------------------------------------------------


def make_update(factory: Callable, gradients: Any) -> Callable[[], Any]:
    """A call of one compiled update after the other: the state goes on, in place."""
    number = jax.tree.leaves(gradients)[0].shape[0]
    tx = factory(number)
    params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), gradients)
    kept = [jax.jit(tx.init)(params)]
    compiled = jax.jit(lambda g, s: tx.update(g, s), donate_argnums=1)

    def call():
        update, kept[0] = compiled(gradients, kept[0])
        return update

    return call


def factories(number: int, names: tuple[str, ...]) -> dict[str, Callable]:
    """Those of the methods that exist for this many objectives."""
    found = {}
    for name in names:
        factory = getattr(aggregators, name)
        try:
            factory(number)
        except ValueError as error:
            print(f"{name} at K = {number} is left out: {error}")
            continue
        found[name] = factory
    return found


def measure_updates(
    shapes: Any, number: int, rounds: int, names: tuple[str, ...], peer: TorchJD | None
) -> list[dict[str, Any]]:
    gradients = make_tree(shapes, (number,), seed=number)
    made = {
        name: make_update(factory, gradients)
        for name, factory in factories(number, names).items()
    }
    programs = {
        # Memory that the last method of a round gave back is paid for here, not below.
        "settle": lambda: sum_once(gradients),
        "read": lambda: read_once(gradients),
        "write": lambda: sum_once(gradients),
        "sum": make_update(lambda k: sum_objectives(jnp.ones(k)), gradients),
        **{f"ours {name}": program for name, program in made.items()},
    }
    if peer is not None:
        matrix = peer.matrix(jax.tree.leaves(gradients))
        for name in made:
            program = peer.aggregator(name, number)
            if program is not None and peer.works(program, matrix):
                programs[f"torchjd {name}"] = functools.partial(program, matrix)
    theirs = [name for name in programs if name.startswith("torchjd ")]
    seconds = interleaved_seconds(programs, rounds, rarely=theirs)
    bound = seconds["read"] + seconds["write"]
    rows = []
    for name in made:
        ours, other = seconds[f"ours {name}"], seconds.get(f"torchjd {name}")
        over_bound = float(np.median(ours / bound))
        copies = 2 * number + 1
        own = OWN_BOUNDS.get(name, lambda k: 2 * k + 1)(number)
        rows.append(
            {
                "method": name,
                "num_objectives": number,
                "parameters": count_parameters(shapes),
                "seconds": float(np.median(ours)),
                "over_bound": over_bound,
                "over_own_bound": over_bound * (copies / own),
                "over_sum": float(np.median(ours / seconds["sum"])),
                "torchjd_seconds": None
                if other is None
                else float(np.nanmedian(other)),
            }
        )
    return rows


# ---------------------------------------------------------------------------
# The solve alone
# ---------------------------------------------------------------------------


def solves(names: tuple[str, ...]) -> dict[str, Callable]:
    """Weightings as functions of the Gram matrix alone, nothing random left in them."""
    found = {}
    for name in names:
        function = getattr(weightings, name)
        known = inspect.signature(function).parameters
        if name == "random_weighting":
            function = functools.partial(function, key=jax.random.key(0))
        if "targets" in known:
            function = with_zero_targets(function)
        found[name] = function
    return found


def with_zero_targets(function: Callable) -> Callable:
    return lambda gram: function(gram, jnp.zeros_like(gram))


def measure_solves(
    number: int, rounds: int, names: tuple[str, ...], peer: TorchJD | None
) -> list[dict[str, Any]]:
    matrices = draws.hard_matrices(number, repeats=5)
    grams = [jnp.asarray(m @ m.T, jnp.float32) for m in matrices]
    rows = []
    for name, function in solves(names).items():
        compiled = jax.jit(function)
        programs = {
            f"ours {index}": functools.partial(compiled, gram)
            for index, gram in enumerate(grams)
        }
        theirs = None
        if peer is not None and peer.is_quick(name, number):
            few = matrices if number <= 8 else matrices[:3]  # one of each kind
            theirs = peer.weighting(name, number, few)
        for index, program in enumerate(theirs or ()):
            programs[f"torchjd {index}"] = program
        rarely = [key for key in programs if key.startswith("torchjd ")]
        seconds = interleaved_seconds(programs, rounds, rarely=rarely)
        ours = [np.median(seconds[f"ours {index}"]) for index in range(len(grams))]
        other = [np.nanmedian(seconds[key]) for key in rarely]
        rows.append(
            {
                "part": "solve",
                "method": name,
                "num_objectives": number,
                "seconds": float(np.median(ours)),
                "worst_seconds": float(np.max(ours)),
                "torchjd_seconds": float(np.median(other)) if other else None,
                "goal_seconds": SOLVE_GOALS.get((name, number)),
            }
        )
    return rows


# ---------------------------------------------------------------------------
# The program
# ---------------------------------------------------------------------------

UPDATE_FORMATS = {
    "method": "s",
    "num_objectives": "d",
    "parameters": ".0e",
    "seconds": ".4f",
    "over_bound": ".2f",
    "over_own_bound": ".2f",
    "over_sum": ".2f",
    "torchjd_seconds": ".4f",
}
SOLVE_FORMATS = {
    "method": "s",
    "num_objectives": "d",
    "seconds": ".6f",
    "worst_seconds": ".6f",
    "torchjd_seconds": ".6f",
    "goal_seconds": ".4f",
}


def print_rows(rows: list[dict[str, Any]], formats: Mapping[str, str]) -> None:
    """``print_table``, with a dash for what was not measured."""
    shown = [
        {
            name: "-" if row[name] is None else format(row[name], spec)
            for name, spec in formats.items()
        }
        for row in rows
    ]
    print_table(shown, dict.fromkeys(formats, "s"))
    print(flush=True)


def run_updates(arguments: argparse.Namespace, peer: TorchJD | None) -> list[Any]:
    names = tuple(arguments.only or ON_GRAM + ON_GRADIENTS)
    layouts = FAST_LAYOUT if arguments.fast else LAYOUTS
    rows = []
    for shapes in layouts.values():
        for number in (2,) if arguments.fast else (2, 4, 8):
            rows += measure_updates(shapes, number, arguments.rounds, names, peer)
    print_rows(rows, UPDATE_FORMATS)
    return rows


def run_solves(arguments: argparse.Namespace, peer: TorchJD | None) -> list[Any]:
    names = tuple(n for n in arguments.only or ON_GRAM if n in ON_GRAM)
    rows = []
    for number in (8,) if arguments.fast else (8, 32, 128):
        rows += measure_solves(number, arguments.rounds, names, peer)
    print_rows(rows, SOLVE_FORMATS)
    return rows


def run_quality(arguments: argparse.Namespace, peer: TorchJD | None) -> list[Any]:
    rows = aggregator_quality.measure(arguments.fast, arguments.only, peer)
    print_rows(rows, aggregator_quality.FORMATS)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_json_option(parser)
    parser.add_argument("--rounds", type=int, default=15, help="timed calls of each")
    parser.add_argument(
        "--fast", action="store_true", help="small sizes, K = 2, no wait"
    )
    parser.add_argument(
        "--torchjd", action="store_true", help="measure TorchJD as well"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="METHOD", help="these methods alone"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--compile", action="store_true", help="measure compilation, nothing else"
    )
    arguments = parser.parse_args()
    if arguments.fast:
        arguments.rounds = min(arguments.rounds, 3)
    if arguments.compile:
        aggregator_compile.run(arguments)
        return
    peer = TorchJD() if arguments.torchjd else None
    print(f"{machine()}, {available_threads()} threads")
    if peer is not None:
        print(peer.versions())
    run = {"update": run_updates, "solve": run_solves, "quality": run_quality}
    rows: list[Any] = []
    for part in PARTS:
        if part in arguments.parts:
            rows += run[part](arguments, peer)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
