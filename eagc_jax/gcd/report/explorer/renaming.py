"""A new name for a cluster on a page that was written before."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence

from eagc_jax.gcd.decisions import Decisions
from eagc_jax.gcd.report.explorer.page import as_json
from eagc_jax.gcd.runs.assignment import printable
from eagc_jax.gcd.runs.reading import MEGABYTE

_MOST = 256 * MEGABYTE
_DATA = re.compile(
    r'(<script type="application/json" id="data">)(.*?)(</script>)', re.DOTALL
)


def renamed_page(
    path: pathlib.Path, names: Sequence[str], number: int, decisions: Decisions
) -> bytes | None:
    """The page with another name of one cluster, and with the decisions so far.

    Nothing of the data is read, nothing is drawn anew.

    Args:
      path: of the page, which stays as it is.
      names: of all clusters.
      number: of the one that has a new name.
      decisions: all so far.

    Returns:
      What to write; None where there is no page, or one that is not as expected.
    """
    if not path.is_file() or path.stat().st_size > _MOST:
        return None
    html = path.read_text(encoding="utf-8", errors="replace")
    found = _DATA.search(html)
    if found is None:
        return None
    try:
        data = json.loads(found[2])
        if len(data["names"]) != len(names):
            return None
        data["names"] = [printable(name) for name in names]
        data["earlier"] = [one.plain() for one in decisions.rounds]
        if number >= data["numKnown"] and number not in data["named"]:
            data["named"].append(number)
        data["key"] = (
            f"{data['key'][:64]}+"  # what was decided before named it otherwise
        )
        text = as_json(data)
        return _DATA.sub(lambda place: place[1] + text + place[3], html, 1).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
