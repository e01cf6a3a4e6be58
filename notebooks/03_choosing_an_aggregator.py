# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which aggregator? All of them on a problem with a known answer, and on images
#
# Two objectives that can't both be at their minimum have many best compromises: the
# *Pareto front*, the points from which neither can improve without the other losing.
# Loss weights choose one point on it. So does every aggregator, each by its own rule.
#
# 1. Two quadratic bowls, whose front has a closed form: where does each method end, how
#    does it get there, does it make a loss worse on the way?
# 2. Two digits on one image, a network with two heads: how accurate on each, and what
#    does a step cost?
#
# Neither tells which method is best for *you*. `diagnostics.probe` below measures your
# own training; `docs/choosing.md` lists what each method promises and costs.

# %%
import os
import platform
import time

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optax
import sklearn
from sklearn.datasets import load_digits

import eagc_jax
from eagc_jax import aggregators as agg
from eagc_jax import diagnostics, eagc, sum_objectives, value_and_grads

FAST = os.environ.get("EAGC_FAST") == "1"  # fewer methods, seeds and steps, for tests
for module in (eagc_jax, jax, optax, np, matplotlib, sklearn):
    print(f"{module.__name__:10} {module.__version__}")
print(f"Python     {platform.python_version()} on {platform.platform()}")
print(f"devices    {jax.devices()}, fast mode {FAST}")

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")

# %% [markdown]
# ## The methods
#
# Their updates differ in length by convention: some are sums, some means, some have a
# length of their own. `rescale="mean"` brings all of them to the mean's, so that one
# learning rate does for all. EAGC compares blocks of parameters with each other, hence
# `granularity="element"` in a problem of one vector.
#
# Some are made for something else and are here for completeness: `gem`, `a_gem` and
# `pcd` put the first objective before or behind the other; `krum` needs more than two
# objectives (the distance of two says nothing about either); `trimmed_mean` of two is the
# mean.

# %%
FAMILIES = {
    "the sum, and near it": ["mean", "cagrad", "random_weighting", "eagc"],
    "without conflict": [
        "mgda",
        "upgrad",
        "dualproj",
        "pcgrad",
        "nash_mtl",
        "fairgrad",
        "conflict_free",
    ],
    "other rules of the Gram matrix": ["imtl_g", "aligned_mtl", "gradvac", "sdmgrad"],
    "weights from the losses": [
        "famo",
        "gradnorm",
        "dwa",
        "uncertainty_weighting",
        "imtl_l",
        "chebyshev",
        "smooth_chebyshev",
    ],
    "from full gradients": ["moco", "modo", "graddrop", "sam_gs", "gcond"],
    "one objective first": ["gem", "a_gem", "pcd", "krum", "trimmed_mean"],
}
OPTIONS = {"sam_gs": {"scale": "norm"}}  # "published" is quadratic in the gradients
if FAST:  # one or two of each family
    FAMILIES = {
        "the sum, and near it": ["mean", "cagrad", "eagc"],
        "without conflict": ["mgda", "upgrad", "nash_mtl", "conflict_free"],
        "weights from the losses": ["uncertainty_weighting", "chebyshev"],
    }
METHODS = [name for names in FAMILIES.values() for name in names]


def make(name, rescale, **options):
    if name == "eagc":
        tx = eagc(2, preset="article", warmup_steps=0, **options)
        return tx if rescale == "sum" else optax.chain(tx, optax.scale(0.5))
    return getattr(agg, name)(2, rescale=rescale, **OPTIONS.get(name, {}))


# %% [markdown]
# ## Two bowls
#
# $$ L_1 = 1 + \tfrac12 (w - a)^\top A\, (w - a), \qquad
#    L_2 = 1 + \tfrac12 (w - b)^\top B\, (w - b) $$
#
# with diagonal $A$ and $B$, the second about five times as curved. The loss weights
# $(\lambda, 1 - \lambda)$ lead to the front's point
#
# $$ w(\lambda) = (\lambda A + (1 - \lambda) B)^{-1}
#    (\lambda A a + (1 - \lambda) B b), \qquad 0 \le \lambda \le 1, $$
#
# and there is no other Pareto point. (The 1 is a floor that no training removes, as most
# losses have. Without it `uncertainty_weighting` and `imtl_l`, which descend on
# $\sum_k \log L_k$, would run into the nearest minimum of a single loss.)
#
# Gradient descent, a learning rate that falls to 0, the same for all. "Off the front" is
# the distance in units of the losses' ranges along it, "largest rise" how far a loss
# climbed above the lowest that it had been, both for the worst of three starts.

