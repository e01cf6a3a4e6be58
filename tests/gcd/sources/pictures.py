"""Small images as files, for the tests of what reads them."""

import io
import pathlib

import numpy as np
from PIL import Image


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(colour=(200, 10, 30), size=(6, 4)) -> bytes:
    return encoded(Image.new("RGB", size, colour))


def jpeg(colour, size=(32, 32)) -> bytes:
    return encoded(Image.new("RGB", size, colour), "JPEG", quality=95)


def noise(seed=0, size=(12, 9)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def tree(root: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def photos(root: pathlib.Path) -> pathlib.Path:
    """Two known classes with three and two photos, three unlabeled ones."""
    names = ["labeled/cat/a.png", "labeled/cat/b.png", "labeled/cat/c.png"]
    names += ["labeled/dog/a.png", "labeled/dog/b.png"]
    names += ["unlabeled/1.png", "unlabeled/2.png", "unlabeled/deep/3.png"]
    return tree(root, {name: png((9 * i, 0, 0)) for i, name in enumerate(names)})
