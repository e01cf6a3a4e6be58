r"""The classic two-objective toy: which paths do the plain sum, EAGC and others take?

    python -m examples.multi_task_toy --output runs/multi_task_toy.png

Two losses over two parameters, after Liu et al., CAGrad (https://arxiv.org/abs/2110.14048),
with the first one scaled by 0.1 as in Navon et al., Nash-MTL
(https://arxiv.org/abs/2202.01017). The upper half is a pair of logarithmic valleys with
steep walls, the lower half a pair of bowls that are ten times flatter along one
parameter than along the other; the objectives there disagree along the Pareto set, a
line between the two bowls' centres.

Every method minimises with the same Adam, from the same starts. The program prints where
it ended, and draws the paths. How long a path takes that zigzags along a wall, as that
from (9, 9) does, is partly a matter of rounding.

What to expect of EAGC here, that is of its preset "article". It compares *shares*: how
much of its own gradient each objective has in a block. It does not balance the scales
of losses; weights do that. On the Pareto set both gradients lie along one parameter,
the shares are equal, and EAGC stops where the sum of the same weights does. Only the
way there differs. A vector is one block at granularity "channel" or "tensor"; with one
block in all, shares are always equal and EAGC *is* the plain sum, hence "element"
below. With scale="global" it compares plain sizes, and the larger gradient gets the
larger gate: from (9, 9) the steep wall of one objective then holds the path up, where
the others pass.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eagc_jax import eagc, sum_objectives, value_and_grads

STARTS = jnp.array([[-8.5, 7.5], [-8.5, -5.0], [0.0, 0.0], [9.0, 9.0], [10.0, -8.0]])
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00")
LEARNING_RATE = 0.01
EVERY = 10  # of the steps, this many make one point of a path
ARRIVED = 0.02  # distance to the front, in units of the losses' ranges along it


# ---------------------------------------------------------------------------
# The two objectives and their Pareto set
# ---------------------------------------------------------------------------


def losses_fn(theta):
    x, y = theta
    upper, lower = jnp.maximum(jnp.tanh(y / 2), 0), jnp.maximum(jnp.tanh(-y / 2), 0)

    def valley(wall):
        return jnp.log(jnp.maximum(jnp.abs(wall), 5e-6)) + 6

    def bowl(centre):
        return ((x - centre) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20

    first = upper * valley((-x - 7) / 2 + jnp.tanh(y)) + lower * bowl(7.0)
    second = upper * valley((-x + 3) / 2 - jnp.tanh(y) + 2) + lower * bowl(-7.0)
    return jnp.stack([0.1 * first, second])


def pareto_set(points=401):
    """Points ``(points, 2)`` on which no direction lowers both losses.

    These lie between the bowls. There the gradients are parallel: bisect for y.
    """
    x = jnp.linspace(-7.0, 7.0, points)

    def cross(x, y):  # 0 where the gradients are parallel
        (a, b), (c, d) = jax.jacobian(losses_fn)(jnp.stack([x, y]))
        return a * d - b * c

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        same = jnp.sign(cross(x, middle)) == jnp.sign(cross(x, low))
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    cross = jax.vmap(cross)
    bounds = jnp.full_like(x, -9.5), jnp.full_like(x, -7.0)
    low, high = jax.lax.fori_loop(0, 40, halve, bounds)
    return jnp.stack([x, (low + high) / 2], axis=1)


def distance_to_front(losses, front):
    """Euclidean, each loss in units of its range along the front."""
    span = jnp.ptp(front, axis=0)
    gaps = (losses[..., None, :] - front) / span
    return jnp.min(jnp.linalg.norm(gaps, axis=-1), axis=-1)


# ---------------------------------------------------------------------------
# The methods: EAGC, and peers in a few lines each
# ---------------------------------------------------------------------------


def stateless(reduce):
    """A function from gradients (2, 2) to one (2,), as an Optax transformation."""
    return optax.stateless(lambda updates, params: reduce(updates))


def unit_gradients(grads):
    """Each objective's gradient scaled to the mean of their lengths, then summed."""
    length = jnp.maximum(jnp.linalg.norm(grads, axis=1, keepdims=True), 1e-12)
    return jnp.mean(length) * jnp.sum(grads / length, axis=0)


def pcgrad(grads):
    """For two objectives: each is projected off the other where they conflict."""
    a, b = grads
    conflict = jnp.minimum(a @ b, 0.0)
    tiny = 1e-12
    return a + b - conflict * (b / (b @ b + tiny) + a / (a @ a + tiny))


def methods():
    element = {"granularity": "element"}
    return {
        "plain sum": sum_objectives(),
        "EAGC": eagc(2, preset="article", **element),
        "EAGC, temperature 0.3": eagc(2, preset="article", temperature=0.3, **element),
        "EAGC, scale global": eagc(2, preset="article", scale="global", **element),
        "unit gradients": stateless(unit_gradients),
        "PCGrad": stateless(pcgrad),
        "sum, weights 10:1": sum_objectives((10.0, 1.0)),
        "EAGC, weights 10:1": eagc(2, preset="article", weights=(10.0, 1.0), **element),
    }


class Run(NamedTuple):
    """One method from all starts."""

    path: np.ndarray  # (starts, points, 2)
    losses: np.ndarray  # (starts, points, 2)
    distance: np.ndarray  # (starts, points), to the front


