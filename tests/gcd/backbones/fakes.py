"""Tiny backbones and records for the tests of embed and its cache."""

import hashlib

import jax.numpy as jnp
import numpy as np
from flax import nnx

from eagc_jax.gcd import sources

WIDTH = 3
MATRIX = np.arange(12, dtype=np.float32).reshape(4, WIDTH) - 5


class Linear:
    """Rows of four numbers times a matrix, by NumPy; counts what it is called with."""

    kind, width, depth, preparation = "embedding", WIDTH, 0, "none"

    def __init__(self, name="linear"):
        self.name, self.prepared, self.shapes = name, 0, []

    def fingerprint(self):
        return self.name

    def prepare(self, item):
        self.prepared += 1
        return item

    def collate(self, prepared):
        return np.stack(prepared)

    def prefix(self, arrays, num_blocks):
        assert isinstance(arrays, np.ndarray)
        self.shapes.append(arrays.shape)
        return arrays

    def readout(self, cached, num_blocks):
        return cached @ MATRIX


class Module(nnx.Module):
    """The same as a module with weights."""

    kind, width, depth, preparation = "embedding", WIDTH, 1, "none"

    def __init__(self):
        self.matrix = nnx.Param(MATRIX)

    def fingerprint(self):
        return "module"

    def prepare(self, item):
        return item

    def collate(self, prepared):
        return np.stack(prepared)

    def prefix(self, arrays, num_blocks):
        assert num_blocks == self.depth
        return arrays

    def readout(self, cached, num_blocks):
        return cached @ self.matrix[...]


class Letters:
    """Texts to (sum, length, largest) of their code points; pads to 8, 16, ..."""

    kind, width, depth, preparation = "text", WIDTH, 1, "code points"

    def __init__(self):
        self.shapes, self.traced = [], []

    def fingerprint(self):
        return "letters"

    def prepare(self, item):
        return np.array([ord(letter) for letter in item], np.int32)

    def collate(self, prepared):
        longest = max(len(one) for one in prepared)
        codes = np.zeros((len(prepared), -(-longest // 8) * 8), np.int32)
        for row, one in zip(codes, prepared, strict=True):
            row[: len(one)] = one
        self.shapes.append(codes.shape)
        return {"codes": codes}

    def prefix(self, arrays, num_blocks):
        self.traced.append(arrays["codes"].shape)
        return arrays["codes"]

    def readout(self, cached, num_blocks):
        parts = [cached.sum(1), (cached > 0).sum(1), cached.max(1)]
        return jnp.stack(parts, axis=1).astype(jnp.float32)


class Listed:
    """Items from a list, by content; a `BadItem` among them is raised."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        if isinstance(self.items[row], sources.BadItem):
            raise self.items[row]
        return self.items[row]

    def digest(self, row):
        return hashlib.blake2b(repr(self.items[row]).encode(), digest_size=16).digest()


def records(items, kind="embedding"):
    if isinstance(items, np.ndarray):
        items = sources.ArrayItems(items)
    count = len(items)
    return sources.Records(
        "few", kind, items, ids=[f"item {row}" for row in range(count)],
        labels=np.zeros(count, np.int32), class_names=("known",), num_known=1,
    )  # fmt: skip


def rows(count, seed=0):
    """(count, 4) float32 small integers, all rows distinct: products are exact."""
    random = np.random.default_rng(seed)
    array = random.integers(-9, 10, (count, 4)).astype(np.float32)
    array[:, 0] = 100 * seed + np.arange(count)
    return array
