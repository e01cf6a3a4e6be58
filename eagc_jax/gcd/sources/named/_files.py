"""Files of a data set, in a folder or a zip file alike."""

from __future__ import annotations

import os
import pathlib
import zipfile

from eagc_jax.gcd.sources.images import ImageFiles, ZippedImages
from eagc_jax.gcd.sources.strings import Strings, shown


class Files:
    """Names of the files in a folder or a zip file, and their content.

    Args:
      place: of the folder or zip file.

    Raises:
      ValueError: it is a file, but no zip file.
    """

    def __init__(self, place: pathlib.Path):
        self.place, self.zipped = place, not place.is_dir()
        self.names = sorted(_members(place) if self.zipped else _below(place))

    def read(self, name: str) -> bytes:
        """A file's content; raises what reading and unpacking raise."""
        if not self.zipped:
            return (self.place / name).read_bytes()
        with zipfile.ZipFile(self.place) as archive:
            return archive.read(name)

    def images(self, names: list[str]) -> ImageFiles | ZippedImages:
        """These files as items; each is read when asked for."""
        strings = Strings.of(names)
        if self.zipped:
            return ZippedImages(self.place, strings)
        return ImageFiles(self.place, strings)


def _members(place: pathlib.Path) -> list[str]:
    try:
        with zipfile.ZipFile(place) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{shown(place)} should be a zip file, found {place.stat().st_size} bytes "
            f"that are none ({error}); it may be truncated: fetch it anew"
        ) from error


def _below(place: pathlib.Path) -> list[str]:
    return [
        pathlib.Path(folder, name).relative_to(place).as_posix()
        for folder, _, names in os.walk(place)
        for name in names
    ]
