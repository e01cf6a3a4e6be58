"""The benchmark's reading of photos and texts, and a run of it without PyTorch."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from benchmarks import embedding
from eagc_jax.gcd import backbones


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no picture")
        for index in range(3):
            content = io.BytesIO()
            Image.new("RGB", (9, 7 + index)).save(content, "png")
            file.writestr(f"folder/{index}.png", content.getvalue())
    return path


def test_photos_of_an_archive_and_of_a_folder(archive, tmp_path):
    found = embedding.photos(archive, 2)
    assert len(found) == 2
    assert {image.shape[1:] for image in found} == {(9, 3)}
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "all")
    assert len(embedding.photos(tmp_path / "all", 9)) == 3


def test_texts_and_full_batches_of_them(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text,category\n" + "".join(f"{'a' * i},x\n" for i in range(1, 8)))
    found = embedding.texts(path, 5)
    assert len(found) == 5
    lengths = backbones.callable_backbone(lambda texts: np.zeros((1, 1)), "text", 1)
    work = embedding.batches(lengths, found, 2)
    assert [len(batch) for batch in work] == [2, 2]
    assert [len(text) for batch in work for text in batch] == sorted(
        map(len, found), reverse=True
    )[:4]
