"""The page: one HTML file with everything inside."""

import base64
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from html import escape

import numpy as np

from eagc_jax.gcd.report.captions import percent
from eagc_jax.gcd.report.clusters import Cluster, describe_clusters
from eagc_jax.gcd.runs.history import RunHistory, Snapshot

MAX_CLUSTER_ROWS = 200

_CSS = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --page: #ffffff;
  --line: #d0d7de; --mark: #eaf2fb; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a4adb8;
  --page: #14171b; --line: #3a424c; --mark: #1f2d3d; } }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--page);
  color: var(--text); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.4rem; }
h1, h2 { text-wrap: balance; }
p, figcaption, li { max-width: 46rem; } .soft, figcaption { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
th.number, td.number { text-align: right; white-space: nowrap; }
td.best { font-weight: 700; background: var(--mark); }
table.result td:first-child { white-space: nowrap; }
table.settings td { overflow-wrap: anywhere; }
figure { margin: 1rem 0 2rem; }
figure .scroll { background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figure img { display: block; width: 100%; height: auto; min-width: 40rem; }
figcaption { margin-top: .6rem; }
summary { cursor: pointer; }
@media (max-width: 40rem) { th, td { padding: .3rem .45rem; } }
"""

# Says what is true of the page anyway, and lets the browser enforce it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawn figure with the words that go with it, plain text all of them."""

    file: str
    title: str
    caption: str
    png: bytes


def render_page(
    runs: Mapping[str, RunHistory],
    snapshot: Snapshot,
    plots: list[Plot],
    focus: str | None,
) -> str:
    """The whole page as HTML; every text that comes from outside is escaped."""
    body = [
        _head_line(snapshot),
        _results(runs, snapshot),
        _setting_of_the_task(snapshot),
        _measure(),
        *(_figure(plot) for plot in plots),
        _cluster_table(snapshot, focus),
        _settings(snapshot.settings),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(snapshot.title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{''.join(body)}</body>\n</html>\n"
    )


def _head_line(snapshot: Snapshot) -> str:
    novel = len(_classes(snapshot, known=False))
    return (
        f"<h1>{escape(snapshot.title)}</h1>\n"
        f"<p>{len(snapshot.images)} images without labels, {novel} of their classes "
        "never seen with a label: does training group them rightly, and does it find "
        "the novel classes?</p>\n"
    )


def _results(runs: Mapping[str, RunHistory], snapshot: Snapshot) -> str:
    """The table All/Old/New, the best figure of each column marked."""
    names = [n for n in snapshot.accuracy if n not in runs]
    names += [n for n in runs if n in snapshot.accuracy]
    if not names:
        return "<h2>Result</h2>\n<p>No run came to an evaluation.</p>\n"
    shares = np.array([snapshot.accuracy[n] for n in names], float)
    rounded = np.round(np.where(np.isfinite(shares), shares, -1.0), 3)
    best = (rounded == rounded.max(axis=0)) & (rounded >= 0)
    rows = [
        "<tr>"
        + _cell(name)
        # A table of one row has nothing to compare.
        + "".join(
            _cell(percent(share), "number best" if b and len(names) > 1 else "number")
            for share, b in zip(row, marks, strict=True)
        )
        + _cell(str(len(runs[name].epochs)) if name in runs else "-", "number")
        + _cell(_time(runs.get(name)), "number")
        + "</tr>\n"
        for name, row, marks in zip(names, shares, best, strict=True)
    ]
    heads = ["", "All (%)", "Old (%)", "New (%)", "epochs", "seconds"]
    return (
        "<h2>Result</h2>\n"
        + _table(heads, rows, numbers=range(1, 6), name="result")
        + '<p class="soft">Accuracy on the unlabeled training images after the last '
        "finished epoch. Old: images of known classes; New: images of novel ones; the "
        "best of each column is marked. A row without epochs is a baseline, computed "
        "before this training. One seed: a small difference may be chance.</p>\n"
    )


def _time(run: RunHistory | None) -> str:
    return f"{sum(run.seconds):.0f}" if run and run.seconds else "-"


def _setting_of_the_task(snapshot: Snapshot) -> str:
    parts = ["<h2>What was known, and what was not</h2>\n<ul>\n"]
    for known, lead in (
        (True, "<b>Known</b> (labels of some other images of them were given)"),
        (False, "<b>Novel</b> (never seen with a label; to be discovered)"),
    ):
        classes = _classes(snapshot, known)
        names = ", ".join(_class_name(snapshot, c) for c in classes) or "none"
        count = int(np.sum(snapshot.old_mask == known))
        parts.append(f"<li>{lead}: {escape(names)}; {count} unlabeled images.</li>\n")
    parts.append(
        "</ul>\n<p>Known and novel images lie mixed in the unlabeled set, and training "
        "is not told which is which. The true classes of these images were used for "
        "this report alone.</p>\n"
    )
    return "".join(parts)


def _measure() -> str:
    return (
        "<h2>How the accuracy is measured</h2>\n"
        "<p>A cluster has no name, so clusters are first matched with classes one to "
        "one: the Hungarian algorithm finds, once and on all unlabeled training images "
        "together, the matching that makes the most images right. All is the share of "
        "images whose cluster is matched with their class; Old and New are the same "
        "share among images of known and of novel classes. The figures are those of "
        "the last epoch: no epoch was chosen by looking at them.</p>\n"
    )


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    width, height = _size(plot.png)
    title = escape(plot.title)
    return (
        f'<h2>{title}</h2>\n<figure><div class="scroll"><img alt="{title}" '
        f'width="{width}" height="{height}" src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>\n"
    )


def _size(png: bytes) -> tuple[int, int]:
    """Width and height, which a PNG's header keeps in its bytes 16 to 24."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _cluster_table(snapshot: Snapshot, focus: str | None) -> str:
    if focus is None:
        return ""
    ids = snapshot.predictions[focus]
    clusters = describe_clusters(snapshot.labels, ids, snapshot.known_classes)
    rows = [_cluster_row(snapshot, c) for c in clusters[:MAX_CLUSTER_ROWS]]
    heads = [
        *("cluster", "matched class", "known or novel", "images"),
        *("of the matched class (%)", "purity (%)", "most frequent class"),
    ]
    note = ""
    if len(rows) < len(clusters):
        note = f"<p>The first {len(rows)} of {len(clusters)} clusters.</p>\n"
    opened = " open" if len(rows) <= 20 else ""
    return (
        f"<h2>The clusters in numbers</h2>\n<details{opened}><summary>"
        f"{escape(focus)}: {len(clusters)} clusters, {_found(clusters)}</summary>\n"
        f"{note}{_table(heads, rows, numbers=(0, 3, 4, 5))}</details>\n"
    )


def _found(clusters: list[Cluster]) -> str:
    novel = sum(c.known is False for c in clusters)
    return f"{novel} of them matched with a novel class"


def _cluster_row(snapshot: Snapshot, cluster: Cluster) -> str:
    matched = cluster.matched
    kind = {True: "known", False: "novel", None: ""}[cluster.known]
    return (
        "<tr>"
        + _cell(f"#{cluster.id}", "number")
        + _cell("none" if matched is None else _class_name(snapshot, matched))
        + _cell(kind)
        + _cell(str(cluster.size), "number")
        + _cell(percent(cluster.correct / cluster.size), "number")
        + _cell(percent(cluster.purity), "number")
        + _cell(_class_name(snapshot, cluster.majority))
        + "</tr>\n"
    )


def _settings(settings: Mapping[str, object]) -> str:
    rows = [f"<tr>{_cell(n)}{_cell(v)}</tr>\n" for n, v in _flat(settings)]
    table = _table(["name", "value"], rows, name="settings")
    return f"<h2>Settings, versions, seed</h2>\n{table}"


def _flat(
    settings: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names."""
    for name, value in settings.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _table(
    heads: list[str],
    rows: list[str],
    numbers: Iterable[int] = (),
    name: str = "",
) -> str:
    right = set(numbers)
    head = "".join(
        f'<th scope="col"{_class("number" if i in right else "")}>{escape(h)}</th>'
        for i, h in enumerate(heads)
    )
    return (
        f'<div class="scroll"><table{_class(name)}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _cell(text: str, kind: str = "") -> str:
    return f"<td{_class(kind)}>{escape(text)}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _classes(snapshot: Snapshot, known: bool) -> list[int]:
    """The known (or novel) classes among the unlabeled images."""
    return np.unique(snapshot.labels[snapshot.old_mask == known]).tolist()


def _class_name(snapshot: Snapshot, class_id: int) -> str:
    names = snapshot.class_names
    return str(names[class_id]) if class_id < len(names) else str(class_id)
