"""A reader of .pth files that runs none of the code that a pickle may hold.

What `torch.save` writes is a pickle beside raw numbers. The pickle here may name the few
things that a state dict is made of and nothing else; its instructions are looked through
before any is followed; and no number is read that the file itself doesn't hold.
"""

from __future__ import annotations

import io
import math
import os
import pathlib
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, NamedTuple, Self, TypeGuard

import ml_dtypes
import numpy as np

from eagc_jax.typing import PyTree

_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MOST_PICKLE_BYTES = 2**26  # a state dict of a thousand tensors has some 200 kB
# All that torch.save writes (it uses protocol 2).
_OPCODES = frozenset(
    re.findall(
        r"\w+",
        """PROTO STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    BINPUT LONG_BINPUT BINGET LONG_BINGET BININT BININT1 BININT2 LONG1 BINFLOAT NONE
    NEWTRUE NEWFALSE BINUNICODE BINSTRING SHORT_BINSTRING APPEND APPENDS SETITEM SETITEMS
    GLOBAL REDUCE BUILD NEWOBJ BINPERSID""",
    )
)
_FAULTS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    EOFError,
    RecursionError,
    OverflowError,
    NotImplementedError,
    struct.error,
)


def read_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a state dict that `torch.save` wrote, without running its code.

    Both formats are read: the zip archive, and the one before version 1.6. Where the
    file holds more than a state dict, a whole training's checkpoint for instance, it is
    the first there is of its entries `teacher`, `state_dict`, `model` and `student`.

    Args:
      path: of the file.

    Returns:
      The tensors by name, as they are stored.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such file, damaged, or wants anything but tensors, numbers,
        texts and containers of these.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        try:
            if zipfile.is_zipfile(file):
                tree = _read_zip(file)
            else:
                file.seek(0)
                tree = _read_legacy(file)
            return {name: one.read() for name, one in _state_dict(tree).items()}
        except _FAULTS as error:
            raise ValueError(f"{path} is not a readable .pth file: {error}") from error


class _StorageType(NamedTuple):
    """Stands for a class of storages."""

    name: str


class _Storage(NamedTuple):
    """Numbers that lie somewhere in the file."""

    key: str
    dtype: np.dtype
    numel: int
    load: Callable[[_Storage], np.ndarray]


class _Tensor(NamedTuple):
    """A view of a storage, read only when it is wanted."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> np.ndarray:
        """The numbers, with a memory of their own."""
        numbers = self.storage.load(self.storage)[self.offset :]
        itemsize = numbers.dtype.itemsize
        strides = tuple(itemsize * step for step in self.stride)
        view = np.lib.stride_tricks.as_strided(
            numbers, self.size, strides, writeable=False
        )
        return view.copy()


class _Dict(dict[str, object]):
    """An OrderedDict; no pickle can set attributes of it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass  # a state dict's `_metadata`, which nothing here needs


