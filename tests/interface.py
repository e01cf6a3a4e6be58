"""The public interface as rows of one table: ``test_modes.py`` runs each in every mode.

A row is ``init(problem) -> state`` and ``step(state, problem) -> (out, state)``: two
functions of arrays alone, whether there is a state or not. A problem is one tree with
everything that any of them takes, of one dtype or of several. Another public function is
another row; ``test_modes.py`` fails while one is missing.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import eagc_jax
from eagc_jax import (
    aggregators,
    diagnostics,
    features,
    gradients,
    pareto,
    rewards,
    scaling,
    weighted_losses,
    weightings,
)

K = 5  # krum needs that many
SHAPES = {"kernel": (3, 4), "bias": (4,), "layers": ((2, 4, 4), None, ())}
ONE_DTYPE = {"kernel": "float32", "bias": "float32", "layers": "float32"}
MIXED = {"kernel": "float32", "bias": "float64", "layers": "bfloat16"}


class Row(NamedTuple):
    """One thing a user calls."""

    init: Callable[[Any], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]
    covers: tuple[str, ...] = ()  # public names that it calls, besides its own.
    transformation: Any = None  # an Optax one, where it is one,
    number: int | None = None  # and K, where it takes K gradients.


# ---------------------------------------------------------------------------
# The problem
# ---------------------------------------------------------------------------


def problem(seed=0, dtypes=ONE_DTYPE):
    """Parameters, K gradients and losses, inputs, features of one problem: NumPy."""
    rng = np.random.default_rng(seed)

    def tree(*lead):
        def leaf(shape, dtype):
            return rng.normal(size=(*lead, *shape)).astype(jnp.dtype(dtype))

        weights = tuple(
            None if shape is None else leaf(shape, dtypes["layers"])
            for shape in SHAPES["layers"]
        )
        return {
            "kernel": leaf(SHAPES["kernel"], dtypes["kernel"]),
            "bias": leaf(SHAPES["bias"], dtypes["bias"]),
            "layers": weights,
        }

    grads = tree(K)
    # Objective 0 doesn't reach one leaf; with an odd seed, objective 1 reaches none.
    grads["bias"][0] = 0
    if seed % 2:
        grads = jax.tree.map(
            lambda g: np.where(expand(np.arange(K) == 1, g), 0, g), grads
        )
    return {
        "params": tree(),
        "grads": grads,
        "losses": rng.uniform(0.5, 2.0, K).astype(dtypes["bias"]),
        "x": rng.normal(size=(2, 3)).astype(np.float32),
        "z": rng.normal(size=(6, 4)).astype(dtypes["bias"]),
        "labeled": np.asarray([True, False, True, False, False, True]),
    }


def expand(values, leaf):
    return values.reshape(-1, *(1,) * (leaf.ndim - 1))


def abstract(given):
    """The same as shapes and dtypes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)


def cast(leaf):
    """For the models below, whose parameters may be of several dtypes."""
    return leaf.astype(jnp.float32)


def hidden_of(params, x, probe=None):
    def tapped(leaf):
        return cast(leaf if probe is None else gradients.tap(leaf, probe))

    def body(h, kernel):
        return jnp.tanh(jnp.matmul(h, tapped(kernel), precision="highest")), None

    h = jnp.matmul(x, tapped(params["kernel"]), precision="highest")
    h = h + tapped(params["bias"])[None]
    h, _ = jax.lax.scan(body, h, params["layers"][0])
    return h * tapped(params["layers"][2])


def losses_of(params, x, probe=None):
    h = hidden_of(params, x, probe)
    return jnp.stack([jnp.mean((h - 0.1 * k) ** 2) for k in range(K)])


def loss_of(name):
    """A loss of one of several heads, by its name."""

    def loss(heads, h, x):
        del x
        return jnp.mean((h * cast(heads[name])[None]) ** 2)

    return loss


# ---------------------------------------------------------------------------
# Rows: transformations
# ---------------------------------------------------------------------------


