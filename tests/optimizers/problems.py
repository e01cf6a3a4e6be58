"""Problems, optimizers and independent float64 oracles that these tests share."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

K = 3
SHAPES = {"bias": (7,), "kernel": (5, 7), "none": None, "scale": ()}
EPS = float(np.finfo(np.float32).eps)

# Everything that is said to be recognised: nothing here tells it any hyperparameter.
OPTIMIZERS = {
    "adam": lambda: optax.adam(0.1, b1=0.8, b2=0.95, eps=1e-3, eps_root=1e-5),
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.3),
    "nadam": lambda: optax.nadam(0.1),
    "radam": lambda: optax.radam(0.1),
    "amsgrad": lambda: optax.amsgrad(0.1),
    "adamax": lambda: optax.adamax(0.1),
    "yogi": lambda: optax.yogi(0.1),
    "rmsprop": lambda: optax.rmsprop(0.1, decay=0.8, momentum=0.7, nesterov=True),
    "rmsprop_counts": lambda: optax.rmsprop(
        0.1, eps_in_sqrt=False, bias_correction=True
    ),
    "adagrad": lambda: optax.adagrad(0.1),
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "ema": lambda: optax.chain(optax.ema(0.9), optax.scale(-0.1)),
    "scale_by_adam": optax.scale_by_adam,
    "masked": lambda: optax.chain(
        optax.masked(optax.scale_by_adam(), lambda p: jax.tree.map(jnp.ndim, p)),
        optax.add_decayed_weights(0.1),
        optax.scale_by_schedule(lambda count: -0.1 / (1 + count)),
    ),
    "partition": lambda: optax.partition(
        {"a": optax.adamw(0.1), "s": optax.sgd(0.01), "z": optax.set_to_zero()},
        {"kernel": "a", "bias": "s", "none": "s", "scale": "z"},
    ),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(
        optax.linear_schedule(0.1, 0.2, 3), weight_decay=0.1
    ),
}
NOT_LINEAR = {
    "lion": lambda: optax.lion(0.1, weight_decay=0.1),
    "muon": lambda: contrib.muon(0.1, weight_decay=0.1),
    "muon_tall": lambda: contrib.muon(0.1, nesterov=False),
}


def tree(seed, *lead, ratio=1.0):
    """Normal entries; objective k's times ``ratio ** (k - 1)``."""
    rng = np.random.default_rng(seed)

    def leaf(shape):
        if shape is None:
            return None
        x = rng.normal(size=(*lead, *shape))
        if lead:
            sizes = float(ratio) ** (np.arange(lead[0]) - 1.0)
            x = x * sizes.reshape(-1, *(1,) * len(shape))
        return np.asarray(x, np.float32)

    return {name: leaf(shape) for name, shape in SHAPES.items()}


def gradients(seed, ratio=1.0, number=K):
    return tree(seed + 100, number, ratio=ratio)


def rows(updates):
    """``(K, N)`` float64."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(updates)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


def flat(step):
    """``(N,)`` float64."""
    return np.concatenate(
        [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(step)]
    )


def cosines(updates, step):
    """Of every gradient with the step: above 0 where the step raises the loss."""
    matrix, vector = rows(updates), flat(step)
    sizes = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
    return matrix @ vector / np.where(sizes > 0, sizes, 1)


def non_negative(matrix, linear):
    """``argmin over x >= 0 of x'Hx/2 - b'x``, by trying every set of free variables."""
    number, best = len(linear), (0.0, np.zeros(len(linear)))
    for size in range(1, number + 1):
        for free in map(list, itertools.combinations(range(number), size)):
            x = np.zeros(number)
            x[free] = np.linalg.lstsq(
                matrix[np.ix_(free, free)], linear[free], rcond=None
            )[0]
            value = x @ matrix @ x / 2 - linear @ x
            if np.all(x >= -1e-12) and value < best[0]:
                best = value, np.maximum(x, 0)
    return best[1]


def upgrad(matrix):
    """UPGrad's weights, float64: the mean of the projections of the K gradients."""
    number = len(matrix)
    found = np.zeros(number)
    for k, one in enumerate(np.eye(number)):
        found += (one + non_negative(matrix, -matrix[k])) / number
    return found