class _Dropped:
    """Stands for what is left out: options of the program that wrote the file."""

    __slots__ = ()

    def __new__(cls, *args: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


class _RebuildTensor:
    """Stands for the function that makes a tensor of a storage."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, size: object, stride: object, *_: object
    ) -> _Tensor:
        if (
            not isinstance(storage, _Storage)
            or not _is_count(offset)
            or not _are_counts(size)
            or not _are_counts(stride)
        ):
            raise pickle.UnpicklingError("a tensor is not made of a storage")
        _check_inside(storage, offset, size, stride)
        return _Tensor(storage, offset, size, stride)


class _RebuildParameter:
    """Stands for the function that makes a parameter of a tensor."""

    __slots__ = ()

    def __call__(self, data: object, *_: object) -> _Tensor:
        if not isinstance(data, _Tensor):
            raise pickle.UnpicklingError("a parameter is not made of a tensor")
        return data


_GLOBALS: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("argparse", "Namespace"): _Dropped,
    **{("torch", name): _StorageType(name) for name in _DTYPES},
}


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**48


def _are_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(map(_is_count, values))


def _check_inside(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    """Every number lies in the storage, and there are no more of them than there."""
    if len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor has not one stride for each axis")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numel and (last >= storage.numel or numel > storage.numel):
        raise pickle.UnpicklingError(
            f"a tensor of shape {size} reaches beyond its storage of {storage.numel}"
        )


class _Unpickler(pickle.Unpickler):
    """Knows the names above and no other."""

    def __init__(self, data: bytes, load: Callable[[_Storage], np.ndarray]):
        super().__init__(io.BytesIO(data))
        self.load_storage = load
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str, /) -> object:
        """What stands for a name."""
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no state dict needs and which "
                "was not run"
            )
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Sequence[object]) -> _Storage:
        """The storage that an id names."""
        kind, storage_type, key, _, numel, *view = pid
        if (
            kind != "storage"
            or not isinstance(storage_type, _StorageType)
            or not isinstance(key, str)
            or not _is_count(numel)
            or any(part is not None for part in view)
        ):
            raise pickle.UnpicklingError(f"an unknown kind of storage, {kind!r}")
        dtype = _DTYPES[storage_type.name]
        return self.storages.setdefault(
            key, _Storage(key, dtype, numel, self.load_storage)
        )


def _end_of_pickle(data: io.BytesIO) -> int:
    """Where the pickle ends that starts here; none of its instructions is followed."""
    start, size = data.tell(), len(data.getbuffer())
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(
                f"the instruction {opcode.name} is none that torch.save writes"
            )
        # The unpickler reserves memory up to such an index at once.
        if opcode.name == "LONG_BINPUT" and (argument or 0) > size:
            raise pickle.UnpicklingError(f"it wants room for {argument} objects")
    end = data.tell()
    data.seek(start)
    return end


def _unpickle(
    data: io.BytesIO, load: Callable[[_Storage], np.ndarray]
) -> tuple[PyTree, dict[str, _Storage]]:
    """The object that starts here, and the storages that it names; moves behind it."""
    length = _end_of_pickle(data) - data.tell()
    unpickler = _Unpickler(data.read(length), load)
    return unpickler.load(), unpickler.storages


def _read_zip(file: BinaryIO) -> PyTree:
    archive = zipfile.ZipFile(file)
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    file.seek(0, os.SEEK_END)
    # torch.save compresses nothing; then entries that don't overlap fit in the file.
    if any(info.compress_type for info in archive.infolist()) or (
        sum(sizes.values()) > file.tell()
    ):
        raise zipfile.BadZipFile("its entries are compressed, or larger than it")
    names = [name for name in sizes if f"/{name}".endswith("/data.pkl")]
    if len(names) != 1:
        raise zipfile.BadZipFile("there is no data.pkl in it")
    folder = names[0].removesuffix("data.pkl")
    if (
        f"{folder}byteorder" in sizes
        and archive.read(f"{folder}byteorder") != b"little"
    ):
        raise ValueError("its numbers are big-endian")
    if sizes[names[0]] > _MOST_PICKLE_BYTES:
        raise pickle.UnpicklingError(f"its pickle has {sizes[names[0]]} bytes")

    def load(storage: _Storage) -> np.ndarray:
        content = archive.read(f"{folder}data/{storage.key}")
        return _numbers(storage, content)

    return _unpickle(io.BytesIO(archive.read(names[0])), load)[0]


def _read_legacy(file: BinaryIO) -> PyTree:
    def load(storage: _Storage) -> np.ndarray:
        file.seek(places[storage.key])
        return _numbers(storage, file.read(storage.numel * storage.dtype.itemsize))

    data = io.BytesIO(file.read(_MOST_PICKLE_BYTES))
    for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        if _unpickle(data, load)[0] != expected:
            raise pickle.UnpicklingError("it does not begin as torch.save begins")
    if not _unpickle(data, load)[0]["little_endian"]:
        raise ValueError("its numbers are big-endian")
    tree, storages = _unpickle(data, load)
    keys, _ = _unpickle(data, load)
    places = _legacy_places(file, data.tell(), storages, keys)
    return tree


def _legacy_places(
    file: BinaryIO, position: int, storages: dict[str, _Storage], keys: list[str]
) -> dict[str, int]:
    """Where each storage's numbers begin: they follow each other in the keys' order."""
    places = {}
    for key in keys:
        file.seek(position)
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storages[key].numel:
            raise ValueError(f"storage {key} has {numel} numbers, not those expected")
        places[key] = position + 8
        position += 8 + numel * storages[key].dtype.itemsize
    return places


def _numbers(storage: _Storage, content: bytes) -> np.ndarray:
    if len(content) != storage.numel * storage.dtype.itemsize:
        raise ValueError(
            f"storage {storage.key} has {len(content)} bytes for {storage.numel} "
            f"numbers of {storage.dtype.itemsize}: the file is damaged or cut short"
        )
    return np.frombuffer(content, storage.dtype)


def _state_dict(tree: object) -> dict[str, _Tensor]:
    """The tensors by name, where the tree has them."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"it holds a {type(tree).__name__}, not a state dict")
    tensors = {
        name: value
        for name, value in tree.items()
        if isinstance(value, _Tensor) and isinstance(name, str)
    }
    if tensors:
        return tensors
    for name in ("teacher", "state_dict", "model", "student"):
        if isinstance(tree.get(name), Mapping):
            return _state_dict(tree[name])
    raise ValueError(f"no tensors in it, only {', '.join(map(str, tree))[:200]}")
