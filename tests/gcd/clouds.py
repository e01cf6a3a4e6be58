"""Four clouds of points on the axes: two known classes, two novel ones."""

import numpy as np

CLASSES, EACH, WIDTH = ("apple", "banana", "cherry", "date"), 12, 8
ROWS = EACH * len(CLASSES)


def truth() -> np.ndarray:
    """(48,) in an order that mixes the classes; more dates than cherries."""
    classes = np.repeat(np.arange(4), [EACH, EACH, EACH - 2, EACH + 2])
    return np.random.default_rng(1).permutation(classes)


def features() -> np.ndarray:
    """(48, 8) float32."""
    noise = np.random.default_rng(0).normal(size=(ROWS, WIDTH))
    return (np.eye(WIDTH)[truth()] + 0.1 * noise).astype(np.float32)


def labels() -> list[str]:
    """Names of the known classes on some of their rows, else empty."""
    return [
        CLASSES[one] if one < 2 and row % 2 else "" for row, one in enumerate(truth())
    ]


def write(folder, name="clouds.npy"):
    """A matrix with its labels beside it; returns the path."""
    path = folder / name
    np.save(path, features())
    np.save(path.with_suffix(".labels.npy"), np.array(labels()))
    return path


def write_npz(folder, **changes):
    """The same with ids and truth in one file; a change of None leaves a member out."""
    members = {
        "embeddings": features(),
        "labels": np.array(labels()),
        "ids": np.array([f"row {i}" for i in range(ROWS)]),
        "truth": np.array([CLASSES[one] for one in truth()]),
        **changes,
    }
    given = {name: value for name, value in members.items() if value is not None}
    np.savez(folder / "clouds.npz", **given)
    return folder / "clouds.npz"