# %%
A, B = jnp.array([0.5, 2.0]), jnp.array([10.0, 2.5])
a, b = jnp.array([1.5, 1.0]), jnp.array([-1.5, -1.0])
STARTS = jnp.array([[2.5, -1.5], [-2.0, 2.5], [1.4, 1.2]])
STEPS, RATE = 600, 0.1


def bowls(w):
    return jnp.stack(
        [1 + jnp.sum(A * (w - a) ** 2) / 2, 1 + jnp.sum(B * (w - b) ** 2) / 2]
    )


def front_point(share):
    share = share[..., None]
    mixed = share * A + (1 - share) * B
    return (share * A * a + (1 - share) * B * b) / mixed


front = front_point(jnp.linspace(0.0, 1.0, 2001))
front_losses = jax.vmap(bowls)(front)
best_of_sum = front_point(jnp.array(0.5))


def follow(coordinate):
    """Losses ``(starts, steps + 1, 2)`` along the way, and the last w."""
    schedule = optax.cosine_decay_schedule(RATE, STEPS)
    tx = optax.chain(coordinate, optax.scale_by_learning_rate(schedule))

    def from_start(w):
        def step(carry, _):
            w, state = carry
            losses, grads = value_and_grads(bowls)(w)
            updates, state = tx.update(grads, state, w, value=losses)
            return (optax.apply_updates(w, updates), state), losses

        (w, _), losses = jax.lax.scan(step, (w, tx.init(w)), length=STEPS)
        return jnp.concatenate([losses, bowls(w)[None]]), w

    return jax.jit(lambda: jax.lax.map(from_start, STARTS))()


def stationarity(w):
    """The shortest convex combination of the gradients, over the longer of them."""
    g1, g2 = jax.jacobian(bowls)(w)
    along = jnp.clip(g2 @ (g2 - g1) / jnp.sum((g1 - g2) ** 2), 0, 1)
    shortest = jnp.linalg.norm(along * g1 + (1 - along) * g2)
    return shortest / jnp.maximum(jnp.linalg.norm(g1), jnp.linalg.norm(g2))


def distance_to_front(losses):
    """Euclidean, each loss in units of its range along the front."""
    gaps = (losses[:, None] - front_losses) / jnp.ptp(front_losses, axis=0)
    return jnp.min(jnp.linalg.norm(gaps, axis=-1), axis=1)


paths, ends, still, gap, rise = {}, {}, {}, {}, {}
print(f"{'':23}{'L1 at the end':>16} {'L2':>12}   off the  largest rise")
print(f"{'method':23}{'(lowest, highest start)':>29}   front    of L1   of L2")
for name in METHODS:
    options = {"granularity": "element"} if name == "eagc" else {}
    losses, w = follow(make(name, "mean", **options))
    paths[name], ends[name] = np.asarray(losses), np.asarray(w)
    still[name] = float(jnp.max(jax.vmap(stationarity)(w)))
    gap[name] = float(jnp.max(distance_to_front(losses[:, -1])))
    # How far a loss climbs above the lowest that it has been: a rise on the way.
    lowest = np.minimum.accumulate(paths[name], axis=1)
    rise[name] = np.max(paths[name] - lowest, axis=(0, 1))
    last = paths[name][:, -1]
    print(
        f"{name:23}{last[:, 0].min():7.2f} {last[:, 0].max():6.2f} "
        f"{last[:, 1].min():7.2f} {last[:, 1].max():6.2f} {gap[name]:9.4f}"
        f"{rise[name][0]:9.2f}{rise[name][1]:8.2f}"
    )

