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
# # How entangled are the two objectives of category discovery, and where?
#
# Category discovery trains one Vision Transformer on two objectives at once: a
# supervised one on the labeled images of known classes, an unsupervised one on all
# images. The article behind EAGC (CVPR 2026, arXiv 2604.14176) says that the
# two get entangled, and measures it with two figures:
#
# - **GDC**, gradient deviation: $1 - \cos(g_s, g_s + g_u)$. How far does the
#   unsupervised gradient turn the supervised one? 0: not at all.
# - **SOC**, subspace overlap: how much of the novel images' variance lies in the 16
#   main directions of the labeled images' features? 1: all of it.
#
# This notebook measures both on scikit-learn's digits, during plain training and with
# the published coordination, shows where along the transformer the objectives
# conflict, and shows why the figures have to be taken *before* coordination.

# %%
import dataclasses
import os
import platform

import flax
import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import eagc_jax
from eagc_jax import diagnostics, features, value_and_grads
from eagc_jax.gcd import sources
from eagc_jax.gcd.backbones.checkpoints import load_backbone
from eagc_jax.gcd.methods import Batch, SimGCD
from eagc_jax.gcd.training import views
from eagc_jax.gcd.training.inputs import images_of
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.reference import ReferenceConfig, train_reference
from eagc_jax.gcd.training.settings import FeatureCoordination, TrainConfig

FAST = os.environ.get("EAGC_FAST") == "1"  # fewer epochs and runs, as the tests do
EPOCHS = 2 if FAST else 20
for module in (eagc_jax, jax, flax, np, matplotlib):
    print(f"{module.__name__:10} {module.__version__}")
print(f"Python     {platform.python_version()} on {platform.platform()}")
print(f"devices    {jax.devices()}, fast mode {FAST}")

ORANGE, BLUE, GREEN, PINK = "#E69F00", "#0072B2", "#009E73", "#CC79A7"

# %% [markdown]
# ## The problem
#
# Digits 0 to 4 are known, half of their images labeled; 5 to 9 are novel. The backbone
# was pretrained without labels; its last block and the heads train. All runs share one
# pool of views, so that a step costs the last block alone.

# %%
split = sources.load("digits")
backbone = load_backbone()
config = TrainConfig(epochs=EPOCHS, log_every=7, evaluate_every=1 if FAST else 2)
method = SimGCD(teacher_warmup_epochs=max(1, round(0.15 * EPOCHS)))
pool = views.pool_views(
    jax.random.key(0),
    images_of(split),
    backbone,
    config.augmentation,
    views=2 if FAST else 4,
)
reference = train_reference(
    ReferenceConfig(epochs=1 if FAST else 15), split, backbone, pool
)

RUNS = {
    "plain": (backbone, None, BLUE),
    "warm start": (reference, None, GREEN),
    "released": (reference, FeatureCoordination(), ORANGE),
    "aligned x 10": (
        reference,
        FeatureCoordination(aga_weight=7.0, eep_weight=0.0),
        PINK,
    ),
}
if FAST:
    RUNS = {name: RUNS[name] for name in ("warm start", "released")}
runs = {}
for name, (start, coordination, _) in RUNS.items():
    run = TrainingRun(
        config,
        split,
        start,
        method=method,
        coordination=coordination,
        pool=pool,
        name=name,
    )
    for _ in run:
        pass
    runs[name] = run
    accuracy = run.evaluation.accuracy
    print(
        f"{name:13} All {accuracy.all:.3f}  Old {accuracy.old:.3f}  "
        f"New {accuracy.new:.3f}"
    )

# %% [markdown]
# ## GDC and SOC during training
#
# Both are of the raw gradients and features. "released" is alignment (AGA) and elastic
# projection (EEP) at the strengths of the authors' code. One seed: look at the order of
# magnitude, not at which curve is a little lower; `python -m examples.what_helps`
# repeats it over seeds and data sets.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for name, run in runs.items():
    color = RUNS[name][2]
    left.plot(run.history.epochs, run.history.gradient_deviation, color=color)
    known = np.isfinite(run.history.subspace_overlap)
    right.plot(
        np.array(run.history.epochs)[known],
        np.array(run.history.subspace_overlap)[known],
        color=color,
        label=name,
    )
left.set(xlabel="epoch", ylabel="GDC", title="Gradient deviation")
right.set(xlabel="epoch", ylabel="SOC", title="Subspace overlap")
right.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What the projection does
#
# EEP takes the share $w_i$ of an unlabeled row's gradient out of the labeled subspace,
# $w_i = 0.5\,(1 - e_i / \mu)$ with $e_i$ the share of the feature's energy in that
# subspace and $\mu$ the labeled rows' mean. The conceptor is of *raw* features, so a
# large common mean dominates it: nearly every feature lies inside, $e_i \approx \mu$,
# and nearly nothing is projected.

