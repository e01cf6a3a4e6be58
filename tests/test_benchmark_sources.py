"""The benchmark of listing runs, and counts what it says."""

import pytest

from benchmarks import sources


@pytest.mark.parametrize("kind", sources.KINDS)
def test_a_small_source_is_made_and_measured(tmp_path, kind):
    make = {"folder": sources.make_folder, "table": sources.make_table}[kind]
    place = make(tmp_path, 300)
    assert make(tmp_path, 300) == place  # and not made twice
    found = sources.measure(place)
    assert found["rows"] == found["labeled"] + found["unlabeled"] == 300
    assert found["labeled"] > 0
    assert f"| {kind} | 300 |" in sources.table({kind: found})
