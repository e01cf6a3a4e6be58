"""Streams of gradients for the methods on full gradients, and how to run them."""

import functools

import jax
import numpy as np

from eagc_jax import aggregators

K, STEPS = 3, 10
# Ten steps of float32 on numbers of order 1: a few dozen roundings.
CLOSE = {"rtol": 3e-5, "atol": 3e-6}
PARAMS = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
SPLIT = 6  # entries of "a" in a flat gradient
OPTIONS = {"sam_gs": {"scale": "norm"}}


def tree(flat):
    """Flat gradients ``(..., 10)`` to the tree."""
    flat = np.asarray(flat, np.float32)
    lead = flat.shape[:-1]
    return {"a": flat[..., :SPLIT].reshape(*lead, 2, 3), "b": flat[..., SPLIT:]}


def flat(out):
    return np.concatenate([np.float64(out[n]).ravel() for n in PARAMS])


def stream(seed=0, steps=STEPS, scale=1.0, number=K):
    """``(steps, K, 10)``: steady conflicting directions and noise, of unlike norms."""
    rng = np.random.default_rng(seed)
    steady = rng.normal(size=(number, 10))
    steady[-1] -= 1.5 * steady[0]
    noise = 0.7 * rng.normal(size=(steps, number, 10))
    norms = np.geomspace(1.0, 3.0, number)[:, None]
    # Rounded to float32 before it is scaled, so that every scale sees the same numbers.
    return np.float64(np.float32(norms * (steady + noise))) * scale


@functools.cache
def compiled(name, number=K, **options):
    """A transformation and its jitted update: compiled once for the whole file."""
    tx = getattr(aggregators, name)(number, **{**OPTIONS.get(name, {}), **options})
    return tx, jax.jit(tx.update)


def run(pair, gradients):
    """Updates and states over the gradients, all objectives active."""
    tx, update = pair
    state, outs, states = tx.init(PARAMS), [], []
    active = np.ones(len(gradients[0]), bool)
    for g in gradients:
        out, state = update(tree(g), state, PARAMS, active_mask=active)
        outs.append(flat(out))
        states.append(state)
    return np.array(outs), jax.device_get(states)