# %%
figure, axes = plt.subplots(
    -(-len(FAMILIES) // 3), 3, figsize=(12, 3.8 * -(-len(FAMILIES) // 3)),
    layout="constrained", squeeze=False, sharex=True, sharey=True,
)  # fmt: skip
for ax, (family, names) in zip(axes.flat, FAMILIES.items(), strict=False):
    ax.plot(*front_losses.T, color="black", linewidth=1, label="Pareto front")
    for name, colour in zip(names, COLOURS, strict=False):
        for start, path in enumerate(paths[name]):
            label = name if start == 0 else None
            ax.plot(*path.T, color=colour, linewidth=1.2, alpha=0.8, label=label)
            ax.plot(*path[-1], "o", color=colour, markersize=5)
    ax.plot(*bowls(best_of_sum), "k+", markersize=12, label="minimum of the sum")
    ax.set(title=family, xlim=(0.8, 8.5), ylim=(0.5, 60), yscale="log")
    ax.set(xlabel="L1", ylabel="L2")
    ax.legend(fontsize=7)
for ax in axes.flat[len(FAMILIES) :]:
    ax.set_visible(False)
figure.suptitle("three starts each; dots: where it ended")
plt.show()

# %% [markdown]
# What to see:
#
# * The sum, and CAGrad with its ball of radius below 1 around it, end at one point from
#   every start: the minimum of the sum. Other loss weights would end at other points of
#   the front, *without any aggregator*.
# * Most methods without conflict stop at the first front point they meet, as their update
#   gets shorter the more the gradients oppose each other. Where that is depends on the
#   start. From the start beside the minimum of $L_1$ the sum gives up most of $L_1$;
#   they hardly move. Whether that is a virtue is for you to say: the sum moves on because
#   in total it gains.
# * `nash_mtl` and `fairgrad` take the mean's length, which doesn't vanish on the front:
#   they step to and fro across it and drift along it, to one point from every start,
#   until the learning rate is small.
# * "Without conflict" is to first order. A step of finite length can raise a loss (the
#   last two columns); only `mgda`, whose update is the shortest, is safe with every step
#   below 1 / curvature.
# * Methods that weigh losses end at a point of their own choice, Chebyshev where the two
#   losses are equal.
# * All of them reach the front, and nothing gets below it.
#
# ## Two digits on one image
#
# An 8 x 8 digit on the left, another on the right, overlapping in four columns, the
# darker pixel wins. A network with two hidden layers and two heads names both. The
# images of training and test come from different halves of the digits.

# %%
SEEDS, TRAIN_STEPS, BATCH = (1, 150, 64) if FAST else (3, 600, 64)
digits = load_digits()
rng = np.random.default_rng(0)
order = rng.permutation(len(digits.images))


def compose(pool, number):
    """``number`` images ``(8, 12)``, flat and centred, with both labels."""
    left, right = rng.choice(pool, (2, number))
    images = np.zeros((number, 8, 12), np.float32)
    images[:, :, :8] = digits.images[left]
    images[:, :, 4:] = np.maximum(images[:, :, 4:], digits.images[right])
    labels = np.stack([digits.target[left], digits.target[right]], axis=1)
    return jnp.asarray(images.reshape(number, -1) / 8 - 1), jnp.asarray(labels)


train = compose(order[:900], 4000)
test = compose(order[900:], 2000)

figure, axes = plt.subplots(1, 8, figsize=(10, 1.3), layout="constrained")
for ax, image, label in zip(axes, *test, strict=False):
    ax.imshow(np.asarray(image).reshape(8, 12), cmap="gray_r")
    ax.set_title(f"{label[0]}, {label[1]}", fontsize=9)
    ax.axis("off")
plt.show()


def init(key):
    sizes = {"one": (96, 128), "two": (128, 64), "left": (64, 10), "right": (64, 10)}
    keys = jax.random.split(key, len(sizes))
    return {
        name: {
            "kernel": jax.random.normal(key, size) * (2 / size[0]) ** 0.5,
            "bias": jnp.zeros(size[1]),
        }
        for key, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def logits_of(params, x):
    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    hidden = jax.nn.relu(dense("two", jax.nn.relu(dense("one", x))))
    return dense("left", hidden), dense("right", hidden)


def digit_losses(params, batch):
    x, labels = batch
    entropy = optax.softmax_cross_entropy_with_integer_labels
    left, right = logits_of(params, x)
    return {
        "left": jnp.mean(entropy(left, labels[:, 0])),
        "right": jnp.mean(entropy(right, labels[:, 1])),
    }


def batches_of(seed):
    rows = np.random.default_rng(seed).integers(
        len(train[0]), size=(TRAIN_STEPS, BATCH)
    )
    return train[0][rows], train[1][rows]


# %% [markdown]
# ### Do the two objectives conflict at all?
#
# The question to ask first. 50 steps of plain training, measured:

# %%
x, labels = batches_of(0)
found = diagnostics.probe(
    digit_losses,
    init(jax.random.key(0)),
    zip(x, labels, strict=True),
    optimizer=optax.adam(3e-3),
    steps=50,
)
print(found)

# %% [markdown]
# ### Every method
#
# Only the shared layers are aggregated; a head has one objective and is trained as ever
# (`optax.partition`). Adam, its rate falling to 0, equal starts and batches for all
# methods of a seed. Seeds are the outer loop, so that a change in the machine's load
# hits all methods alike; compilation is not counted.


# %%
def optimizer_of(name):
    labels = {"one": "shared", "two": "shared", "left": "head", "right": "head"}
    parts = {"shared": make(name, "sum"), "head": sum_objectives()}
    schedule = optax.cosine_decay_schedule(3e-3, TRAIN_STEPS)
    return optax.chain(optax.partition(parts, labels), optax.adam(schedule))


def trainer(name):
    tx = optimizer_of(name)

    def run(params, x, labels):
        def step(carry, batch):
            params, state = carry
            losses, grads = value_and_grads(digit_losses)(params, batch)
            value = jnp.stack([losses["left"], losses["right"]])
            updates, state = tx.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), (x, labels))
        right = [
            jnp.mean(jnp.argmax(logits, axis=1) == test[1][:, k])
            for k, logits in enumerate(logits_of(params, test[0]))
        ]
        return jnp.stack(right), losses

    return jax.jit(run).lower(init(jax.random.key(0)), *batches_of(0)).compile()


