"""`eagc estimate-classes`: how many classes there are, by several methods."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from eagc_jax._files import JsonObject
from eagc_jax.gcd.settings.choices import BackboneSettings, SourceSettings

if TYPE_CHECKING:
    from eagc_jax.gcd.clustering import NumClasses

_ROWS = 14  # of a curve that are shown
_BAR = 40  # its longest bar


@dataclasses.dataclass(frozen=True)
class EstimateClasses:
    """Estimates how many classes there are: an interval and a curve by each method.

    For example: eagc estimate-classes tickets.csv; eagc estimate-classes photos/ --method
    neighbours accuracy information stability --json classes.json
    """

    source: SourceSettings = dataclasses.field(default_factory=SourceSettings)
    backbone: BackboneSettings = dataclasses.field(default_factory=BackboneSettings)
    # What to judge by: neighbours of labeled items (likelihood; what `eagc discover`
    # takes), or clusters of hidden classes: accuracy (as published), information,
    # stability.
    method: tuple[
        Literal["neighbours", "accuracy", "information", "stability"], ...
    ] = ("neighbours", "accuracy")
    # The largest number to try.
    maximum: int | None = None
    # Of all draws.
    seed: int = 0
    # File to write all figures to.
    json: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    # Folder of features that were computed before.
    cache: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None

    def run(self) -> int:
        """Estimates and prints, method by method."""
        import jax

        from eagc_jax import _files
        from eagc_jax.gcd.backbones.cache import default_folder
        from eagc_jax.gcd.cli.progress import Shown
        from eagc_jax.gcd.cli.warned import warnings_as_lines
        from eagc_jax.gcd.clustering import estimate_num_classes
        from eagc_jax.gcd.runs.discovery import DiscoverSettings
        from eagc_jax.gcd.stages.clock import Clock
        from eagc_jax.gcd.stages.material import gather

        if not self.method:
            raise ValueError("--method must name at least one")
        found: dict[str, NumClasses] = {}
        settings = DiscoverSettings(self.source, self.backbone)
        cache = self.cache or default_folder()
        with warnings_as_lines(), Shown() as shown:
            clock = Clock(shown.stage)
            material = gather(None, settings, None, None, cache, shown.embedding, clock)
            records = material.records
            for name in dict.fromkeys(self.method):
                shown.stage(name)
                started = time.perf_counter()
                found[name] = estimate_num_classes(
                    material.features,
                    records.labels,
                    maximum=self.maximum,
                    method=name,
                    key=jax.random.key(self.seed),
                )
                seconds = time.perf_counter() - started
                print(*told(name, found[name], seconds), sep="\n", flush=True)
        print(f"{records.num_known} of them are known")
        if self.json is not None:
            text = json.dumps(plain(found, records.num_known), indent=2)
            _files.write_text(self.json, f"{text}\n")
            print(f"wrote {self.json}")
        return 0


def told(method: str, found: NumClasses, seconds: float) -> list[str]:
    """The interval, and the curve as bars; what lies in the interval has a star."""
    curve = found.curve[:: -(-len(found.curve) // _ROWS)]
    scores = curve[:, 1]
    least, range_ = scores.min(), max(float(scores.max() - scores.min()), 1e-12)
    what = "log-likelihood" if method == "neighbours" else method
    lines = [
        f"{method}: {found.number} classes, likely {found.low} to {found.high} "
        f"({seconds:.1f} s)",
        f"  {'number':>8}  {what:>14}",
    ]
    for number, score in curve:
        bar = "#" * round(_BAR * float(score - least) / range_)
        star = "*" if found.low <= number <= found.high else " "
        lines.append(f"{star} {int(number):8,}  {score:14.4f}  {bar}".rstrip())
    return lines


def plain(found: dict[str, NumClasses], known: int) -> JsonObject:
    """For JSON."""
    return {
        "known_classes": known,
        "methods": {
            name: {
                "number": one.number,
                "low": one.low,
                "high": one.high,
                "curve": [[int(number), float(score)] for number, score in one.curve],
            }
            for name, one in found.items()
        },
    }
