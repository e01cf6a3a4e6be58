"""Data that can't be used, each kind by a function that writes it in this folder.

A case is that function, which returns arguments of `eagc discover`, and a pattern of the
line that says what is wrong.
"""

import csv
import io
import pathlib
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from tests.gcd import clouds


def write_photos(folder, count=3):
    """Two known colours, and unlabeled ones of three."""
    colours = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
    for number in range(count):
        for name, colour in colours.items():
            homes = ["unlabeled"] + [f"labeled/{name}"] * (name != "blue")
            for home in homes:
                place = pathlib.Path(folder, home)
                place.mkdir(parents=True, exist_ok=True)
                shade = tuple(max(0, c - 10 * number) for c in colour)
                Image.new("RGB", (4, 4), shade).save(place / f"{name}{number}.png")
    return pathlib.Path(folder)


def write_table(*rows, header=("text", "label"), name="data.csv"):
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return name


def bad_png(size):
    """A header that says that the picture is so large, and hardly any content."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def photos_with(name, content):
    (write_photos("photos") / name).write_bytes(content)
    return "photos", "--backbone=mean-colour"


def cut_photo():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "png")
    return photos_with("unlabeled/cut.png", buffer.getvalue()[:2000])


def folder_without(part):
    folder = write_photos("photos")
    (folder / part).rename("elsewhere")
    return folder


def loop():
    folder = write_photos("photos")
    (folder / "unlabeled" / "again").symlink_to(folder.absolute())
    (folder / "labeled" / "red" / "red0.png").unlink()
    (folder / "labeled" / "red" / "red0.png").symlink_to("red0.png")
    return folder


def two_widths():
    table = pa.table({"embedding": [[1.0, 2.0], [1.0]], "label": ["a", ""]})
    pyarrow.parquet.write_table(table, "e.parquet")
    return "e.parquet"


def nan_row():
    rows = clouds.features()
    rows[5, 3] = np.nan
    return clouds.write_npz(pathlib.Path(), embeddings=rows)


def other_weights():
    np.savez("weights.npz", nothing=np.zeros(3))
    return write_photos("photos"), "--backbone=vit", "--weights=weights.npz"


def foreign_folder():
    pathlib.Path("run").mkdir()
    pathlib.Path("run", "thesis.txt").write_text("mine")
    return clouds.write(pathlib.Path())


CASES = {
    "no such data": (lambda: "nowhere", "nowhere was not found"),
    "no data": (lambda: (), "DATA is missing"),
    "no labeled": (lambda: folder_without("labeled"), "photos.*known class"),
    "no unlabeled": (lambda: folder_without("unlabeled"), "photos.*unlabeled"),
    "one class": (lambda: folder_without("labeled/red"), "photos.*two known classes"),
    "no text column": (lambda: write_table("ab", header="ab"), "data.csv.*'text'"),
    "no label column": (
        lambda: write_table(["hi"], header=["text"]),
        "data.csv.*'label'",
    ),
    "all labeled": (
        lambda: write_table(["x", "a"], ["y", "b"]),
        "data.csv.*all 2 rows",
    ),
    "one label": (lambda: write_table(["x", "a"], ["y", ""]), "data.csv.*two known"),
    "ids twice": (
        lambda: write_table(
            "xa1", "yb1", ["z", "", "2"], header=("text", "label", "id")
        ),
        "rows 0 and 1",
    ),
    "empty text": (
        lambda: write_table("xa", "yb", ["", ""]),
        "row 2 of data.csv.*--on-bad-item skip",
    ),
    "zero bytes": (
        lambda: photos_with("unlabeled/zero.png", b""),
        "unlabeled/zero.png",
    ),
    "cut": (cut_photo, "unlabeled/cut.png.*--on-bad-item skip leaves"),
    "huge": (lambda: photos_with("unlabeled/huge.png", bad_png(30_000)), "huge.png"),
    "no image": (
        lambda: photos_with("unlabeled/note.txt", b"hi"),
        "unlabeled/note.txt",
    ),
    "line in a name": (lambda: photos_with("unlabeled/a\nb.png", b""), r"a\\nb.png"),
    "loop": (loop, "red0.png"),
    "NaN": (nan_row, "row 5 of clouds.npz"),
    "two widths": (two_widths, "e.parquet.*row 1"),
    "weights": (other_weights, "weights.npz"),
    "no such weights": (
        lambda: (write_photos("p"), "--backbone=vit", "--weights=w.npz"),
        "w.npz",
    ),
    "no such backbone": (
        lambda: (clouds.write(pathlib.Path()), "--backbone=nothing"),
        "backbone must be one of",
    ),
    "too few classes": (
        lambda: (clouds.write(pathlib.Path()), "--num-classes=1"),
        r"--num-classes must be in \[2, 38\]",
    ),
    "no classes": (
        lambda: (clouds.write(pathlib.Path()), "--num-classes=0"),
        "--num-classes must be at least 1, got 0",
    ),
    "foreign folder": (foreign_folder, "run holds files that eagc_jax did not write"),
}