def of_updates(tx, name="", covers=()):
    """K gradients a step."""
    tx = optax.with_extra_args_support(tx)

    def step(state, given):
        grads = given["grads"]
        if name == "momentum_conflict_free":  # one objective's gradient a step
            grads = jax.tree.map(lambda g: g[0], grads)
        return tx.update(grads, state, given["params"], value=given["losses"])

    number = None if name == "momentum_conflict_free" else K
    return Row(lambda given: tx.init(given["params"]), step, covers, tx, number)


def of_masked_updates(tx, covers=()):
    """With an objective that the batch lacks."""
    mask = np.arange(K) != 2

    def update(updates, state, params=None, **extra):
        return tx.update(updates, state, params, active_mask=mask, **extra)

    return of_updates(
        optax.GradientTransformationExtraArgs(tx.init, update), "", covers
    )


def of_batches(tx):
    """For methods that take the gradients of two more batches."""

    def update(updates, state, params=None, **extra):
        turned = jax.tree.map(lambda g: g[::-1], updates)
        return tx.update(updates, state, params, batches=(updates, turned), **extra)

    return of_updates(optax.GradientTransformationExtraArgs(tx.init, update))


def of_gradient(tx):
    """One gradient a step, as behind an aggregator."""

    def step(state, given):
        grad = jax.tree.map(lambda g: g[0], given["grads"])
        return tx.update(grad, state, given["params"])

    return Row(
        lambda given: tx.init(given["params"]),
        step,
        transformation=optax.with_extra_args_support(tx),
    )


def last_spans(path, shape):
    """Blocks of layouts with the output unit first."""
    del path
    return tuple(range(1, len(shape)))


MIXTURE = {"magnitude": 1.0, "progress": 0.5, "exploratory": 0.5, "fisher": 0.3}
EAGC = {
    "default": {},
    "global": {"granularity": "global", "scale": "global", "descent_guard": 0.5},
    "tensor": {
        "granularity": "tensor",
        "energy": MIXTURE,
        "nonfinite": "skip_objective",
        "hysteresis": 0.1,
        "slew": 0.5,
    },
    "channel": {
        "energy": {"exploratory": 1.0, "sensitivity": 1.0},
        "descent_guard": 0.1,
        "nonfinite": "skip_update",
        "weights": (1.0, 2.0, 0.0, 1.0, 0.5),
    },
    "element": {"granularity": "element", "energy": "fisher", "descent_guard": 0.1},
    "memoryless": {"granularity": "element", "smoothing": 0.0, "warmup_steps": 0},
    "function": {"granularity": last_spans, "temperature": lambda t: 1 / (1 + t)},
}
ROWS = {
    f"eagc_{name}": of_updates(
        eagc_jax.eagc(K, preset="article", **options), covers=("eagc",)
    )
    for name, options in EAGC.items()
}
ROWS |= {
    "eagc_balanced": of_updates(eagc_jax.eagc(K, balance=0.5), covers=("eagc",)),
    "eagc_persistent": of_updates(
        eagc_jax.eagc(K, conflict_memory=20.0, release=8.0, granularity="tensor"),
        covers=("eagc",),
    ),
    "eagc_gated_and_balanced": of_updates(
        eagc_jax.eagc(
            K,
            energy="magnitude",
            weights=(1.0, 2.0, 0.0, 1.0, 0.5),
            stiffness=(1.0, 0.5, 0.0, 1.0, 1.0),
        ),
        covers=("eagc",),
    ),
}
ROWS |= {
    "assess_energy": of_updates(
        optax.chain(
            eagc_jax.assess_energy(K, energy=MIXTURE), eagc_jax.sum_objectives()
        ),
        covers=("sum_objectives",),
    ),
    "soft_gate": of_updates(eagc_jax.soft_gate(K)),
    "sum_objectives": of_updates(eagc_jax.sum_objectives(np.arange(1.0, K + 1))),
    "elastic_projection": of_updates(eagc_jax.elastic_projection(K)),
    "elastic_projection_global": of_updates(
        eagc_jax.elastic_projection(K, granularity="global", only_conflict=True)
    ),
    "elastic_projection_current": of_updates(
        eagc_jax.elastic_projection(K, granularity="channel", energy="current")
    ),
    "elastic_projection_memoryless": of_updates(
        eagc_jax.elastic_projection(K, energy=None, max_projection=None)
    ),
}

