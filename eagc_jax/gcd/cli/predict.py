"""`eagc predict`: new items into the categories of a run."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from eagc_jax.gcd.prediction import Predictor
    from eagc_jax.gcd.prediction.assigning import Answer
    from eagc_jax.gcd.prediction.items import Chunk, Place
    from eagc_jax.gcd.prediction.writing import Format

SKIPPED = 3  # exit code: some items were bad
_NAMED = 20  # bad items that are named; the rest are counted


@dataclasses.dataclass(frozen=True)
class Predict:
    """Assigns new items to the categories that a run has found.

    Prints a line for each item: its cluster and name, how probable that is, known or
    novel, whether it is unlike anything seen, and the nearest labeled item. Items that
    can't be read are named on stderr and left out; then the exit code is 3.

    For example: eagc predict tickets-run new.csv; eagc predict photos-run inbox/ a.jpg
    --to found.parquet; eagc predict tickets-run new.npy --decisions decisions.json
    """

    # Folder of the run.
    folder: Annotated[Positional[pathlib.Path], arg(metavar="RUN")]
    # Folders of photos, photos, tables (.csv, .tsv, .parquet), texts (.txt, one a line),
    # or embeddings as the run's (.npy, .npz, .parquet).
    items: Annotated[Positional[tuple[pathlib.Path, ...]], arg(metavar="ITEMS")]
    # File to write: .csv, .jsonl or .parquet; by default CSV is printed.
    to: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    # What a person decided on the run's page: names, merged categories, junk.
    decisions: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    # Column of a table's texts. None for no such column; likewise the next ones.
    text_column: str | None = "text"
    # Of images' paths, relative to the table's folder.
    path_column: str | None = "path"
    # Of names for the items. Without it, rows are numbered from 0.
    id_column: str | None = "id"
    # Items embedded at once.
    batch_size: int | None = None
    # Replace the file if it is there.
    overwrite: bool = False

    def run(self) -> int:
        """Assigns, and names what could not be."""
        from eagc_jax import _files
        from eagc_jax.gcd.cli.warned import warnings_as_lines
        from eagc_jax.gcd.prediction import items, load_predictor, writing
        from eagc_jax.gcd.sources.columns import Columns
        from eagc_jax.gcd.sources.strings import shown

        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        kind = writing.format_of(self.to)
        if self.to is not None and self.to.exists() and not self.overwrite:
            raise FileExistsError(
                f"{shown(self.to)} is there already; choose another name, or overwrite "
                "it with --overwrite"
            )
        predictor = self._decided(load_predictor(self.folder))
        columns = Columns(self.text_column, self.path_column, id=self.id_column)
        places = items.places(self.items, predictor.backbone.kind, columns)
        if not places:
            raise ValueError("ITEMS is missing: folders, files of photos, tables, ...")
        told = _Told(sys.stderr if self.to is not None else None)
        with warnings_as_lines():
            if self.to is None:
                self._write(kind, sys.stdout.buffer, predictor, places, told)
                sys.stdout.flush()
            else:
                _files.write_with(
                    self.to,
                    lambda file: self._write(kind, file, predictor, places, told),
                )
                print(f"wrote {shown(self.to)}: {told.line()}")
        told.end()
        return SKIPPED if told.bad else 0

    def _decided(self, predictor: Predictor) -> Predictor:
        if self.decisions is None:
            return predictor
        from eagc_jax.gcd import decisions

        names = [str(name) for name in predictor.names]
        known = int(predictor.known.sum())
        decided = decisions.read_decisions(self.decisions)
        found = decisions.names_for(names, decided, known)
        return predictor.with_names({i: found[name] for i, name in enumerate(names)})

    def _write(
        self,
        kind: Format,
        file: IO[bytes],
        predictor: Predictor,
        places: list[Place],
        told: _Told,
    ) -> None:
        from eagc_jax.gcd.prediction import writing
        from eagc_jax.gcd.prediction.assigning import Assigner

        assign = Assigner(predictor, batch_size=self.batch_size)
        write, close = writing.writer(kind, file)
        for chunk in _chunks(places):
            answer = assign(chunk)
            write(answer.batch)
            told(answer)
        close()


def _chunks(places: list[Place]) -> Iterator[Chunk]:
    for place in places:
        yield from place.chunks()


class _Told:
    """Counts what was assigned, and says what was not."""

    def __init__(self, progress: IO[str] | None):
        self.items = self.bad = self.known = self.unlike = 0
        self._progress, self._started = progress, time.monotonic()
        self._last = self._started

    def __call__(self, answer: Answer) -> None:
        from eagc_jax.gcd.sources.strings import shown

        self.items += len(answer.batch)
        self.unlike += answer.batch.column("unlike_anything_seen").true_count
        kinds = answer.batch.column("known_or_novel").value_counts().to_pylist()
        self.known += sum(x["counts"] for x in kinds if x["values"] == "known")
        for bad in answer.bad:
            self.bad += 1
            if self.bad <= _NAMED:
                print(f"eagc: left out {shown(bad)}", file=sys.stderr)
        now = time.monotonic()
        if self._progress is not None and now - self._last > 10:
            self._last = now
            rate = self.items / (now - self._started)
            line = f"assigned {self.items:,} items, {rate:,.0f} a second"
            print(line, file=self._progress, flush=True)

    def line(self) -> str:
        """What was assigned."""
        seconds = time.monotonic() - self._started
        return (
            f"{self.items:,} items in {seconds:.1f} s, {self.known:,} in known classes, "
            f"{self.unlike:,} unlike anything seen"
        )

    def end(self) -> None:
        """Says how many bad items were not named."""
        if self.bad > _NAMED:
            rest = f"{self.bad - _NAMED:,} more"
            print(f"eagc: left out {rest}, {self.bad:,} in all", file=sys.stderr)
