"""What training leaves for prediction: adapter, heads and the rule to assign."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from flax import nnx

from eagc_jax.gcd.backbones import weights
from eagc_jax.gcd.methods import DataView, Method, Task
from eagc_jax.gcd.training.loop import TrainingRun
from eagc_jax.gcd.training.model import DiscoveryModel, GivenFeatures, ResidualAdapter
from eagc_jax.typing import PyTree

_LARGEST_STATE = 64 * 2**20  # bytes of a method's state that are kept


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """An adapter (or none) and heads, with the method that they belong to."""

    method: Method
    task: Task  # as the method was told it; `width` is that of the features
    unit: bool  # features are scaled to length 1 first
    adapter: bool  # whether there is one
    hidden: int | None  # units between its layers; None for what the adapter takes
    tensors: dict[str, np.ndarray]  # parameters by name, as adapter.norm.scale
    state: tuple[np.ndarray, ...]  # leaves of what the method remembers
    # (K,) int32, which of the head's classes each category is; None where the rule can't
    # be kept: then the centres assign.
    columns: np.ndarray | None

    @property
    def model(self) -> DiscoveryModel:
        """Features in; the adapter's features and the heads."""
        model = self.abstract()
        weights.put(model, self.tensors)
        return model

    @property
    def method_state(self) -> PyTree:
        """The state, in the method's own form."""
        form = jax.tree.structure(self.abstract_state())
        return jax.tree.unflatten(form, jax.device_put(self.state))

    @property
    def temperature(self) -> float | None:
        """At which the softmax of the logits was trained; None for no such thing."""
        return getattr(self.method, "probability_temperature", None)

    def abstract(self) -> DiscoveryModel:
        """The same without numbers: what shapes the tensors must have."""
        return nnx.eval_shape(self._build)

    def abstract_state(self) -> PyTree:
        """Likewise of the state."""
        return jax.eval_shape(lambda: self.method.init(self.task))

    def _build(self) -> DiscoveryModel:
        rngs, width = nnx.Rngs(0), self.task.width
        adapter = ResidualAdapter(width, self.hidden, rngs=rngs)
        head = self.method.build_head(width, self.task.num_classes, rngs=rngs)
        return DiscoveryModel(
            GivenFeatures(width),
            head,
            trainable_blocks=0,
            adapter=adapter if self.adapter else None,
        )


def of_run(
    run: TrainingRun, adapted: np.ndarray, clusters: np.ndarray, num_clusters: int
) -> Trained:
    """The model of a run after its last epoch.

    Args:
      run: that gave the assignment.
      adapted: (N, width), what it made of all items' features.
      clusters: (N,) numbers of the categories that the items were given.
      num_clusters: K.

    Returns:
      Model and rule; without `columns` where the rule can't be kept: the method
      remembers too much, or a category has no class of the head.
    """
    model = run.model
    view = DataView(
        lambda: adapted,
        run.records.labels,
        run.task,
        run.config.seed,
        len(run.history.epochs),
    )
    state = run.method.before_assignment(model.head, run.method_state, view)
    leaves = tuple(np.asarray(leaf) for leaf in jax.tree.leaves(state))
    trained = Trained(
        run.method,
        run.task,
        run.config.trains != "blocks",
        model.adapter is not None,
        run.config.adapter.hidden,
        {
            name: np.asarray(value)
            for name, value in weights.parameters(model).items()
            if not name.startswith("backbone.")
        },
        leaves,
        None,
    )
    if not _can_be_kept(trained):
        return dataclasses.replace(trained, state=())
    columns = _columns(trained, adapted, clusters, run.records.labels, num_clusters)
    return dataclasses.replace(trained, columns=columns)


def blocks_of_run(run: TrainingRun) -> dict[str, np.ndarray]:
    """Parameters of the backbone's blocks that trained, by name; often none."""
    if run.config.trains != "blocks":
        return {}
    model = run.model
    assert isinstance(model.backbone, nnx.Module)  # as its blocks trained
    found = weights.parameters(model.backbone)
    return {
        name: np.asarray(value)
        for name, value in found.items()
        if name.startswith("blocks.") and int(name.split(".")[1]) >= model.frozen_blocks
    }


def _can_be_kept(trained: Trained) -> bool:
    """Whether the state is small, and of the shapes that the method begins with."""
    expected = jax.tree.leaves(trained.abstract_state())
    return sum(leaf.nbytes for leaf in trained.state) <= _LARGEST_STATE and [
        (x.shape, x.dtype) for x in expected
    ] == [(x.shape, x.dtype) for x in trained.state]


def _columns(
    trained: Trained,
    adapted: np.ndarray,
    clusters: np.ndarray,
    labels: np.ndarray,
    num_clusters: int,
) -> np.ndarray | None:
    """Which class of the head most items of each category have."""
    from eagc_jax.gcd.prediction.scoring import classes_of_head

    known = int(labels.max(initial=-1)) + 1
    given = labels >= 0
    found = np.where(given, labels, classes_of_head(trained, adapted))
    counts = np.zeros((num_clusters, trained.task.num_classes), np.int64)
    np.add.at(counts, (clusters, found), 1)
    columns = counts.argmax(axis=1).astype(np.int32)
    columns[:known] = np.arange(known)  # whoever else is in them
    empty = counts.sum(axis=1) == 0
    if empty[known:].any() or len(set(columns.tolist())) < num_clusters:
        return None
    return columns
