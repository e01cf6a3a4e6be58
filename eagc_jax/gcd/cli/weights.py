"""`eagc weights`: what is in a file of weights, and another kind of file of them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Show:
    """Lists a file's tensors, and says which backbone they fit.

    For example: eagc weights show dino_vitb16.pth
    """

    # A .pth, .pt, .safetensors or .npz. No code that it may hold is run.
    file: Annotated[Positional[pathlib.Path], arg(metavar="FILE")]


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes weights as .safetensors or .npz, and proves that nothing was lost.

    For example: eagc weights convert dino_vitb16.pth dino_vitb16.safetensors --half
    """

    # A .pth, .pt, .safetensors or .npz. No code that it may hold is run.
    file: Annotated[Positional[pathlib.Path], arg(metavar="FILE")]
    # File to write, .safetensors or .npz.
    out: Annotated[Positional[pathlib.Path], arg(metavar="OUT")]
    # Round to float16, for half the size.
    half: bool = False


@dataclasses.dataclass(frozen=True)
class Weights:
    """Shows what a file of weights holds, or converts it.

    For example: eagc weights show dino_vitb16.pth; eagc weights convert dino_vitb16.pth
    dino_vitb16.safetensors
    """

    action: Show | Convert

    def run(self) -> int:
        """Does it, and prints what there is or what was written."""
        if isinstance(self.action, Show):
            _show(self.action)
        else:
            _convert(self.action)
        return 0


def _show(wanted: Show) -> None:
    import numpy as np

    from eagc_jax.gcd.backbones import converting, weights
    from eagc_jax.gcd.sources.strings import shown

    tensors = weights.read_tensors(wanted.file)
    width = max(map(len, map(shown, tensors)), default=0)
    for name, value in tensors.items():
        kind = np.asarray(value).dtype
        dtype = "text" if kind.kind == "U" else kind.name
        shape = " x ".join(map(str, np.shape(value))) or "-"
        print(f"{shown(name):{width}}  {dtype:9} {shape}")
    numbers = sum(np.size(value) for value in tensors.values())
    print(f"{len(tensors):,} tensors, {numbers:,} numbers")
    fits = converting.fitting(wanted.file)
    for name, backbone in fits:
        print(f"fits --backbone {name}: {backbone.kind}, features of {backbone.width}")
    if not fits:
        print("fits no backbone that is known here")


def _convert(wanted: Convert) -> None:
    from eagc_jax.gcd.backbones import converting
    from eagc_jax.gcd.cli.cache import size
    from eagc_jax.gcd.sources.strings import shown

    done = converting.convert(wanted.file, wanted.out, half=wanted.half)
    same = "gives exactly the same features"
    if wanted.half:
        same = (
            f"gives features with a cosine of {done.cosine:.6f} to the old ones or more"
        )
    print(
        f"wrote {shown(done.path)}: {done.tensors:,} tensors, {size(done.bytes)}; "
        f"{done.backbone} {same}"
    )
    for path in done.beside:
        print(f"wrote {shown(path)} beside it")
