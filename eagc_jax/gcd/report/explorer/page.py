"""One HTML file to look at a discovery, and to decide on it; nothing else is needed."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
import os
import pathlib
import re
import shlex
from html import escape

from eagc_jax import _files
from eagc_jax._files import JsonObject
from eagc_jax.gcd.decisions.replay import replay
from eagc_jax.gcd.report.explorer.content import Content
from eagc_jax.gcd.report.explorer.facts import facts
from eagc_jax.gcd.runs.assignment import printable
from eagc_jax.gcd.runs.discovery import Discovery
from eagc_jax.gcd.runs.folder import SETTINGS_FILE

# Curves are drawn by uPlot, a small library that is well kept. The map is drawn by
# map.js: libraries with a lasso are some twenty times as large, and those that draw on
# the graphics card compile code from strings, which the page's policy forbids.
_LIBRARY = "uplot/uPlot.iife.min.js"
_SCRIPTS = (
    *("dom.js", "decisions.js", "model.js", "map.js", "curves.js", "items.js"),
    *("lists.js", "checks.js", "dialogs.js", "actions.js", "keys.js", "main.js"),
)
_STYLES = ("uplot/uPlot.min.css", "page.css")
_FILE = "decisions.json"
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def write_page(
    discovery: Discovery,
    path: str | os.PathLike[str],
    *,
    max_bytes: int = 15_000_000,
    folder: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a discovery's page.

    The file asks nothing of a network and holds all that it shows: a map of the items,
    clusters with examples, what to check first, training, rehearsal, settings. Decisions
    made on it are saved as a file for `eagc discover --decisions`. Of many items, some of
    every cluster are shown. The same discovery gives the same file.

    Args:
      discovery: what is shown. Without features there is no map.
      path: of the file.
      max_bytes: of the file, at least 1,000,000; pictures are made as small as that asks
        for.
      folder: of the run, for the command that the page shows; by default the
        discovery's.

    Raises:
      OSError: the file can't be written.
      ValueError: `max_bytes` is too small for the items' names.

    Examples:
      `write_page(discover("photos"), "page.html")`
    """
    if max_bytes < 1_000_000:
        raise ValueError(f"max_bytes must be at least 1,000,000, got {max_bytes:,}")
    frame = len(_html("", {}).encode())
    known = json.dumps(_earlier(discovery), ensure_ascii=False)
    budget = max_bytes - frame - len(known.encode()) - 300_000  # curves and settings
    html = render(discovery, max(budget, 100_000), folder).encode()
    if len(html) > max_bytes:
        raise ValueError(
            f"the page would have {len(html):,} bytes, more than max_bytes = "
            f"{max_bytes:,}: give it more"
        )
    _files.write_bytes(path, html)


def render(
    discovery: Discovery, most_bytes: int, folder: str | os.PathLike[str] | None = None
) -> str:
    """The page as HTML, with items and clusters in about so many bytes."""
    folder = discovery.folder if folder is None else pathlib.Path(folder)
    content = Content(discovery, most_bytes).plain()
    name = printable(discovery.records.name)
    data = {
        **content,
        **facts(discovery),
        "title": name,
        "run": printable(str(folder)) if folder is not None else name,
        "command": _command(folder),
        "predict": _predict(folder),
        "file": _FILE,
        "earlier": _earlier(discovery),
        "named": _named(discovery),
    }
    # So that a browser doesn't take up what was decided on another answer.
    told = (content["names"], content["items"]["ids"], content["items"]["clusters"])
    data["key"] = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return _html(name, data)


def as_json(data: object) -> str:
    """For inside of HTML: no tag can end or begin in it, and JSON reads the same."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _command(folder: pathlib.Path | None) -> str:
    if folder is None:
        return f"eagc_jax.gcd.discover.discover(data, decisions={_FILE!r})"
    settings = shlex.quote(printable(str(folder / SETTINGS_FILE)))
    return f"eagc discover --settings {settings} --decisions {_FILE}"


def _predict(folder: pathlib.Path | None) -> str:
    if folder is None:
        return ""
    return f"eagc predict {shlex.quote(printable(str(folder)))} NEW --decisions {_FILE}"


def _earlier(discovery: Discovery) -> list[JsonObject]:
    """Rounds of decisions that this answer was made with; the next run needs them too."""
    decisions = discovery.decisions
    return [] if decisions is None else [one.plain() for one in decisions.rounds]


def _named(discovery: Discovery) -> list[int]:
    """Clusters that are not known classes, but that a person has named already."""
    if discovery.decisions is None:
        return []
    classes = set(replay(discovery.decisions).class_names)
    names = discovery.assignment.names
    some = range(discovery.assignment.num_known, len(names))
    return [k for k in some if names[k] in classes]


def _html(title: str, data: JsonObject) -> str:
    scripts = (_static(_LIBRARY), "\n".join(map(_static, _SCRIPTS)))
    style = "\n".join(map(_static, _STYLES))
    policy = (
        f"default-src 'none'; img-src data:; script-src {' '.join(map(_hash, scripts))}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'"
    )
    parts = {
        "policy": policy,
        "title": escape(title),
        "style": style,
        "library": scripts[0],
        "script": scripts[1],
        "data": as_json(data),
    }
    # At once: what is put in may look like a place to fill.
    return _PLACE.sub(lambda place: parts[place[1]], _static("page.html"))


@functools.cache
def _static(name: str) -> str:
    folder = importlib.resources.files("eagc_jax.gcd.report.explorer") / "static"
    return folder.joinpath(*name.split("/")).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
