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
# # When two losses pull on the same weights, what does an energy-aware gate change?
#
# Adding two losses up gives every layer the same mixture of both, whichever of them
# needs that layer. EAGC looks at the gradients block by block (a layer, or one output
# unit of it), asks how much *energy* each objective puts there, and leans towards the
# one that puts in more. How far it leans is smooth and bounded. All of this is
# `preset="article"`; what `eagc` does by default, bringing objectives to equal energy, is
# another thing.
#
# This notebook takes the gate apart: the formula, a run in which the energy moves from
# layer to layer, a loss multiplied by 1000, the four brakes, and a comparison with
# plain loss weights. It ends with when *not* to use this, and with checks of what it
# claims.

# %%
import functools
import os
import platform

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optax

import eagc_jax
from eagc_jax import (
    assess_energy,
    diagnostics,
    eagc,
    minimum_temperature,
    soft_gate,
    sum_objectives,
    value_and_grads,
)

FAST = os.environ.get("EAGC_FAST") == "1"  # fewer steps and seeds, as the tests do
for module in (eagc_jax, jax, optax, np, matplotlib):
    print(f"{module.__name__:10} {module.__version__}")
print(f"Python     {platform.python_version()} on {platform.platform()}")
print(f"devices    {jax.devices()}, fast mode {FAST}")

# Okabe and Ito's colours, which colour-blind readers can tell apart.
ORANGE, BLUE, GREEN, PINK = "#E69F00", "#0072B2", "#009E73", "#CC79A7"

# %% [markdown]
# ## The gate is a sigmoid of the log energy ratio
#
# The energy of objective $k$ in block $b$ is the mean square of its gradient there,
# $E_k = R_b(g_k^2)$. With temperature $\tau$, floor $\gamma$ and two objectives of
# equal weight, the first one's gradient is multiplied by
#
# $$ a_1 = \gamma + 2\,(1 - \gamma)\; \sigma\!\left(\tfrac{1}{\tau}
#    \log \tfrac{E_1}{E_2}\right), \qquad a_2 = 2 - a_1 . $$
#
# Equal energies give $a_1 = a_2 = 1$: the plain sum. As $\tau \to \infty$ or
# $\gamma \to 1$ it is the plain sum everywhere; as $\tau \to 0$ it becomes a switch.
# Neither objective ever gets less than $\gamma$.
# (These are sums, not averages: two gates of 1 add the gradients up as they are.)
#
# Below, the package and the formula side by side: one parameter per energy ratio, each
# its own block, and no memory.

# %%
ratios = jnp.linspace(-6.0, 6.0, 121)  # log E1 / E2


@jax.jit
def gate_of_package(temperature, floor):
    tx = optax.chain(
        # "global": absolute energies. The default divides each by its mean, see below.
        assess_energy(2, granularity="element", scale="global"),
        soft_gate(
            2,
            granularity="element",
            temperature=temperature,
            floor=floor,
            smoothing=0.0,
            warmup_steps=0,
        ),
    )
    grads = jnp.stack([jnp.exp(ratios / 2), jnp.ones_like(ratios)])
    gated, _ = tx.update(grads, tx.init(ratios))
    return gated[0] / grads[0]


def gate_of_formula(temperature, floor):
    return floor + 2 * (1 - floor) * jax.nn.sigmoid(ratios / temperature)


figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
settings = {"temperature": (0.1, 0.3, 1.0, 3.0), "floor": (0.0, 0.2, 0.5, 1.0)}
gate_error = 0.0
for ax, (name, values) in zip(axes, settings.items(), strict=True):
    for value, colour in zip(values, (PINK, GREEN, BLUE, ORANGE), strict=True):
        chosen = {"temperature": 1.0, "floor": 0.2, name: value}
        package, formula = gate_of_package(**chosen), gate_of_formula(**chosen)
        gate_error = max(gate_error, float(jnp.max(jnp.abs(package - formula))))
        ax.plot(ratios, formula, color=colour, linewidth=2, label=f"{value:g}")
        ax.plot(ratios[::6], package[::6], ".", color="black", markersize=4)
    ax.set(xlabel="log energy ratio, log E1/E2", title=f"by {name}")
    ax.legend(title=name, loc="upper left")
