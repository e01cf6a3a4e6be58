"""Reads the arrays that the published implementation produced."""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)
