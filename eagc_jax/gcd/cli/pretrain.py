"""`eagc pretrain`: a small backbone from images alone."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

from tyro.conf import arg


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Teaches a small Vision Transformer without labels, for a named data set.

    For example: eagc pretrain --output digits.npz --dataset digits; eagc discover
    digits --quick --backbone vit --weights digits.npz
    """

    # File of weights to write.
    output: Annotated[pathlib.Path, arg(metavar="FILE")]
    # Data set and its recipe; by default the backbone for digits that comes along.
    dataset: Annotated[str | None, arg(metavar="NAME")] = None
    # File or folder of the data set.
    data: Annotated[str | None, arg(metavar="PATH")] = None
    # Instead of the recipe's.
    epochs: int | None = None
    # At most.
    minutes: float | None = None
    # Of all draws.
    seed: int = 0

    def run(self) -> int:
        """As `python -m eagc_jax.gcd.training.pretraining`."""
        from eagc_jax.gcd.training import pretraining

        if self.dataset is not None:
            pretraining.recipe(self.dataset)  # raises ValueError for an unknown one
        given = dataclasses.asdict(self).items()
        pretraining.main([f"--{k}={v}" for k, v in given if v is not None])
        return 0