ALL_OF_UPGRAD = {
    "gram_smoothing": 0.5,
    "weight_smoothing": 0.5,
    "granularity": "channel",
    "recompute_every": 2,
    "certify": True,
    "rescale": "norm_of_mean",
    "nonfinite": "skip_objective",
}
OPTIONS = {"gradnorm": {"layers": "kernel"}}
NOT_FACTORIES = {"from_weighting", "accumulate_objectives"}
FACTORIES = {
    name: functools.partial(getattr(aggregators, name), K, **OPTIONS.get(name, {}))
    for name in aggregators.__all__
    if inspect.isfunction(getattr(aggregators, name)) and name not in NOT_FACTORIES
}
ROWS |= {name: of_updates(make(), name) for name, make in FACTORIES.items()}
ROWS |= {
    "upgrad_with_all": of_masked_updates(
        aggregators.upgrad(K, **ALL_OF_UPGRAD), covers=("from_weighting",)
    ),
    "mgda_by_tensor": of_updates(aggregators.mgda(K, granularity="tensor")),
    "modo_by_batches": of_batches(aggregators.modo(K)),
    "gcond_masked": of_masked_updates(aggregators.gcond(K)),
    "accumulate_objectives": of_masked_updates(
        aggregators.accumulate_objectives(aggregators.mean(K), K, every=2)
    ),
}
ROWS |= {
    # Adam's own step can't be traced under the strictest rules.
    "optimizer_aware": of_updates(
        eagc_jax.optimizer_aware(
            aggregators.upgrad(K),
            optax.sgd(0.1, momentum=0.9),
            include_momentum=True,
            certify=True,
        )
    ),
    "optimizer_aware_by_tensor": of_masked_updates(
        eagc_jax.optimizer_aware(
            aggregators.upgrad(K, granularity="tensor", nonfinite="skip_objective"),
            optax.sgd(0.1),
        )
    ),
}
ROWS |= {
    "adamp": of_gradient(scaling.adamp(0.1, weight_decay=0.1)),
    "scale_by_adamp": of_gradient(scaling.scale_by_adamp(nesterov=True)),
    "diffgrad": of_gradient(scaling.diffgrad(0.1)),
    "scale_by_diffgrad": of_gradient(
        scaling.scale_by_diffgrad(eps=0.0, scale_aware=True, nonfinite="skip_update")
    ),
    "scale_by_stability": of_gradient(scaling.scale_by_stability()),
    "scale_by_stability_global": of_gradient(
        scaling.scale_by_stability(granularity="global", reference_decay=0.9)
    ),
    "scale_by_stability_element": of_gradient(
        scaling.scale_by_stability(granularity="element")
    ),
}


# ---------------------------------------------------------------------------
# Rows: functions
# ---------------------------------------------------------------------------


def of_function(function, covers=()):
    """A function of the problem, without a state."""
    return Row(lambda given: (), lambda state, given: (function(given), state), covers)


def over_root(gram):
    """A weighting whose weights depend on the matrix."""
    return 1 / jnp.sqrt(jnp.diagonal(gram) + 1)


def of_losses(make, *arguments, **options):
    """A way to gradients, given ``losses_of``."""
    fn = make(losses_of, *arguments, **options)
    return of_function(lambda given: fn(given["params"], given["x"]))


def of_tapped(make, *arguments):
    fn = make(lambda params, probe, x: losses_of(params, x, probe), *arguments)
    return of_function(lambda given: fn(given["params"], given["x"]), covers=("tap",))


def _at_feature(make, *arguments):
    heads = {name: loss_of(name) for name in "abcde"}
    fn = make(hidden_of, heads, *arguments)

    def function(given):
        params = {name: given["params"]["bias"] for name in heads}
        return fn(given["params"], params, given["x"])

    return of_function(function)


def _by_batch(given):
    def loss(params, x):
        return losses_of(params, x)[0]

    fn = gradients.value_and_grads_by_batch([loss] * 2)
    return fn(given["params"], [given["x"], given["x"][:1]])


