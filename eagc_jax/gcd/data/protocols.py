"""Every data set by name, with the classes that count as known."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eagc_jax.gcd.data.datasets import ImageDataset, load_digits
from eagc_jax.gcd.data.idx import load_fashion_mnist, load_mnist
from eagc_jax.gcd.data.omniglot import load_omniglot
from eagc_jax.gcd.data.splits import DiscoverySplit, split_categories

# A further data set is one more entry here and in PROTOCOLS.
LOADERS: dict[str, Callable[..., ImageDataset]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "mnist": load_mnist,
    "omniglot": load_omniglot,
}


def half_of_each_group(class_names: Sequence[str], *, seed: int = 0) -> tuple[int, ...]:
    """A seeded half of the classes of each group, the smaller half if it is uneven.

    A class's group is its name up to the first slash. Known and novel classes then
    share their groups, so that a novel character is told from known ones by what is
    drawn and not by its alphabet; and neither the order of an alphabet (its letters'
    sounds, say) nor anyone's eye decides which are known.

    Args:
      class_names: names like "Greek/character01".
      seed: of the draw.

    Returns:
      Numbers of the classes drawn, ascending.

    Examples:
      >>> half_of_each_group(["a/1", "a/2", "b/1", "b/2", "b/3", "b/4"])
      (0, 2, 4)
    """
    groups = np.array([name.split("/")[0] for name in class_names])
    generator = np.random.default_rng(seed)
    halves = []
    for group in sorted(set(groups.tolist())):
        members = np.flatnonzero(groups == group)
        halves += generator.permutation(members)[: len(members) // 2].tolist()
    return tuple(sorted(halves))


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a data set is posed as a discovery problem; the same in every run."""

    known_classes: Callable[[Sequence[str]], Sequence[int]]  # from the classes' names
    labeled_share: float = 0.5  # of the known classes' images


def _first_five(class_names: Sequence[str]) -> range:
    return range(5)


PROTOCOLS: dict[str, Protocol] = {
    "digits": Protocol(_first_five),
    "fashion-mnist": Protocol(_first_five),
    "mnist": Protocol(_first_five),
    "omniglot": Protocol(half_of_each_group),
}


def load_split(name: str, **options: Any) -> DiscoverySplit:
    """Loads a data set and splits it by its protocol.

    Args:
      name: a key of `LOADERS`.
      **options: of the loader, e.g. `path` or `images`.

    Returns:
      The split; the same images are labeled in every run.

    Raises:
      ValueError: there is no data set of that name.
      FileNotFoundError: the data is not there; the message says how to get it.

    Examples:
      >>> load_split("digits").class_names[:5]
      ('0', '1', '2', '3', '4')
    """
    if name not in LOADERS:
        raise ValueError(f"name must be one of {', '.join(LOADERS)}, got {name!r}")
    dataset = LOADERS[name](**options)
    protocol = PROTOCOLS[name]
    known = protocol.known_classes(dataset.class_names)
    return split_categories(dataset, known, labeled_share=protocol.labeled_share)