axes[0].set_ylabel("gate on objective 1")
figure.suptitle("lines: the formula; dots: the package")
plt.show()
print(f"largest difference {gate_error:.1e}")

# %% [markdown]
# ## The gate follows the energy from layer to layer
#
# A problem made so that we know the answer: two layers, and two objectives that want
# to move them to different places, with a little noise in the gradients. In the first
# phase objective 1 wants to move `early` and objective 2 wants to move `late`; then
# they swap, and swap again.
#
# By default (`scale="objective"`) each energy is divided by that objective's own mean,
#
# $$ \ell_k = \log \frac{E_{kb}}{\mathrm{mean}_b E_{kb}} , $$
#
# so the gate asks where an objective's gradient *is*, not how large the loss is.

# %%
# Targets by phase: (early, late) that objective 1 wants, and that objective 2 wants.
TARGETS = jnp.array(
    [
        [[1.0, 0.0], [0.0, 0.6]],
        [[0.5, 1.5], [1.8, 0.3]],
        [[2.8, 0.9], [1.1, 2.0]],
    ]
)
PHASE = 100


def moving_losses(params, step, key):
    want = TARGETS[jnp.minimum(step // PHASE, 2)]
    noise = 0.03 * jax.random.normal(key, (2, 2, 32))
    layers = jnp.stack([params["early"], params["late"]])
    pull = (layers[None] - want[..., None]) ** 2 / 2
    return jnp.sum(pull + noise * layers[None], axis=(1, 2))  # (2,): one an objective


def run_moving(optimizer):
    params = {"early": jnp.zeros(32), "late": jnp.zeros(32)}

    def step(carry, inputs):
        params, state = carry
        _, grads = value_and_grads(moving_losses)(params, *inputs)
        updates, state = optimizer.update(grads, state, params)
        seen = {name: optax.tree.get(state, name) for name in ("energies", "gates")}
        return (optax.apply_updates(params, updates), state), (params, seen)

    steps = jnp.arange(3 * PHASE)
    inputs = steps, jax.random.split(jax.random.key(0), len(steps))
    carry = params, optimizer.init(params)
    (_, state), (path, seen) = jax.lax.scan(step, carry, inputs)
    return state, path, seen


coordinate = eagc(2, preset="article", granularity="tensor", warmup_steps=0)
state, path, seen = run_moving(optax.chain(coordinate, optax.sgd(0.01)))

figure, axes = plt.subplots(
    3, 1, figsize=(9, 6.5), sharex=True, layout="constrained", height_ratios=(1, 1, 1)
)
lean = {}
for name, colour in (("early", ORANGE), ("late", BLUE)):
    energies = seen["energies"][name].reshape(-1, 2)
    lean[name] = np.log(energies[:, 0] / energies[:, 1])
    gates = seen["gates"][name].reshape(-1, 2)
    axes[0].plot(path[name].mean(axis=1), color=colour, label=name)
    axes[1].plot(lean[name], color=colour, linewidth=1)
    axes[2].plot(gates[:, 0], color=colour, linewidth=2)
    axes[2].plot(0.2 + 1.6 * jax.nn.sigmoid(lean[name]), color=colour, lw=0.6, ls="--")
for ax, label in zip(
    axes,
    ("mean weight", "log energy ratio\nE1/E2", "gate on objective 1"),
    strict=True,
):
    ax.set_ylabel(label)
    for swap in (PHASE, 2 * PHASE):
        ax.axvline(swap, color="0.7", zorder=0)
axes[0].legend(title="layer", loc="upper left")
axes[1].axhline(0, color="0.7", zorder=0)
axes[2].axhline(1, color="0.7", zorder=0)
axes[2].set(xlabel="step", ylim=(0, 2))
figure.suptitle("vertical: the swaps; dashed: the gate without smoothing")
plt.show()

# %% [markdown]
# Right after a swap the two layers lean to opposite sides, each to the objective that
# wants to move it. As the layer moves, the other objective begins to resist; where
# both pull equally hard the log ratio is 0 and the gate is back at 1, the plain sum.
# Solid lines lag the dashed ones a little: that is the smoothing.
#
# `diagnostics.report` shows the same for the last step of any optimizer state:

# %%
print(diagnostics.report(state))

# %% [markdown]
# ## Multiplying one loss by 1000 does not move the gates
#
# Because every energy is relative to its own objective, in the same step, rescaling a
# loss cancels out of the gates. With `scale="global"` it does not: the larger loss
# takes whatever the floor leaves.
#
# What it does **not** do is rescale the *update*: that is still the sum of the gated
# gradients, and in it the larger loss counts 1000 times more, as in the plain sum.
# Balancing the scales of losses is the job of `weights=`.


# %%
@functools.partial(jax.jit, static_argnums=0)
def one_gate(scale, factor):
    """Objective 1's gates (early, late), and its part of the update's length."""
    tx = eagc(2, preset="article", granularity="tensor", scale=scale, warmup_steps=0)
    params = {"early": jnp.full(32, 0.3), "late": jnp.full(32, 0.1)}
    _, grads = value_and_grads(
        lambda p: moving_losses(p, 0, jax.random.key(1)) * jnp.array([1.0, factor])
    )(params)
    _, state = tx.update(grads, tx.init(params), params)
    gates = optax.tree.get(state, "gates")
    gated = [
        optax.tree.norm([gates[n][k] * grads[n][k] for n in grads]) for k in (0, 1)
    ]
    return jnp.stack([gates[n][0, 0] for n in grads]), gated[0] / (gated[0] + gated[1])


print(f"{'objective 1 under scale=':39} gates: early  late   its part of the update")
attacked = {}
for scale in ("objective", "global"):
    for factor in (1.0, 1000.0):
        gates, part = one_gate(scale, factor)
        attacked[scale, factor] = np.asarray(gates)
        row = "  ".join(f"{gate:5.3f}" for gate in attacked[scale, factor])
        print(
            f"{scale!r:11} and the second loss times {factor:<4g} {row:>18}   {part:.4f}"
        )

# %% [markdown]
# ## Four brakes: warm-up, smoothing, hysteresis, and the descent guard
#
# * **Warm-up** grows the gate's strength $1 - \gamma$ from 0. The first update is
#   exactly the plain sum.
# * **Smoothing** averages the logits, not the gates, with bias correction, so that a
#   spike of a factor $F$ moves a logit by $(1-\beta)\log F^2/\tau$ only.
# * **Hysteresis** lets the gate rest until the average has moved by more than this.
# * The **descent guard** $\eta$ blends the gates towards the weights wherever
#   $\langle d, P \rangle < \eta \lVert P \rVert^2$, $P$ being the plain weighted sum
#   and $d$ the gated one. Without it the gated update can point uphill on the sum.


# %%
def gates_over(log_ratios, **options):
    """The gate on objective 1, given a series of log energy ratios."""
    tx = optax.chain(
        assess_energy(2, granularity="tensor", scale="global"),
        soft_gate(2, granularity="tensor", **options),
    )

    def step(state, log_ratio):
        _, state = tx.update(jnp.array([[jnp.exp(log_ratio / 2)], [1.0]]), state)
        return state, jnp.ravel(optax.tree.get(state, "gates")["params"])[0]

    return np.asarray(jax.lax.scan(step, tx.init(jnp.zeros(1)), log_ratios)[1])


noise = jax.random.normal(jax.random.key(2), (200,))
signal = jnp.where(jnp.arange(200) < 100, -1.0, 1.0)
panels = {
    "warm-up (steps)": (
        jnp.full(200, 2.0),
        {f"{steps}": {"warmup_steps": steps} for steps in (0, 50, 100)},
    ),
    "smoothing": (
        signal + noise,
        {f"{b:g}": {"warmup_steps": 0, "smoothing": b} for b in (0.0, 0.9, 0.97)},
    ),
    "hysteresis (logits)": (
        2.0 * noise,
        {f"{h:g}": {"warmup_steps": 0, "hysteresis": h} for h in (0.0, 0.1, 0.3)},
    ),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
brakes = {}
for ax, (title, (series, options)) in zip(axes, panels.items(), strict=True):
    styles = ((PINK, 0.8), (BLUE, 2.0), (ORANGE, 2.0))
    for (label, chosen), (colour, width) in zip(options.items(), styles, strict=True):
        brakes[title, label] = gates_over(series, **chosen)
        ax.plot(brakes[title, label], color=colour, linewidth=width, label=label)
    ax.axhline(1, color="0.7", zorder=0)
    ax.legend(title=title, loc="lower right", ncols=3, fontsize=8, title_fontsize=9)
    ax.set(xlabel="step", ylim=(-0.4, 2))
axes[0].set_title("constant log ratio 2")
axes[1].set_title("log ratio -1, then 1, and noise")
axes[2].set_title("log ratio: noise around 0")
axes[0].set_ylabel("gate on objective 1")
plt.show()

# %% [markdown]
# A low temperature without brakes can also make a stable learning rate unstable: near
# a balance point the gate multiplies the curvature that gradient descent feels by
# $1 + 2(1-\gamma)/\tau$ (for `scale="global"`). `minimum_temperature` gives the bound.
#
# For the guard, the case it is for: in layer `a` the objectives are opposed and the
# second is twice as large, but nearly all of its energy is elsewhere. The gate sides
# with the first one, against the sum.


# %%
def along_the_sum(descent_guard):
    """Inner product of the update with the plain sum in layer a, over |P|^2."""
    tx = eagc(
        2,
        preset="article",
        granularity="tensor",
        warmup_steps=0,
        descent_guard=descent_guard,
    )
    grads = {
        "a": jnp.array([[1.0, 1.0], [-2.0, -2.0]]),
        "b": jnp.array([[0.1, 0.1], [20.0, 20.0]]),
    }
    plain = grads["a"].sum(axis=0)
    update, _ = tx.update(grads, tx.init({"a": jnp.zeros(2), "b": jnp.zeros(2)}))
    return float(jnp.vdot(update["a"], plain) / jnp.vdot(plain, plain))


guarded = {guard: along_the_sum(guard) for guard in (None, 0.1)}
for guard, value in guarded.items():
    print(f"descent_guard={guard!s:5} <d, P> / |P|^2 = {value:+.2f}")
print(f"tau_min at lr 0.1, curvature 10: {minimum_temperature(0.1, 10.0):.2f}")

# %% [markdown]
# ## Does it help, and could loss weights have done the same?
#
# A network with one hidden layer fits an easy
# function of small scale and a hard one ten times larger, so that its squared loss is
# about 100 times larger. A fair rival of EAGC is the plain sum with a *weight* on the
# small loss, for several weights, since weights trade one loss for the other too.
# Means over seeds, same steps of Adam, same starts; lower left is better.
#
# The problem was picked because there is something to see. On two other small problems
# tried beside it, a network that solves a differential equation and one that
# reconstructs its input, the two ended close together, the plain sum slightly ahead on
# the first.

# %%
WEIGHTS = (1.0, 16.0) if FAST else (1.0, 4.0, 16.0, 64.0)
SEEDS, STEPS = (3, 300) if FAST else (8, 500)


def fit(make, weight, seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (256, 8))
    y = jnp.stack([jnp.sin(2 * x[:, 0]), 10 * x[:, 1] * x[:, 2]], axis=1)
    params = {
        "hidden": jax.random.normal(keys[1], (8, 32)) / 8**0.5,
        "out": jax.random.normal(keys[2], (32, 2)) / 32**0.5,
    }

    def losses_fn(params):
        prediction = jnp.tanh(x @ params["hidden"]) @ params["out"]
        return jnp.mean((prediction - y) ** 2, axis=0)

    coordinate = make(jnp.stack([weight, jnp.ones_like(weight)]))
    optimizer = optax.chain(coordinate, optax.adam(1e-2))

    def step(carry, _):
        params, state = carry
        _, grads = value_and_grads(losses_fn)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, carry, length=STEPS)
    return losses_fn(params)


methods = {
    "plain sum": lambda weights: sum_objectives(weights),
    "EAGC": lambda weights: eagc(2, preset="article", weights=weights),
}
final = {}  # (weights, seeds, 2)
for name, make in methods.items():
    over_seeds = jax.vmap(lambda w, s, make=make: fit(make, w, s), in_axes=(None, 0))
    over_all = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))
    final[name] = np.asarray(over_all(jnp.array(WEIGHTS), jnp.arange(SEEDS)))

