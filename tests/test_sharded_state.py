"""Optimizer states lie where their parameters lie, and a checkpoint moves between meshes.

What a state keeps for each entry of a parameter (running directions, K momenta, sums of
K gradients, gates of single entries) is as large as the parameters, or K times that:
on one device of many it would not fit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax import aggregators, eagc, scaling
from eagc_jax.features import elastic_projection

K = 3
SPECS = {"kernel": P(None, "model"), "bias": P("model"), "out": P("model", None)}
SIZES = {"kernel": (6, 8), "bias": (8,), "out": (8, 4)}

ROWS = {
    "eagc_progress": lambda: eagc(K, preset="article", energy="progress"),
    "eagc_fisher": lambda: eagc(
        K, preset="article", energy="fisher", granularity="global"
    ),
    "eagc_element": lambda: eagc(
        K, preset="article", granularity="element", energy="progress"
    ),
    "elastic_projection": lambda: elastic_projection(K, energy="running"),
    "gcond": lambda: aggregators.gcond(K),
    "moco": lambda: aggregators.moco(K),
    "sam_gs": lambda: aggregators.sam_gs(K),
    "accumulate_objectives": lambda: aggregators.accumulate_objectives(
        optax.chain(aggregators.mean(K), optax.adam(0.1)), K, every=2
    ),
    "momentum_conflict_free": lambda: aggregators.momentum_conflict_free(K),
    "stability": lambda: optax.chain(
        aggregators.mean(K), scaling.scale_by_stability(), scaling.scale_by_diffgrad()
    ),
    "adamp": lambda: optax.chain(aggregators.mean(K), scaling.scale_by_adamp()),
}
UPDATED = ("eagc_element", "accumulate_objectives")  # in the default tests


def mesh_of(shape, names, axis_type=AxisType.Auto):
    assert len(jax.devices()) >= 8  # simulated: tests/conftest.py
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(shape))


def wide_mesh(axis_type=AxisType.Auto):
    return mesh_of((2, 4), ("data", "model"), axis_type)


def params_on(mesh):
    rng = np.random.default_rng(0)
    return {
        name: jax.device_put(
            rng.normal(size=size).astype(np.float32), NamedSharding(mesh, SPECS[name])
        )
        for name, size in SIZES.items()
    }


def gradients_on(mesh, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: jax.device_put(
            rng.normal(size=(K, *size)).astype(np.float32),
            NamedSharding(mesh, P(None, *SPECS[name])),
        )
        for name, size in SIZES.items()
    }


def like_params(state):
    """The state's arrays with an entry for each of a parameter, and its name."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        keys = [getattr(key, "key", None) for key in path]
        for name, size in SIZES.items():
            if name in keys and leaf.shape[leaf.ndim - len(size) :] == size:
                found.append((jax.tree_util.keystr(path), name, leaf))
    return found


def assert_placed(state, mesh):
    found = like_params(state)
    assert {name for _, name, _ in found} == set(SPECS)  # that this finds something
    for path, name, leaf in found:
        lead = (None,) * (leaf.ndim - len(SIZES[name]))
        expected = NamedSharding(mesh, P(*lead, *SPECS[name]))
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), (
            path,
            leaf.sharding,
        )


def shardings_of(init, params, mesh):
    """What ``init`` would return on a mesh whose axes are explicit; nothing is computed.

    Types of arrays there hold their shardings, and ``init`` hands them on.
    """
    names = (AxisType.Explicit,) * len(mesh.axis_names)
    explicit = jax.sharding.AbstractMesh(
        mesh.axis_sizes, mesh.axis_names, axis_types=names
    )
    typed = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(
            p.shape, p.dtype, sharding=NamedSharding(explicit, p.sharding.spec)
        ),
        params,
    )
    with jax.sharding.use_abstract_mesh(explicit):
        state = jax.eval_shape(init, typed)
    # Counts and the like come from no parameter, and lie on every device.
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, getattr(leaf.sharding, "spec", P())), state
    )


@pytest.mark.parametrize("name", ROWS)
def test_init_places_the_state_with_the_parameters(name):
    mesh = wide_mesh()
    assert_placed(ROWS[name]().init(params_on(mesh)), mesh)


