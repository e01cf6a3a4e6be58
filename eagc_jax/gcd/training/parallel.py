"""Training on several devices and in several processes: each batch split over all.

Data parallel, under ``jit`` with automatic axes: parameters and states are the same on
every device, rows of the batch are divided. The compiler then averages each objective's
gradient over devices before anything is coordinated, as it must be: coordination is not
linear.

Several processes run the same program on the same data, one for each host (or each GPU).
Every process draws the same rows and works on its own share of them; what is written is
written by the first. `docs/scaling.md` has the commands.
"""

import hashlib
import json
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from eagc_jax.typing import PyTree

ROWS = "data"  # the mesh axis over which rows are divided


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = 100,
) -> None:
    """Joins this process with the others; before anything else of JAX runs.

    `jax.distributed.initialize` with collectives for CPU devices turned on.

    Args:
      coordinator_address: "host:port" of process 0, where the port is free; None where
        JAX finds the others by itself: on a TPU pod, under Slurm or Open MPI.
      num_processes: how many there are.
      process_id: this one's number, from 0.
      heartbeat_seconds: after so long without a sign of life from one process the others
        end too, with an error.

    Raises:
      RuntimeError: JAX has already run something.
      ValueError: some arguments are missing.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(value is not None for value in given) and None in given:
        raise ValueError(
            "coordinator address, number of processes and this process's number are "
            f"needed together; got {given}"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=heartbeat_seconds,
    )


def data_mesh() -> Mesh:
    """All devices of all processes along one axis.

    Examples:
      >>> data_mesh().axis_names
      ('data',)
    """
    devices = np.array(jax.devices())
    return Mesh(devices, (ROWS,), axis_types=(AxisType.Auto,))


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


# ---------------------------------------------------------------------------
# Placing arrays
# ---------------------------------------------------------------------------


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same arrays on every device of the mesh; as they are without one.

    Every process must have the same ones: see `check_same`.
    """
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, P())
    if jax.process_count() == 1:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(
            everywhere, np.asarray(x), np.shape(x)
        ),
        tree,
    )


def local(tree: PyTree) -> PyTree:
    """This process's own copy of arrays that every device has."""
    return jax.tree.map(
        lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree
    )


def own_rows(number: int, mesh: Mesh | None) -> np.ndarray:
    """Numbers of the rows that this process holds, of `number` divided over the mesh."""
    if mesh is None:
        return np.arange(number)
    parts = NamedSharding(mesh, P(ROWS)).addressable_devices_indices_map((number,))
    spans = {index[0].indices(number)[:2] for index in parts.values() if index}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def divide(own: PyTree, number: int, mesh: Mesh | None, axis: int = 0) -> PyTree:
    """A tree whose axis has `number` rows over all devices, from each `own_rows`.

    Without a mesh, the tree's arrays on the device. Nobody may write to `own` afterwards.
    """
    if mesh is None:
        return jax.device_put(own)
    rows = NamedSharding(mesh, P(*[None] * axis, ROWS))
    if jax.process_count() == 1:
        return jax.device_put(own, rows)

    def place(leaf):
        shape = (*leaf.shape[:axis], number, *leaf.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(rows, np.asarray(leaf), shape)

    return jax.tree.map(place, own)


def divided(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Under `jit`: rows (axis 0) are divided over the mesh."""
    return _constrained(tree, mesh, P(ROWS))


def whole(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Under `jit`: the same on every device of the mesh."""
    return _constrained(tree, mesh, P())


def _constrained(tree: PyTree, mesh: Mesh | None, spec: P) -> PyTree:
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))


def check_divides(name: str, number: int, mesh: Mesh | None) -> None:
    """Raises ValueError where rows can't be divided evenly over the mesh."""
    if mesh is not None and number % mesh.size:
        raise ValueError(
            f"{name} must be a multiple of the {mesh.size} devices, got {number}"
        )


# ---------------------------------------------------------------------------
# The same program everywhere
# ---------------------------------------------------------------------------


def check_same(facts: Mapping[str, object]) -> None:
    """Raises ValueError, in every process, where the processes don't agree.

    Without it processes that differ would train on a mixture, or wait for each other
    for ever. It is the first thing that they do together.

    Args:
      facts: what must be the same, by name; values are compared as text. For arrays,
        see `digest`.

    Raises:
      ValueError: names what differs, and for which processes.
    """
    if jax.process_count() == 1:
        return
    everyones = _gathered({name: str(value) for name, value in facts.items()})
    names = sorted({name for one in everyones for name in one})
    differ = []
    for name in names:
        values = [one.get(name, "nothing") for one in everyones]
        if len(set(values)) > 1:
            shown = ", ".join(f"{i}: {_short(v)}" for i, v in enumerate(values))
            differ.append(f"{name} (process {shown})")
    if differ:
        raise ValueError(
            "all processes must train the same model on the same data, but they differ "
            f"in {'; '.join(differ)}"
        )


def digest(tree: PyTree) -> str:
    """A short text that is the same for the same arrays, and for no others."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        found.update(head.encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _gathered(facts: dict[str, str]) -> list[dict[str, str]]:
    """Every process's facts, in the order of processes."""
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(text.size, np.int32))
    padded = np.full(int(np.max(sizes)), ord(" "), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row.tobytes()) for row in rows]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