IMAGE_METHODS = ["mean", "upgrad", "eagc"] if FAST else METHODS
trainers = {name: trainer(name) for name in IMAGE_METHODS}
accuracy = {name: np.zeros((SEEDS, 2)) for name in IMAGE_METHODS}
seconds = {name: np.zeros(SEEDS) for name in IMAGE_METHODS}
for seed in range(SEEDS):
    start = init(jax.random.key(seed)), *batches_of(seed)
    for name, run in trainers.items():
        began = time.perf_counter()
        result = jax.block_until_ready(run(*start))
        seconds[name][seed] = (time.perf_counter() - began) / TRAIN_STEPS
        accuracy[name][seed] = np.asarray(result[0])

print(
    f"{'method':22} {'left':>6} {'right':>6}  mean - sum's, paired   "
    f"ms a step  over the mean's"
)
for name in IMAGE_METHODS:
    left, right = accuracy[name].mean(axis=0)
    paired = (accuracy[name] - accuracy["mean"]).mean(axis=1)
    spread = f"+- {paired.std(ddof=1):.3f}" if SEEDS > 1 else ""
    slower = np.median(seconds[name] / seconds["mean"])
    print(
        f"{name:22} {left:6.3f} {right:6.3f}   {paired.mean():+.3f} {spread:10}"
        f"{1000 * np.median(seconds[name]):12.2f} {slower:12.2f}"
    )

# %% [markdown]
# "+-" is the standard deviation over seeds of the difference to the mean: with three
# seeds, a difference below about two and a half of these is none, and among so many
# methods some will look good by chance. (The mean's own step already has two backward
# passes here; `jax.grad` of the summed loss needs one.)
#
# ## What to take from it
#
# * The *front* is what the problem allows, and loss weights reach every point of a convex
#   one. An aggregator chooses a point and a way; it doesn't move the front.
# * A guarantee against conflict is worth most where a loss must not get worse: a finished
#   objective, a constraint, a safety term.
# * On images the methods lie close together. Compare with the weighted sum on *your*
#   figures, several seeds, and equal tuning, before you keep any.
#
# The claims of this notebook, checked:

# %%
NO_CONFLICT = [
    name
    for name in ("mgda", "upgrad", "dualproj", "pcgrad", "conflict_free", "nash_mtl")
    if name in METHODS
]
# The sum ends at the minimum that the closed form gives, from every start.
np.testing.assert_allclose(ends["mean"] - np.asarray(best_of_sum), 0.0, atol=1e-3)
np.testing.assert_allclose(ends["cagrad"] - np.asarray(best_of_sum), 0.0, atol=2e-2)
# All of them end on the front. Where gradients are opposed no direction lowers both
# losses: the methods without conflict have come to rest for a reason.
for name in METHODS:
    assert gap[name] < 0.02, (name, gap[name])
for name in NO_CONFLICT:
    assert still[name] < 0.05, (name, still[name])
# And not all at one point: where depends on the start.
assert np.ptp(ends["upgrad"], axis=0).max() > 0.5
# MGDA with a step below 1 / curvature lowers both losses in every step; the sum doesn't.
assert rise["mgda"].max() < 1e-4, rise["mgda"]
assert rise["mean"].max() > 1.0, rise["mean"]
# Chebyshev ends where the losses are equal.
end = paths["chebyshev"][:, -1]
np.testing.assert_allclose(end[:, 0], end[:, 1], rtol=0.05)
# Nothing is below the front: no front point is worse in both losses.
for name in METHODS:
    for end in paths[name][:, -1]:
        below = np.all(end < np.asarray(front_losses) - 1e-3, axis=1)
        assert not below.any(), name
# Every method has learnt something of both digits (chance: 0.1).
for name in IMAGE_METHODS:
    assert accuracy[name].min() > 0.3, (name, accuracy[name])