# %%
traces = runs["released"].history.traces
quantiles = np.concatenate([trace.projection_quantiles for trace in traces])
removed = np.concatenate([trace.removed for trace in traces])
added = np.concatenate([trace.added for trace in traces])
spectrum = np.linalg.eigvalsh(np.asarray(runs["released"].coordinator.conceptor))[::-1]
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(11, 3), layout="constrained"
)
steps = np.arange(len(quantiles))
left.fill_between(steps, quantiles[:, 1], quantiles[:, 3], color=BLUE, alpha=0.3)
left.plot(steps, quantiles[:, 2], color=BLUE)
left.set(
    xlabel="step", ylabel="projection weight", title="Median and quartiles", ylim=(0, 1)
)
middle.plot(steps, removed, color=ORANGE, label="removed by EEP")
middle.plot(steps, added, color=GREEN, label="added by AGA")
middle.set(xlabel="step", ylabel="share of the gradient's norm", title="At the feature")
middle.legend(frameon=False)
right.plot(np.arange(1, len(spectrum) + 1), spectrum, ".", color=PINK)
right.set(xlabel="direction", ylabel="eigenvalue", title="Conceptor", ylim=(0, 1))
plt.show()
print(
    f"median projection weight {np.median(quantiles[:, 2]):.3f}, EEP removes "
    f"{100 * removed.mean():.1f} % of the gradient's norm, AGA adds "
    f"{100 * added.mean():.1f} %"
)

# %% [markdown]
# ## Where along the transformer?
#
# The same two objectives, now differentiated with respect to *all* blocks: the cosine
# between their gradients, tensor by tensor, averaged over steps of the first epochs.
# Below zero they conflict there.

# %%
whole = TrainingRun(
    dataclasses.replace(
        config, epochs=1 if FAST else 3, trainable_blocks=4, learning_rate=0.02
    ),
    split,
    backbone,
    method=method,
    name="all blocks",
)
for _ in whole:
    pass
cosines = np.concatenate([trace.cosines for trace in whole.history.traces])
cosines = cosines[np.isfinite(cosines).any(axis=1)].mean(axis=0)
names = np.array(whole.history.parameters)
inside = np.array(["blocks" in name and name.endswith("kernel") for name in names])
labels = [name.split("blocks/")[1].removesuffix("/kernel") for name in names[inside]]
figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
colors = [ORANGE if value < 0 else BLUE for value in cosines[inside]]
axes.bar(labels, cosines[inside], color=colors)
axes.axhline(0, color="black", linewidth=0.8)
axes.tick_params(axis="x", rotation=60)
axes.set(ylabel="cosine", title="Supervised against unsupervised gradient, by kernel")
plt.show()
for name, value in zip(labels, cosines[inside], strict=True):
    print(f"block {name:12} {value:+.2f}")

# %% [markdown]
# ## Why before coordination
#
# The authors' scripts differentiate through the coordinator, so that the alignment
# vector is part of *both* gradients that GDC compares. A vector that is added to both
# lowers the angle between them by construction, whatever it does to training. One
# batch, the gradients at the feature, the alignment vector scaled up:

# %%
chosen = np.arange(128)
batch = Batch(
    jnp.asarray(split.labels)[chosen],
    jnp.asarray(split.labeled_mask)[chosen],
    jnp.float32(0),
    split.num_known,
)
numbers = views.draw_numbers(jax.random.key(1)[None], 128, pool.tokens.shape[1])[0]
tokens = jnp.asarray(np.concatenate([pool.tokens[chosen, n] for n in numbers]))
model = runs["warm start"].model
z = model.features(tokens)
anchors = reference.readout(tokens, model.frozen_blocks)
_, (supervised, unsupervised) = value_and_grads(
    lambda z: jnp.stack(method.objectives(model.head, (), z, batch)[0])
)(z)
supervised, unsupervised = 0.35 * supervised, 0.65 * unsupervised
pull = jax.grad(
    lambda z: features.alignment_loss(z, anchors, batch.labeled_mask, weight=1.0)
)(z)
raw = diagnostics.gradient_deviation(supervised, unsupervised)
scales = np.geomspace(0.01, 1e4, 25) * float(
    jnp.linalg.norm(supervised) / jnp.linalg.norm(pull)
)
after = [
    diagnostics.gradient_deviation(supervised + scale * pull, unsupervised)
    for scale in scales
]
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.semilogx(scales, after, color=ORANGE, label="measured after alignment")
axes.axhline(float(raw), color=BLUE, label="raw")
axes.set(xlabel="alignment weight", ylabel="GDC", ylim=(0, None))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Checks
#
# What was claimed above: the projection is nearly inert at the released strength, and a
# strong enough common vector brings GDC to nothing.

# %%
assert np.all(np.isfinite(quantiles))
assert np.median(quantiles[:, 2]) < 0.15  # of at most 0.5
assert removed.mean() < 0.1
assert after[-1] < 1e-3 < float(raw)
assert len(cosines[inside]) == 16