def follow(coordinate, steps, front):
    optimizer = optax.chain(coordinate, optax.adam(LEARNING_RATE))

    def from_start(theta):
        def step(carry, _):
            theta, state = carry
            _, grads = value_and_grads(losses_fn)(theta)
            updates, state = optimizer.update(grads, state, theta)
            return (optax.apply_updates(theta, updates), state), theta

        carry = theta, optimizer.init(theta)
        (theta, _), path = jax.lax.scan(step, carry, length=steps)
        path = jnp.concatenate([path[::EVERY], theta[None]])
        losses = jax.vmap(losses_fn)(path)
        return path, losses, distance_to_front(losses, front)

    return Run(*map(np.asarray, jax.jit(jax.vmap(from_start))(STARTS)))


# ---------------------------------------------------------------------------
# The table and the picture
# ---------------------------------------------------------------------------


def arrival(run):
    """Per start, the step from which the path stays near the front, or inf."""
    away = run.distance > ARRIVED
    points = away.shape[1] - np.argmax(away[:, ::-1], axis=1)
    steps = np.where(away.any(axis=1), points * EVERY, 0)
    return np.where(away[:, -1], np.inf, steps)


def table(runs):
    lines = [
        f"{'':22} {'distance to front':>18} {'arrived':>8} {'steps, median':>14} "
        f"{'first loss':>16} {'second loss':>18}",
        f"{'':22} {'mean':>9}{'worst':>9} {'':8} {'and slowest':>14} "
        f"{'lowest, highest':>16} {'lowest, highest':>18}",
    ]
    for name, run in runs.items():
        distance, steps, ends = run.distance[:, -1], arrival(run), run.losses[:, -1]
        low, high = ends.min(axis=0), ends.max(axis=0)
        lines.append(
            f"{name:22} {distance.mean():9.3f}{distance.max():9.3f} "
            f"{np.isfinite(steps).sum():4} of {len(steps)} "
            f"{np.median(steps):7.0f}{steps.max():7.0f} "
            f"{low[0]:8.2f}{high[0]:8.2f} {low[1]:9.2f}{high[1]:9.2f}"
        )
    return "\n".join(lines)


def draw(runs, optimum, front):
    figure = Figure(figsize=(11, 11.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 3)
    side = np.linspace(-11, 11, 221)
    mesh = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    height = np.asarray(jax.vmap(losses_fn)(mesh)).reshape(221, 221, 2)
    # Each loss in units of its range on the front, or the second would hide the first.
    height = np.sum(height / np.ptp(front, axis=0), axis=-1)
    for panel, (name, run) in enumerate(runs.items()):
        axes = grid.flat[panel]
        axes.imshow(
            height,
            extent=(-11, 11, -11, 11),
            origin="lower",
            cmap="Greys",
            vmax=2 * height.max() - height.min(),
        )
        axes.contour(side, side, height, 20, colors="0.6", linewidths=0.5)
        axes.plot(*optimum.T, color="black", linewidth=4)
        for index, colour in enumerate(COLOURS):
            path, style = run.path[index], {"color": colour, "mec": "black"}
            axes.plot(*path.T, color=colour, linewidth=1.8, zorder=3)
            axes.plot(*path[0], "o", **style, zorder=4)
            axes.plot(*path[-1], "*", **style, ms=14, zorder=5)
        axes.set(title=name, xlim=(-11, 11), ylim=(-11, 11))
        axes.set(xticks=range(-10, 11, 5), yticks=range(-10, 11, 5))
        if panel >= 5:
            axes.set_xlabel("parameter 1")
        if panel % 3 == 0:
            axes.set_ylabel("parameter 2")
    draw_front(grid.flat[-1], runs, front)
    handles = [
        Line2D([], [], color="black", linewidth=4, label="Pareto set"),
        Line2D([], [], ls="", marker="o", color="0.6", mec="black", label="start"),
        Line2D([], [], ls="", marker="*", color="0.6", mec="black", ms=14, label="end"),
    ]
    figure.suptitle(
        "Two objectives, the first scaled by 0.1. Shade: their sum once both are scaled "
        "alike, dark is high."
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_front(axes, runs, front):
    """Where the runs ended, in the plane of the two losses."""
    axes.plot(*front.T, color="black", linewidth=3)
    for index, (name, run) in enumerate(runs.items()):
        # Later ones are smaller, so that equal ends show as nested marks.
        axes.plot(
            *run.losses[:, -1].T,
            ls="",
            marker="osDv^PX*"[index],
            color=(*COLOURS, "#56B4E9", "#F0E442", "white")[index],
            mec="black",
            ms=15 - 1.2 * index,
            label=name,
        )
    axes.set(title="ends, and the Pareto front", xlabel="first loss")
    axes.set_ylabel("second loss", labelpad=0)
    axes.set_box_aspect(1)
    axes.legend(
        fontsize=8, labelspacing=0.9, loc="upper center", bbox_to_anchor=(0.56, 0.95)
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Paths on the two-objective toy.")
    parser.add_argument("--output", type=Path, default=Path("runs/multi_task_toy.png"))
    parser.add_argument("--fast", action="store_true", help="few steps: no conclusions")
    options = parser.parse_args(arguments)

    optimum = pareto_set()
    front = jax.vmap(losses_fn)(optimum)
    steps = 300 if options.fast else 20_000
    runs = {name: follow(tx, steps, front) for name, tx in methods().items()}
    print(f"{steps} steps of Adam at {LEARNING_RATE} from {len(STARTS)} starts")
    print(table(runs))

    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, np.asarray(optimum), np.asarray(front)).savefig(options.output, dpi=110)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
