"""Does a rehearsal's interval hold the true accuracy? Split by split.

    python -m benchmarks.rehearsal banking77:FOLDER clinc150:FOLDER grocery:FOLDER

For each data set and seed: half of the classes are known and half of their items labeled
(`sources.pose_half`), the whole is rehearsed with the number of classes estimated, then
each candidate answers with all labels, and its All/Old/New on the unlabeled items is
compared with the intervals. Each line is kept in a CSV file; the same command goes on
where it stopped. True classes of unlabeled items serve for this comparison alone.

What the rehearsals found is kept beside it, in a file that ends in .jsonl: `--again`
makes the intervals anew from there, after a change of how they are made, in seconds.
"""

import argparse
import csv
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from eagc_jax.gcd import backbones, clustering, sources
from eagc_jax.gcd.evaluation.rehearsal import (
    REHEARSALS,
    Candidate,
    Rated,
    Rehearsal,
    coordinated,
    first,
    rehearse,
    trained,
)
from eagc_jax.gcd.evaluation.rehearsal.rehearsing import rated
from eagc_jax.gcd.evaluation.scores import score
from eagc_jax.gcd.settings.choices import ClusteringSettings
from eagc_jax.gcd.settings.running import recommended
from eagc_jax.gcd.sources import Records

SCORES = ("new", "old", "all")
FIELDS = (
    *("data", "seed", "candidate", "rehearsals", "num_classes", "true_classes"),
    *(
        f"{name}_{part}"
        for name in SCORES
        for part in ("low", "expected", "high", "true")
    ),
    *("chosen", "best", "seconds"),
)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.again:
        rows = [row for kept in read_kept(options.output) for row in again(kept)]
        print(*map(line, rows), *summary(rows), sep="\n")
        return 0
    rows = read(options.output)
    for data in options.data:
        records = sources.open_source(data)
        network = backbones.load(backbones.default_backbone(records.kind))
        cache = backbones.cache.default_folder()
        features = backbones.embed(records, network, cache=cache).features
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            if any(r["data"] == records.name and r["seed"] == str(seed) for r in rows):
                continue
            posed = sources.pose_half(records, seed=seed)
            candidates = made(posed, network, options, cache)
            kept = split(posed, features, candidates, seed, options.rehearsals)
            keep(options.output, {"source": data, **kept})
            for row in rows_of(kept, Rehearsal.from_plain(kept["found"]).candidates):
                rows.append(row)
                append(options.output, row)
                print(line(row), flush=True)
    print(*summary(rows), sep="\n")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", help="as eagc discover takes it, with truth")
    parser.add_argument("--seeds", type=int, default=4, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rehearsals", type=int, default=REHEARSALS)
    parser.add_argument("--restarts", type=int, default=10, help="of k-means")
    parser.add_argument("--train", action="store_true", help="rehearse training, too")
    parser.add_argument("--coordinators", nargs="*", default=[], help="with it")
    path = pathlib.Path("runs/rehearsal.csv")
    parser.add_argument("--output", type=pathlib.Path, default=path)
    parser.add_argument(
        "--again", action="store_true", help="intervals of what was kept, made anew"
    )
    options = parser.parse_args(arguments)
    if not options.data and not options.again:
        parser.error("name data, or --again")
    return options


def made(records: Records, network, options, cache) -> list[Candidate]:
    """The candidates, the simplest first."""
    simple = first(ClusteringSettings(restarts=options.restarts))
    if not options.train:
        return [simple]
    settings = recommended(records.kind, network.depth, items=len(records))
    more = coordinated(settings, options.coordinators, network=network, cache=cache)
    return [simple, trained(settings, network=network, cache=cache), *more]


def split(
    records: Records, features: np.ndarray, candidates, seed: int, rehearsals: int
) -> dict:
    """Rehearsed and then answered in earnest; plain values."""
    started = time.perf_counter()
    found = rehearse(records, features, candidates, rehearsals=rehearsals, seed=seed)
    seconds = time.perf_counter() - started
    key = jax.random.key(seed)
    number = clustering.estimate_num_classes(features, records.labels, key=key).number
    true = {}
    for one in candidates:
        scores = score(records, one.answer(records, features, number, seed))
        assert scores is not None
        true[one.name] = {name: float(getattr(scores, name)) for name in SCORES}
    return {
        "data": records.name,
        "seed": seed,
        "num_classes": number,
        "true_classes": records.num_classes,
        "true": true,
        "learns": [one.name for one in candidates if one.settings is not None],
        "found": found.to_plain(),
        "seconds": round(seconds, 1),
    }


def again(kept: dict) -> list[dict[str, str]]:
    """Rows of a split with intervals as they are made now."""
    records = sources.pose_half(sources.open_source(kept["source"]), seed=kept["seed"])
    found = Rehearsal.from_plain(kept["found"])
    tried = [
        (_Known(one.name, one.name in kept["learns"] or None), one.trials)
        for one in found.candidates
    ]
    return rows_of(kept, rated(tried, records, found.labeled_share, kept["seed"]))


class _Known(NamedTuple):
    """All that intervals ask of a candidate."""

    name: str
    settings: bool | None


def rows_of(kept: dict, candidates: Sequence[Rated]) -> list[dict[str, str]]:
    """A row a candidate."""
    true, rows = kept["true"], []
    best = max(true, key=lambda name: true[name]["all"])
    for one in candidates:
        row = {
            "candidate": one.name,
            "rehearsals": len(one.trials),
            "chosen": kept["found"]["chosen"],
            "best": best,
            **{name: kept[name] for name in FIELDS if name in kept},
        }
        for name in SCORES:
            interval = getattr(one, name)
            for part in ("low", "expected", "high"):
                row[f"{name}_{part}"] = f"{getattr(interval, part):.4f}"
            row[f"{name}_true"] = f"{true[one.name][name]:.4f}"
        rows.append({name: str(row[name]) for name in FIELDS})
    return rows


def keep(path: pathlib.Path, kept: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")


def read_kept(path: pathlib.Path) -> list[dict]:
    lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: pathlib.Path, row: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def line(row: dict[str, str]) -> str:
    """One row of the table."""
    told = [
        f"{row['data']}, split {row['seed']}, {row['candidate']} "
        f"({row['num_classes']} of {row['true_classes']} classes)"
    ]
    for name in SCORES:
        low, expected, high, true = values(row, name)
        told.append(
            f"{name} {expected:.3f} [{low:.3f}, {high:.3f}] true {true:.3f} "
            f"{'held' if low <= true <= high else 'NOT held'}"
        )
    return "; ".join(told)


def values(row: dict[str, str], name: str) -> tuple[float, ...]:
    parts = ("low", "expected", "high", "true")
    return tuple(float(row[f"{name}_{part}"]) for part in parts)


def summary(rows: list[dict[str, str]]) -> list[str]:
    """By candidate: how often it held, how wide it is, and how far off on average."""
    lines = []
    for candidate in dict.fromkeys(row["candidate"] for row in rows):
        for name in SCORES:
            some = [values(r, name) for r in rows if r["candidate"] == candidate]
            held = sum(low <= true <= high for low, _, high, true in some)
            width = np.mean([high - low for low, _, high, _ in some])
            off = np.mean([expected - true for _, expected, _, true in some])
            lines.append(
                f"{candidate}, {name}: held in {held} of {len(some)} splits, mean width "
                f"{width:.3f}, expected less true {off:+.3f} on average"
            )
    splits = {(r["data"], r["seed"]): r for r in rows}.values()
    if len({row["candidate"] for row in rows}) > 1:
        right = sum(row["chosen"] == row["best"] for row in splits)
        lines.append(
            f"the best of the candidates (All) was chosen in {right} of {len(splits)}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