figure, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
for (name, losses), colour, mark in zip(
    final.items(), (ORANGE, BLUE), "os", strict=True
):
    mean, error = losses.mean(axis=1), losses.std(axis=1) / SEEDS**0.5
    ax.errorbar(
        *mean.T,
        xerr=error[:, 0],
        yerr=error[:, 1],
        color=colour,
        marker=mark,
        label=name,
    )
    for weight, point in zip(WEIGHTS, mean, strict=True):
        below = name == "EAGC"
        ax.annotate(
            f"{weight:g}:1",
            point,
            textcoords="offset points",
            xytext=(-6, -12) if below else (6, 6),
            ha="right" if below else "left",
            color=colour,
        )
        print(f"{name:10} weights {weight:>2g}:1  losses {point[0]:.3f} {point[1]:.2f}")
ax.set(xscale="log", xlabel="small loss", ylabel="large loss")
ax.xaxis.set_major_locator(matplotlib.ticker.FixedLocator((0.02, 0.05, 0.1, 0.2, 0.4)))
ax.xaxis.set_major_formatter("{x:g}")
ax.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
ax.set_title(
    f"{STEPS} steps: means of {SEEDS} seeds, their standard errors; loss weights"
)
ax.legend()
plt.show()

# %% [markdown]
# In the full run, at equal weights, EAGC mainly *trades*: the small loss ends lower and
# the large one a little higher, which a weight on the small loss would do too. At the
# same weight of 4 or 16 the small loss ends at half of the plain sum's, while the large
# one differs by less than the standard error. The two are not rivals: weights say how
# much an objective matters, the gate says where.
#
# ## When not to use this
#
# * **The losses only differ in scale.** Use `weights=`, or the default preset. This gate
#   compares where gradients are, and leaves their sizes as they are.
# * **Everything is one block.** With `granularity="global"`, or one vector as the only
#   parameter, and `scale="objective"`, it is the plain sum. See
#   `examples/multi_task_toy.py`.
# * **You need a guarantee.** The gate is not conflict-free, and `descent_guard` bounds
#   the inner product with the weighted sum only, not with each objective.
# * **You must end at a minimiser of the weighted sum.** Under `scale="objective"` the
#   gated update can vanish elsewhere.
# * **The backward passes are too dear.** K objectives need K of them.
# * **Gradients come from microbatches or several devices** and are averaged *after*
#   coordination. Coordination is not linear: average first.
#
# ## The claims, checked

