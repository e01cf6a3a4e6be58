"""A file of finished runs that survives being stopped, and the table made of it.

One line of a CSV is one finished run. A program reads what is done, does what is
missing and appends; nothing written is ever rewritten. The table pairs every arm with
a control of the same seed, because seeds differ more than arms do.
"""

import csv
import io
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class FinishedRun(NamedTuple):
    """One run's result: a line of the file, its fields the columns."""

    dataset: str
    arm: str  # what was done differently
    seed: int
    all: float  # accuracies on the unlabeled images, in [0, 1]
    old: float
    new: float
    gdc: float  # gradient deviation; NaN where it was not measured
    soc: float  # subspace overlap; NaN where it was not measured
    seconds_per_step: float


_HEADER = ",".join(FinishedRun._fields) + "\n"
MEASURES = FinishedRun._fields[3:]


def read_runs(
    path: str | os.PathLike, say: Callable[[str], None] = print
) -> list[FinishedRun]:
    """The finished runs in a file.

    A last line without its line break was cut off while it was written: `say` gets a
    message and the line does not count. `append_run` then removes it.

    Args:
      path: of the CSV; it need not exist.
      say: called with the message.

    Returns:
      The runs in the order of the file; none if there is no file.

    Raises:
      ValueError: the file is no such table, a line is not a run, or a run is there
        twice; the message names the line.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    whole, cut = _whole_lines(path.read_bytes())
    if cut:
        say(f"{path}: dropped an incomplete last line, {cut.decode(errors='replace')}")
    if not whole:
        if not _HEADER.encode().startswith(cut):
            raise ValueError(_wrong_header(path, cut.decode(errors="replace")))
        return []
    header, *lines = whole.decode(errors="replace").splitlines()
    if header + "\n" != _HEADER:
        raise ValueError(_wrong_header(path, header))
    runs: dict[tuple[str, str, int], FinishedRun] = {}
    for number, line in enumerate(lines, start=2):
        try:
            run = _parsed(line)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {number}: {error}; found {line}") from error
        if run[:3] in runs:
            raise ValueError(
                f"{path}, line {number}: {run.dataset}, {run.arm}, seed {run.seed} "
                "is there twice; remove one"
            )
        runs[run[:3]] = run
    return list(runs.values())


def append_run(path: str | os.PathLike, run: FinishedRun) -> None:
    """Adds a run to the file, which is made if missing; on disk when this returns.

    The line goes out in one write and ends in its line break, so that whatever stops
    the program leaves whole lines and at most one cut one. One program at a time.

    Args:
      path: of the CSV.
      run: what to add.

    Raises:
      ValueError: an accuracy is not in [0, 1], the time is not positive, or a name has
        a line break.
    """
    line = _line(_checked(run))
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    whole, cut = _whole_lines(content)
    with open(path, "ab") as file:
        if cut:
            file.truncate(len(whole))
        file.write((line if whole else _HEADER + line).encode())
        file.flush()
        os.fsync(file.fileno())


def finished(runs: Iterable[FinishedRun]) -> set[tuple[str, str, int]]:
    """(data set, arm, seed) of every run.

    Examples:
      >>> finished([FinishedRun("digits", "plain", 0, 0.9, 0.9, 0.9, 0.1, 0.2, 0.01)])
      {('digits', 'plain', 0)}
    """
    return {run[:3] for run in runs}


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float
    pairs: int  # how many differences it is the mean of

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; False where there is no interval."""
        return self.low > 0 or self.high < 0


