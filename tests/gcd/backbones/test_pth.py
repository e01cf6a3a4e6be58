"""The reader of .pth files: what torch.save writes, and what nobody should run."""

import os
import pickle
import pickletools
import struct
import zipfile

import numpy as np
import pytest

from eagc_jax.gcd.backbones import pth
from tests.gcd import golden


@pytest.fixture(params=["checkpoint", "checkpoint_legacy"])
def file(request):
    return golden.GOLDEN / f"{request.param}.pth"


def test_what_torch_saved_comes_back(file):
    found = pth.read_pth(file)
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "whole": whole,
        "transposed": whole.T,
        "part": whole[1:3, ::2],
        "half": whole.astype(np.float16),
        "bfloat16": whole,
        "long": np.array([1, -2]),
        "flags": np.array([True, False]),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(found) == [f"module.{name}" for name in expected]
    for name, value in expected.items():
        one = found[f"module.{name}"]
        np.testing.assert_array_equal(one.astype(value.dtype), value)
        assert one.dtype == value.dtype or name == "bfloat16"
        assert one.flags.owndata


def test_a_file_cut_anywhere_is_refused(file, tmp_path):
    content = file.read_bytes()
    path = tmp_path / "cut.pth"
    for length in (0, 1, 20, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.pth is not a readable \.pth"):
            pth.read_pth(path)


def test_noise_is_refused_or_read(file, tmp_path):
    random = np.random.default_rng(0)
    content, path = bytearray(file.read_bytes()), tmp_path / "noise.pth"
    for _ in range(200):
        changed = content.copy()
        changed[random.integers(len(content))] = random.integers(256)
        path.write_bytes(changed)
        try:
            pth.read_pth(path)
        except ValueError as error:
            assert "noise.pth is not a readable" in str(error)  # noqa: PT017


class Runs:
    """Asks to be unpickled by running something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, data, compression=zipfile.ZIP_STORED, **entries):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", data)
        for name, content in entries.items():
            file.writestr(f"a/data/{name[1:]}", content)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.mkdir, ("ran",)),
        (eval, ("__import__('os').mkdir('ran')",)),
        (getattr, (os, "mkdir")),
        (exec, ("import os; os.mkdir('ran')",)),
    ],
)
def test_no_code_runs(tmp_path, monkeypatch, function, arguments):
    monkeypatch.chdir(tmp_path)
    arguments = [one for one in arguments if not isinstance(one, type(os))]
    data = pickle.dumps({"a": Runs(function, *arguments)}, protocol=2)
    archive("bad.pth", data)
    with pytest.raises(ValueError, match="which no state dict needs"):
        pth.read_pth("bad.pth")
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    legacy = b"".join(pickle.dumps(one, protocol=2) for one in header)
    (tmp_path / "old.pth").write_bytes(legacy + data)
    with pytest.raises(ValueError, match="which no state dict needs"):
        pth.read_pth("old.pth")
    assert not (tmp_path / "ran").exists()


def tensor_pickle(numel, offset, size, stride):
    """A state dict with the one tensor `a`, in a pickle's own words."""

    def words(value):
        return pickle.dumps(value, protocol=2)[2:-1]

    parts = [
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
        words("0"),
        b"X\x03\x00\x00\x00cpu",
        words(numel),
        b"tQ",
        words(offset),
        words(size),
        words(stride),
        b"\x89}tRs.",
    ]
    return b"".join(parts)


def test_a_tensor_in_the_pickles_words_is_read(tmp_path):
    path = tmp_path / "a.pth"
    numbers = np.arange(6, dtype="<f4")
    archive(path, tensor_pickle(6, 1, (2, 2), (3, 1)), _0=numbers.tobytes())
    np.testing.assert_array_equal(pth.read_pth(path)["a"], [[1, 2], [4, 5]])


@pytest.mark.parametrize(
    ("numel", "offset", "size", "stride"),
    [
        (6, 5, (2,), (1,)),  # behind the end
        (6, 0, (2, 2), (5, 1)),
        (6, 0, (1000, 1000), (0, 0)),  # a few numbers many times
        (6, -1, (1,), (1,)),
        (6, 0, (-1,), (1,)),
        (6, 0, (2,), (-1,)),
        (6, 0, (2,), (1, 1)),
        (6, 0, (2.0,), (1,)),
        (10**12, 0, (10**12,), (1,)),  # more than the file has
        (7, 0, (7,), (1,)),
    ],
)
def test_a_tensor_that_is_not_there_is_refused(tmp_path, numel, offset, size, stride):
    path = tmp_path / "a.pth"
    archive(path, tensor_pickle(numel, offset, size, stride), _0=bytes(24))
    with pytest.raises(ValueError, match="is not a readable"):
        pth.read_pth(path)


def test_bombs_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    data = tensor_pickle(2**22, 0, (2**22,), (1,))
    archive(path, data, zipfile.ZIP_DEFLATED, _0=bytes(2**24))
    assert path.stat().st_size < 2**16
    with pytest.raises(ValueError, match="compressed"):
        pth.read_pth(path)
    # An index that makes the unpickler reserve 64 GB.
    archive(path, b"\x80\x02}r" + struct.pack("<I", 2**32 - 2) + b".")
    with pytest.raises(ValueError, match="wants room for"):
        pth.read_pth(path)
    archive(path, b"\x80\x02" + b"(" * 100 + b"l" * 100 + b".")
    with pytest.raises(ValueError, match="instruction LIST"):
        pth.read_pth(path)


def test_what_stands_for_names_can_not_be_changed(tmp_path):
    """BUILD sets attributes: none of ours may have any."""
    path = tmp_path / "a.pth"
    for name in ("torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict"):
        for state in ({"read": 1}, (None, {"__call__": 1, "read": 1})):
            words = pickle.dumps(state, protocol=2)[2:-1]
            archive(path, b"\x80\x02c" + name.encode() + b"\n" + words + b"b.")
            with pytest.raises(ValueError, match="is not a readable"):
                pth.read_pth(path)
    pth.read_pth(golden.GOLDEN / "checkpoint.pth")


def test_what_is_no_state_dict_is_said(tmp_path):
    path = tmp_path / "a.pth"
    for value, message in (([1], "a list, not a state dict"), ({"epoch": 1}, "epoch")):
        archive(path, pickle.dumps(value, protocol=2))
        with pytest.raises(ValueError, match=message):
            pth.read_pth(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("else", b"")
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        pth.read_pth(path)


def test_the_golden_files_use_only_instructions_that_are_known():
    with zipfile.ZipFile(golden.GOLDEN / "checkpoint.pth") as file:
        data = file.read("checkpoint/data.pkl")
    assert {op.name for op, _, _ in pickletools.genops(data)} <= pth._OPCODES