# %%
# The package computes the formula.
assert gate_error < 1e-4
# The gate leans to the objective that has just begun to pull, and comes back.
for swap, first, second in ((PHASE, "late", "early"), (2 * PHASE, "early", "late")):
    gates = {name: seen["gates"][name][:, 0, 0] for name in (first, second)}
    assert gates[first][swap + 10] > 1.4 > 0.6 > gates[second][swap + 10]
    assert abs(gates[first][swap + PHASE - 1] - 1) < 0.05
# A loss multiplied by 1000 leaves the gates alone, or pushes them to the floor at most.
np.testing.assert_allclose(
    attacked["objective", 1000.0], attacked["objective", 1.0], atol=1e-4
)
assert (attacked["global", 1000.0] >= 0.2 - 1e-6).all()
# The first step of a warm-up is exactly the plain sum; smoothing smooths.
assert brakes["warm-up (steps)", "100"][0] == 1.0
assert np.ptp(brakes["smoothing", "0.9"]) < np.ptp(brakes["smoothing", "0"])
# The guard holds, and was needed.
assert guarded[None] < 0
assert guarded[0.1] > 0.1 - 1e-5
# On the network, EAGC ends lower in the mean log loss over weights and seeds.
assert np.log(final["EAGC"]).mean() < np.log(final["plain sum"]).mean()
print("all claims hold")