def paired_interval(
    values: ArrayLike, control: ArrayLike, *, level: float = 0.95
) -> Interval:
    r"""Student's interval for the mean of paired differences.

    With differences d of n pairs, `mean(d) -+ t std(d) / sqrt(n)`, where std divides by
    n - 1 and t is the `(1 + level) / 2` quantile with n - 1 degrees of freedom. A pair
    with a NaN does not count.

    Args:
      values: (n,) floats.
      control: (n,) floats, each the partner of the value at its place.
      level: of confidence, in (0, 1).

    Returns:
      The mean and its interval; NaN ends with one pair, NaN throughout with none.

    Raises:
      ValueError: the shapes differ, or the level is not in (0, 1).

    Examples:
      >>> interval = paired_interval([0.9, 0.8, 0.7], [0.8, 0.7, 0.5])
      >>> print(f"{interval.mean:+.3f} {interval.low:+.3f} {interval.high:+.3f}")
      +0.133 -0.010 +0.277

    References:
      Student, "The Probable Error of a Mean", Biometrika 1908.
    """
    values, control = np.asarray(values, float), np.asarray(control, float)
    if values.ndim != 1 or values.shape != control.shape:
        raise ValueError(
            "values and control must have the same shape (n,), got "
            f"{values.shape} and {control.shape}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    differences = values - control
    differences = differences[~np.isnan(differences)]
    pairs = len(differences)
    if pairs == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(differences.mean())
    if pairs == 1:
        return Interval(mean, math.nan, math.nan, 1)
    quantile = stats.t.ppf((1 + level) / 2, pairs - 1)
    half = float(quantile * differences.std(ddof=1) / math.sqrt(pairs))
    return Interval(mean, mean - half, mean + half, pairs)


class Summary(NamedTuple):
    """One arm on one data set over its seeds."""

    dataset: str
    arm: str
    seeds: int
    mean: Mapping[str, float]  # by measure; NaNs do not count
    deviation: Mapping[str, float]  # standard deviation over seeds, n - 1; NaN if n = 1
    difference: Mapping[
        str, Interval
    ]  # to the control, seeds in common; none for itself


def summarize(
    runs: Sequence[FinishedRun], control: str, *, level: float = 0.95
) -> list[Summary]:
    """Mean, deviation and paired difference to the control, by data set and arm.

    Args:
      runs: of any data sets, arms and seeds, each combination at most once.
      control: the arm that the others are compared with, seed by seed.
      level: of confidence, in (0, 1).

    Returns:
      One summary each data set and arm, both in the order of first appearance.

    Raises:
      ValueError: a run is there twice, or the level is not in (0, 1).
    """
    if len(finished(runs)) != len(runs):
        raise ValueError("runs must hold each data set, arm and seed at most once")
    by_arm: dict[str, dict[str, dict[int, FinishedRun]]] = {}
    for run in runs:
        by_arm.setdefault(run.dataset, {}).setdefault(run.arm, {})[run.seed] = run
    return [
        _summary(dataset, arm, seeds, arms.get(control, {}), arm == control, level)
        for dataset, arms in by_arm.items()
        for arm, seeds in arms.items()
    ]


def _summary(
    dataset: str,
    arm: str,
    seeds: Mapping[int, FinishedRun],
    control: Mapping[int, FinishedRun],
    is_control: bool,
    level: float,
) -> Summary:
    common = sorted(seeds.keys() & control.keys())
    means, deviations, differences = {}, {}, {}
    for measure in MEASURES:
        values = np.array([getattr(run, measure) for run in seeds.values()])
        values = values[~np.isnan(values)]
        means[measure] = float(values.mean()) if len(values) else math.nan
        deviations[measure] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        if not is_control:
            differences[measure] = paired_interval(
                [getattr(seeds[seed], measure) for seed in common],
                [getattr(control[seed], measure) for seed in common],
                level=level,
            )
    return Summary(dataset, arm, len(seeds), means, deviations, differences)


_TITLES = {
    "all": "All",
    "old": "Old",
    "new": "New",
    "gdc": "GDC",
    "soc": "SOC",
    "seconds_per_step": "ms/step",
}


def to_markdown(
    summaries: Sequence[Summary],
    control: str,
    differences: Sequence[str] = MEASURES[:3],
) -> str:
    """One Markdown table for each data set, differences that exclude zero in bold.

    Args:
      summaries: from `summarize`.
      control: the arm compared with, for the head of the columns.
      differences: the measures whose difference to the control is shown.

    Returns:
      The tables, each below a line with its data set's name.
    """
    parts = []
    for dataset, cells in _cells(summaries, control, differences, "**").items():
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        rule = ["---"] * len(escaped[0])
        lines = [f"| {' | '.join(row)} |" for row in [escaped[0], rule, *escaped[1:]]]
        parts.append("\n".join([f"**{dataset}**", "", *lines]))
    return "\n\n".join(parts) + "\n"


def to_text(
    summaries: Sequence[Summary],
    control: str,
    differences: Sequence[str] = ("all", "new"),
) -> str:
    """The same for a terminal: aligned columns, a star where zero is excluded."""
    parts = []
    for dataset, cells in _cells(summaries, control, differences, "*").items():
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        parts.append("\n".join([dataset, *lines]))
    return "\n\n".join(parts) + "\n"


def _cells(
    summaries: Sequence[Summary], control: str, differences: Sequence[str], mark: str
) -> dict[str, list[list[str]]]:
    """Head and rows of each data set's table."""
    titles = [_TITLES[measure] for measure in MEASURES]
    against = [f"{_TITLES[measure]} - {control}" for measure in differences]
    tables: dict[str, list[list[str]]] = {}
    for one in summaries:
        table = tables.setdefault(
            one.dataset, [["arm", "seeds", *titles[:3], *against, *titles[3:]]]
        )
        values = [_spread(one, measure) for measure in MEASURES]
        deltas = [
            _delta(one.difference[m], one.seeds, mark) if one.difference else ""
            for m in differences
        ]
        table.append([one.arm, str(one.seeds), *values[:3], *deltas, *values[3:]])
    return tables


def _spread(one: Summary, measure: str) -> str:
    mean, deviation = one.mean[measure], one.deviation[measure]
    if math.isnan(mean):
        return "-"
    if measure == "seconds_per_step":
        return f"{1e3 * mean:.1f}"
    return f"{mean:.3f}" + ("" if math.isnan(deviation) else f" ± {deviation:.3f}")


def _delta(interval: Interval, seeds: int, mark: str) -> str:
    if interval.pairs == 0:
        return "-"
    text = f"{interval.mean:+.3f}"
    if interval.pairs > 1:
        text += f" [{interval.low:+.3f}, {interval.high:+.3f}]"
    if interval.pairs < seeds:
        text += f" ({interval.pairs} pairs)"
    if interval.excludes_zero:
        text = f"{mark}{text}{mark}" if mark == "**" else f"{text} {mark}"
    return text


def _whole_lines(content: bytes) -> tuple[bytes, bytes]:
    """Everything up to the last line break, and what follows it."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def _wrong_header(path: pathlib.Path, found: str) -> str:
    return (
        f"{path} should begin with the line {_HEADER.strip()}, found {found}; choose "
        "another file for results"
    )


def _line(run: FinishedRun) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(run)
    return buffer.getvalue()


def _parsed(line: str) -> FinishedRun:
    cells = next(csv.reader([line], strict=True), [])
    if len(cells) != len(FinishedRun._fields):
        raise ValueError(
            f"should have {len(FinishedRun._fields)} fields, has {len(cells)}"
        )
    dataset, arm, seed, *numbers = cells
    return _checked(FinishedRun(dataset, arm, int(seed), *map(float, numbers)))


def _checked(run: FinishedRun) -> FinishedRun:
    for name in ("dataset", "arm"):
        if not getattr(run, name) or not getattr(run, name).isprintable():
            raise ValueError(f"{name} must be a name on one line, got {run!r}")
    for name in ("all", "old", "new"):
        if not 0 <= getattr(run, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(run, name)}")
    if not 0 < run.seconds_per_step < math.inf:
        raise ValueError(f"seconds_per_step must be positive, got {run}")
    return run._replace(
        seed=int(run.seed), **{name: float(getattr(run, name)) for name in MEASURES}
    )
