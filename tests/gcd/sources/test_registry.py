"""A named data set is one function with a decorator."""

import numpy as np
import pytest

from eagc_jax.gcd import sources
from eagc_jax.gcd.sources.records import ArrayItems


@pytest.fixture
def toy():
    @sources.register("toy")
    def toy(root=None, *, rows=4):
        items = ArrayItems(np.eye(rows, dtype=np.float32))
        ids = tuple(map(str, range(rows)))
        classes = np.arange(rows) % 2
        records = sources.fully_labeled("toy", "embedding", items, ids, classes, "ab")
        return sources.pose(records, [1])

    yield toy
    sources.unregister("toy")


def test_a_toy_source_is_loaded_by_its_name(toy):
    assert "toy" in sources.benchmarks()
    records = sources.load("toy", rows=6)
    assert (len(records), records.class_names) == (6, ("b", "a"))
    assert len(sources.open_source("toy")) == 4


def test_a_name_is_given_once(toy):
    with pytest.raises(ValueError, match="name must not be taken, got 'toy'"):
        sources.register("toy")(toy)


def test_wrong_names_and_options(toy):
    with pytest.raises(
        ValueError, match=r"name must be one of banking77, .* got 'cifar'"
    ):
        sources.load("cifar")
    with pytest.raises(ValueError, match="toy has no option 'images'; it has rows"):
        sources.load("toy", images=3)


def test_the_issues_data_sets_are_there():
    assert set(sources.benchmarks()) == {
        "banking77",
        "banking77-sample",
        "cifar10",
        "cifar100",
        "clinc150",
        "cub",
        "digits",
        "fashion-mnist",
        "fgvc-aircraft",
        "grocery",
        "herbarium19",
        "imagenet100",
        "imagenet1k",
        "mnist",
        "omniglot",
        "stanford-cars",
    }