def _of_one(given):
    fn = gradients.value_and_grad_of_one(losses_of)
    return fn(given["params"], jnp.argmax(given["losses"]), given["x"])


def _per_example(given):
    def loss(params, probe, x):
        out = gradients.tap_dense(x @ cast(params), x, probe, bias=False)
        turned = x[:, None] * cast(params)[0, 0]  # a convolution of width 1
        turned = gradients.tap_conv(turned, x[:, None], probe, window=1, bias=False)
        return jnp.sum(out**2) + jnp.sum(turned**2)

    fn = gradients.per_example_two_phase(
        jax.vmap(loss, in_axes=(None, 0, 0)), over_root
    )
    return fn(given["params"]["kernel"], given["x"])


def _stale():
    fn = gradients.stale_weights(losses_of, over_root, recompute_every=2)

    def step(state, given):
        losses, gradient, state = fn(given["params"], state, given["x"])
        return (losses, gradient), state

    return Row(lambda given: gradients.init_stale_weights(K), step)


ROWS |= {
    "value_and_grads": of_losses(gradients.value_and_grads),
    "value_and_grads_in_a_loop": of_losses(gradients.value_and_grads, loop=True),
    "value_and_grads_by_batch": of_function(_by_batch),
    "value_and_grads_at_feature": _at_feature(gradients.value_and_grads_at_feature),
    "value_and_grad_from_representation": _at_feature(
        gradients.value_and_grad_from_representation, over_root
    ),
    "value_and_grad_of_one": of_function(_of_one),
    "value_and_gram": of_losses(gradients.value_and_gram),
    "two_phase": of_losses(gradients.two_phase, over_root),
    "two_phase_batched": of_losses(gradients.two_phase, over_root, gram="batched"),
    "tapped_two_phase": of_tapped(gradients.tapped_two_phase, over_root),
    "tapped_grams": of_tapped(gradients.tapped_grams),
    "per_example_two_phase": of_function(_per_example)._replace(
        covers=("tap_dense", "dense_gram", "tap_conv", "conv_gram")
    ),
    "stale_weights": _stale()._replace(covers=("init_stale_weights",)),
}


def _coordinator(mode="released", gradient=False):
    def init(given):
        pool = given["z"][:3]
        found = features.conceptor(pool)
        return features.init_coordinator(found, features.energy_ratio(pool, found))

    def step(state, given):
        z, mask = given["z"], given["labeled"]
        if gradient:
            g = jnp.stack([z, 2 * z])
            out, state, info = features.coordinate_gradients(
                g, z, z[::-1], mask, state, mode=mode
            )
        else:

            def loss(z):
                out, new, info = features.coordinate(z, z[::-1], mask, state, mode=mode)
                return jnp.sum(out**2), (new, info)

            out, (state, info) = jax.grad(loss, has_aux=True)(z)
        state = features.refresh_conceptor(state, z, every=1)
        return (out, info), state

    covers = ("conceptor", "energy_ratio", "init_coordinator", "refresh_conceptor")
    return Row(init, step, (*covers, "coordinate", "coordinate_gradients"))


def _moment(state, given):
    state = features.add_features(state, given["z"], given["labeled"], decay=0.9)
    return features.conceptor_from_moment(state), state


def _weighting(name):
    function = getattr(weightings, name)

    def of_gram(given):
        gram = eagc_jax.gram_matrix(given["grads"])
        if name == "random_weighting":
            return function(gram, key=jax.random.PRNGKey(0))
        if name == "gradvac":
            return function(gram, jnp.full_like(gram, 0.3))
        if name == "ensure_nonconflict":
            return function(gram, jnp.ones_like(gram[0]))
        return function(gram)

    return of_function(of_gram, covers=("gram_matrix",))


def _probe(given):
    return jax.tree.leaves(
        tuple(
            diagnostics.probe(
                losses_of, given["params"], [given["x"]] * 2, optimizer=0.1
            )
        )
    )


def _report(given):
    tx = eagc_jax.eagc(K, preset="article", granularity="global")
    state = jax.jit(tx.init)(given["params"])
    _, state = jax.jit(tx.update)(given["grads"], state, given["params"])
    found = diagnostics.report(state)
    return found.gates, found.energies


