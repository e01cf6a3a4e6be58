"""Gradients over several small batches: before coordination, not after.

    python -m examples.recipes.multi_steps

Coordination is not linear, so the order counts. `accumulate_objectives` averages the K
gradients of the small batches and coordinates once: what one large batch would do.
`optax.MultiSteps` behind an aggregator averages updates that were coordinated each by
itself: another method, with smaller batches' noise in its decisions. Checked: four
batches of 64 rows give the update of one batch of 256 by the former, to rounding, and
not by the latter.
"""

import jax
import jax.numpy as jnp
import optax

from eagc_jax import aggregators, value_and_grads

PARTS = 4


def losses_fn(params, x):
    hidden = jnp.tanh(x @ params["trunk"])
    out = hidden @ params["head"]  # one output, pulled to two places
    up = jnp.mean((out - x[:, 0]) ** 2)
    return {"up": up, "down": 3 * jnp.mean((out + x[:, 0] ** 2) ** 2)}


def last_update(optimizer, params, batches):
    """What is applied after these batches; nothing was applied before."""

    @jax.jit
    def step(state, x):
        gradients = value_and_grads(losses_fn)(params, x)[1]
        return optimizer.update(gradients, state, params)

    state = optimizer.init(params)
    for x in batches:
        updates, state = step(state, x)
    return updates


def distance(left, right) -> float:
    """Relative."""
    return float(optax.tree.norm(optax.tree.sub(left, right)) / optax.tree.norm(right))


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (256, 8))
    x = x[jnp.argsort(x[:, 0])]  # small batches that differ, as noisy ones do
    params = {
        "trunk": jax.random.normal(keys[1], (8, 16)) / 3,
        "head": jax.random.normal(keys[2], (16,)) / 4,
    }
    small = jnp.split(x, PARTS)
    descent = optax.chain(aggregators.upgrad(2), optax.sgd(0.1))
    wanted = last_update(descent, params, [x])

    before = aggregators.accumulate_objectives(descent, 2, every=PARTS)
    after = optax.chain(
        aggregators.upgrad(2),
        optax.MultiSteps(optax.sgd(0.1), PARTS).gradient_transformation(),
    )
    error_before = distance(last_update(before, params, small), wanted)
    error_after = distance(last_update(after, params, small), wanted)
    print(f"averaged before coordination: off by {error_before:.1e} of the update")
    print(f"averaged after coordination:  off by {error_after:.1e} of the update")
    assert error_before < 1e-5
    assert error_after > 1e-3


if __name__ == "__main__":
    main()
