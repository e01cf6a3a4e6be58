"""Frozen parameters, and decay for some of the others, with `optax.masked`.

    python -m examples.recipes.masked

A frozen embedding gets no gradient at all: it is closed over, not differentiated. What
is trained, but should not be decayed, is masked as in any Optax chain, behind the
aggregator. Checked: the embedding keeps its bits, biases aren't decayed, kernels are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import aggregators, value_and_grads


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (128, 8))
    frozen = {"embedding": jax.random.normal(keys[1], (8, 16)) / 3}
    trained = {"kernel": jax.random.normal(keys[2], (16, 2)) / 4, "bias": jnp.ones(2)}

    def losses_fn(trained, frozen):
        hidden = jnp.tanh(x @ frozen["embedding"])
        out = hidden @ trained["kernel"] + trained["bias"]
        return jnp.mean((out - x[:, :2]) ** 2, axis=0)  # (K,): one for each output

    def is_kernel(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    optimizer = optax.chain(
        aggregators.dualproj(2),
        optax.masked(optax.add_decayed_weights(1e-2), is_kernel),
        optax.scale(-0.1),
    )
    state = optimizer.init(trained)
    before = jax.tree.map(np.array, frozen)

    @jax.jit
    def step(trained, state):
        losses, gradients = value_and_grads(losses_fn)(trained, frozen)
        updates, state = optimizer.update(gradients, state, trained)
        return optax.apply_updates(trained, updates), state, losses

    # With a gradient of zero only the decay is left.
    still = jax.tree.map(lambda p: jnp.zeros((2, *p.shape)), trained)
    decay, _ = optimizer.update(still, state, trained)
    assert not decay["bias"].any()
    np.testing.assert_allclose(decay["kernel"], -1e-3 * trained["kernel"], rtol=1e-6)

    history = []
    for _ in range(200):
        trained, state, losses = step(trained, state)
        history.append(np.asarray(losses))
    print(f"losses: {history[0].round(3)} -> {history[-1].round(3)}")
    assert (history[-1] < history[0] / 2).all()
    np.testing.assert_array_equal(frozen["embedding"], before["embedding"])


if __name__ == "__main__":
    main()