def _decisions(given):
    tx = eagc_jax.eagc(K, preset="article", granularity="tensor")
    _, state = tx.update(given["grads"], tx.init(given["params"]), given["params"])
    return [one.values for one in diagnostics.decisions(state)]


ROWS |= {
    "coordinate": _coordinator(),
    "coordinate_unsupervised": _coordinator("unsupervised_only"),
    "coordinate_gradients": _coordinator("paper", gradient=True),
    "add_features": Row(
        lambda given: features.init_moment(4),
        _moment,
        ("init_moment", "conceptor_from_moment"),
    ),
    "alignment_loss": of_function(
        lambda given: jax.grad(features.alignment_loss)(
            given["z"], given["z"][::-1], given["labeled"]
        )
    ),
    "gram_matrix": of_function(
        lambda given: [
            eagc_jax.gram_matrix(given["grads"], granularity)
            for granularity in ("global", "tensor", "channel")
        ]
    ),
    "cross_gram": of_function(
        lambda given: eagc_jax.cross_gram(
            given["grads"], jax.tree.map(lambda g: g[:2], given["grads"])
        )
    ),
    "stack_objectives": of_function(
        lambda given: eagc_jax.stack_objectives(
            eagc_jax.unstack_objectives(given["grads"])
        ),
        covers=("unstack_objectives",),
    ),
    "gradient_deviation": of_function(
        lambda given: diagnostics.gradient_deviation(
            *eagc_jax.unstack_objectives(given["grads"])[:2]
        )
    ),
    "subspace_overlap": of_function(
        lambda given: diagnostics.subspace_overlap(
            given["z"], given["z"][::-1], 2, old_mask=given["labeled"]
        )
    ),
    "pairwise_cosines": of_function(
        lambda given: [
            diagnostics.pairwise_cosines(given["grads"], g)
            for g in ("tensor", "global")
        ]
    ),
    "gradient_norms": of_function(
        lambda given: [
            diagnostics.gradient_norms(given["grads"], g) for g in ("tensor", "global")
        ]
    ),
    "probe": of_function(_probe),
    "report": of_function(_report),
    "decisions": of_function(_decisions),
}
ROWS |= {f"weightings.{name}": _weighting(name) for name in weightings.__all__}


def _loss_weighting(name):
    weighting = eagc_jax.loss_weighting(name, K)
    return Row(
        lambda given: weighting.init(),
        lambda state, given: weighting.update(given["losses"], state),
        covers=("loss_weighting",),
    )


ROWS |= {f"loss_weighting_{n}": _loss_weighting(n) for n in weighted_losses.METHODS}


def _front(given):
    found = eagc_jax.pareto_front(
        losses_of,
        given["params"],
        np.linspace(0.2, 0.8, 2 * K).reshape(2, K),
        optimizer=optax.sgd(0.1),
        steps=2,
        batches=jnp.stack([given["x"]] * 2),
    )
    volume = pareto.hypervolume(found.losses[:, :3], jnp.full((3,), 9.0))
    return found, volume, pareto.non_dominated(found.losses)


def _rewards():
    constrained = rewards.lagrangian(K, [None, 0.1, *[None] * (K - 2)])

    def step(state, given):
        found = given["grads"]["kernel"]
        weights, state = constrained.update(found, state)
        one = rewards.decoupled_advantages(found, preference=weights)
        each = rewards.group_advantages(found)
        both = rewards.coordinated_advantages(each, weightings.upgrad)
        losses = rewards.surrogate_losses(given["params"]["kernel"], each)
        return (one, both, losses), state

    return Row(lambda given: constrained.init(), step)


ROWS |= {
    "pareto_front": of_function(_front, covers=("hypervolume", "non_dominated")),
    "decoupled_advantages": _rewards()._replace(
        covers=(
            "coordinated_advantages",
            "group_advantages",
            "lagrangian",
            "surrogate_losses",
        )
    ),
}

# They loop in Python over concrete numbers: they can't be traced, only run.
CONCRETE = {"probe", "report"}