@pytest.mark.parametrize("name", ROWS)
def test_init_under_jit_with_the_shardings_said(name):
    mesh, tx = wide_mesh(), ROWS[name]()
    params = params_on(mesh)
    shardings = shardings_of(tx.init, params, mesh)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    assert_placed(state, mesh)
    # The same numbers as without a mesh.
    for left, right in zip(
        jax.tree.leaves(state), jax.tree.leaves(tx.init(params)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def updated(name, mesh, steps=2):
    tx = optax.with_extra_args_support(ROWS[name]())
    params = params_on(mesh)
    state = jax.jit(tx.init, out_shardings=shardings_of(tx.init, params, mesh))(params)
    update = jax.jit(tx.update)
    for step in range(steps):
        gradients = gradients_on(mesh, step)
        if name == "momentum_conflict_free":
            gradients = jax.tree.map(lambda g, s=step: g[s % K], gradients)
        _, state = update(gradients, state, params, value=jnp.ones(K))
    return state


SOME = [
    name if name in UPDATED else pytest.param(name, marks=pytest.mark.slow)
    for name in ROWS
]


@pytest.mark.parametrize("name", SOME)
def test_a_checkpoint_of_one_mesh_is_restored_on_another(tmp_path, name):
    """Bit by bit, and placed as the other mesh says; updates leave it in place too."""
    first, second = mesh_of((8,), ("model",)), wide_mesh()
    state = updated(name, first)
    assert_placed(state, first)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
    tx = ROWS[name]()
    params = params_on(second)
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        jax.eval_shape(tx.init, params),
        shardings_of(tx.init, params, second),
    )
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "state", target)
    assert_placed(restored, second)
    for left, right in zip(
        jax.tree.leaves(state), jax.tree.leaves(restored), strict=True
    ):
        assert left.dtype == right.dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    assert jax.tree.structure(state) == jax.tree.structure(restored)


# --- Flax ---------------------------------------------------------------------------


class Net(nnx.Module):
    def __init__(self, rngs):
        zeros, normal = nnx.initializers.zeros_init(), nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(
            nnx.with_partitioning(normal, (None, "model"))(rngs.params(), (6, 8))
        )
        self.bias = nnx.Param(
            nnx.with_partitioning(zeros, ("model",))(rngs.params(), (8,))
        )
        self.out = nnx.Param(
            nnx.with_partitioning(normal, ("model", None))(rngs.params(), (8, 4))
        )


@functools.cache
def placed_net():
    """Parameters drawn on the devices that hold them, as their metadata says."""
    mesh = wide_mesh()
    with jax.set_mesh(mesh):
        return nnx.jit(lambda: Net(nnx.Rngs(0)))(), mesh


@pytest.mark.parametrize("name", ["eagc_element", "moco"])
def test_state_follows_the_metadata_of_flax(name):
    net, mesh = placed_net()
    variables = nnx.state(net, nnx.Param)
    shardings = nnx.to_pure_dict(nnx.get_named_sharding(variables, mesh))
    assert {n: s.spec for n, s in shardings.items()} == SPECS
    tx = ROWS[name]()
    # Plain arrays: K copies have an axis more than the metadata knows of.
    params = nnx.to_pure_dict(variables)
    assert_placed(tx.init(params), mesh)
    said = shardings_of(tx.init, params, mesh)
    assert_placed(jax.jit(tx.init, out_shardings=said)(params), mesh)


def test_the_optimizer_of_flax_keeps_it():
    net, mesh = placed_net()
    with jax.set_mesh(mesh):
        optimizer = nnx.Optimizer(net, ROWS["eagc_element"](), wrt=nnx.Param)
    state = nnx.to_pure_dict(nnx.state(optimizer.opt_state))
    assert_placed(state, mesh)


def test_the_optimizer_of_flax_takes_no_state_of_k_copies_of_sharded_parameters():
    """It puts a parameter's metadata on them. docs/scaling.md says what to do."""
    net, mesh = placed_net()
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="full shape: \\(3, 8\\)"):
        nnx.Optimizer(net, ROWS["moco"](), wrt=nnx.Param)
